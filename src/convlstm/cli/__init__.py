"""The command line: jsonargparse reads what is typed, the functions of `convlstm.workflows` do the work."""
