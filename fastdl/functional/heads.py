"""The axes of multi-head attention: features taken apart into heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import ArrayFunction
from ..backend import address, empty, is_array

if TYPE_CHECKING:
    from ..tensor import Tensor


class SplitHeads(ArrayFunction):
    """(N, L, parts E), or (L, N, parts E), to `parts` views (N, heads, L, E / heads); one gradient array for all."""

    none_grads = True

    @staticmethod
    def forward(ctx: Any, x: np.ndarray, parts: int, heads: int, batch_first: bool) -> tuple[np.ndarray, ...]:
        ctx.shape = (*x.shape[:2], parts, heads, x.shape[2] // (parts * heads))
        ctx.order = (0, 2, 1, 3) if batch_first else (1, 2, 0, 3)
        x = x.reshape(ctx.shape)
        return tuple([x[:, :, i].transpose(ctx.order) for i in range(parts)])

    @staticmethod
    def backward(ctx: Any, *grads: np.ndarray | None) -> np.ndarray:
        given = next(g for g in grads if g is not None)
        block: Any = given.base
        if is_array(block) and block.shape == ctx.shape and block.flags.c_contiguous:
            first = address(block)
            part = block[0, 0, 0].nbytes
            if all(
                g is not None
                and g.base is block
                and g.strides == given.strides
                and address(g) == first + i * part
                for i, g in enumerate(grads)
            ):
                return block.reshape(*ctx.shape[:2], -1)  # they lie there as they should
        out = empty(ctx.shape, given.dtype, given)
        inverse = np.argsort(ctx.order).tolist()
        for i, g in enumerate(grads):
            out[:, :, i] = 0 if g is None else g.transpose(inverse)
        return out.reshape(*ctx.shape[:2], -1)


def split_heads(x: Tensor, parts: int, heads: int, batch_first: bool) -> tuple[Tensor, ...]:
    """Queries, keys and values that were projected at once, or some of them, each as (N, heads, L, E / heads)."""
    return SplitHeads.apply(x, parts, heads, batch_first)
