"""Batch norm and pooling of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from . import formulas
from .arrays import LIMITS, images, wide
from .peers import Peers, jitted, nchw, nhwc, onnx_call
from .rows import Contest, random, sample, worst


def batch_norm(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    """In training: with the batch's own statistics."""
    rng = np.random.default_rng(2)
    c = shape[1]
    x, grad = images(shape, dtype), images(shape, dtype, 1)
    weight, bias = random(rng, (c,), dtype), random(rng, (c,), dtype)
    mean0, var1 = np.zeros(c, x.dtype), np.ones(c, x.dtype)
    mx, mg, mw, mb, m0, m1 = peers.put(x, grad, weight, bias, mean0, var1)
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
            peers, lambda: ops.batch_norm(mx, m0, m1, mw, mb, training=True), error, LIMITS[dtype]
        )

        def torch_calls(torch: Any) -> dict[str, Any]:
            tw, tb, tm, tv = (peers.tensor(a.copy()) for a in (weight, bias, mean0, var1))
            function = torch.nn.functional.batch_norm

            def call(tx: Any) -> Any:
                return lambda: (function(tx, tm, tv, tw, tb, True),)

            return {name: call(*t) for name, t in peers.formats(x).items()}

        contest.add("torch", torch_calls)
        contest.add(
            "jax", lambda jax: {"": jitted(jax, lambda *a: (jax_norm(*a),), nhwc(x), weight, bias)}, nchw
        )

        def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
            inputs, names = [np.ascontiguousarray(x), weight, bias, mean0, var1], ("y", "mean", "variance")
            return {
                "": onnx_call(
                    onnxruntime, peers, "BatchNormalization", inputs, outputs=names, training_mode=1
                )
            }

        contest.add("onnxruntime", onnx_calls)
        scale, shift = (a[:, None, None] for a in (mw, mb))
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.normalized(cupy, mx, scale, shift, axes),)})
    else:
        _, mean, rstd = ops.batch_norm(mx, None, None, mw, mb, training=True)

        def error(outputs: Sequence[Any]) -> float:
            (n, r), g = normalized(), wide(grad[:, some])
            scaled = g * per_channel(weight)
            dx = r * (scaled - scaled.mean(axes, keepdims=True) - n * (scaled * n).mean(axes, keepdims=True))
            pairs: list[tuple[Any, Any]] = [(outputs[0][:, some], dx)]
            return worst([*pairs, (outputs[1][some], (g * n).sum(axes)), (outputs[2][some], g.sum(axes))])

        contest = Contest(
            peers,
            lambda: ops.batch_norm_backward(mg, mx, mw, mean, rstd, True),
            error,
            10 * LIMITS[dtype],  # sums over the whole batch
        )

        def torch_calls(torch: Any) -> dict[str, Any]:
            tw, tb = (peers.tensor(a) for a in (weight, bias))
            forward, backward = (
                torch.ops.aten.native_batch_norm,
                torch.ops.aten.native_batch_norm_backward,
            )

            def call(tg: Any, tx: Any) -> Any:
                _, tm, tr = forward(tx, tw, tb, None, None, True, 0.1, 1e-5)
                three = [True] * 3
                return lambda: backward(tg, tx, tw, None, None, tm, tr, True, 1e-5, three)

            return {name: call(*t) for name, t in peers.formats(grad, x).items()}

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
            nchw,
        )
        contest.skip("onnxruntime", "has no gradients")
        contest.skip("cupy", "has no gradients")
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
        mx, mg = peers.put(x, grad)

        def windows(a: np.ndarray) -> np.ndarray:
            """(images, c, height, width, the 4 elements of a window)"""
            cut = wide(a[some][:, :, : 2 * size[0], : 2 * size[1]])
            parts = cut.reshape(len(some), c, size[0], 2, size[1], 2).transpose(0, 1, 2, 4, 3, 5)
            return parts.reshape(*parts.shape[:4], 4)

        def jax_pool(jax: Any) -> Any:
            zero, combine = (-np.inf, jax.lax.max) if kind == "max_pool" else (0.0, jax.lax.add)

            def function(a: Any) -> Any:
                start = np.asarray(
                    zero, a.dtype
                )  # what jax knows to be the neutral number, and can differentiate
                out = jax.lax.reduce_window(a, start, combine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
                return out if kind == "max_pool" else out / 4

            return function

        if direction == "forward":

            def error(outputs: Sequence[Any]) -> float:
                parts = windows(x)
                return worst([(outputs[0][some], parts.max(-1) if kind == "max_pool" else parts.mean(-1))])

            function = getattr(ops, kind)
            contest = Contest(peers, lambda: (function(mx, 2),), error, LIMITS[dtype])

            def torch_calls(torch: Any) -> dict[str, Any]:
                pool = getattr(torch.nn.functional, f"{kind}2d")

                def call(tx: Any) -> Any:
                    return lambda: (pool(tx, 2),)

                return {name: call(*t) for name, t in peers.formats(x).items()}

            def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
                node = "MaxPool" if kind == "max_pool" else "AveragePool"
                two: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
                return {"": onnx_call(onnxruntime, peers, node, [np.ascontiguousarray(x)], **two)}

            contest.add("torch", torch_calls)
            contest.add("jax", lambda jax: {"": jitted(jax, lambda a: (jax_pool(jax)(a),), nhwc(x))}, nchw)
            contest.add("onnxruntime", onnx_calls)
            contest.add("cupy", lambda cupy: {"": lambda: (formulas.pool(cupy, mx, kind),)})
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
                _, indices = ops.max_pool(mx, 2, return_indices=True)
                ours = lambda: (ops.max_pool_backward(mg, indices, shape, 2),)  # noqa: E731
            else:
                ours = lambda: (ops.avg_pool_backward(mg, shape, 2),)  # noqa: E731
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

                return {name: call(*t) for name, t in peers.formats(grad, x).items()}

            def jax_calls(jax: Any) -> dict[str, Any]:
                pool = jax_pool(jax)
                images = nhwc(grad), nhwc(x)
                return {"": jitted(jax, lambda g, a: jax.vjp(pool, a)[1](g), *images)}

            contest.add("torch", torch_calls)
            contest.add("jax", jax_calls, nchw)
            contest.skip("onnxruntime", "has no gradients")
            contest.skip("cupy", "has no gradients")
        contest.skip("numpy", "has no pooling")
        return contest

    return build
