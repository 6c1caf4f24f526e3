"""In-place changes that have no out-of-place form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import random
from ..autograd import TensorBase, is_float, wrap
from ..backend import to_numpy
from ..dtypes import finfo
from .core import Clone, as_tensor, cast, check_inplace, overwrite

if TYPE_CHECKING:
    from ..tensor import Tensor


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Take the elements of ``src``, broadcast and cast as needed."""
    check_inplace("copy_", self)
    src = as_tensor(src)
    if src._data.shape != self._data.shape:
        try:
            src = src.expand(self._data.shape)
        except ValueError:
            raise ValueError(
                f"copy_: expected a shape that broadcasts to {self._data.shape}, got {src._data.shape}"
            ) from None
    if src._data.dtype != self._data.dtype:
        src = cast(src, self._data.dtype)
    return overwrite("copy_", self, Clone.apply(src) if src._node is not None else src)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number or 0-d tensor."""
    if isinstance(value, TensorBase) and value._data.ndim:
        raise ValueError(f"fill_: expected a number or a 0-d tensor, got shape {value._data.shape}")
    return copy_(self, value)


def zero_(self: Tensor) -> Tensor:
    """Set every element to zero."""
    return copy_(self, 0)


def _set(name: str, self: Tensor, values: np.ndarray) -> Tensor:
    check_inplace(name, self)
    return overwrite(
        name, self, wrap(np.asarray(values, like=self._data).astype(self._data.dtype, copy=False))
    )


def _draw(self: Tensor, method: str, generator: Any) -> np.ndarray:
    draw = getattr(random.generator() if generator is None else generator, method)
    x = self._data
    return np.asarray(
        draw(x.shape, dtype=x.dtype if x.dtype.kind == "f" and x.dtype.itemsize > 2 else np.float32)
    )


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with uniform numbers in [a, b). Raises ValueError if a > b."""
    if a > b:
        raise ValueError(f"uniform_: expected a <= b, got {a} and {b}")
    return _set("uniform_", self, _draw(self, "random", generator) * (b - a) + a)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers. Raises ValueError for a negative ``std``."""
    if std < 0:
        raise ValueError(f"normal_: expected std of at least 0, got {std}")
    return _set("normal_", self, _draw(self, "standard_normal", generator) * std + mean)


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with exponentially distributed numbers of rate ``lambd``."""
    return _set("exponential_", self, _draw(self, "standard_exponential", generator) / lambd)


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 (of probability ``p``, a number or tensor) and 0."""
    p = to_numpy(p._data) if isinstance(p, TensorBase) else p
    draw = random.generator() if generator is None else generator
    return _set("bernoulli_", self, np.asarray(draw.random(self._data.shape) < p))


def random_(self: Tensor, low: int = 0, high: int | None = None, *, generator: Any = None) -> Tensor:
    """Fill with integers in [low, high)."""
    if high is None:
        low, high = (0, low) if low else (0, _top(self._data.dtype))
    draw = random.generator() if generator is None else generator
    return _set("random_", self, np.asarray(draw.integers(low, high, self._data.shape)))


def _top(dtype: np.dtype) -> int:
    """Up to which every integer is one of the dtype."""
    return 2 ** (finfo(dtype).nmant + 1) if is_float(dtype) else np.iinfo(dtype).max


def fill_diagonal_(self: Tensor, value: Any) -> Tensor:
    """Set the main diagonal of a matrix to a number."""
    copy_(self.diagonal(), value)
    return self


def detach_(self: Tensor) -> Tensor:
    """Cut this tensor off its history."""
    self._node = None
    if hasattr(self, "_base"):
        del self._base
    return self
