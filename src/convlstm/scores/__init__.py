"""Scores of forecasts by lead time and overall, accumulated over batches."""

from convlstm.scores.base import Score, ScoreState
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import MAE, MSE, PSNR, AbsoluteErrorSum, SquaredErrorSum
from convlstm.scores.standard import standard_scores

__all__ = [
    "MAE",
    "MSE",
    "PSNR",
    "SSIM",
    "AbsoluteErrorSum",
    "Score",
    "ScoreState",
    "Sharpness",
    "SquaredErrorSum",
    "standard_scores",
]
