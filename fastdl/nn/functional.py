"""Everything in `fastdl.functional` that torch has in ``torch.nn.functional``, under its names:

>>> import fastdl
>>> import fastdl.nn.functional as F
>>> F.pad(fastdl.tensor([1.0]), (0, 1)).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

import importlib
from typing import Any

from ..functional.bilinear import bilinear
from ..functional.ctc import ctc_loss
from ..functional.distance import cosine_similarity, local_response_norm, normalize, pairwise_distance
from ..functional.margin import multilabel_margin_loss
from ..functional.pad import pad
from ..functional.patches import fold, unfold
from ..functional.resample import channel_shuffle, interpolate, pixel_shuffle, pixel_unshuffle, upsample
from ..functional.unpool import lp_pool1d, lp_pool2d, max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "bilinear",
    "channel_shuffle",
    "cosine_similarity",
    "ctc_loss",
    "fold",
    "interpolate",
    "local_response_norm",
    "lp_pool1d",
    "lp_pool2d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "multilabel_margin_loss",
    "normalize",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
    "upsample",
]

_FAMILIES = [
    "matmul",
    "conv",
    "rnn",
    "attention",
    "norm",
    "pool",
    "activation",
    "softmax",
    "loss",
    "embedding",
    "dropout",
]


def _collect(names: dict[str, Any]) -> None:
    for family in _FAMILIES:
        try:
            module = importlib.import_module(f"fastdl.functional.{family}")
        except ModuleNotFoundError:
            continue
        for name in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, name)
            if (
                not name.startswith("_")
                and name.islower()
                and getattr(value, "__module__", "").endswith(family)
            ):
                names[name] = value


_collect(globals())
