"""Convolutions against cuDNN, channels last: the layers of ResNet-50, first layers of others, groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from rows import Row, channels_last, forced, itemsize, no_tf32, random

from fastdl import ops
from fastdl.bench import conv as cpu


def rows(small: bool) -> list[Row]:
    """All of them; on the host executor a few small ones."""
    if small:
        return [
            _row((1, 4, 5, 5, 3, 3, 3, 1, 1, 1, 1, 1), d, w)
            for d in ("bfloat16", "float32")
            for w in ("forward", "backward")
        ]
    shapes = [(32, *s[1:]) for s in cpu.SUITES["resnet50"][0][1]]
    ways = ("forward", "backward")
    # cuDNN tries its algorithms at the first call of each: float32 on every third layer.
    chosen = [
        (s, d) for i, s in enumerate(shapes) for d in ("bfloat16", "float32") if d == "bfloat16" or i % 3 == 0
    ]
    # First layers of VGG, AlexNet and a transformer of images, of speech; AlexNet's second one, in two groups.
    chosen += [
        (s, "bfloat16")
        for s in (
            (32, 3, 224, 224, 64, 3, 3, 1, 1, 1, 1, 1),
            (128, 3, 224, 224, 96, 11, 11, 4, 4, 2, 2, 1),
            (128, 3, 224, 224, 768, 16, 16, 16, 16, 0, 0, 1),
            (16, 1, 161, 700, 32, 5, 20, 2, 2, 0, 0, 1),
            (128, 96, 27, 27, 256, 5, 5, 1, 1, 2, 2, 2),
        )
    ]
    # The kernel that other GPUs get, beside Hopper's own, which 3 x 3 filters and first layers have.
    beside = [shapes[0], *[s for s in shapes if s[5] == 3][::2]]
    return [_row(s, d, w) for s, d in chosen for w in ways] + [
        _row(s, "bfloat16", w, "portable") for s in beside for w in ways
    ]


def _row(shape: tuple[int, ...], dtype: str, direction: str, kernel: str = "") -> Row:
    n, c, h, w, k, r, s, stride, _, pad, _, groups = shape
    p, q = cpu.output_size(shape)
    backward = direction == "backward"
    first = c <= 3  # the image wants no gradient

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x, weight = (
            random(rng, (n, c, h, w), dtype),
            random(rng, (k, c // groups, r, s), dtype, (c * r * s) ** -0.5),
        )
        return [
            channels_last(a)
            for a in ([x, weight, random(rng, (n, k, p, q), dtype)] if backward else [x, weight])
        ]

    def ours(x: Any, weight: Any, grad: Any = None) -> Any:
        if not backward:
            return forced("CONV", kernel, lambda: ops.conv(x, weight, None, stride, pad, groups=groups))
        needs = (not first, True, False)

        def call() -> Any:
            grads = ops.conv_backward(grad, x, weight, stride, pad, groups=groups, needs=needs)
            return grads[int(first) : 2]

        return forced("CONV", kernel, call)

    def torch(module: Any, x: Any, weight: Any, grad: Any = None) -> dict[str, Any]:
        no_tf32(module)
        module.backends.cudnn.benchmark = True
        if not backward:
            return {"": lambda: module.nn.functional.conv2d(x, weight, None, stride, pad, 1, groups)}
        call = module.ops.aten.convolution_backward
        mask = [not first, True, False]
        none, two, both = [0], [1, 1], [stride, stride]
        return {
            "": lambda: call(grad, x, weight, none, both, [pad, pad], two, False, [0, 0], groups, mask)[
                int(first) : 2
            ]
        }

    flops = cpu.flops(shape) * (1 if not backward else 1 if first else 2)
    size = itemsize(dtype) * (
        n * c * h * w * (2 if backward and not first else 1) + n * k * p * q + k * c // groups * r * s
    )
    kernels = ("conv_backward_data", "conv_backward_weight") if backward else ("conv_forward",)
    name = (
        f"{n}x{c}x{h}x{w} {k}@{r}x{s} s{stride}" + f" g{groups}" * (groups > 1) + f" {kernel}" * bool(kernel)
    )
    return Row("conv", name, dtype, direction, flops, float(size), kernels, inputs, ours, torch,
               precision="highest" if dtype == "float32" else "", limit=1e-4 if dtype == "float32" else 2e-2,
               target=None if kernel else 1.0 if dtype == "bfloat16" else 1.5)  # fmt: skip
