"""Forecasts made and judged: verification over a test set, forecasts to files."""
