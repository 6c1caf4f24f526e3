"""Tensors that a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

from .. import autograd
from ..backend import copied
from ..functional.creation import to_array as _to_array
from ..tensor import Tensor

_new = object.__new__


class Parameter(Tensor):
    """A Tensor that is a parameter of the Module it is assigned to; it requires a gradient unless told otherwise.

    Memory is shared with ``data`` where that is a Tensor, as in torch; arrays and lists are copied (arrays not with
    ``copy=False``).

    Raises RuntimeError if a gradient is asked of an integer or boolean tensor.

    >>> from fastdl import nn
    >>> layer = nn.Module()
    >>> layer.scale = nn.Parameter([1.0, 2.0])
    >>> [name for name, _ in layer.named_parameters()]
    ['scale']
    """

    __slots__ = ()

    def __new__(cls, data: Any = (), requires_grad: bool = True, *, copy: bool = True) -> Parameter:
        self = _new(cls)
        self._data = (
            data._data if isinstance(data, Tensor) else _to_array(() if data is None else data, copy=copy)
        )
        self._node = self.grad = None
        if requires_grad:
            if not autograd.is_float(self._data.dtype):
                raise RuntimeError(
                    f"Parameter: only floating-point tensors can require gradients, got {self._data.dtype}; "
                    "pass requires_grad=False"
                )
            self._node = autograd.Leaf(self)
        return self

    def __init__(self, data: Any = (), requires_grad: bool = True, *, copy: bool = True) -> None:
        pass

    def __deepcopy__(self, memo: dict) -> Parameter:
        copy = type(self)(copied(self._data), self._node is not None, copy=False)
        memo[id(self)] = copy
        return copy

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
