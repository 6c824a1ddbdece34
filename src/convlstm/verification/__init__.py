"""Scores of a forecaster over a test set beside those of baselines, as tables, JSON and CSV."""

from convlstm.verification.results import Verification

__all__ = ["Verification"]
