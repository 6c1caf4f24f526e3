"""Batch norm and pooling of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from .arrays import LIMITS, images, wide
from .peers import Peers, formats, jitted, nhwc, onnx_call, to_torch
from .rows import Contest, random, sample, worst


def batch_norm(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    """In training: with the batch's own statistics."""
    rng = np.random.default_rng(2)
    c = shape[1]
    x, grad = images(shape, dtype), images(shape, dtype, 1)
    weight, bias = random(rng, (c,), dtype), random(rng, (c,), dtype)
    mean0, var1 = np.zeros(c, x.dtype), np.ones(c, x.dtype)
    some = sample(rng, c, 4)
    axes = (0, 2, 3)

    def normalized() -> tuple[np.ndarray, np.ndarray]:
        a = wide(x[:, some])
        rstd = 1 / np.sqrt(a.var(axes, keepdims=True) + 1e-5)
        return (a - a.mean(axes, keepdims=True)) * rstd, rstd

    def per_channel(a: np.ndarray) -> np.ndarray:
        return wide(a[some])[:, None, None]

    def jax_norm(a: Any, w: Any, b: Any) -> Any:  # NHWC
        mean = a.mean((0, 1, 2))
        variance = ((a - mean) ** 2).mean((0, 1, 2))
        return (a - mean) / (variance + 1e-5) ** 0.5 * w + b

    if direction == "forward":

        def error(outputs: Sequence[Any]) -> float:
            expected = normalized()[0] * per_channel(weight) + per_channel(bias)
            return worst([(outputs[0][:, some], expected)])

        contest = Contest(
            peers, lambda: ops.batch_norm(x, mean0, var1, weight, bias, training=True), error, LIMITS[dtype]
        )

        def torch_calls(torch: Any) -> dict[str, Any]:
            tw, tb, tm, tv = (to_torch(torch, a.copy()) for a in (weight, bias, mean0, var1))
            function = torch.nn.functional.batch_norm

            def call(tx: Any) -> Any:
                return lambda: (function(tx, tm, tv, tw, tb, True),)

            return {name: call(*t) for name, t in formats(torch, x).items()}

        contest.add("torch", torch_calls)
        contest.add("jax", lambda jax: {"": jitted(jax, jax_norm, nhwc(x), weight, bias)}, check=False)
        contest.skip("onnxruntime", "has no training")
    else:
        _, mean, rstd = ops.batch_norm(x, None, None, weight, bias, training=True)

        def error(outputs: Sequence[Any]) -> float:
            (n, r), g = normalized(), wide(grad[:, some])
            scaled = g * per_channel(weight)
            dx = r * (scaled - scaled.mean(axes, keepdims=True) - n * (scaled * n).mean(axes, keepdims=True))
            pairs: list[tuple[Any, Any]] = [(outputs[0][:, some], dx)]
            return worst([*pairs, (outputs[1][some], (g * n).sum(axes)), (outputs[2][some], g.sum(axes))])

        contest = Contest(
            peers,
            lambda: ops.batch_norm_backward(grad, x, weight, mean, rstd, True),
            error,
            10 * LIMITS[dtype],  # sums over the whole batch
        )

        def torch_calls(torch: Any) -> dict[str, Any]:
            tw, tb = (to_torch(torch, a) for a in (weight, bias))
            forward, backward = (
                torch.ops.aten.native_batch_norm,
                torch.ops.aten.native_batch_norm_backward,
            )

            def call(tg: Any, tx: Any) -> Any:
                _, tm, tr = forward(tx, tw, tb, None, None, True, 0.1, 1e-5)
                three = [True] * 3
                return lambda: backward(tg, tx, tw, None, None, tm, tr, True, 1e-5, three)

            return {name: call(*t) for name, t in formats(torch, grad, x).items()}

        contest.add("torch", torch_calls)
        contest.add(
            "jax",
            lambda jax: {
                "": jitted(
                    jax,
                    lambda g, *a: jax.vjp(jax_norm, *a)[1](g),
                    nhwc(grad),
                    nhwc(x),
                    weight,
                    bias,
                )
            },
            check=False,
        )
        contest.skip("onnxruntime", "has no gradients")
    contest.skip("numpy", "has no batch norm")
    return contest


def pool(kind: str) -> Callable[..., Contest]:
    """Windows of 2x2 with stride 2."""

    def build(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
        x = images(shape, dtype)
        n, c, h, w = shape
        some = sample(np.random.default_rng(0), n, 2)
        size = (h // 2, w // 2)
        grad = images((n, c, *size), dtype, 1)

        def windows(a: np.ndarray) -> np.ndarray:
            """(images, c, height, width, the 4 elements of a window)"""
            cut = wide(a[some][:, :, : 2 * size[0], : 2 * size[1]])
            parts = cut.reshape(len(some), c, size[0], 2, size[1], 2).transpose(0, 1, 2, 4, 3, 5)
            return parts.reshape(*parts.shape[:4], 4)

        def jax_pool(jax: Any) -> Any:
            zero, combine = (-np.inf, jax.lax.max) if kind == "max_pool" else (0.0, jax.lax.add)

            def function(a: Any) -> Any:
                start = jax.numpy.asarray(zero, a.dtype)
                out = jax.lax.reduce_window(a, start, combine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
                return out if kind == "max_pool" else out / 4

            return function

        if direction == "forward":

            def error(outputs: Sequence[Any]) -> float:
                parts = windows(x)
                return worst([(outputs[0][some], parts.max(-1) if kind == "max_pool" else parts.mean(-1))])

            function = getattr(ops, kind)
            contest = Contest(peers, lambda: (function(x, 2),), error, LIMITS[dtype])

            def torch_calls(torch: Any) -> dict[str, Any]:
                pool = getattr(torch.nn.functional, f"{kind}2d")

                def call(tx: Any) -> Any:
                    return lambda: (pool(tx, 2),)

                return {name: call(*t) for name, t in formats(torch, x).items()}

            def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
                node = "MaxPool" if kind == "max_pool" else "AveragePool"
                two: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
                return {"": onnx_call(onnxruntime, peers.threads, node, [np.ascontiguousarray(x)], **two)}

            contest.add("torch", torch_calls)
            contest.add("jax", lambda jax: {"": jitted(jax, jax_pool(jax), nhwc(x))}, check=False)
            contest.add("onnxruntime", onnx_calls)
        else:

            def error(outputs: Sequence[Any]) -> float:
                g = wide(grad[some])[..., None]
                if kind == "max_pool":
                    parts = windows(x)
                    share = np.arange(4) == parts.argmax(-1)[..., None]
                else:
                    share = np.full(4, 0.25)
                return worst([(windows(np.asarray(outputs[0])), g * share)])

            if kind == "max_pool":
                _, indices = ops.max_pool(x, 2, return_indices=True)
                ours = lambda: (ops.max_pool_backward(grad, indices, shape, 2),)  # noqa: E731
            else:
                ours = lambda: (ops.avg_pool_backward(grad, shape, 2),)  # noqa: E731
            contest = Contest(peers, ours, error, LIMITS[dtype])

            def torch_calls(torch: Any) -> dict[str, Any]:
                two = [2, 2]

                def call(tg: Any, tx: Any) -> Any:
                    if kind == "max_pool":
                        where = torch.nn.functional.max_pool2d(tx, 2, return_indices=True)[1]
                        backward = torch.ops.aten.max_pool2d_with_indices_backward
                        return lambda: (backward(tg, tx, two, two, [0, 0], [1, 1], False, where),)
                    backward = torch.ops.aten.avg_pool2d_backward
                    return lambda: (backward(tg, tx, two, two, [0, 0], False, True, None),)

                return {name: call(*t) for name, t in formats(torch, grad, x).items()}

            def jax_calls(jax: Any) -> dict[str, Any]:
                pool = jax_pool(jax)
                images = nhwc(grad), nhwc(x)
                return {"": jitted(jax, lambda g, a: jax.vjp(pool, a)[1](g), *images)}

            contest.add("torch", torch_calls)
            contest.add("jax", jax_calls, check=False)
            contest.skip("onnxruntime", "has no gradients")
        contest.skip("numpy", "has no pooling")
        return contest

    return build
