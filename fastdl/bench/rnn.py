"""RNN (with ReLU: DeepBench's "vanilla"), LSTM and GRU: DeepBench's sizes and small ones; forward, and forward with
backward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from . import rnn_reference
from .peers import Peers, jitted, onnx_call
from .rows import Contest, Row, itemsize, random, sample, worst
from .workloads import deepbench

FAMILY = "rnn"
DIRECTIONS = ("forward", "both")
GATES = {"lstm": 4, "gru": 3, "vanilla": 1}
_KIND: dict[str, dict[str, Any]] = {"vanilla": {"nonlinearity": "relu"}}
_OPS = {"lstm": "lstm", "gru": "gru", "vanilla": "rnn"}
_LARGEST_HIDDEN, _LARGEST_BATCH = 2048, 64  # of the targets, which are LSTM and GRU
# Every step does the same, so that long sequences are cut: to so many operations, or bytes of recurrent weights read,
# but to no fewer than so many steps
_WORK, _TRAFFIC, _FEWEST_STEPS = 20e9, 2e9, 10

# cell, hidden (= input), batch, steps, and the steps before they were cut
Shape = tuple[str, int, int, int, int]
# Relative to the largest number of each result; bfloat16 rounds the state at every step
_LIMITS = {"float32": 5e-5, "float64": 1e-12, "bfloat16": 0.03}


def _cut(cell: str, hidden: int, batch: int, steps: int) -> Shape:
    gates = GATES[cell]
    work, traffic = 4.0 * gates * hidden * hidden * batch, 4.0 * gates * hidden * hidden
    longest = max(_FEWEST_STEPS, int(min(_WORK / work, _TRAFFIC / traffic)))
    return (cell, hidden, batch, min(steps, longest), steps)


def _deepbench(cut: bool) -> list[Shape]:
    found: dict[tuple, Shape] = {}
    for key in ("rnn", "rnn_inference"):
        for cell, hidden, batch, steps in deepbench(key):
            shape = _cut(cell, hidden, batch, steps) if cut else (cell, hidden, batch, steps, steps)
            found.setdefault(shape[:4], shape)
    return list(found.values())


def _targets() -> list[Shape]:
    kept = [s for s in _deepbench(True) if s[1] <= _LARGEST_HIDDEN and s[2] <= _LARGEST_BATCH]
    return [*(s for s in kept if s[0] != "vanilla"), *_small()]


def _small() -> list[Shape]:
    return [
        (cell, hidden, batch, 50, 50)
        for cell in ("lstm", "gru")
        for hidden in (64, 128, 256)
        for batch in (1, 16, 64)
    ]


SUITES: dict[str, list[tuple[str, list[Shape]]]] = {
    "quick": [
        ("rnn", [("lstm", 64, 32, 28, 28), ("gru", 256, 16, 50, 50), _cut("lstm", 1024, 16, 25)]),
    ],
    "deepbench": [("rnn", _deepbench(False))],
    "rnn": [("rnn", [*_deepbench(True), *_small()])],
    "small": [("rnn", _small())],
    "scaling": [("rnn", [_cut("lstm", 1024, 64, 25), _cut("gru", 512, 64, 25)])],
    "targets": [("rnn", _targets())],
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite."""
    return [
        _row(group, shape, dtype, direction)
        for group, shapes in SUITES[suite]
        for direction in DIRECTIONS
        for shape in shapes
    ]


def _row(group: str, shape: Shape, dtype: str, direction: str) -> Row:
    cell, hidden, batch, steps, whole = shape
    gates = GATES[cell]
    operations = 4.0 * gates * hidden * hidden * batch * steps  # input and recurrent products
    weights, sequence = 2 * gates * hidden * hidden, steps * batch * hidden
    moved = weights + 2 * sequence
    if direction == "both":
        operations *= 3
        moved = 3 * weights + 6 * sequence  # dW written; x, y, grad y read, dx written
    recurrent = gates * hidden * hidden * (steps - 1) * (1 if direction == "forward" else 3)
    note = "" if steps == whole else f"of {whole} steps"
    return Row(
        group, _OPS[cell], f"h{hidden} b{batch} t{steps}", dtype, direction, operations, float(moved * itemsize(dtype)),
        lambda peers: (_forward if direction == "forward" else _both)(shape, dtype, peers), note,
        reread=float(recurrent * itemsize(dtype)),
    )  # fmt: skip


def _operands(shape: Shape, dtype: str) -> tuple[np.random.Generator, np.ndarray, list[np.ndarray]]:
    cell, hidden, batch, steps, _ = shape
    rng = np.random.default_rng(0)
    x = random(rng, (steps, batch, hidden), dtype)
    gates, scale = GATES[cell] * hidden, hidden**-0.5
    sizes = [(gates, hidden), (gates, hidden), (gates,), (gates,)]
    return rng, x, [random(rng, size, dtype, scale) for size in sizes]


def _some(batch: int) -> list[int]:
    return sorted({0, batch - 1})


def _forward(shape: Shape, dtype: str, peers: Peers) -> Contest:
    cell, _, batch, _, _ = shape
    _, x, params = _operands(shape, dtype)
    call, kind = getattr(ops, _OPS[cell]), _KIND.get(cell, {})
    mx, *mine = peers.put(x, *params)
    some = _some(batch)

    @cache
    def expected() -> np.ndarray:
        return rnn_reference.forward(cell, x[:, some], params)[0]

    def error(outputs: Sequence[Any]) -> float:
        return worst([(np.asarray(outputs[0]).reshape(x.shape)[:, some], expected())])

    contest = Contest(peers, lambda: call(mx, mine, **kind), error, _LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        layer, tx = _torch_layer(peers, shape, params), peers.tensor(x)
        return {"": lambda: layer(tx)[:1]}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 recurrent layers")
        return {"": _onnx(onnxruntime, peers, shape, x, params)}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no recurrent layers")
    contest.skip("cupy", "has no recurrent layers")
    contest.add("jax", lambda jax: {"": jitted(jax, lambda a, *p: (_scan(jax, cell)(a, *p),), x, *params)})
    contest.add("onnxruntime", onnx_calls)
    return contest


def _both(shape: Shape, dtype: str, peers: Peers) -> Contest:
    cell, _, batch, _, _ = shape
    rng, x, params = _operands(shape, dtype)
    values = random(rng, x.shape, dtype)
    rows = sample(rng, len(params[0]), 64)
    some = _some(batch)
    # For the check, two sequences alone have a gradient: the float64 reference then need not follow the others.
    grad = np.zeros_like(values)
    grad[:, some] = values[:, some]

    @cache
    def expected() -> tuple[np.ndarray, list[np.ndarray]]:
        return rnn_reference.backward(cell, x[:, some], params, grad[:, some], rows)

    def error(outputs: Sequence[Any]) -> float:
        dx, dw = outputs
        return worst(
            [
                (np.asarray(dx)[:, some], expected()[0]),
                *((np.asarray(a)[rows], e) for a, e in zip(dw, expected()[1])),
            ]
        )

    mx, mg, *mine = peers.put(x, grad, *params)

    def lstm() -> tuple:
        y, _, _, reserve = ops.lstm(mx, mine, save=True)
        dx, _, _, dw = ops.lstm_backward(mg, None, None, mx, mine, None, None, y, reserve)
        return dx, dw

    def gru() -> tuple:
        y, _, reserve = ops.gru(mx, mine, save=True)
        dx, _, dw = ops.gru_backward(mg, None, mx, mine, None, y, reserve)
        return dx, dw

    def vanilla() -> tuple:
        y, _, reserve = ops.rnn(mx, mine, save=True, **_KIND["vanilla"])
        dx, _, dw = ops.rnn_backward(mg, None, mx, mine, None, y, reserve, **_KIND["vanilla"])
        return dx, dw

    ours = {"lstm": lstm, "gru": gru, "vanilla": vanilla}[cell]
    contest = Contest(peers, ours, error, _LIMITS[dtype])
    contest.fill(mg, values)

    def torch_calls(torch: Any) -> dict[str, Any]:
        layer, tx, tg = _torch_layer(peers, shape, params), peers.tensor(x), peers.tensor(grad)
        contest.fill(tg, values)
        tx.requires_grad_()

        def call() -> tuple:
            tx.grad = None
            for p in layer.parameters():
                p.grad = None
            layer(tx)[0].backward(tg)
            return tx.grad, [p.grad for p in layer.parameters()]

        return {"": call}

    def jax_calls(jax: Any) -> dict[str, Any]:
        scan = _scan(jax, cell)
        call = jitted(jax, lambda a, g, *p: jax.vjp(scan, a, *p)[1](g), x, grad.copy(), *params)
        contest.replace(call, 1, values)
        return {"": call}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no recurrent layers")
    contest.skip("cupy", "has no recurrent layers")
    contest.add("jax", jax_calls, lambda outputs: (outputs[0], outputs[1:]))
    contest.skip("onnxruntime", "has no gradients")
    return contest


def _torch_layer(peers: Peers, shape: Shape, params: Sequence[np.ndarray]) -> Any:
    cell, hidden, *_ = shape
    torch = peers.modules["torch"]
    layer = getattr(torch.nn, _OPS[cell].upper())(hidden, hidden, **_KIND.get(cell, {}))
    layer = layer.to(peers.device.name, peers.tensor(params[0]).dtype)
    with torch.no_grad():
        for target, source in zip(layer.parameters(), params):
            target.copy_(peers.tensor(source))
    return layer


def _scan(jax: Any, cell: str) -> Any:
    """The layer as jax users write it: the input's product for all steps at once, then a scan."""
    nn, jnp = jax.nn, jax.numpy

    def lstm(x: Any, w: Any, r: Any, b: Any, d: Any) -> Any:
        def step(state: Any, gates: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ r.T, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], r.shape[1]), x.dtype)
        return jax.lax.scan(step, (zero, zero), x @ w.T + b + d)[1]

    def gru(x: Any, w: Any, r: Any, b: Any, d: Any) -> Any:
        def step(h: Any, gates: Any) -> Any:
            xr, xz, xn = jnp.split(gates, 3, -1)
            hr, hz, hn = jnp.split(h @ r.T + d, 3, -1)
            z = nn.sigmoid(xz + hz)
            h = (1 - z) * jnp.tanh(xn + nn.sigmoid(xr + hr) * hn) + z * h
            return h, h

        return jax.lax.scan(step, jnp.zeros((x.shape[1], r.shape[1]), x.dtype), x @ w.T + b)[1]

    def vanilla(x: Any, w: Any, r: Any, b: Any, d: Any) -> Any:
        def step(h: Any, a: Any) -> Any:
            h = nn.relu(a + h @ r.T)
            return h, h

        return jax.lax.scan(step, jnp.zeros((x.shape[1], r.shape[1]), x.dtype), x @ w.T + b + d)[1]

    return {"lstm": lstm, "gru": gru, "vanilla": vanilla}[cell]


def _onnx(onnxruntime: Any, peers: Peers, shape: Shape, x: np.ndarray, params: Sequence[np.ndarray]) -> Any:
    """ONNX's gates come in the order i, o, f, c and z, r, h."""
    cell, hidden, *_ = shape
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "vanilla": (0,)}[cell]

    def arranged(p: np.ndarray) -> np.ndarray:
        parts = np.split(p, GATES[cell])
        return np.concatenate([parts[i] for i in order])

    w, r, b, d = map(arranged, params)
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if cell == "gru":
        attributes["linear_before_reset"] = 1
    if cell == "vanilla":
        attributes["activations"] = ["Relu"]
    weights = [w[None], r[None], np.concatenate([b, d])[None]]
    return onnx_call(onnxruntime, peers, _OPS[cell].upper(), [x, *weights], 3, opset=14, **attributes)
