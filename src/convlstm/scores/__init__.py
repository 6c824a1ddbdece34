"""Scores of forecasts by lead time and overall, accumulated over batches."""

from convlstm.scores.base import Score, ScoreState
from convlstm.scores.categorical import CSI, ETS, FAR, HSS, POD, FrequencyBias, MeanCSI
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import (
    MAE,
    MSE,
    PSNR,
    RMSE,
    AbsoluteErrorSum,
    Bias,
    Correlation,
    SquaredErrorSum,
)
from convlstm.scores.spatial import FSS, SmallScalePower, VarianceRatio
from convlstm.scores.standard import field_scores, standard_scores

__all__ = [
    "CSI",
    "ETS",
    "FAR",
    "FSS",
    "HSS",
    "MAE",
    "MSE",
    "POD",
    "PSNR",
    "RMSE",
    "SSIM",
    "AbsoluteErrorSum",
    "Bias",
    "Correlation",
    "FrequencyBias",
    "MeanCSI",
    "Score",
    "ScoreState",
    "Sharpness",
    "SmallScalePower",
    "SquaredErrorSum",
    "VarianceRatio",
    "field_scores",
    "standard_scores",
]
