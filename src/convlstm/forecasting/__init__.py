"""Forecast files."""
