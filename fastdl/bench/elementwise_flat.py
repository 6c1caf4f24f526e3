"""GELU, dropout and Adam: number by number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from . import formulas
from .arrays import LIMITS, values, wide
from .peers import Peers, jitted, onnx_call
from .rows import Contest, sample, worst


def gelu(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    x, grad = values(shape, dtype), values(shape, dtype, 1)
    mx, mg = peers.put(x, grad)
    some = sample(np.random.default_rng(0), shape[0], 4096)

    def cdf(a: np.ndarray) -> np.ndarray:
        return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in a])

    if direction == "forward":

        def error(outputs: Sequence[Any]) -> float:
            a = wide(x[some])
            return worst([(outputs[0][some], a * cdf(a))])

        contest = Contest(peers, lambda: (ops.activation(mx, "gelu"),), error, LIMITS[dtype])

        def torch_calls(torch: Any) -> dict[str, Any]:
            t = peers.tensor(x)
            out, function = torch.empty_like(t), torch._C._nn.gelu
            return {
                "": lambda: (function(t),),
                "out=": lambda: (function(t, out=out),),
            }

        contest.add("torch", torch_calls)
        contest.add("jax", lambda jax: {"": jitted(jax, lambda a: (jax.nn.gelu(a, approximate=False),), x)})
        contest.add("onnxruntime", lambda o: {"": onnx_call(o, peers, "Gelu", [x])})
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.gelu(cupy, mx),)})
    else:

        def error(outputs: Sequence[Any]) -> float:
            a, g = wide(x[some]), wide(grad[some])
            slope = cdf(a) + a * np.exp(-a * a / 2) / math.sqrt(2 * math.pi)
            return worst([(outputs[0][some], g * slope)])

        contest = Contest(peers, lambda: (ops.activation_backward(mg, mx, "gelu"),), error, LIMITS[dtype])

        def torch_calls(torch: Any) -> dict[str, Any]:
            tg, tx = peers.tensor(grad), peers.tensor(x)
            backward = torch.ops.aten.gelu_backward
            return {"": lambda: (backward(tg, tx),)}

        def jax_calls(jax: Any) -> dict[str, Any]:
            def gradient(g: Any, a: Any) -> Any:
                return jax.vjp(lambda v: jax.nn.gelu(v, approximate=False), a)[1](g)

            return {"": jitted(jax, gradient, grad, x)}

        contest.add("torch", torch_calls)
        contest.add("jax", jax_calls)
        contest.skip("onnxruntime", "has no gradients")
        contest.skip("cupy", "has no gradients")
    contest.skip("numpy", "has no GELU")
    return contest


def dropout(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    """p = 0.5; another mask every time is part of the work."""
    x = values(shape, dtype)

    def error(outputs: Sequence[Any]) -> float:
        out = np.asarray(outputs[0][:100_000]).astype(np.float64)
        kept = out != 0
        n = len(out)
        if abs(np.count_nonzero(kept) - n / 2) > 3 * math.sqrt(n):  # six standard deviations
            return float("inf")
        return worst([(out, np.where(kept, 2 * wide(x[:n]), 0))])

    offsets = iter(range(0, 1 << 60, math.prod(shape)))
    mx = peers.put(x)
    contest = Contest(peers, lambda: (ops.dropout(mx, 0.5, 1, next(offsets)),), error, LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        t, function = peers.tensor(x), torch.nn.functional.dropout
        return {"": lambda: (function(t, 0.5, True),)}

    def jax_calls(jax: Any) -> dict[str, Any]:
        jnp = jax.numpy

        def drop(a: Any, key: Any) -> Any:
            key, other = jax.random.split(key)
            return jnp.where(jax.random.bernoulli(other, 0.5, a.shape), a / 0.5, 0), key

        compiled, a = jax.jit(drop), jnp.asarray(x)
        state = [jax.random.key(0)]

        def call() -> tuple:
            out, state[0] = compiled(a, state[0])
            return (jax.block_until_ready(out),)

        return {"": call}

    contest.add("torch", torch_calls)
    contest.add("jax", jax_calls)
    contest.skip("numpy", "has no dropout")

    def cupy_calls(cupy: Any) -> dict:
        rng = cupy.random.default_rng(0)
        return {"": lambda: (cupy.where(rng.random(shape, dtype=cupy.float32) < 0.5, mx * 2, 0),)}

    contest.add("cupy", cupy_calls)
    training = [x, np.array(0.5, np.float32), np.array(True)]
    contest.add("onnxruntime", lambda o: {"": onnx_call(o, peers, "Dropout", training)})
    return contest


def adam(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    """One tensor of parameters."""
    import fastdl

    start, grad = values(shape, dtype), values(shape, dtype, 1)
    some = sample(np.random.default_rng(0), shape[0], 4096)
    p = fastdl.from_numpy(start.copy()).to(peers.device.name).requires_grad_()
    p.grad = fastdl.from_numpy(grad).to(peers.device.name)
    step = fastdl.optim.Adam([p], lr=1e-3).step

    def ours() -> tuple:
        step()
        return (p.detach()._data,)

    def error(outputs: Sequence[Any]) -> float:  # after the first step, where both corrections cancel
        g = wide(grad[some])
        return worst([(outputs[0][some], wide(start[some]) - 1e-3 * g / (np.abs(g) + 1e-8))])

    contest = Contest(peers, ours, error, LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        def call(**options: Any) -> Any:
            t = peers.tensor(start.copy()).requires_grad_()
            t.grad = peers.tensor(grad)
            update = torch.optim.Adam([t], lr=1e-3, **options).step

            def run() -> tuple:
                update()
                return (t.detach(),)

            return run

        return {"fused": call(fused=True)}

    contest.add("torch", torch_calls)

    def cupy_calls(cupy: Any) -> dict[str, Any]:
        mine, g = peers.put(start.copy(), grad)
        state: dict[str, Any] = {}
        return {"": lambda: (formulas.adam(cupy, mine, g, state),)}

    def jax_calls(jax: Any) -> dict[str, Any]:
        def step(p: Any, m: Any, v: Any, t: Any, g: Any) -> Any:
            t = t + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            p = p - 1e-3 / (1 - 0.9**t) * m / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
            return p, m, v, t

        compiled, jnp = jax.jit(step, donate_argnums=(0, 1, 2, 3)), jax.numpy
        state = [(jnp.array(start), jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(()))]
        g = jnp.array(grad)

        def call() -> tuple:
            state[0] = jax.block_until_ready(compiled(*state[0], g))
            return state[0][:1]

        return {"": call}

    contest.add("cupy", cupy_calls)
    contest.add("jax", jax_calls)
    for library in ("numpy", "onnxruntime"):
        contest.skip(library, "has no optimizers")
    return contest
