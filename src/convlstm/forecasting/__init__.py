"""Forecasts in the unit of their past, and their files."""
