"""The commands as functions of objects that return objects; they print nothing and log to ``convlstm``."""
