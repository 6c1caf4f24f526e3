"""Helpers for the parameters of a model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...autograd import mark_inplace, wrap
from ...tensor import Tensor
from . import rnn as rnn
from .clip_grad import clip_grad_norm_ as clip_grad_norm_
from .clip_grad import clip_grad_value_ as clip_grad_value_
from .clip_grad import get_total_norm as get_total_norm


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters as one vector (a copy without history), in order.

    Raises ValueError where there are none, TypeError where their dtypes differ.

    >>> from fastdl import nn
    >>> nn.utils.parameters_to_vector(nn.Linear(3, 2).parameters()).shape
    (8,)
    """
    arrays = [p._data for p in parameters]
    if not arrays:
        raise ValueError("parameters_to_vector: expected at least one parameter")
    if len({a.dtype for a in arrays}) > 1:
        raise TypeError(f"parameters_to_vector: expected one dtype, got {[str(a.dtype) for a in arrays]}")
    return wrap(np.concatenate([a.reshape(-1) for a in arrays]))


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of a vector into parameters, in order.

    Raises ValueError, with nothing changed, unless the vector has exactly as many elements as the parameters.
    """
    targets = list(parameters)
    total = sum(p._data.size for p in targets)
    if vec._data.shape != (total,):
        raise ValueError(
            f"vector_to_parameters: expected a vector of {total} elements, got shape {vec.shape}"
        )
    start = 0
    for p in targets:
        p._data[...] = vec._data[start : start + p._data.size].reshape(p._data.shape)
        mark_inplace(p._data)
        start += p._data.size
