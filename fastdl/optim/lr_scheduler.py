"""Learning-rate schedules: call ``step()`` once per epoch (or per batch), after the optimizer's.

They set ``group["lr"]`` of every parameter group, starting from ``group["initial_lr"]``. As in torch, most multiply
the present rate, so that several can act on one optimizer and a rate changed by hand stays changed.
"""

from __future__ import annotations

from .lr_base import LRScheduler
from .lr_control import ReduceLROnPlateau, SequentialLR
from .lr_cycle import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from .lr_decay import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
