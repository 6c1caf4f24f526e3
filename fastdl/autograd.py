"""Reverse-mode differentiation: functions record themselves as nodes, `backward` walks the nodes back.

A recorded call of an `ArrayFunction` *is* its node. A node knows the nodes of its inputs and nothing of its
consumers, so graphs hold no reference cycles and go away with the last tensor that needs them. Nodes are numbered
as they are made; walking them in falling order visits every consumer before its producers, with a heap and no
recursion (Chainer v1's scheme). Keys are the negated numbers because `heapq` pops the smallest.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from numpy import ndarray

from .backend import _others, add, as_array, copied, is_array, is_float
from .grad_mode import _mode, enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from .locks import process_lock

_keys = count(0, -1)
_new = object.__new__
_getrefcount = sys.getrefcount
_NO_NEEDS = (None,) * 64


class TensorBase:
    """The fields of a Tensor, without its methods (`fastdl.tensor.Tensor` has those). Views and what they are views of
    also have ``_base`` and ``_views`` (see functional/core.py); elsewhere these are not set."""

    __slots__ = ("__weakref__", "_base", "_data", "_node", "_views", "grad")
    _data: Any
    _node: Any
    grad: Any


Tensor: Any = TensorBase  # replaced by fastdl.tensor once that class exists
autocasting = 0  # how many `fastdl.autocast` blocks threads are in
cast_arguments: Any = None  # from fastdl.casting


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
    autocast: Any = (
        None  # inside `fastdl.autocast`: "lower" (products), "float32" (losses), "promote" (one dtype)
    )
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
        if autocasting:
            args = cast_arguments(cls, args)
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
            try:
                out = cls.forward(ctx, *arrays)
            except AttributeError as error:
                _check_kinds(cls, arrays, error)
                raise
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
            t = wrap(as_array(out))
            t._node = ctx
            return t
        if len(args) > 64:
            ctx.needs = (None,) * len(args)
        try:
            out = cls.forward(ctx, *arrays)
        except AttributeError as error:
            _check_kinds(cls, arrays, error)
            raise
        if out.__class__ is tuple:
            return tuple([o if o is None else wrap(as_array(o)) for o in out])
        t = _new(Tensor)
        t._data = out if out.__class__ is ndarray else as_array(out)
        t._node = t.grad = None
        return t


class Deferred:
    """A gradient whose array is formed only where something wants it: a sum, a tensor that keeps its gradient, any node
    but the one it was made for."""

    __slots__ = ()

    def form(self) -> Any:
        """The array."""
        raise NotImplementedError

    def relu(self) -> None:
        """Let it pass a ReLU."""
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.form()


def _check_kinds(function: type, args: list, error: AttributeError) -> None:
    """Say so where a forward failed on an argument that is no array: None or a list, most often."""
    if any(a is error.obj for a in args) and not is_array(error.obj):
        raise TypeError(f"{function.__name__}: expected a Tensor, got {type(error.obj).__name__}") from error


class Output:
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


def _wrap_outputs(ctx: Any, outputs: tuple) -> tuple:
    ctx.outputs = [None if o is None else (o.shape, o.dtype) for o in outputs]
    tensors = []
    for i, o in enumerate(outputs):
        t = None
        if o is not None:
            t = wrap(as_array(o))
            if is_float(o.dtype):
                t._node = Output(ctx, i)
        tensors.append(t)
    return tuple(tensors)


# ---------------------------------------------------------------------------------------------------- backward


def run_backward(roots: Sequence, retain_graph: bool, captured: dict | None = None) -> None:
    """Walk the graph from ``roots``, pairs (node, gradient array). Leaves accumulate into ``.grad``, unless
    ``captured`` is given: then the gradients of the nodes whose keys it holds are put there and nothing else is
    touched. Everything the walk knows is in local variables, so threads may walk graphs that share leaves: they take
    turns at adding to ``.grad``."""
    grads: dict[
        int, Any
    ] = {}  # by node key: the gradient so far (a list of them for nodes with several outputs)
    nodes: dict[int, Any] = {}
    heap: list[int] = []
    leaves: list[Leaf] = []  # the oldest of all, so they come last whatever the order
    keep = retained if captured is None else captured
    epoch = _epoch
    inputs: Any
    gs: Any
    inputs, gs = zip(*roots)
    del roots
    while True:
        if gs.__class__ is tuple:
            for node, g in zip(inputs, gs):
                if node is not None and g is not None:
                    key = node.key
                    if key in grads:
                        # not in place: g may be another node's gradient too
                        grads[key] = add(as_array(grads[key]), as_array(g))
                    else:
                        grads[key] = g
                        if node.__class__ is Leaf:
                            leaves.append(node)
                        else:
                            nodes[key] = node
                            heappush(heap, key)
        elif gs is not None:  # the same for a single gradient
            node = inputs[0]
            if node is not None:
                key = node.key
                if key in grads:
                    grads[key] = add(as_array(grads[key]), as_array(gs))
                else:
                    grads[key] = gs
                    if node.__class__ is Leaf:
                        leaves.append(node)
                    else:
                        nodes[key] = node
                        heappush(heap, key)
        g = gs = None
        if not heap:
            break
        key = heappop(heap)
        node = nodes.pop(key)
        g = grads.pop(key)
        if keep and key in keep:
            if captured is None:
                keep_grad(keep.get(key), g)
            else:
                captured[key] = as_array(g)
        if node.__class__ is Output:
            (parent,) = node.inputs
            if parent.key not in grads:
                grads[parent.key] = [None] * len(parent.outputs)
                nodes[parent.key] = parent
                heappush(heap, parent.key)
            grads[parent.key][node.index] = g if g.__class__ is ndarray else as_array(g)
            continue
        saved = node.saved
        if saved is None:
            raise RuntimeError(_FREED)
        if saved and node.epoch != epoch:
            _check_unmodified(node)
        if g.__class__ is ndarray:
            gs = node.backward(node, g)
        elif g.__class__ is list:
            if not node.none_grads:
                there = next(p for p in g if p is not None)
                g = [
                    np.zeros(*o, like=there) if p is None and o is not None else p
                    for p, o in zip(g, node.outputs)
                ]
            gs = node.backward(node, *g)
        else:  # 0-d arithmetic gives NumPy scalars
            gs = node.backward(node, g if isinstance(g, Deferred) else as_array(g))
        inputs = node.inputs
        if saved and not retain_graph:
            saved = node.saved = None
    with _accumulating:
        for node in leaves:
            key = node.key
            g = grads.pop(key)
            if captured is not None:
                if key in captured:
                    captured[key] = g
                continue
            tensor = node.tensor()
            if tensor is None:
                continue
            if tensor.grad is None:
                tensor.grad = wrap(g if _getrefcount(g) == _SOLE and _owned(g) else copied(g))
            else:
                total = tensor.grad._data
                np.add(total, g, out=total)


_FREED = (
    "backward: the saved arrays of this graph were freed by an earlier backward; to go through it a second time, "
    "call the first backward with retain_graph=True"
)
retained: dict[int, weakref.ref] = {}  # by node key: tensors that asked for retain_grad
_accumulating = process_lock()  # held where something is added to the ``.grad`` of tensors


def keep_grad(ref: Any, g: Any) -> None:
    """Add to the ``.grad`` of a tensor that is no leaf, while it lives."""
    tensor = None if ref is None else ref()
    if tensor is not None:
        g = copied(g)
        with _accumulating:
            tensor.grad = wrap(g if tensor.grad is None else tensor.grad._data + g)


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
    if g.base is None:
        return g.__class__ is ndarray or g.__class__ in _others
    if g.__class__ is not ndarray:
        return False
    kind = g.base.__class__
    if not g.flags.writeable:  # broadcast_to gives such views
        return False
    whole = g.base.size == g.size if kind is ndarray else kind.__module__ == "fastdl._core"  # pooled memory
    return whole and _getrefcount(g.base) == _BASE_SOLE


# --------------------------------------------------------------------------------------- in-place modification

# Recording costs one integer: a node notes the epoch it was made in. Every in-place change starts a new epoch and
# notes it beside the memory it changed, so backward can tell whether an array was changed after it was saved.
_epoch = 0
_modified: dict[int, tuple[weakref.ref, int]] = {}
_modifying = process_lock()  # epochs must not go back


def _owner(array: Any) -> Any:
    base = array.base
    while base.__class__ is ndarray or base.__class__ in _others:
        array = base
        base = array.base
    return array


def mark_inplace(*arrays: Any) -> None:
    """Note that the memory of ``arrays`` was just changed; graphs that saved it refuse to run backward."""
    global _epoch
    with _modifying:
        _epoch += 1
        for array in arrays:
            owner = _owner(array)
            key = id(owner)
            entry = _modified.get(key)
            ref = entry[0] if entry is not None else weakref.ref(owner, partial(_forget, key))
            _modified[key] = (ref, _epoch)


def _forget(key: int, _: Any) -> None:
    _modified.pop(key, None)


def version(array: Any) -> int:
    """A number that changes when the memory of ``array`` is changed in place."""
    entry = _modified.get(id(_owner(array)))
    return 0 if entry is None else entry[1]


def _check_unmodified(node: Any) -> None:
    for saved in node.saved:
        a: Any = saved._data if isinstance(saved, TensorBase) else saved
        kind = a.__class__
        if (kind is ndarray or kind in _others) and version(a) > node.epoch:
            raise RuntimeError(
                f"backward: one of the arrays saved by {node.__class__.__name__} (shape {a.shape}) has been modified "
                "by an in-place operation since; use the out-of-place form or clone() it first"
            )


from .custom import Function, once_differentiable  # noqa: E402  (these build on the classes above)
from .gradients import backward, grad, retain_grad  # noqa: E402


def gradcheck(
    func: Any,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the gradients of ``func(*inputs)`` are those that finite differences give; see `fastdl.gradcheck`."""
    from .gradcheck import gradcheck as check

    return check(func, inputs, eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)


__all__ = [
    "ArrayFunction",
    "Function",
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "retain_grad",
    "set_grad_enabled",
]
