"""The training loop, its callbacks and metrics, and the model summary."""

from .. import data  # noqa: F401  (the package before its modules, see fastdl/__init__.py)
from .callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LRSchedulerCallback,
    ModelCheckpoint,
    NaNGuard,
    ProgressBar,
)
from .history import History
from .loop import Trainer, evaluate, fit, predict
from .metrics import (
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
from .summary import Summary, summary

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
