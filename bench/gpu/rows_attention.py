"""Scaled dot-product attention against PyTorch's FlashAttention and cuDNN's, and the packages of FlashAttention."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np
from rows import Row, forced, itemsize, random

from fastdl import ops


def rows(small: bool) -> list[Row]:
    """All of them; on the host executor a few small ones."""
    shapes = (
        [(1, 2, 9, 8)]
        if small
        else [(4, 16, 2048, 64), (2, 16, 4096, 128), (1, 16, 8192, 128), (8, 16, 512, 64)]
    )
    ways = [(causal, way) for causal in (False, True) for way in ("forward", "backward")]
    found = [_row(s, causal, "bfloat16", way) for s in shapes for causal, way in ways]
    # The kernels that other GPUs get, beside Hopper's own.
    shape = shapes[len(shapes) // 2]
    found += [_row(shape, False, "bfloat16", way, kernel="portable") for way in ("forward", "backward")]
    # Hopper's two ways to gradients, of which the shape chooses one.
    for kernel in ("one-pass", "two-passes"):
        found.append(_row(shape, False, "bfloat16", "backward", kernel=kernel))
    return found + _masked_rows(small) + _decode_rows(small)


def _row(shape: tuple[int, int, int, int], causal: bool, dtype: str, direction: str, kernel: str = "") -> Row:
    batch, heads, length, features = shape
    backward = direction == "backward"
    variable = "ATTENTION_BACKWARD" if "pass" in kernel else "ATTENTION"

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        return [random(rng, shape, dtype) for _ in range(4 if backward else 3)]

    def ours(q: Any, k: Any, v: Any, grad: Any = None) -> Any:
        attention = ops.scaled_dot_product_attention
        if not backward:
            return forced("ATTENTION", kernel, lambda: attention(q, k, v, is_causal=causal)[0])
        out, lse = attention(q, k, v, is_causal=causal)
        gradient = ops.scaled_dot_product_attention_backward
        return forced(variable, kernel, lambda: gradient(grad, q, k, v, None, out, lse, is_causal=causal)[:3])

    def torch(module: Any, q: Any, k: Any, v: Any, grad: Any = None) -> dict[str, Any]:
        return _calls(
            module,
            ("flash", "cudnn"),
            lambda kind: _torch_call(module, kind, causal, q, k, v, grad),
            lambda package: _flash_call(package, module, causal, q, k, v, grad),
        )

    pairs = length * (length + 1) / 2 if causal else float(length) ** 2
    flops = 4.0 * batch * heads * pairs * features * (2.5 if backward else 1)
    moved = itemsize(dtype) * batch * heads * length * features * (8 if backward else 4)
    kernels = ("attention_forward", "attention_backward") if backward else ("attention_forward",)
    name = f"{batch}x{heads}x{length}x{features}" + " causal" * causal
    calls = (inputs, ours, torch)
    return _attention_row(name, kernel, calls, flops, moved, dtype, direction, kernels)


def _masked_rows(small: bool) -> list[Row]:
    """A mask that is added, the same for all samples and heads."""
    shapes = [(1, 2, 9, 8)] if small else [(4, 16, 2048, 64), (2, 16, 4096, 128)]
    return [_masked_row(shape, kernel) for shape in shapes for kernel in ("", "portable")]


def _masked_row(shape: tuple[int, int, int, int], kernel: str) -> Row:
    batch, heads, length, features = shape

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        return [random(rng, x, "bfloat16") for x in (*[shape] * 3, (1, 1, length, length))]

    def ours(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return forced("ATTENTION", kernel, lambda: ops.scaled_dot_product_attention(q, k, v, mask)[0])

    def torch(module: Any, q: Any, k: Any, v: Any, mask: Any) -> dict[str, Any]:
        return _calls(
            module,
            ("efficient", "cudnn"),
            lambda kind: _torch_call(module, kind, False, q, k, v, None, attn_mask=mask),
        )

    moved = itemsize("bfloat16") * (4 * batch * heads * length * features + length**2)
    name = f"{batch}x{heads}x{length}x{features} mask"
    return _attention_row(
        name, kernel, (inputs, ours, torch), 4.0 * batch * heads * float(length) ** 2 * features, moved
    )


def _decode_rows(small: bool) -> list[Row]:
    """Few queries, many keys: (batch, heads, groups, queries, keys, features). The portable kernels beside Hopper's
    where it is not plain which are faster."""
    if small:
        return [_decode_row((1, 4, 2, 2, 70, 8))]
    shapes = [
        (1, 64, 8, 1, 65536, 128),
        (1, 32, 8, 1, 4096, 128),
        (4, 16, 8, 1, 16384, 128),
        (8, 32, 8, 8, 8192, 128),
        (32, 64, 8, 1, 4096, 128),
        (16, 32, 8, 1, 8192, 64),
        (1, 32, 8, 128, 32768, 128),
    ]
    one = (16, 8, 8, 1, 8192, 128)
    found = [_decode_row(shape) for shape in shapes]
    return [*found, _decode_row(one), *[_decode_row(shape, "portable") for shape in (shapes[1], one)]]


def _decode_row(shape: tuple[int, int, int, int, int, int], kernel: str = "") -> Row:
    batch, heads, groups, queries, keys, features = shape

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        some = [(batch, heads, queries, features), *[(batch, groups, keys, features)] * 2]
        return [random(rng, x, "bfloat16") for x in some]

    def ours(q: Any, k: Any, v: Any) -> Any:
        return forced(
            "ATTENTION", kernel, lambda: ops.scaled_dot_product_attention(q, k, v, enable_gqa=True)[0]
        )

    def torch(module: Any, q: Any, k: Any, v: Any) -> dict[str, Any]:
        return _calls(
            module,
            ("flash", "cudnn"),
            lambda kind: _torch_call(module, kind, False, q, k, v, None, enable_gqa=groups < heads),
            lambda package: _flash_decode_call(package, q, k, v),
        )

    moved = itemsize("bfloat16") * 2 * features * batch * (groups * keys + heads * queries)
    name = f"{batch}x{heads}/{groups}x{queries}:{keys}x{features}"
    return _attention_row(
        name, kernel, (inputs, ours, torch), 4.0 * batch * heads * queries * keys * features, moved
    )


def _attention_row(
    name: str,
    kernel: str,
    calls: tuple[Any, Any, Any],
    flops: float,
    moved: float,
    dtype: str = "bfloat16",
    direction: str = "forward",
    kernels: tuple[str, ...] = ("attention_forward",),
) -> Row:
    """calls: inputs, ours, torch. kernel: one that is not chosen by itself, and so has no target."""
    return Row(
        "attention",
        name + f" {kernel}" * bool(kernel),
        dtype,
        direction,
        flops,
        float(moved),
        kernels,
        *calls,
        target=None if kernel else 1.0,
        limit=3e-2,
    )


def _calls(module: Any, backends: tuple[str, ...], by_torch: Any, by_package: Any = None) -> dict[str, Any]:
    """What by_torch(kind) gives for those backends of PyTorch that can do it, and by_package(name) for the packages of
    flash attention that are installed."""
    calls = {}
    for name in backends:
        with contextlib.suppress(RuntimeError):
            call = by_torch(getattr(module.nn.attention.SDPBackend, f"{name.upper()}_ATTENTION"))
            call()
            calls[name] = call
    for name, package in (("flash-attn", "flash_attn"), ("flash-attn-3", "flash_attn_interface")):
        with contextlib.suppress(ImportError):
            if by_package:
                calls[name] = by_package(package)
    if not calls:
        raise RuntimeError("no backend of scaled_dot_product_attention takes this")
    return calls


def _torch_call(
    module: Any, kind: Any, causal: bool, q: Any, k: Any, v: Any, grad: Any, **options: Any
) -> Any:
    from torch.nn.attention import sdpa_kernel

    def forward() -> Any:
        with sdpa_kernel(kind):
            return module.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, **options)

    if grad is None:
        return forward
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    out = forward()
    return lambda: module.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def _flash_call(package: str, module: Any, causal: bool, q: Any, k: Any, v: Any, grad: Any) -> Any:
    """The packages flash-attn and, of FlashAttention-3, flash_attn_interface, which want (batch, length, heads,
    features)."""
    function = importlib.import_module(package).flash_attn_func

    def flash(*arrays: Any, **options: Any) -> Any:
        out = function(*arrays, **options)
        return out[0] if isinstance(out, tuple) else out  # the log-sum-exp behind it

    q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    if grad is None:
        return lambda: flash(q, k, v, causal=causal).transpose(1, 2)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out, turned = flash(q, k, v, causal=causal), grad.transpose(1, 2).contiguous()
    return lambda: [
        g.transpose(1, 2) for g in module.autograd.grad(out, (q, k, v), turned, retain_graph=True)
    ]


def _flash_decode_call(package: str, q: Any, k: Any, v: Any) -> Any:
    """Their call for few queries, which cuts up the keys as it sees fit."""
    function = importlib.import_module(package).flash_attn_with_kvcache
    q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    return lambda: function(q, k, v).transpose(1, 2)
