"""The Tensor: an array with a gradient. Its methods are the functions of `fastdl.functional`, listed here."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import autograd
from .autograd import Leaf, TensorBase, is_float, wrap
from .dtypes import as_dtype
from .functional import arithmetic as A
from .functional import indexing as I
from .functional import reduction as R
from .functional import shape as S
from .functional.core import cast, inplace

_new = object.__new__


class Tensor(TensorBase):
    """An n-dimensional array that can record what is done to it and carry a gradient.

    Made by `fastdl.tensor`, `fastdl.from_numpy`, `fastdl.zeros` and so on. ``Tensor(data)`` shares the memory of
    an array or Tensor.
    """

    __slots__ = ()
    __array_priority__ = 1000
    __array_ufunc__ = None  # `ndarray + tensor` is the Tensor's to answer

    def __init__(self, data: Any = (), dtype: Any = None, device: Any = None, requires_grad: bool = False):
        self._data = to_array(data, dtype, copy=False)
        self._node = self.grad = None
        if requires_grad:
            self.requires_grad = True

    # ------------------------------------------------------------------------------------------- autograd

    @property
    def requires_grad(self) -> bool:
        """Whether backward gives this tensor, or something it was made from, a gradient."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            if self._node is None:
                if not is_float(self._data.dtype):
                    raise RuntimeError(f"only floating-point tensors can require gradients, got {self._data.dtype}")
                self._node = Leaf(self)
        elif self._node.__class__ is Leaf:
            self._node = None
        elif self._node is not None:
            raise RuntimeError("requires_grad can be changed for leaf tensors only; use detach()")

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether this tensor was made by the user and not by a recorded function."""
        return self._node is None or self._node.__class__ is Leaf

    @property
    def grad_fn(self) -> Any:
        """The node that made this tensor, or None for a leaf."""
        node = self._node
        return None if node.__class__ is Leaf else node

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Accumulate the gradient of this tensor into ``.grad`` of the leaves it was made from.

        ``gradient`` (this tensor's own gradient) is needed unless the tensor has one element. The graph's saved
        arrays are freed on the way unless ``retain_graph``. Raises RuntimeError for a tensor without a graph.
        """
        autograd.backward(self, gradient, retain_graph, create_graph)

    def retain_grad(self) -> None:
        """Have backward keep ``.grad`` here although this is no leaf."""
        autograd.retain_grad(self)

    @property
    def data(self) -> Tensor:
        """The same memory as a Tensor without history."""
        return wrap(self._data)

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value._data if isinstance(value, TensorBase) else np.asarray(value)

    def detach(self) -> Tensor:
        """The same memory as a Tensor without history."""
        return wrap(self._data)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The array itself (memory is shared). Raises RuntimeError where a gradient is required, unless ``force``."""
        if self._node is not None and not force:
            raise RuntimeError("numpy: the tensor requires grad; use tensor.detach().numpy()")
        return self._data

    def item(self) -> Any:
        """The one element as a Python number. Raises RuntimeError unless there is exactly one."""
        if self._data.size != 1:
            raise RuntimeError(f"item: expected one element, got shape {self._data.shape}")
        return self._data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self._data.tolist()

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._data.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self._data.shape if dim is None else self._data.shape[dim]

    def dim(self) -> int:
        """Number of dimensions."""
        return self._data.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._data.size

    def __len__(self) -> int:
        if not self._data.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self._data)

    def __repr__(self) -> str:
        return f"tensor({self._data})"

    def to(self, dtype: Any) -> Tensor:
        return cast(self, as_dtype(dtype))

    # ------------------------------------------------------------------------------------------ arithmetic

    add, __add__, __radd__ = A.add, A.add, A.add
    sub, __sub__, __rsub__ = A.sub, A.sub, A.rsub
    mul, __mul__, __rmul__ = A.mul, A.mul, A.mul
    div, __truediv__, __rtruediv__ = A.div, A.div, A.rdiv
    pow, __pow__, __rpow__ = A.pow, A.pow, A.rpow
    __eq__, __ne__, __lt__, __le__, __gt__, __ge__ = A.eq, A.ne, A.lt, A.le, A.gt, A.ge  # type: ignore
    __hash__ = object.__hash__
    add_ = __iadd__ = inplace(A.add)
    sub_ = __isub__ = inplace(A.sub)
    mul_ = __imul__ = inplace(A.mul)
    div_ = __itruediv__ = inplace(A.div)

    sum, mean = R.sum, R.mean
    reshape, view, flatten, unflatten = S.reshape, S.view, S.flatten, S.unflatten
    squeeze, unsqueeze = S.squeeze, S.unsqueeze
    permute, transpose, t, movedim = S.permute, S.transpose, S.t, S.movedim
    T, mT = property(S.transpose_all), property(S.matrix_transpose)
    expand, expand_as = S.expand, S.expand_as
    __getitem__, __setitem__ = I.getitem, I.setitem


autograd.Tensor = Tensor


def to_array(data: Any, dtype: Any = None, copy: bool = True) -> np.ndarray:
    """An array from a Tensor, array, number or nested list, with torch's dtypes: Python floats become the default
    dtype, Python ints int64; arrays keep theirs."""
    if isinstance(data, TensorBase):
        data = data._data
    if isinstance(data, np.ndarray | np.generic):
        dt = None if dtype is None else as_dtype(dtype)
        return np.array(data, dt) if copy else np.asarray(data, dt)
    array = np.array(data, None if dtype is None else as_dtype(dtype))
    if dtype is None and array.dtype.kind == "f":
        from .backend import get_default_dtype

        array = array.astype(get_default_dtype())
    return array


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of ``data``."""
    t = wrap(to_array(data, dtype))
    if requires_grad:
        t.requires_grad = True
    return t
