"""The command line: every command is a function that can be called from Python with the same names."""
