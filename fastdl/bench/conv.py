"""Convolutions: ResNet-50's layers, DeepBench's, depthwise ones; forward, and both gradients together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import ops
from .peers import Peers, jitted, nchw, nhwc, onnx_call
from .rows import Contest, Row, itemsize, random, sample, worst
from .workloads import deepbench

FAMILY = "conv"
DIRECTIONS = ("forward", "backward")
_LARGEST = 20e9  # floating-point operations of a forward call of the targets
_IMAGE_CHANNELS = 3  # an input of so few channels is an image, which wants no gradient

# n, c, h, w, k, r, s, stride h and w, padding h and w, groups: DeepBench's columns and one more
Shape = tuple[int, ...]
# The last rounding, and sums of some thousand products; relative to the largest number of the result
_LIMITS = {"float32": 2e-5, "float64": 1e-13, "bfloat16": 2**-7}


def _square(n: int, c: int, size: int, k: int, kernel: int, stride: int = 1, groups: int = 1) -> Shape:
    pad = kernel // 2
    return (n, c, size, size, k, kernel, kernel, stride, stride, pad, pad, groups)


def _resnet50(n: int = 8) -> list[Shape]:
    """Every different layer (He et al. 2016, table 1; the stride in the 3x3, as in later implementations)."""
    shapes = [_square(n, 3, 224, 64, 7, 2)]
    size, c = 56, 64
    for stage, width in enumerate((64, 128, 256, 512)):
        stride = 1 if stage == 0 else 2
        shapes += [_square(n, c, size, width, 1), _square(n, width, size, width, 3, stride)]
        shapes += [_square(n, width, size // stride, 4 * width, 1), _square(n, c, size, 4 * width, 1, stride)]
        size, c = size // stride, 4 * width
        shapes += [_square(n, c, size, width, 1), _square(n, width, size, width, 3)]
    return list(dict.fromkeys(shapes))


def _deepbench() -> list[Shape]:
    shapes = [(*row, 1) for key in ("conv", "conv_inference") for row in deepbench(key)]
    return list(dict.fromkeys(shapes))


def _targets() -> list[Shape]:
    affordable = [s for s in _deepbench() if flops(s) <= _LARGEST]
    return list(dict.fromkeys([*_resnet50(), *_depthwise(), *affordable]))


def _depthwise(n: int = 8) -> list[Shape]:
    """MobileNetV2's 3x3 layers (Sandler et al. 2018, table 2)."""
    layers = [(32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2)]
    layers += [(384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1)]
    return [_square(n, c, size, c, 3, stride, c) for c, size, stride in layers]


def _quick() -> list[Shape]:
    full = _resnet50()
    return [full[0], _square(8, 64, 56, 64, 3), _square(8, 256, 14, 1024, 1), _depthwise()[4]]


def output_size(shape: Shape) -> tuple[int, int]:
    """Height and width of the result."""
    _, _, h, w, _, r, s, sh, sw, ph, pw, _ = shape
    return (h + 2 * ph - r) // sh + 1, (w + 2 * pw - s) // sw + 1


def flops(shape: Shape) -> float:
    """Of a forward call."""
    n, c, _, _, k, r, s, *_, groups = shape
    p, q = output_size(shape)
    return 2.0 * n * k * p * q * (c // groups) * r * s


SUITES: dict[str, list[tuple[str, list[Shape]]]] = {
    "quick": [("conv", _quick())],
    "deepbench": [("conv", _deepbench())],
    "resnet50": [("conv", _resnet50())],
    "depthwise": [("conv", _depthwise())],
    "scaling": [
        ("conv", [_square(8, 64, 56, 64, 3), _square(8, 256, 14, 256, 3), _square(8, 256, 56, 64, 1)])
    ],
    "targets": [("conv", _targets())],
}


def rows(suite: str, dtype: str) -> list[Row]:
    """The rows of a suite."""
    return [
        _row(group, shape, dtype, direction)
        for group, shapes in SUITES[suite]
        for direction in DIRECTIONS
        for shape in shapes
    ]


def _name(shape: Shape) -> str:
    n, c, h, w, k, r, s, sh, sw, ph, pw, groups = shape
    stride, pad = (str(a) if a == b else f"{a}x{b}" for a, b in ((sh, sw), (ph, pw)))
    return f"{n}x{c}x{h}x{w} {k}@{r}x{s} s{stride} p{pad}" + (f" g{groups}" if groups > 1 else "")


def _row(group: str, shape: Shape, dtype: str, direction: str) -> Row:
    n, c, h, w, k, r, s, _, _, _, _, groups = shape
    p, q = output_size(shape)
    # With a stride beyond the kernel, some of the input is never read.
    x = n * c * min(h * w, p * q * r * s)
    weight, y = k * (c // groups) * r * s, n * k * p * q
    operations, moved = flops(shape), x + weight + y
    if direction == "backward":
        first = c <= _IMAGE_CHANNELS
        operations *= 1 if first else 2
        moved = y + x + weight + (0 if first else weight + n * c * h * w)
    return Row(
        group, "conv", _name(shape), dtype, direction, operations, float(moved * itemsize(dtype)),
        lambda peers: (_forward if direction == "forward" else _backward)(shape, dtype, peers),
    )  # fmt: skip


def _operands(shape: Shape, dtype: str) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    n, c, h, w, k, r, s, _, _, _, _, groups = shape
    rng = np.random.default_rng(0)
    x = np.moveaxis(random(rng, (n, h, w, c), dtype), -1, 1)
    return rng, x, random(rng, (k, c // groups, r, s), dtype), random(rng, (k,), dtype)


def _options(shape: Shape) -> tuple[list[int], list[int], list[int], int]:
    _, _, _, _, _, _, _, sh, sw, ph, pw, groups = shape
    return [sh, sw], [ph, pw], [1, 1], groups


def _forward(shape: Shape, dtype: str, peers: Peers) -> Contest:
    rng, x, weight, bias = _operands(shape, dtype)
    n, c, h, w, k, r, s, sh, sw, ph, pw, groups = shape
    p, q = output_size(shape)
    stride, padding, dilation, _ = _options(shape)
    places = sample(rng, n * p * q, 64)

    where = list(zip(*np.unravel_index(places, (n, p, q))))

    @cache
    def expected() -> np.ndarray:
        patches = np.zeros((len(where), c, r, s))
        for patch, (i, a, b) in zip(patches, where):
            top, left = a * sh - ph, b * sw - pw
            r0, r1, s0, s1 = max(0, -top), min(r, h - top), max(0, -left), min(s, w - left)
            if r0 < r1 and s0 < s1:  # not wholly in the padding
                patch[:, r0:r1, s0:s1] = x[i, :, top + r0 : top + r1, left + s0 : left + s1]
        flat = weight.astype(np.float64).reshape(groups, k // groups, -1)
        columns = patches.reshape(len(where), groups, -1).transpose(1, 2, 0)
        return (flat @ columns).reshape(k, -1).T + bias.astype(np.float64)

    def error(outputs: Sequence[Any]) -> float:
        return worst([(np.stack([outputs[0][i, :, a, b] for i, a, b in where]), expected())])

    mx, mw, mb = peers.put(x, weight, bias)
    contest = Contest(
        peers, lambda: (ops.conv(mx, mw, mb, stride, padding, dilation, groups),), error, _LIMITS[dtype]
    )

    def torch_calls(torch: Any) -> dict[str, Any]:
        conv, tb = torch.nn.functional.conv2d, peers.tensor(bias)

        def call(tx: Any, tw: Any) -> Any:
            return lambda: (conv(tx, tw, tb, stride, padding, dilation, groups),)

        return {name: call(*tensors) for name, tensors in peers.formats(x, weight).items()}

    def jax_calls(jax: Any) -> dict[str, Any]:
        conv = _jax_conv(jax, shape)
        hwio = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        return {"": jitted(jax, lambda a, b, v: (conv(a, b) + v,), nhwc(x), hwio, bias)}

    def onnx_calls(onnxruntime: Any) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise TypeError("has no bfloat16 convolution on CPUs")
        attributes: dict[str, Any] = {"strides": stride, "pads": [ph, pw, ph, pw], "group": groups}
        call = onnx_call(onnxruntime, peers, "Conv", [np.ascontiguousarray(x), weight, bias], 2, **attributes)
        return {"": call}

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no convolution")
    contest.skip("cupy", "has no convolution")
    contest.add("jax", jax_calls, nchw)
    contest.add("onnxruntime", onnx_calls)
    return contest


def _jax_conv(jax: Any, shape: Shape) -> Any:
    """NHWC, XLA's own layout on CPUs."""
    stride, (ph, pw), _, groups = _options(shape)

    def conv(x: Any, weight: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, weight, stride, [(ph, ph), (pw, pw)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    return conv


def _backward(shape: Shape, dtype: str, peers: Peers) -> Contest:
    rng, x, weight, _ = _operands(shape, dtype)
    n, c, h, w, k, r, s, sh, sw, ph, pw, groups = shape
    p, q = output_size(shape)
    grad = np.moveaxis(random(rng, (n, p, q, k), dtype), -1, 1)
    stride, padding, dilation, _ = _options(shape)
    needs = [c > _IMAGE_CHANNELS, True, True]
    places, channels, inputs = sample(rng, n * h * w, 64), sample(rng, k, 2), sample(rng, c, 16)
    some = sample(rng, c // groups, 8)

    where = list(zip(*np.unravel_index(places, (n, h, w))))

    def error(outputs: Sequence[Any]) -> float:
        dx, dw, db = outputs
        pairs = [(np.asarray(db)[channels], _db())]
        if needs[0]:
            pairs.append((np.stack([dx[i, inputs, a, b] for i, a, b in where]), _dx()))
        for j in channels:
            pairs.append((np.asarray(dw)[j, some], _dw(int(j))))
        return worst(pairs)

    @cache
    def _db() -> np.ndarray:
        return grad[:, channels].astype(np.float64).sum((0, 2, 3))

    @cache
    def _dx() -> np.ndarray:
        """Of some channels at some places."""
        group = inputs // (c // groups)
        outputs = group[:, None] * (k // groups) + np.arange(
            k // groups
        )  # those that an input channel goes to
        taps = weight[outputs, (inputs % (c // groups))[:, None]].astype(np.float64)
        expected = np.zeros((len(where), len(inputs)))
        for total, (i, a, b) in zip(expected, where):
            for u in range(r):
                for v in range(s):
                    (top, down), (left, right) = divmod(a + ph - u, sh), divmod(b + pw - v, sw)
                    if down == 0 and right == 0 and 0 <= top < p and 0 <= left < q:
                        g = grad[i, :, top, left].astype(np.float64)
                        total += (g[outputs] * taps[..., u, v]).sum(-1)
        return expected

    @cache
    def _dw(j: int) -> np.ndarray:
        seen = j // (k // groups) * (c // groups) + some
        g, taken = grad[:, j].astype(np.float64), x[:, seen].astype(np.float64)
        result = np.zeros((len(seen), r, s))
        for u in range(r):
            for v in range(s):
                a0, a1 = max(0, -((u - ph) // sh)), min(p, (h - 1 + ph - u) // sh + 1)
                b0, b1 = max(0, -((v - pw) // sw)), min(q, (w - 1 + pw - v) // sw + 1)
                if a0 < a1 and b0 < b1:
                    rows = slice(a0 * sh + u - ph, (a1 - 1) * sh + u - ph + 1, sh)
                    columns = slice(b0 * sw + v - pw, (b1 - 1) * sw + v - pw + 1, sw)
                    window = taken[:, :, rows, columns]
                    result[:, u, v] = np.einsum("npq,ncpq->c", g[:, a0:a1, b0:b1], window)
        return result

    mg, mx, mw = peers.put(grad, x, weight)
    contest = Contest(
        peers,
        lambda: ops.conv_backward(mg, mx, mw, stride, padding, dilation, groups, needs=needs),
        error,
        _LIMITS[dtype],
    )

    def torch_calls(torch: Any) -> dict[str, Any]:
        backward = torch.ops.aten.convolution_backward

        def call(tg: Any, tx: Any, tw: Any) -> Any:
            return lambda: backward(tg, tx, tw, [k], stride, padding, dilation, False, [0, 0], groups, needs)

        return {name: call(*tensors) for name, tensors in peers.formats(grad, x, weight).items()}

    def jax_calls(jax: Any) -> dict[str, Any]:
        conv = _jax_conv(jax, shape)

        def gradients(g: Any, a: Any, b: Any) -> tuple:
            inputs = (a, b) if needs[0] else (b,)
            function = conv if needs[0] else (lambda weight: conv(a, weight))
            return (*jax.vjp(function, *inputs)[1](g), g.sum((0, 1, 2)))

        return {
            "": jitted(
                jax, gradients, nhwc(grad), nhwc(x), np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
            )
        }

    contest.add("torch", torch_calls)
    contest.skip("numpy", "has no convolution")
    contest.skip("cupy", "has no convolution")

    def as_ours(outputs: list) -> list:
        dx, dw, db = outputs if needs[0] else (None, *outputs)
        return [None if dx is None else np.moveaxis(dx, -1, 1), dw.transpose(3, 2, 0, 1), db]

    contest.add("jax", jax_calls, as_ours)
    contest.skip("onnxruntime", "has no gradients")
    return contest
