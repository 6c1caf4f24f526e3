"""Tensors from data, from nothing and from chance."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import backend, random
from ..autograd import TensorBase, is_float, wrap
from ..device import like, of, place
from ..dlpack import from_dlpack as read_dlpack
from ..dtypes import as_dtype
from .shape import sizes

if TYPE_CHECKING:
    from ..tensor import Tensor


def to_array(data: Any, dtype: Any = None, copy: bool = True) -> np.ndarray:
    """An array from a Tensor, array, number or nested list. Arrays and Tensors keep their dtype; Python floats get
    the default dtype and Python ints int64. Raises ValueError for ragged lists, TypeError for what is no number."""
    if isinstance(data, TensorBase):
        data = data._data
    if dtype is not None:
        dtype = as_dtype(dtype)
    if backend.of(data) is not None:
        return data.astype(data.dtype if dtype is None else dtype, copy=copy)
    if isinstance(data, np.ndarray | np.generic):
        if data.dtype.kind not in "fiub" and not is_float(data.dtype):
            raise TypeError(f"tensor: expected numbers or bools, got an array of dtype {data.dtype}")
        if data.dtype.byteorder == ">":
            data = data.astype(data.dtype.newbyteorder("="))
        return np.array(data, dtype) if copy else np.asarray(data, dtype)
    has_tensors = False
    if isinstance(data, list | tuple):
        data, has_tensors = _plain(data)
    elif hasattr(data, "__dlpack__"):
        data = read_dlpack(data)
        return np.array(data, dtype) if copy else np.asarray(data, dtype)
    elif data is None:
        raise TypeError("tensor: expected numbers, an array or nested lists, got None")
    try:
        array = np.array(data) if dtype is None or not is_float(dtype) else np.array(data, dtype)
    except ValueError as e:
        raise ValueError(f"tensor: expected nested lists of equal lengths: {e}") from None
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        raise TypeError(f"tensor: expected numbers or bools, got {array.dtype} from {type(data).__name__}")
    if dtype is not None:
        return array.astype(dtype, copy=False)
    if array.dtype == np.float64 and not (has_tensors or hasattr(data, "__array__")):
        return array.astype(backend.get_default_dtype())
    return array


def _plain(data: Any) -> tuple[Any, bool]:
    """Nested lists with their Tensors turned into arrays, and whether there were any arrays."""
    found = False
    out = []
    for d in data:
        if isinstance(d, TensorBase):
            d = backend.to_numpy(d._data)
            found = True
        elif isinstance(d, list | tuple):
            d, inner = _plain(d)
            found = found or inner
        elif isinstance(d, np.ndarray | np.generic):
            found = True
        elif hasattr(d, "__dlpack__"):
            d = read_dlpack(d)
            found = True
        out.append(d)
    return out, found


def _finish(array: np.ndarray, device: Any, requires_grad: bool) -> Any:
    t = wrap(array if device is None else place(array, device))
    if requires_grad:
        t.requires_grad = True
    return t


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of ``data``: an array, a number or nested lists.

    Python floats become the default dtype (float32), ints int64; arrays keep their dtype. Raises ValueError for
    ragged lists and TypeError for things that are no numbers.

    >>> import fastdl
    >>> fastdl.tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    return _finish(to_array(data, dtype), device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A Tensor that shares the memory of ``data`` where it can (arrays, Tensors of that dtype)."""
    if isinstance(data, TensorBase) and (dtype is None or data._data.dtype == as_dtype(dtype)):
        same: Any = data
        return same if device is None else same.to(device)
    return _finish(to_array(data, dtype, copy=False), device, False)


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor that shares the memory of a NumPy array. Raises TypeError for anything else."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    return _finish(to_array(array, copy=False), None, False)


def from_dlpack(x: Any) -> Tensor:
    """A Tensor that shares the memory of any object with ``__dlpack__`` (PyTorch, CuPy, JAX, NumPy)."""
    return wrap(read_dlpack(x))


def zeros(
    *args: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor of zeros; sizes as one tuple or one by one."""
    return _finish(
        np.zeros(_size("zeros", args if size is None else (size,)), _float_dtype(dtype), like=like(device)),
        device,
        requires_grad,
    )


def ones(
    *args: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor of ones; sizes as one tuple or one by one."""
    return _finish(
        np.ones(_size("ones", args if size is None else (size,)), _float_dtype(dtype), like=like(device)),
        device,
        requires_grad,
    )


def empty(
    *args: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor whose elements are whatever the memory holds."""
    return _finish(
        backend.empty(_size("empty", args if size is None else (size,)), _float_dtype(dtype), like(device)),
        device,
        requires_grad,
    )


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor filled with one value, whose kind gives the dtype unless ``dtype`` does."""
    if isinstance(fill_value, TensorBase):
        fill_value = fill_value._data
    value = backend.to_numpy(to_array(fill_value, dtype))
    array = np.full(_size("full", (size,)), value, value.dtype, like=like(device))
    return _finish(array, device, requires_grad)


def _size(name: str, size: tuple) -> tuple:
    try:
        shape = tuple([index(n) for n in sizes(size)])
    except TypeError:
        raise TypeError(f"{name}: expected sizes as integers or one tuple of them, got {size}") from None
    if shape and min(shape) < 0:
        raise ValueError(f"{name}: expected sizes of at least 0, got {shape}")
    return shape


def _float_dtype(dtype: Any) -> np.dtype:
    return backend.get_default_dtype() if dtype is None else as_dtype(dtype)


def _given(t: Any, dtype: Any) -> tuple[Any, Any]:
    if not isinstance(t, TensorBase):
        t = wrap(to_array(t, copy=False))
    return t._data, t._data.dtype if dtype is None else as_dtype(dtype)


def _beside(x: Any, device: Any) -> Any:
    return device if device is not None or x.__class__ is np.ndarray else of(x)


def zeros_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros in the shape, dtype and layout of ``input``."""
    x, dt = _given(input, dtype)
    return _finish(np.zeros_like(x, dt), device, requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape, dtype and layout of ``input``."""
    x, dt = _given(input, dtype)
    return _finish(np.ones_like(x, dt), device, requires_grad)


def empty_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Unset elements in the shape, dtype and layout of ``input``."""
    x, dt = _given(input, dtype)
    return _finish(np.empty_like(x, dt), device, requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One value in the shape, dtype and layout of ``input``."""
    x, dt = _given(input, dtype)
    value = backend.to_numpy(fill_value._data) if isinstance(fill_value, TensorBase) else fill_value
    return _finish(np.full_like(x, value, dt), device, requires_grad)


def arange(
    *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **bounds: Any
) -> Tensor:
    """``arange(end)``, ``arange(start, end)``, ``arange(start, end, step)``: evenly spaced, ``end`` left out.

    int64 if all are integers, else the default dtype. Raises ValueError if step is 0 or points away from end."""
    names = ("end",) if len(args) == 1 else ("start", "end", "step")
    given = {"start": 0, "step": 1, **dict(zip(names, args)), **bounds}
    if set(given) != {"start", "end", "step"} or len(args) > 3:
        raise TypeError(f"arange: expected (end) or (start, end, step), got {args} {bounds}")
    start, end, step = [
        v.item() if hasattr(v, "item") else v for v in (given["start"], given["end"], given["step"])
    ]
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: step {step} does not lead from {start} to {end}")
    whole = all(isinstance(v, int) for v in (start, end, step))
    dt = (
        as_dtype(dtype) if dtype is not None else np.dtype(np.int64) if whole else backend.get_default_dtype()
    )
    array = np.arange(start, end, step, dtype=np.dtype(np.int64 if whole else np.float64))
    return _finish(array.astype(dt, copy=False), device, requires_grad)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``steps`` evenly spaced numbers from ``start`` to ``end``, both included."""
    if steps < 0:
        raise ValueError(f"linspace: expected steps of at least 0, got {steps}")
    array = np.linspace(float(start), float(end), steps)
    return _finish(array.astype(_float_dtype(dtype)), device, requires_grad)


def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """``base`` to the powers of `linspace`."""
    array = np.logspace(float(start), float(end), steps, base=base)
    return _finish(array.astype(_float_dtype(dtype)), device, requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:  # fmt: skip
    """The n x m matrix with ones on its diagonal."""
    if n < 0 or (m is not None and m < 0):
        raise ValueError(f"eye: expected sizes of at least 0, got {n}, {m}")
    return _finish(np.eye(n, m, dtype=_float_dtype(dtype)), device, requires_grad)


# ---------------------------------------------------------------------------------------------------- by chance


def _draw(name: str, generator: Any) -> np.random.Generator:
    if generator is None:
        return random.generator()
    if not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"{name}: expected generator to be a numpy.random.Generator, got {type(generator).__name__}"
        )
    return generator


def _random(name: str, method: str, shape: tuple, dtype: Any, generator: Any) -> np.ndarray:
    dt = _float_dtype(dtype)
    if not is_float(dt):
        raise TypeError(f"{name}: expected a floating-point dtype, got {dt}")
    draw = getattr(_draw(name, generator), method)
    if dt.itemsize >= 4:
        return np.asarray(draw(shape, dtype=dt))
    return np.asarray(draw(shape, dtype=np.float32)).astype(dt)


def rand(
    *args: Any,
    size: Any = None,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return _finish(
        _random("rand", "random", _size("rand", args if size is None else (size,)), dtype, generator),
        device,
        requires_grad,
    )


def randn(
    *args: Any,
    size: Any = None,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of mean 0 and variance 1."""
    return _finish(
        _random(
            "randn", "standard_normal", _size("randn", args if size is None else (size,)), dtype, generator
        ),
        device,
        requires_grad,
    )


def rand_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1) in the shape and dtype of ``input``."""
    x, dt = _given(input, dtype)
    return rand(x.shape, dtype=dt, device=_beside(x, device), requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers in the shape and dtype of ``input``."""
    x, dt = _given(input, dtype)
    return randn(x.shape, dtype=dt, device=_beside(x, device), requires_grad=requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers in [low, high): ``randint(high, size)`` or ``randint(low, high, size)``; int64 by default."""
    if size is None:
        low, high, size = 0, low, high
    if size is None or high is None:
        raise TypeError("randint: expected (high, size) or (low, high, size)")
    if high <= low:
        raise ValueError(f"randint: expected low < high, got {low} and {high}")
    array = _draw("randint", generator).integers(low, high, _size("randint", (size,)))
    return _finish(
        np.asarray(array).astype(np.int64 if dtype is None else as_dtype(dtype)), device, requires_grad
    )


def randint_like(input: Tensor, low: int, high: Any = None, *, dtype: Any = None) -> Tensor:
    """Integers in [low, high) in the shape and dtype of ``input``."""
    if high is None:
        low, high = 0, low
    x, dt = _given(input, dtype)
    return randint(low, high, x.shape, dtype=dt, device=_beside(x, None))


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers 0 to n - 1 in random order."""
    array = _draw("randperm", generator).permutation(n)
    return _finish(array.astype(np.int64 if dtype is None else as_dtype(dtype)), device, False)


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None, dtype: Any = None
) -> Tensor:
    """Normal numbers of the given means and standard deviations (numbers or Tensors), of shape ``size`` if given."""
    given = [v._data if isinstance(v, TensorBase) else v for v in (mean, std)]
    m, s = [backend.to_numpy(v) for v in given]
    if np.any(np.asarray(s) < 0):
        raise ValueError(f"normal: expected std of at least 0, got {s}")
    shape = np.broadcast_shapes(np.shape(m), np.shape(s)) if size is None else _size("normal", (size,))
    z = _random("normal", "standard_normal", shape, dtype, generator)
    place_of = next((v for v in given if backend.of(v) is not None), None)
    return wrap(backend.beside(np.asarray(z * s + m).astype(z.dtype, copy=False), place_of))


def bernoulli(input: Tensor, *, generator: Any = None) -> Tensor:
    """1 with probability ``input``, else 0, in the dtype of ``input``."""
    p = backend.to_numpy(input._data)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError("bernoulli: expected probabilities in [0, 1]")
    drawn = np.asarray(_draw("bernoulli", generator).random(p.shape) < p).astype(p.dtype)
    return wrap(backend.beside(drawn, input._data))


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> Tensor:
    """Indices drawn with the (unnormalised) probabilities in the rows of ``input``: int64, (..., num_samples)."""
    p = backend.to_numpy(input._data).astype(np.float64)
    if p.ndim not in (1, 2):
        raise ValueError(f"multinomial: expected 1 or 2 dimensions, got {p.ndim}")
    rows = np.atleast_2d(p)
    if (rows < 0).any() or not np.isfinite(rows).all() or (rows.sum(1) <= 0).any():
        raise ValueError("multinomial: expected finite probabilities of at least 0 with a positive sum")
    if not replacement and num_samples > (rows > 0).sum(1).min():
        raise ValueError(
            f"multinomial: cannot draw {num_samples} without replacement: too few non-zero probabilities"
        )
    draw = _draw("multinomial", generator)
    if replacement:
        edges = np.cumsum(rows / rows.sum(1, keepdims=True), 1)
        u = draw.random((len(rows), num_samples))
        out = np.stack([np.searchsorted(e, v, side="right").clip(0, len(e) - 1) for e, v in zip(edges, u)])
    else:  # the smallest of exponential(1) / p are a draw without replacement
        keys = draw.exponential(size=rows.shape)
        keys = np.where(rows > 0, keys / np.where(rows > 0, rows, 1), np.inf)
        out = np.argsort(keys, 1)[:, :num_samples]
    return wrap(backend.beside((out if p.ndim == 2 else out[0]).astype(np.int64), input._data))


# ---------------------------------------------------------------------------- as methods: new_zeros and the like


def _as_beside(input: Tensor, dtype: Any, device: Any, requires_grad: bool) -> dict[str, Any]:
    return {
        "dtype": input._data.dtype if dtype is None else dtype,
        "device": _beside(input._data, device),
        "requires_grad": requires_grad,
    }


def new_tensor(
    input: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor from data, in the dtype of ``input``, beside it."""
    return tensor(
        data,
        **_as_beside(input, dtype, device, requires_grad),
    )


def new_zeros(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros in the dtype of ``input``, beside it."""
    return zeros(
        *size,
        **_as_beside(input, dtype, device, requires_grad),
    )


def new_ones(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones in the dtype of ``input``, beside it."""
    return ones(
        *size,
        **_as_beside(input, dtype, device, requires_grad),
    )


def new_empty(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Unset elements in the dtype of ``input``, beside it."""
    return empty(
        *size,
        **_as_beside(input, dtype, device, requires_grad),
    )


def new_full(
    input: Tensor,
    size: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value in the dtype of ``input``, beside it."""
    return full(
        size,
        fill_value,
        **_as_beside(input, dtype, device, requires_grad),
    )
