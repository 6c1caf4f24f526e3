"""Checkpoints: model, optimizer, scheduler, data loader, random numbers and epoch in one safetensors file.

The tensors of the model are named ``model.<parameter>``, so other safetensors readers find the weights at
once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .files import Path, load_with_metadata, save

_FORMAT = "fastdl.checkpoint"
_VERSION = "1"


def save_checkpoint(
    path: Path,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    *,
    epoch: int = 0,
    rng: bool = True,
    extra: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes everything a training run needs to go on, atomically.

    ``model``, ``optimizer``, ``scheduler`` and ``loader`` are objects with ``state_dict()``; ``epoch``
    counts whole epochs done; ``rng`` includes fastdl's random state; ``extra`` is any structure
    ``fastdl.save`` takes; ``metadata`` maps names to values JSON can hold, readable without loading the
    tensors.

    Raises TypeError for values that cannot be stored, OSError when the file cannot be written (the old one
    stays).
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items() if part is not None}
    if rng:
        from .. import random

        content["rng"] = random.get_rng_state()
    content["epoch"] = epoch
    content["extra"] = dict(extra or {})
    texts = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    save(content, path, {_FORMAT: _VERSION, **texts})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, applied to nothing: state dicts by part, ``epoch``, ``extra``,
    ``metadata``.

    Raises OSError when the file cannot be read, ValueError naming it when it is no whole checkpoint.
    """
    content, texts = load_with_metadata(path)
    version = texts.pop(_FORMAT, None)
    name = os.fspath(path)
    if version is None or not isinstance(content, dict):
        raise ValueError(f"{name}: expected a fastdl checkpoint, got a safetensors file of something else")
    if version != _VERSION:
        raise ValueError(f"{name}: expected checkpoint version {_VERSION}, got {version}")
    if not isinstance(content.get("epoch"), int) or not isinstance(content.get("extra"), dict):
        raise ValueError(f"{name}: corrupt checkpoint: it lacks its epoch or its extra values")
    try:
        content["metadata"] = {key: json.loads(value) for key, value in texts.items()}
    except ValueError as error:
        raise ValueError(f"{name}: corrupt metadata ({error})") from None
    return content


def load_checkpoint(
    path: Path,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    *,
    rng: bool = True,
    strict: bool = True,
) -> dict[str, Any]:
    """Restores the given objects (and fastdl's random state) from a checkpoint; returns what
    ``read_checkpoint`` does.

    All or nothing: when one part does not fit, the ones before it get their old state back.

    Raises OSError when the file cannot be read, ValueError naming it when it is corrupt, was made for
    another model, or lacks a part that is asked for.
    """
    content = read_checkpoint(path)
    name = os.fspath(path)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    wanted = {key: part for key, part in parts.items() if part is not None}
    for key in wanted:
        if key not in content:
            raise ValueError(f"{name}: expected a checkpoint with the state of the {key}, it has none")
    done: list[tuple[Any, Any]] = []
    try:
        for key, part in wanted.items():
            before = _snapshot(part.state_dict())
            done.append((part, before))
            part.load_state_dict(content[key], strict) if key == "model" else part.load_state_dict(
                content[key]
            )
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        for part, before in done:
            part.load_state_dict(before)
        raise ValueError(f"{name}: does not fit this {key}: {error}") from error
    if rng and "rng" in content:
        from .. import random

        random.set_rng_state(content["rng"])
    return content


def _snapshot(state: Any) -> Any:
    """A copy of a state dict that later updates do not reach."""
    if isinstance(state, Mapping):
        return {key: _snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_snapshot(value) for value in state)
    if hasattr(state, "detach"):
        return state.detach().clone()
    return state.copy() if hasattr(state, "copy") else state
