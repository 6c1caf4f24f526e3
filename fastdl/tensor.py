"""The Tensor: an array with a gradient. Its methods are the functions of `fastdl.functional`, listed here."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from . import autograd, dlpack
from . import device as devices
from . import dtypes as D
from .autograd import Leaf, TensorBase, is_float, wrap
from .backend import _others, address, as_array, copied, to_numpy
from .functional import creation as C
from .functional import pointwise as P
from .functional.core import Clone, Contiguous, cast, move
from .methods import Methods
from .naming import names_itself

_new = object.__new__
_Bool = bool  # the class body below has methods of these names
_Int = int
_Float = float


class Tensor(Methods):
    """An n-dimensional array that can record what is done to it and carry a gradient.

    Made by `fastdl.tensor`, `fastdl.from_numpy`, `fastdl.zeros` and so on. ``Tensor(data)`` shares the memory of
    an array or Tensor.
    """

    __slots__ = ()
    __array_priority__ = 1000
    __array_ufunc__ = None  # `ndarray + tensor` is the Tensor's to answer

    def __init__(self, data: Any = (), dtype: Any = None, device: Any = None, requires_grad: _Bool = False):
        self._data = C.to_array(data, dtype, copy=False)
        if device is not None:
            self._data = devices.place(self._data, device)
        self._node = self.grad = None
        if requires_grad:
            self.requires_grad = True

    # ------------------------------------------------------------------------------------------- autograd

    @property
    def requires_grad(self) -> _Bool:
        """Whether backward gives this tensor, or something it was made from, a gradient."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: _Bool) -> None:
        if value:
            if self._node is None:
                if not is_float(self._data.dtype):
                    raise RuntimeError(
                        f"only floating-point tensors can require gradients, got {self._data.dtype}"
                    )
                self._node = Leaf(self)
        elif self._node.__class__ is Leaf:
            self._node = None
        elif self._node is not None:
            raise RuntimeError("requires_grad can be changed for leaf tensors only; use detach()")

    def requires_grad_(self, requires_grad: _Bool = True) -> Tensor:
        """Set ``requires_grad`` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> _Bool:
        """Whether this tensor was made by the user and not by a recorded function."""
        return self._node is None or self._node.__class__ is Leaf

    @property
    def grad_fn(self) -> Any:
        """The node that made this tensor, or None for a leaf."""
        node = self._node
        return None if node.__class__ is Leaf else node

    def backward(
        self, gradient: Any = None, retain_graph: _Bool = False, create_graph: _Bool = False
    ) -> None:
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
        self._data = value._data if isinstance(value, TensorBase) else as_array(value)

    def detach(self) -> Tensor:
        """The same memory as a Tensor without history."""
        return wrap(self._data)

    def numpy(self, *, force: _Bool = False) -> np.ndarray:
        """The array itself (memory is shared). Raises RuntimeError where a gradient is required and TypeError for a
        tensor that is not on the CPU; with ``force``, it is detached and copied there."""
        data = self._data
        if not force:
            if self._node is not None:
                raise RuntimeError("numpy: the tensor requires grad; use tensor.detach().numpy()")
            if data.__class__ in _others:
                raise TypeError(
                    f"numpy: the tensor is on {self.device}; copy it to the CPU first: tensor.cpu()"
                )
        return to_numpy(data)

    def item(self) -> Any:
        """The one element as a Python number. Raises RuntimeError unless there is exactly one."""
        if self._data.size != 1:
            raise RuntimeError(f"item: expected one element, got shape {self._data.shape}")
        return self._data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self._data.tolist()

    # ----------------------------------------------------------------------------------- what it is, and copies

    @property
    def shape(self) -> tuple[_Int, ...]:
        """Sizes of the dimensions."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> _Int:
        """Number of dimensions."""
        return self._data.ndim

    @property
    def device(self) -> devices.device:
        """Where the memory is."""
        return devices.of(self._data)

    @property
    def itemsize(self) -> _Int:
        """Bytes of one element."""
        return self._data.itemsize

    @property
    def nbytes(self) -> _Int:
        """Bytes of all elements."""
        return self._data.nbytes

    @property
    def is_cuda(self) -> _Bool:
        """Whether the memory is a GPU's."""
        return self.device.type == "cuda"

    is_sparse = False

    def size(self, dim: _Int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self._data.shape if dim is None else self._data.shape[dim]

    def dim(self) -> _Int:
        """Number of dimensions."""
        return self._data.ndim

    ndimension = dim

    def numel(self) -> _Int:
        """Number of elements."""
        return self._data.size

    nelement = numel

    def element_size(self) -> _Int:
        """Bytes of one element."""
        return self._data.itemsize

    def stride(self, dim: _Int | None = None) -> Any:
        """Steps between neighbours along each dimension (or one), in elements."""
        x = self._data
        steps = tuple([n // x.itemsize for n in x.strides])
        return steps if dim is None else steps[dim]

    def is_contiguous(self) -> _Bool:
        """Whether the elements lie in C order without gaps."""
        return self._data.flags.c_contiguous

    def is_floating_point(self) -> _Bool:
        """Whether the elements are floats."""
        return is_float(self._data.dtype)

    def data_ptr(self) -> _Int:
        """Address of the first element."""
        return address(self._data)

    def clone(self) -> Tensor:
        """A copy, through which gradients pass."""
        return Clone.apply(self)

    def contiguous(self) -> Tensor:
        """The tensor itself if it lies in C order, else a copy that does."""
        return self if self._data.flags.c_contiguous else Contiguous.apply(self)

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: _Bool = False,
           copy: _Bool = False) -> Tensor:  # fmt: skip
        """With another dtype or on another device: ``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(other)``.
        The tensor itself where nothing changes, unless ``copy``; gradients come back the same way. Raises
        RuntimeError for a device that is not there."""
        for a in args:
            if isinstance(a, TensorBase):
                dtype, device = a._data.dtype, devices.of(a._data)
            elif isinstance(a, devices.device) or (isinstance(a, str) and a.split(":")[0] in devices.KINDS):
                device = a
            elif isinstance(a, _Bool):
                copy = copy or a
            elif a is not None:
                dtype = a
        out = self if dtype is None else cast(self, D.as_dtype(dtype))
        if device is not None:
            out = move(out, device)
        return self.clone() if copy and out is self else out

    def type(self, dtype: Any = None) -> Any:
        """The name of the dtype, or the tensor with another one."""
        return self._data.dtype.name if dtype is None else cast(self, D.as_dtype(dtype))

    @names_itself
    def type_as(self, other: Tensor) -> Tensor:
        """With the dtype of ``other``."""
        return cast(self, other._data.dtype)

    def float(self) -> Tensor:
        """As float32."""
        return cast(self, D.float32)

    def double(self) -> Tensor:
        """As float64."""
        return cast(self, D.float64)

    def half(self) -> Tensor:
        """As float16."""
        return cast(self, D.float16)

    def bfloat16(self) -> Tensor:
        """As bfloat16."""
        return cast(self, D.as_dtype("bfloat16"))

    def long(self) -> Tensor:
        """As int64."""
        return cast(self, D.int64)

    def int(self) -> Tensor:
        """As int32."""
        return cast(self, D.int32)

    def short(self) -> Tensor:
        """As int16."""
        return cast(self, D.int16)

    def char(self) -> Tensor:
        """As int8."""
        return cast(self, D.int8)

    def byte(self) -> Tensor:
        """As uint8."""
        return cast(self, D.uint8)

    def bool(self) -> Tensor:
        """As bool: whether each element is not zero."""
        return cast(self, D.bool)

    def cpu(self) -> Tensor:
        """The tensor on the CPU: itself if it is there."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Tensor:
        """The tensor on a GPU (default: the current one). Raises RuntimeError without one."""
        return self.to("cuda" if device is None else devices.gpu(device))

    def pin_memory(self) -> Tensor:
        """A copy in page-locked memory, for quick copies to a GPU; the tensor itself where there is no GPU."""
        from .cuda import pin

        pinned = pin(self.detach().numpy())
        return self if pinned is self._data else wrap(pinned)

    # -------------------------------------------------------------------------------------- Python's protocols

    def __len__(self) -> _Int:
        if not self._data.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __bool__(self) -> _Bool:
        if self._data.size != 1:
            raise RuntimeError(
                f"the truth value of a tensor of shape {self._data.shape} is ambiguous; use any(), all() or numel()"
            )
        return _Bool(self._data.item())

    def __float__(self) -> _Float:
        return _Float(self.item())

    def __int__(self) -> _Int:
        return _Int(self.item())

    def __index__(self) -> _Int:
        if self._data.dtype.kind not in "iub":
            raise TypeError(f"only integer tensors can be an index, got {self._data.dtype}")
        return _Int(self.item())

    def __round__(self, digits: _Int = 0) -> Tensor:
        return P.round(self, decimals=digits)

    def __contains__(self, element: Any) -> _Bool:
        return _Bool((self == element)._data.any())

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec and not self._data.ndim else repr(self), spec)

    def __repr__(self) -> str:
        x = to_numpy(self._data)
        if x.size == 0 and x.ndim != 1:
            text = f"[], size={x.shape}"
        else:
            text = np.array2string(
                x.astype(np.float32) if x.dtype.kind == "V" else x,
                separator=", ",
                prefix="tensor(",
                threshold=1000,
                **_float_format(x),
            )
        if x.dtype not in (D.float32, D.int64, D.bool) or (x.size == 0 and x.dtype != D.float32):
            text += f", dtype={x.dtype.name}"
        if self._data.__class__ in _others:
            text += f", device='{self.device}'"
        if self._node.__class__ is Leaf:
            text += ", requires_grad=True"
        elif self._node is not None:
            node = self._node.inputs[0] if self._node.__class__ is autograd.Output else self._node
            text += f", grad_fn=<{node.__class__.__name__}>"
        return f"tensor({text})"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        x = self.numpy()
        if dtype is not None and x.dtype != dtype:
            return x.astype(dtype)
        return np.array(x) if copy else x

    def __dlpack__(self, **options: Any) -> Any:
        if self._node is not None:
            raise BufferError("__dlpack__: the tensor requires grad; export tensor.detach()")
        return dlpack.to_dlpack(self._data, **options)

    def __dlpack_device__(self) -> tuple[_Int, _Int]:
        return self._data.__dlpack_device__()

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "deepcopy: only leaf tensors can be copied with their place in a graph; detach() first"
            )
        t = _new(self.__class__)
        memo[id(self)] = t
        t._data = copied(self._data)
        t._node = None if self._node is None else Leaf(t)
        t.grad = copy.deepcopy(self.grad, memo)
        if hasattr(self, "__dict__"):
            t.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return t

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise RuntimeError("pickle: only leaf tensors can be pickled; detach() first")
        return _rebuild, (self.__class__, self._data, self._node is not None, getattr(self, "__dict__", None))


def _float_format(x: np.ndarray) -> dict:
    """torch's way with floats: four decimals, or a bare point where all are whole."""
    if not is_float(x.dtype) or not x.size:
        return {}
    finite = x[np.isfinite(x)]
    whole = bool((finite == np.trunc(finite)).all())
    return {"precision": 4, "floatmode": "maxprec" if whole else "fixed"}


def _rebuild(cls: Any, data: np.ndarray, requires_grad: bool, attributes: dict | None) -> Tensor:
    t = _new(cls)
    t._data = data
    t.grad = None
    t._node = Leaf(t) if requires_grad else None
    if attributes:
        t.__dict__.update(attributes)
    return t


autograd.Tensor = Tensor


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are floats."""
    return is_float(input._data.dtype)


def numel(input: Tensor) -> int:
    """Number of elements."""
    return input._data.size


def clone(input: Tensor) -> Tensor:
    """A copy, through which gradients pass."""
    return input.clone()


def detach(input: Tensor) -> Tensor:
    """The same memory as a Tensor without history."""
    return input.detach()
