"""The training curves of ``fastdl train --plot``."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any


def check(path: str) -> None:
    """Raises ImportError without matplotlib, ValueError for a format it cannot write."""
    figure = _figure()
    known = figure.canvas.get_supported_filetypes()
    if _format(path) not in known:
        raise ValueError(f"--plot {path}: expected a name ending in one of {', '.join(sorted(known))}")


def draw(path: str, history: Any, title: str) -> None:
    """Writes loss and accuracy by epoch, of training and test part, atomically. Raises OSError."""
    from ..io import atomic_write

    figure = _figure()
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "loss"), (right, "accuracy")):
        for key, label in ((name, "training"), (f"val_{name}", "test")):
            if key in history:
                axes.plot(history.epochs, history[key], marker="o", markersize=3, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    content = BytesIO()
    figure.savefig(content, format=_format(path))
    atomic_write(path, content.getvalue())


def _format(path: str) -> str:
    return os.path.splitext(path)[1].lstrip(".").lower()


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure  # draws with Agg: no display needed
    except ImportError:
        raise ImportError("--plot: matplotlib is missing; pip install 'fastdl[demo]' brings it") from None
    return Figure(figsize=(9, 3.6), layout="constrained")
