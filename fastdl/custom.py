"""Differentiable functions that users write on Tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import autograd
from .autograd import ArrayFunction, Output, TensorBase, is_float, mark_inplace, wrap
from .grad_mode import _mode, no_grad


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
            there = next(g for g in grads if g is not None)
            grads = tuple([np.zeros(*o, like=there) if g is None else g for g, o in zip(grads, node.outputs)])
        try:
            with no_grad():
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
        with no_grad():
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
        node.key = next(autograd._keys)
        node.epoch = autograd._epoch
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
                    o._node = Output(node, i)
            result.append(o)
        ctx._non_differentiable = ctx._dirty = ()
        return tuple(result) if isinstance(out, tuple) else result[0]


def once_differentiable(function: Callable) -> Callable:
    """Accepted for code that comes from torch: every backward here is differentiable once."""
    return function
