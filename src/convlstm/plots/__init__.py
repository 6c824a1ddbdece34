"""Pictures: film strips, animations, curves, and the report of a run."""
