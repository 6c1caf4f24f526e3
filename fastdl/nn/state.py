"""Values into a module by name, all or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..autograd import is_float, mark_inplace
from ..backend import beside, is_array, is_writable
from ..dlpack import from_dlpack
from ..tensor import Tensor


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class StateDictError(RuntimeError, ValueError):
    """A state_dict that does not fit the module. Both of its bases: torch raises the first, bad values are the
    second."""


def load_state(
    model: str, wanted: dict[str, Tensor], state_dict: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """What `Module.load_state_dict` does, given the tensors to fill."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"load_state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}"
        )
    missing = [name for name in wanted if name not in state_dict]
    unexpected = [name for name in state_dict if name not in wanted]
    problems, loads = [], []
    if strict and unexpected:
        problems.append(f"unexpected keys: {', '.join(map(repr, unexpected))}")
    if strict and missing:
        problems.append(f"missing keys: {', '.join(map(repr, missing))}")
    for name, target in wanted.items():
        if name not in state_dict:
            continue
        value = state_dict[name]
        array = value._data if isinstance(value, Tensor) else _as_array(value)
        if array is None:
            problems.append(f"{name!r}: expected a Tensor or an array of numbers, got {type(value).__name__}")
        elif array.shape != target._data.shape:
            problems.append(f"{name!r}: expected shape {target._data.shape}, got {array.shape}")
        else:
            loads.append((target, array))
    if problems:
        raise StateDictError(f"load_state_dict for {model}: " + ";\n    ".join(problems))
    with np.errstate(over="ignore", invalid="ignore"):
        for target, array in loads:
            if assign:
                target._data = array
            elif not is_writable(target._data):
                target._data = beside(array, target._data).astype(target._data.dtype)
            else:
                np.copyto(target._data, beside(array, target._data), casting="unsafe")
                mark_inplace(target._data)
    return IncompatibleKeys(missing, unexpected)


def _as_array(value: Any) -> np.ndarray | None:
    """An array of numbers from anything that can give one, else None."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        value = value.detach() if hasattr(value, "detach") else value
        try:
            array = value if is_array(value) else np.asarray(value)
        except TypeError:  # torch's bfloat16 has no NumPy type, but there is DLPack
            array = from_dlpack(value)
    except (ValueError, TypeError, RuntimeError, AttributeError):
        return None
    return array if array.dtype.kind in "biuf" or is_float(array.dtype) else None
