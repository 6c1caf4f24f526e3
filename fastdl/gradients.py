"""What users call to get gradients: `backward`, `grad`, `retain_grad`."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from .autograd import Leaf, TensorBase, retained, run_backward, wrap
from .backend import _others, as_array, copied, is_array


def retain_grad(tensor: Any) -> None:
    """Have backward store the gradient of a tensor that is no leaf."""
    node = tensor._node
    if node is None:
        raise RuntimeError("retain_grad: can't retain_grad on a Tensor that has requires_grad=False")
    if node.__class__ is not Leaf:
        key = node.key
        retained[key] = weakref.ref(tensor, lambda _: retained.pop(key, None))


def backward(
    tensors: Any, grad_tensors: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Accumulate the gradients of ``tensors`` into the ``.grad`` of the leaves they were made from."""
    if create_graph:
        raise NotImplementedError("backward: create_graph=True (gradients of gradients) is not supported")
    if grad_tensors is None and isinstance(tensors, TensorBase) and not tensors._data.shape:  # a loss
        one = _ones.get(tensors._data.dtype)
        if one is not None and tensors._node is not None:
            if tensors._data.__class__ in _others:
                one = np.ones_like(tensors._data)
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
        result.append(None if g is None else wrap(copied(g)))
    return tuple(result)


# The gradient of a loss with respect to itself: made once, read-only.
_ones = {np.dtype(t): np.broadcast_to(np.ones((), t), ()) for t in (np.float32, np.float64)}


def _roots(name: str, tensors: Any, grads: Any) -> list:
    tensors = (tensors,) if isinstance(tensors, TensorBase) else tuple(tensors)
    if grads is None or isinstance(grads, TensorBase) or is_array(grads):
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
            g = g._data if isinstance(g, TensorBase) else as_array(g)
            if g.shape != data.shape:
                raise RuntimeError(f"{name}: expected a gradient of shape {data.shape}, got {g.shape}")
            if g.dtype != data.dtype:
                g = g.astype(data.dtype)
        roots.append((t._node, g))
    return roots
