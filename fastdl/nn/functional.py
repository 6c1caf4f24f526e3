"""Everything in `fastdl.functional` that torch has in ``torch.nn.functional``, under its names:

>>> import fastdl
>>> import fastdl.nn.functional as F
>>> F.pad(fastdl.tensor([1.0]), (0, 1)).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

import importlib
from typing import Any

from ..functional.distance import cosine_similarity, local_response_norm, normalize, pairwise_distance
from ..functional.pad import pad
from ..functional.patches import fold, unfold
from ..functional.resample import channel_shuffle, interpolate, pixel_shuffle, pixel_unshuffle, upsample

__all__ = [
    "channel_shuffle",
    "cosine_similarity",
    "fold",
    "interpolate",
    "local_response_norm",
    "normalize",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
    "upsample",
]

_FAMILIES = "matmul conv rnn attention norm pool activation softmax loss embedding dropout".split()


def _collect(names: dict[str, Any]) -> None:
    for family in _FAMILIES:
        try:
            module = importlib.import_module(f"fastdl.functional.{family}")
        except ModuleNotFoundError:
            continue
        for name in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, name)
            if not name.startswith("_") and name.islower() and getattr(value, "__module__", "").endswith(family):
                names[name] = value


_collect(globals())
