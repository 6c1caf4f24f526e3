"""The training loop, its callbacks and metrics, and the model summary."""

from fastdl.train.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LRSchedulerCallback,
    ModelCheckpoint,
    NaNGuard,
    ProgressBar,
)
from fastdl.train.history import History
from fastdl.train.loop import Trainer, evaluate, fit, predict
from fastdl.train.metrics import (
    Accuracy,
    ConfusionMatrix,
    F1Score,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Precision,
    Recall,
    TopKAccuracy,
)
from fastdl.train.summary import Summary, summary

__all__ = [
    "Accuracy",
    "CSVLogger",
    "Callback",
    "ConfusionMatrix",
    "EarlyStopping",
    "F1Score",
    "History",
    "LRSchedulerCallback",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "ModelCheckpoint",
    "NaNGuard",
    "Precision",
    "ProgressBar",
    "Recall",
    "Summary",
    "TopKAccuracy",
    "Trainer",
    "evaluate",
    "fit",
    "predict",
    "summary",
]
