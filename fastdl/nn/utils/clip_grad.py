"""Bounds on gradients, between backward and the optimizer's step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import backend
from ...autograd import TensorBase, mark_inplace, wrap


def _gradients(parameters: Any) -> list[np.ndarray]:
    if isinstance(parameters, TensorBase):
        parameters = [parameters]
    return [p.grad._data for p in parameters if p.grad is not None]


def get_total_norm(
    tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Any:
    """The norm of all elements of all tensors together, summed in float64, as a scalar Tensor.

    Raises RuntimeError for a norm that is NaN or infinite, with ``error_if_nonfinite``.
    """
    tensors = [tensors] if isinstance(tensors, TensorBase) else tensors
    arrays = [t._data for t in tensors]
    if not arrays:
        return wrap(np.zeros((), np.float32))
    return _scalar(_norm("get_total_norm", arrays, norm_type, error_if_nonfinite), arrays)


def _scalar(norm: Any, arrays: list[np.ndarray]) -> Any:
    return wrap(norm.astype(np.result_type(*[a.dtype for a in arrays])))


def _norm(op: str, arrays: list[np.ndarray], norm_type: float, error_if_nonfinite: bool) -> Any:
    """Of at least one array, as a scalar array in float64."""
    norm = backend.empty((), np.float64, arrays[0])
    backend.kernels(arrays[0]).norm(arrays, float(norm_type), norm)
    if error_if_nonfinite and not math.isfinite(norm):  # the one thing here that waits for a GPU
        raise RuntimeError(
            f"{op}: the total norm of order {norm_type} is {float(norm)}, so nothing can be clipped by it"
        )
    return norm


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """Scale all gradients so that their norm, taken together, is at most ``max_norm``; returns the norm before, as a
    scalar Tensor (Pascanu et al. 2013, section 3.2).

    Raises RuntimeError, with nothing scaled, for a norm that is NaN or infinite, with ``error_if_nonfinite``.

    >>> import fastdl
    >>> p = fastdl.tensor([3.0, 4.0], requires_grad=True)
    >>> (p * p).sum().backward()
    >>> fastdl.nn.utils.clip_grad_norm_(p, 1.0)
    tensor(10.)
    >>> p.grad
    tensor([0.6000, 0.8000])
    """
    if isinstance(max_norm, str) or float(max_norm) < 0:
        raise ValueError(f"clip_grad_norm_: expected max_norm >= 0, got {max_norm!r}")
    arrays = _gradients(parameters)
    if not arrays:
        return wrap(np.zeros((), np.float32))
    norm = _norm("clip_grad_norm_", arrays, norm_type, error_if_nonfinite)
    backend.kernels(arrays[0]).clip_norm(arrays, float(max_norm), norm)  # NaN spreads, as in torch
    for a in arrays:
        mark_inplace(a)
    return _scalar(norm, arrays)


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value]."""
    limit = float(clip_value)
    for a in _gradients(parameters):
        np.clip(a, -limit, limit, out=a)
        mark_inplace(a)
