"""Gradients held against finite differences: what the author of a `Function` needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .autograd import TensorBase, wrap
from .grad_mode import no_grad
from .gradients import grad


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the Jacobian that backward gives for ``func(*inputs)`` is that of central differences of step ``eps``.

    ``inputs`` is a Tensor or a sequence of arguments; those that require grad are checked and must be float64. Every
    floating-point output is checked. ``inputs`` are left as they were.

    Raises RuntimeError naming the input, the output and the largest difference (or returns False where not
    ``raise_exception``), TypeError for inputs of less precision, ValueError where no input requires grad.

    >>> import fastdl
    >>> x = fastdl.tensor([0.5, -2.0], dtype=fastdl.float64, requires_grad=True)
    >>> fastdl.autograd.gradcheck(fastdl.tanh, x)
    True
    """
    inputs = (inputs,) if isinstance(inputs, TensorBase) else tuple(inputs)
    checked = [i for i, t in enumerate(inputs) if isinstance(t, TensorBase) and t._node is not None]
    if not checked:
        raise ValueError("gradcheck: expected at least one input that requires grad, got none")
    for i in checked:
        if inputs[i]._data.dtype != np.float64:
            raise TypeError(
                f"gradcheck: expected float64 inputs (finite differences need them), got {inputs[i]._data.dtype} "
                f"as input {i}"
            )
    outputs = _floats(func(*inputs))
    for k, y in enumerate(outputs):
        analytic = _backward_jacobian(y, [inputs[i] for i in checked])
        for i, a in zip(checked, analytic):
            numeric = _numeric_jacobian(func, inputs, i, k, eps)
            wrong = ~np.isclose(a, numeric, rtol, atol)
            if wrong.any():
                if not raise_exception:
                    return False
                worst = np.unravel_index(np.argmax(np.abs(a - numeric) * wrong), a.shape)
                raise RuntimeError(
                    f"gradcheck: {wrong.sum()} of {a.size} derivatives of output {k} by input {i} differ; the worst: "
                    f"backward gives {a[worst]:.9g}, finite differences {numeric[worst]:.9g}"
                )
    return True


def _floats(outputs: Any) -> list:
    outputs = (outputs,) if isinstance(outputs, TensorBase) else outputs
    return [y for y in outputs if isinstance(y, TensorBase) and y._data.dtype.kind == "f"]


def _backward_jacobian(y: Any, inputs: list) -> list[np.ndarray]:
    """One (inputs x outputs) matrix per input."""
    rows = [np.zeros((x._data.size, y._data.size)) for x in inputs]
    if y._node is None:
        return rows
    for j in range(y._data.size):
        one = np.zeros(y._data.size, y._data.dtype)
        one[j] = 1
        grads = grad(y, inputs, one.reshape(y._data.shape), retain_graph=True, allow_unused=True)
        for row, g in zip(rows, grads):
            if g is not None:
                row[:, j] = g._data.reshape(-1)
    return rows


def _numeric_jacobian(func: Any, inputs: Any, i: int, k: int, eps: float) -> np.ndarray:
    x = inputs[i]._data
    moved = [wrap(t._data) if isinstance(t, TensorBase) else t for t in inputs]
    rows = []
    for index in np.ndindex(x.shape):
        values = []
        for step in (eps, -eps):
            z = x.copy()
            z[index] += step
            moved[i] = wrap(z)
            with no_grad():
                values.append(np.array(_floats(func(*moved))[k]._data).reshape(-1))
        rows.append((values[0] - values[1]) / (2 * eps))
    return np.stack(rows) if rows else np.zeros((0, _floats(func(*moved))[k]._data.size))
