"""Charts and the report of a run."""
