"""Reverse-mode differentiation: functions record themselves as nodes, `backward` walks the nodes back.

A recorded call of an `ArrayFunction` *is* its node. A node knows the nodes of its inputs and nothing of its
consumers, so graphs hold no reference cycles and go away with the last tensor that needs them. Nodes are numbered
as they are made; walking them in falling order visits every consumer before its producers, with a heap and no
recursion (Chainer v1's scheme). Keys are the negated numbers because `heapq` pops the smallest.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from numpy import ndarray

_keys = count(0, -1)
_new = object.__new__
_getrefcount = sys.getrefcount
_NO_NEEDS = (None,) * 64


class _Mode(threading.local):
    enabled = True  # what a new thread starts with


_mode = _Mode()


class TensorBase:
    """The four fields of a Tensor, without its methods (`fastdl.tensor.Tensor` has those)."""

    __slots__ = ("__weakref__", "_base", "_data", "_node", "grad")
    _data: Any
    _node: Any
    grad: Any


Tensor: Any = TensorBase  # replaced by fastdl.tensor once that class exists


def wrap(array: Any) -> Any:
    """A Tensor that shares ``array``, which must be an array already; nothing is checked."""
    t = _new(Tensor)
    t._data = array
    t._node = t.grad = None
    return t


# ---------------------------------------------------------------------------------------------------- recording


class ArrayFunction:
    """A differentiable function on raw arrays; the object made for one call is both its context and its node.

    Subclasses define two static methods:

    ``forward(ctx, *args)`` gets arrays in place of Tensors, everything else as passed, and returns an array or a
    tuple of arrays. What backward needs goes through ``ctx.save(*arrays)``, small facts may be plain attributes.

    ``backward(ctx, grad, ...)`` gets one gradient per output and returns one per positional argument of forward
    (``None`` = no gradient; trailing ones may be left out; a single array need not be in a tuple). It finds the
    saved arrays in ``ctx.saved`` and in ``ctx.needs[i]`` something true where argument i wants a gradient. It must
    not write into the gradients it gets. Outputs that no gradient reached get zeros, or None where the class says
    ``none_grads = True``.
    """

    saved: Any = ()
    needs: Any = _NO_NEEDS
    inputs: Any = ()
    none_grads = False
    key: int
    epoch: int
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def save(self, *arrays: Any) -> None:
        """Keep arrays for backward. They are let go as backward passes."""
        self.saved = arrays

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward on the arrays inside ``args`` and, where a gradient is wanted, record the call."""
        ctx = cls()
        arrays = []
        nodes = []
        tracked = False
        for a in args:
            if isinstance(a, TensorBase):
                arrays.append(a._data)
                node = a._node
                if node is not None:
                    tracked = True
                nodes.append(node)
            else:
                arrays.append(a)
                nodes.append(None)
        if tracked and _mode.enabled:
            ctx.needs = ctx.inputs = nodes
            out = cls.forward(ctx, *arrays)
            if out.__class__ is ndarray:
                ctx.key = next(_keys)
                ctx.epoch = _epoch
                t = _new(Tensor)
                t._data = out
                t._node = ctx
                t.grad = None
                return t
            ctx.key = next(_keys)
            ctx.epoch = _epoch
            if out.__class__ is tuple:
                return _wrap_outputs(ctx, out)
            t = wrap(np.asarray(out))
            t._node = ctx
            return t
        if len(args) > 64:
            ctx.needs = (None,) * len(args)
        out = cls.forward(ctx, *arrays)
        if out.__class__ is tuple:
            return tuple([o if o is None else wrap(np.asarray(o)) for o in out])
        t = _new(Tensor)
        t._data = out if out.__class__ is ndarray else np.asarray(out)
        t._node = t.grad = None
        return t


class _Output:
    """One output of a node with several: its gradient goes to its place in the node's list."""

    __slots__ = ("__weakref__", "index", "inputs", "key")
    saved = ()

    def __init__(self, node: Any, index: int):
        self.inputs = (node,)
        self.index = index
        self.key = next(_keys)


class Leaf:
    """The end of the graph at a tensor that requires a gradient (held weakly: the tensor owns its leaf)."""

    __slots__ = ("key", "tensor")
    saved = ()
    inputs = ()

    def __init__(self, tensor: Any):
        self.tensor = weakref.ref(tensor)
        self.key = next(_keys)


def is_float(dtype: Any) -> bool:
    """Whether a dtype can carry gradients (ml_dtypes' bfloat16 has kind V)."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def _wrap_outputs(ctx: Any, outputs: tuple) -> tuple:
    ctx.outputs = [None if o is None else (o.shape, o.dtype) for o in outputs]
    tensors = []
    for i, o in enumerate(outputs):
        t = None
        if o is not None:
            t = wrap(np.asarray(o))
            if is_float(o.dtype):
                t._node = _Output(ctx, i)
        tensors.append(t)
    return tuple(tensors)


# ---------------------------------------------------------------------------------------------------- backward


def run_backward(roots: Sequence, retain_graph: bool, captured: dict | None = None) -> None:
    """Walk the graph from ``roots`` (node, gradient array). Leaves accumulate into ``.grad``, unless ``captured``
    is given: then the gradients of the nodes whose keys it holds are put there and nothing else is touched."""
    grads: dict[int, Any] = {}
    nodes: dict[int, Any] = {}
    heap: list[int] = []
    leaves: list[Any] = []  # made before everything else, so they come last; no need to sort them in
    keep = _retained if captured is None else captured
    epoch = _epoch
    for node, g in roots:
        k = node.key
        if k in grads:
            grads[k] = grads[k] + g
        else:
            grads[k] = g
            if node.__class__ is Leaf:
                leaves.append(node)
            else:
                nodes[k] = node
                heappush(heap, k)
    g = roots = None  # type: ignore[assignment]
    while heap:
        k = heappop(heap)
        node = nodes.pop(k)
        g = grads.pop(k)
        if keep and k in keep:
            if captured is None:
                _keep_grad(keep[k](), g)
            else:
                captured[k] = g
        if node.__class__ is _Output:
            n = node.inputs[0]
            k = n.key
            if k not in grads:
                grads[k] = [None] * len(n.outputs)
                nodes[k] = n
                heappush(heap, k)
            grads[k][node.index] = g
            continue
        saved = node.saved
        if saved is None:
            raise RuntimeError(
                "backward: the saved arrays of this graph were freed by an earlier backward; to go through it a second "
                "time, call the first backward with retain_graph=True"
            )
        if saved and node.epoch != epoch:
            _check_unmodified(node)
        if g.__class__ is ndarray:
            gs = node.backward(node, g)
        elif g.__class__ is list:
            if not node.none_grads:
                g = [np.zeros(*o) if p is None and o is not None else p for p, o in zip(g, node.outputs)]
            gs = node.backward(node, *g)
        else:
            gs = node.backward(node, np.asarray(g))
        if saved and not retain_graph:
            node.saved = None
        saved = None
        if gs.__class__ is not tuple:
            gs = (gs,)
        for n, g in zip(node.inputs, gs):
            if n is not None and g is not None:
                k = n.key
                if k in grads:
                    grads[k] = grads[k] + g
                else:
                    grads[k] = g
                    if n.__class__ is Leaf:
                        leaves.append(n)
                    else:
                        nodes[k] = n
                        heappush(heap, k)
        g = gs = None
    for node in leaves:
        k = node.key
        g = grads.pop(k)
        if captured is not None:
            if k in captured:
                captured[k] = g
            continue
        t = node.tensor()
        if t is None:
            continue
        if t.grad is None:
            t.grad = wrap(g if _getrefcount(g) == _SOLE and _owned(g) else np.array(g))
        else:
            d = t.grad._data
            np.add(d, g, out=d)


def _sole() -> int:
    g = np.empty(1)
    return _getrefcount(g)


def _base_sole() -> int:
    view = np.empty((1, 2)).reshape(2)
    return _getrefcount(view.base)


# What sys.getrefcount says of a local variable, and of a view's base, that nobody else holds (it differs by version).
_SOLE = _sole()
_BASE_SOLE = _base_sole()


def _owned(g: Any) -> bool:
    """Whether a gradient that nobody else refers to also owns its memory (or is the only view, of all of it)."""
    if g.__class__ is not ndarray:
        return False
    if g.base is None:
        return True
    return g.base.__class__ is ndarray and g.base.size == g.size and _getrefcount(g.base) == _BASE_SOLE


def _keep_grad(tensor: Any, g: Any) -> None:
    if tensor is not None:
        g = np.array(g)
        tensor.grad = wrap(g if tensor.grad is None else tensor.grad._data + g)


_retained: dict[int, weakref.ref] = {}


def retain_grad(tensor: Any) -> None:
    """Have backward store the gradient of a tensor that is no leaf."""
    node = tensor._node
    if node is None:
        raise RuntimeError("retain_grad: can't retain_grad on a Tensor that has requires_grad=False")
    if node.__class__ is not Leaf:
        key = node.key
        _retained[key] = weakref.ref(tensor, lambda _: _retained.pop(key, None))


def backward(
    tensors: Any, grad_tensors: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Accumulate the gradients of ``tensors`` into the ``.grad`` of the leaves they were made from."""
    if create_graph:
        raise NotImplementedError("backward: create_graph=True (gradients of gradients) is not supported")
    if grad_tensors is None and isinstance(tensors, TensorBase) and tensors._node is not None:
        one = _ones.get(tensors._data.dtype)
        if one is not None and not tensors._data.shape:  # what a loss is
            run_backward(((tensors._node, one),), retain_graph)
            return
    run_backward(_roots("backward", tensors, grad_tensors), retain_graph)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple:
    """The gradients of ``outputs`` with respect to ``inputs``; no ``.grad`` is touched.

    >>> import fastdl
    >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    >>> fastdl.autograd.grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    if create_graph:
        raise NotImplementedError("grad: create_graph=True (gradients of gradients) is not supported")
    inputs = (inputs,) if isinstance(inputs, TensorBase) else tuple(inputs)
    for i, t in enumerate(inputs):
        if t._node is None:
            raise RuntimeError(f"grad: input {i} does not require grad")
    captured: dict[int, Any] = dict.fromkeys([t._node.key for t in inputs])
    run_backward(_roots("grad", outputs, grad_outputs), retain_graph, captured)
    result = []
    for i, t in enumerate(inputs):
        g = captured[t._node.key]
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i} was not used in the graph of the outputs; pass allow_unused=True to get None for it"
            )
        result.append(None if g is None else wrap(np.array(g)))
    return tuple(result)


# The gradient of a loss with respect to itself. Made once, and never handed out but to read.
_ones = {np.dtype(t): np.broadcast_to(np.ones((), t), ()) for t in (np.float32, np.float64)}  # read-only


def _roots(name: str, tensors: Any, grads: Any) -> list:
    tensors = (tensors,) if isinstance(tensors, TensorBase) else tuple(tensors)
    if grads is None or isinstance(grads, TensorBase):
        grads = (grads,) * len(tensors)
    if len(grads) != len(tensors):
        raise ValueError(f"{name}: expected one gradient per tensor ({len(tensors)}), got {len(grads)}")
    roots = []
    for t, g in zip(tensors, grads):
        data = t._data
        if t._node is None:
            raise RuntimeError(f"{name}: the tensor does not require grad and has no graph behind it")
        if g is None:
            if data.size != 1:
                raise RuntimeError(
                    f"{name}: grad can be implicitly created only for scalar outputs, got shape {data.shape}; "
                    "pass gradient="
                )
            g = np.ones_like(data)
        else:
            g = g._data if isinstance(g, TensorBase) else np.asarray(g)
            if g.shape != data.shape:
                raise RuntimeError(f"{name}: expected a gradient of shape {data.shape}, got {g.shape}")
            if g.dtype != data.dtype:
                g = g.astype(data.dtype)
        roots.append((t._node, g))
    return roots


# --------------------------------------------------------------------------------------- in-place modification

# Recording costs one integer: a node notes the epoch it was made in. Every in-place change starts a new epoch and
# notes it beside the memory it changed, so backward can tell whether an array was changed after it was saved.
_epoch = 0
_modified: dict[int, tuple[weakref.ref, int]] = {}


def _owner(array: Any) -> Any:
    while array.base.__class__ is ndarray:
        array = array.base
    return array


def mark_inplace(array: Any) -> None:
    """Note that the memory of ``array`` was just changed; graphs that saved it refuse to run backward."""
    global _epoch
    _epoch += 1
    owner = _owner(array)
    key = id(owner)
    entry = _modified.get(key)
    ref = entry[0] if entry is not None else weakref.ref(owner, lambda _: _modified.pop(key, None))
    _modified[key] = (ref, _epoch)


def version(array: Any) -> int:
    """A number that changes when the memory of ``array`` is changed in place."""
    entry = _modified.get(id(_owner(array)))
    return 0 if entry is None else entry[1]


def _check_unmodified(node: Any) -> None:
    for a in node.saved:
        a = a._data if isinstance(a, TensorBase) else a
        if a.__class__ is ndarray and version(a) > node.epoch:
            raise RuntimeError(
                f"backward: one of the arrays saved by {node.__class__.__name__} (shape {a.shape}) has been modified "
                "by an in-place operation since; use the out-of-place form or clone() it first"
            )


# ------------------------------------------------------------------------------------------------- gradient mode


class set_grad_enabled:
    """Switch recording on or off for this thread: at once, and until the end of the block where used with `with`.

    >>> import fastdl
    >>> x = fastdl.ones(2, requires_grad=True)
    >>> with fastdl.set_grad_enabled(False):
    ...     (x * 2).requires_grad
    False
    """

    def __init__(self, mode: bool):
        self.mode = bool(mode)
        self.previous = _mode.enabled
        _mode.enabled = self.mode

    def __enter__(self) -> None:
        _mode.enabled = self.mode

    def __exit__(self, *exc: Any) -> None:
        _mode.enabled = self.previous

    def __call__(self, function: Callable) -> Callable:
        _mode.enabled = self.previous
        return _decorate(function, self.mode)


def _decorate(function: Callable, mode: bool) -> Callable:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            it = function(*args, **kwargs)
            while True:
                with _Switch(mode):
                    try:
                        value = next(it)
                    except StopIteration as stop:
                        return stop.value
                yield value

        return generator

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Switch(mode):
            return function(*args, **kwargs)

    return call


class _Switch:
    """A gradient mode for the length of a `with` block, or of a function it decorates."""

    mode = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and callable(args[0]):  # used as @no_grad without parentheses
            return _decorate(args[0], cls.mode)
        return _new(cls)

    def __init__(self, mode: bool | None = None):
        if mode is not None:
            self.mode = bool(mode)

    def __enter__(self) -> Any:
        self.previous = _mode.enabled
        _mode.enabled = self.mode
        return self

    def __exit__(self, *exc: Any) -> None:
        _mode.enabled = self.previous

    def __call__(self, function: Callable) -> Callable:
        return _decorate(function, self.mode)


class no_grad(_Switch):
    """Record nothing: a context manager and a decorator.

    >>> import fastdl
    >>> x = fastdl.ones(2, requires_grad=True)
    >>> with fastdl.no_grad():
    ...     (x * 2).requires_grad
    False
    """


class enable_grad(_Switch):
    """Record again inside a `no_grad` block: a context manager and a decorator."""

    mode = True


class inference_mode(_Switch):
    """What torch calls inference mode; here the same as `no_grad` (``inference_mode(False)`` records)."""

    def __init__(self, mode: bool = True):
        self.mode = not mode


def is_grad_enabled() -> bool:
    """Whether operations on tensors that require gradients are recorded in this thread."""
    return _mode.enabled


# ------------------------------------------------------------------------------------------ functions of the user


class _Custom(ArrayFunction):
    """The node of one call of a user's `Function`: turns arrays into Tensors and back."""

    none_grads = True
    context: Any
    shapes: list
    outputs: list

    @staticmethod
    def backward(node: Any, *grads: Any) -> tuple:
        ctx = node.context
        ctx.saved_tensors = node.saved
        if ctx._materialize:
            grads = tuple([np.zeros(*o) if g is None else g for g, o in zip(grads, node.outputs)])
        try:
            with _Switch(False):
                result = ctx.backward(ctx, *[None if g is None else wrap(g) for g in grads])
        finally:
            ctx.saved_tensors = ()
        if not isinstance(result, tuple):
            result = (result,)
        name = ctx.__class__.__name__
        if len(result) > len(node.inputs) and any(r is not None for r in result[len(node.inputs) :]):
            raise RuntimeError(f"{name}.backward: expected {len(node.inputs)} gradients, got {len(result)}")
        arrays: list[Any] = []
        for i, (r, want) in enumerate(zip(result, node.shapes)):
            if r is None or want is None:
                arrays.append(None)
                continue
            if not isinstance(r, TensorBase):
                raise TypeError(
                    f"{name}.backward: gradient {i}: expected a Tensor or None, got {type(r).__name__}"
                )
            shape, dtype = want
            a = r._data
            if a.shape != shape:
                from .functional.core import unbroadcast

                try:
                    fits = np.broadcast_shapes(a.shape, shape) == a.shape
                except ValueError:
                    fits = False
                if not fits:
                    raise RuntimeError(
                        f"{name}.backward: gradient {i}: expected shape {shape}, got {a.shape}"
                    )
                a = unbroadcast(a, shape)
            arrays.append(a if a.dtype == dtype else a.astype(dtype))
        return tuple(arrays)


class Function:
    """Base of differentiable functions written by users, on Tensors: static methods ``forward(ctx, *args)`` and
    ``backward(ctx, *grads)`` (or ``forward(*args)`` with ``setup_context(ctx, inputs, output)``), used as
    ``MyFunction.apply(*args)``. ``backward`` returns one gradient, or None, per argument of forward.

    >>> import fastdl
    >>> class Cube(fastdl.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**3
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x**2 * grad
    >>> x = fastdl.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    saved_tensors: tuple = ()
    needs_input_grad: tuple = ()
    setup_context: Any = None
    _materialize = True
    _to_save: tuple = ()
    _non_differentiable: tuple = ()
    _dirty: tuple = ()
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors for backward, as ``ctx.saved_tensors``; they are let go as backward passes."""
        for t in tensors:
            if t is not None and not isinstance(t, TensorBase):
                raise TypeError(f"save_for_backward: expected Tensors or None, got {type(t).__name__}")
        self._to_save = tensors

    def mark_non_differentiable(self, *outputs: Any) -> None:
        """Say that these outputs carry no gradient."""
        self._non_differentiable = outputs

    def mark_dirty(self, *inputs: Any) -> None:
        """Say that these inputs were modified in place."""
        self._dirty = inputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether outputs that no gradient reached get zeros (the default) or None."""
        self._materialize = bool(value)

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward and record the call."""
        ctx = cls()
        nodes = [a._node if isinstance(a, TensorBase) else None for a in args]
        ctx.needs_input_grad = tuple([n is not None for n in nodes])
        with _Switch(False):
            if cls.setup_context is not None:
                out = cls.forward(*args)
                cls.setup_context(ctx, args, out)
            else:
                out = cls.forward(ctx, *args)
        outputs = out if isinstance(out, tuple) else (out,)
        for t in ctx._dirty:
            mark_inplace(t._data)
        saved, ctx._to_save = ctx._to_save, ()
        if not (_mode.enabled and any(ctx.needs_input_grad)):
            return out
        node = _Custom()
        node.context = ctx
        node.inputs = nodes
        node.shapes = [(a._data.shape, a._data.dtype) if n is not None else None for a, n in zip(args, nodes)]
        node.outputs = [
            (o._data.shape, o._data.dtype) if isinstance(o, TensorBase) else None for o in outputs
        ]
        node.key = next(_keys)
        node.epoch = _epoch
        # An output among the saved would make a cycle through its node: keep its array in a new Tensor.
        node.saved = tuple([wrap(t._data) if any(t is o for o in outputs) else t for t in saved])
        result = []
        for i, o in enumerate(outputs):
            if isinstance(o, TensorBase):
                if any(o is d for d in ctx._dirty):
                    pass
                elif any(o is a for a in args):
                    o = wrap(o._data)
                if is_float(o._data.dtype) and not any(outputs[i] is d for d in ctx._non_differentiable):
                    o._node = _Output(node, i)
            result.append(o)
        ctx._non_differentiable = ctx._dirty = ()
        return tuple(result) if isinstance(out, tuple) else result[0]


def once_differentiable(function: Callable) -> Callable:
    """Accepted for code that comes from torch: every backward here is differentiable once."""
    return function
