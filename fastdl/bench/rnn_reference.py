"""RNN with ReLU ("vanilla"), LSTM and GRU in float64, plainly, for the few sequences that a check looks at. Gates are
in torch's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _times(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """vectors @ matrix.T, one by one: BLAS reads a large matrix once for a vector, and copies it for two."""
    return np.stack([matrix @ v for v in vectors])


def forward(cell: str, x: np.ndarray, params: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Any]]:
    """(y, what backward needs of each step); x (steps, batch, inputs), states start at zero."""
    w, r, b, d = (p.astype(np.float64, copy=False) for p in params)
    steps, batch, width = x.shape
    gates = (x.reshape(-1, width).astype(np.float64) @ w.T + b).reshape(steps, batch, -1)
    h = c = np.zeros((x.shape[1], r.shape[1]))
    y: list[np.ndarray] = []
    saved: list[Any] = []
    for a in gates:
        before = h
        if cell == "lstm":
            i, f, g, o = np.split(a + _times(h, r) + d, 4, -1)
            i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
            old, c = c, f * c + i * g
            h = o * np.tanh(c)
            saved.append((before, i, f, g, o, old, c))
        elif cell == "vanilla":
            h = np.maximum(a + _times(h, r) + d, 0)
            saved.append((before, h))
        else:
            ar, az, an = np.split(a, 3, -1)
            hr, hz, hn = np.split(_times(h, r) + d, 3, -1)
            reset, z = _sigmoid(ar + hr), _sigmoid(az + hz)
            n = np.tanh(an + reset * hn)
            h = (1 - z) * n + z * h
            saved.append((before, reset, z, n, hn))
        y.append(h)
    return np.stack(y), saved


def backward(
    cell: str, x: np.ndarray, params: Sequence[np.ndarray], grad: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(gradient of x, these rows of the gradients of the parameters)."""
    params = [p.astype(np.float64) for p in params]
    w, r, *_ = params
    x, grad = x.astype(np.float64), grad.astype(np.float64)
    _, saved = forward(cell, x, params)
    dh = dc = np.zeros((x.shape[1], r.shape[1]))
    # Gradients before the nonlinearities, as the input's and the state's products have them, and the states before.
    inputs, states, befores = [], [], []
    for step in reversed(range(len(x))):
        dh = dh + grad[step]
        if cell == "lstm":
            before, i, f, g, o, old, c = saved[step]
            t = np.tanh(c)
            dc = dc + dh * o * (1 - t * t)
            parts = (dc * g * i * (1 - i), dc * old * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o))
            da = ds = np.concatenate(parts, -1)
            dc = dc * f
            dh = _times(ds, r.T)
        elif cell == "vanilla":
            before, h = saved[step]
            da = ds = dh * (h > 0)
            dh = _times(ds, r.T)
        else:
            before, reset, z, n, hn = saved[step]
            dn = dh * (1 - z) * (1 - n * n)
            dz = dh * (before - n) * z * (1 - z)
            dreset = dn * hn * reset * (1 - reset)
            da, ds = np.concatenate((dreset, dz, dn), -1), np.concatenate((dreset, dz, dn * reset), -1)
            dh = dh * z + _times(ds, r.T)
        inputs.append(da)
        states.append(ds)
        befores.append(before)
    da, ds, before = (np.concatenate(a[::-1]) for a in (inputs, states, befores))  # (steps * batch, ...)
    dx = (da @ w).reshape(x.shape)
    da, ds = da[:, rows], ds[:, rows]
    return dx, [da.T @ x.reshape(len(da), -1), ds.T @ before, da.sum(0), ds.sum(0)]
