"""Training by Lightning, which no other folder imports."""
