"""Softmax, layer norm and cross-entropy: along the rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from . import formulas
from .arrays import LIMITS, values, wide
from .peers import Peers, jitted, onnx_call
from .rows import Contest, random, sample, worst


def softmax(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    x, grad = values(shape, dtype), values(shape, dtype, 1)
    mx, mg = peers.put(x, grad)
    some = sample(np.random.default_rng(0), shape[0], 64)

    @cache
    def reference() -> np.ndarray:
        e = np.exp(wide(x[some]) - wide(x[some]).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    if direction == "forward":

        def error(outputs: Sequence[Any]) -> float:
            return worst([(outputs[0][some], reference())])

        contest = Contest(peers, lambda: (ops.softmax(mx),), error, LIMITS[dtype])

        def torch_calls(torch: Any) -> dict[str, Any]:
            t = peers.tensor(x)
            out = torch.empty_like(t)
            return {
                "": lambda: (torch.softmax(t, -1),),
                "out=": lambda: (torch.softmax(t, -1, out=out),),
            }

        contest.add("torch", torch_calls)
        contest.add("jax", lambda jax: {"": jitted(jax, lambda a: (jax.nn.softmax(a),), x)})
        contest.add("onnxruntime", lambda o: {"": onnx_call(o, peers, "Softmax", [x], axis=-1)})
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.softmax(cupy, mx),)})
    else:
        my = ops.softmax(mx)
        y = peers.device.host(my)

        def error(outputs: Sequence[Any]) -> float:
            p, g = wide(y[some]), wide(grad[some])
            return worst([(outputs[0][some], p * (g - (p * g).sum(-1, keepdims=True)))])

        contest = Contest(peers, lambda: (ops.softmax_backward(mg, my),), error, LIMITS[dtype])

        def torch_calls(torch: Any) -> dict[str, Any]:
            tg, ty = peers.tensor(grad), peers.tensor(y)
            backward = torch.ops.aten._softmax_backward_data
            return {"": lambda: (backward(tg, ty, -1, ty.dtype),)}

        contest.add("torch", torch_calls)
        formula = lambda g, p: (p * (g - (p * g).sum(-1, keepdims=True)),)  # noqa: E731
        contest.add("jax", lambda jax: {"": jitted(jax, formula, grad, y)})
        contest.skip("onnxruntime", "has no gradients")
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.softmax_backward(cupy, mg, my),)})
    contest.skip("numpy", "has no softmax")
    return contest


def layer_norm(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    rng = np.random.default_rng(2)
    x, grad = values(shape, dtype), values(shape, dtype, 1)
    weight, bias = random(rng, shape[1:], dtype), random(rng, shape[1:], dtype)
    some = sample(rng, shape[0], 64)
    features = list(shape[1:])
    mx, mg, mw, mb = peers.put(x, grad, weight, bias)

    def normalized(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a = wide(a)
        rstd = 1 / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
        return (a - a.mean(-1, keepdims=True)) * rstd, rstd

    def jax_norm(a: Any, w: Any, b: Any) -> Any:
        mean = a.mean(-1, keepdims=True)
        variance = ((a - mean) ** 2).mean(-1, keepdims=True)
        return (a - mean) / (variance + 1e-5) ** 0.5 * w + b

    if direction == "forward":

        def error(outputs: Sequence[Any]) -> float:
            return worst([(outputs[0][some], normalized(x[some])[0] * wide(weight) + wide(bias))])

        contest = Contest(peers, lambda: ops.layer_norm(mx, features, mw, mb), error, LIMITS[dtype])

        def torch_calls(torch: Any) -> dict[str, Any]:
            tx, tw, tb = (peers.tensor(a) for a in (x, weight, bias))
            function = torch.nn.functional.layer_norm
            return {"": lambda: (function(tx, features, tw, tb),)}

        contest.add("torch", torch_calls)
        contest.add("jax", lambda jax: {"": jitted(jax, lambda *a: (jax_norm(*a),), x, weight, bias)})
        contest.add(
            "onnxruntime",
            lambda o: {"": onnx_call(o, peers, "LayerNormalization", [x, weight, bias], 2, axis=-1)},
        )
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.normalized(cupy, mx, mw, mb),)})
    else:
        _, mean, rstd = ops.layer_norm(mx, features, mw, mb)

        def error(outputs: Sequence[Any]) -> float:
            n, r = normalized(x[some])
            g = wide(grad[some]) * wide(weight)
            dx = r * (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True))
            pairs: list[tuple[Any, Any]] = [(outputs[0][some], dx)]
            if len(x) <= 10**4:
                pairs.append((outputs[2], wide(grad).sum(0)))
            return worst(pairs)

        contest = Contest(
            peers, lambda: ops.layer_norm_backward(mg, mx, mw, mean, rstd, 1), error, 4 * LIMITS[dtype]
        )

        def torch_calls(torch: Any) -> dict[str, Any]:
            tg, tx, tw, tb = (peers.tensor(a) for a in (grad, x, weight, bias))
            _, tm, tr = torch.ops.aten.native_layer_norm(tx, features, tw, tb, 1e-5)
            backward = torch.ops.aten.native_layer_norm_backward
            three = [True] * 3
            return {"": lambda: backward(tg, tx, features, tm, tr, tw, tb, three)}

        contest.add("torch", torch_calls)
        contest.add(
            "jax",
            lambda jax: {"": jitted(jax, lambda g, *a: jax.vjp(jax_norm, *a)[1](g), grad, x, weight, bias)},
        )
        contest.skip("onnxruntime", "has no gradients")
        contest.skip("cupy", "has no gradients")
    contest.skip("numpy", "has no layer norm")
    return contest


def cross_entropy(shape: tuple[int, ...], dtype: str, direction: str, peers: Peers) -> Contest:
    x = values(shape, dtype)
    labels = np.random.default_rng(3).integers(0, shape[1], shape[0])
    mx, ml = peers.put(x, labels)
    both = direction == "both"
    some = sample(np.random.default_rng(0), shape[0], 64)

    def log_softmax(a: np.ndarray) -> np.ndarray:
        a = wide(a)
        a = a - a.max(-1, keepdims=True)
        return a - np.log(np.exp(a).sum(-1, keepdims=True))

    @cache
    def mean_loss() -> float:
        blocks = range(0, len(x), 4096)
        losses = (-log_softmax(x[i : i + 4096])[range(len(labels[i : i + 4096])), labels[i : i + 4096]]
                  for i in blocks)  # fmt: skip
        return sum(float(part.sum()) for part in losses) / len(x)

    def error(outputs: Sequence[Any]) -> float:
        pairs: list[tuple[Any, Any]] = [(outputs[0], mean_loss())]
        if both:
            gradient = np.exp(log_softmax(x[some]))
            gradient[np.arange(len(some)), labels[some]] -= 1
            pairs.append((outputs[1][some], gradient / len(x)))
        return worst(pairs)

    if both:
        ours = lambda: ops.cross_entropy(mx, ml, with_grad=True)  # noqa: E731
    else:
        ours = lambda: (ops.cross_entropy(mx, ml),)  # noqa: E731
    contest = Contest(peers, ours, error, LIMITS[dtype])

    def torch_calls(torch: Any) -> dict[str, Any]:
        t, target, function = peers.tensor(x), peers.tensor(labels), torch.nn.functional.cross_entropy
        if not both:
            return {"": lambda: (function(t, target),)}
        t.requires_grad_()

        def call() -> tuple:
            t.grad = None
            loss = function(t, target)
            loss.backward()
            return loss, t.grad

        return {"": call}

    def jax_calls(jax: Any) -> dict[str, Any]:
        def loss(a: Any, target: Any) -> Any:
            picked = jax.numpy.take_along_axis(jax.nn.log_softmax(a), target[:, None], 1)
            return -picked.mean()

        function = jax.value_and_grad(loss) if both else (lambda a, b: (loss(a, b),))
        return {"": jitted(jax, function, x, labels)}

    contest.add("torch", torch_calls)
    contest.add("jax", jax_calls)
    contest.skip("numpy", "has no cross-entropy")
    if both:
        contest.skip("cupy", "has no gradients")
    else:
        contest.add("cupy", lambda cupy: {"": lambda: (formulas.cross_entropy(cupy, mx, ml),)})
    if both:
        contest.skip("onnxruntime", "has no gradients")
    else:
        loss: dict[str, Any] = {"reduction": "mean"}
        contest.add(
            "onnxruntime", lambda o: {"": onnx_call(o, peers, "SoftmaxCrossEntropyLoss", [x, labels], **loss)}
        )
    return contest
