"""Look-up of table rows by index on arrays, alone and in bags, and the gradients of it.

Indices are int64 or int32. Gradients add up in the order of the indices, whatever the number of threads.
"""

from __future__ import annotations

import numpy as np

from ..backend import empty, empty_like, kernels
from ..naming import names_itself_on_arrays

BAG_MODES = {"sum": 0, "mean": 1, "max": 2}  # fastdl_bag_mode


@names_itself_on_arrays
def embedding(weight: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """weight[indices]: weight (V, D) floating-point, indices (*), result (*, D).

    Raises IndexError for an index outside [0, V), ValueError for another rank, TypeError for other dtypes.

    >>> import numpy as np
    >>> embedding(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0]))
    array([[3., 4.],
           [1., 2.]])
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: expected a weight of 2 dimensions, got shape {weight.shape}")
    out = empty((*indices.shape, weight.shape[1]), weight.dtype, weight)
    kernels(weight).embedding_forward(weight, indices, out)
    return out


@names_itself_on_arrays
def embedding_backward(
    grad: np.ndarray,
    indices: np.ndarray,
    num_weights: int,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
) -> np.ndarray:
    """(num_weights, D): for each row the sum of the gradients of its look-ups, 0 for ``padding_idx``."""
    out = empty((num_weights, grad.shape[-1]), grad.dtype, grad)
    kernels(grad).embedding_backward(grad, indices, out, padding_idx, scale_grad_by_freq)
    return out


def renormalise(weight: np.ndarray, indices: np.ndarray, max_norm: float, norm_type: float = 2.0) -> None:
    """Scale, in place, the rows that ``indices`` name to a norm of at most ``max_norm``."""
    kernels(weight).embedding_renorm(weight, indices, max_norm, norm_type)


@names_itself_on_arrays
def embedding_bag(
    weight: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray | None = None,
    mode: str = "mean",
    per_sample_weights: np.ndarray | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(out, max_indices): the sum, mean or maximum of the rows of each bag, (B, D), 0 for an empty bag.

    indices: (B, L), or (N,) with the start of each bag in ``offsets``. ``per_sample_weights``: a factor for each
    index, with "sum". Entries equal to ``padding_idx`` do not count. max_indices, for `embedding_bag_backward`:
    the row each maximum came from; None for other modes. Raises as `embedding`, and ValueError for bad offsets
    or modes.

    >>> import numpy as np
    >>> embedding_bag(np.array([[1.0], [3.0]]), np.array([[0, 1], [1, 1]]))[0]
    array([[2.],
           [3.]])
    """
    code = BAG_MODES.get(mode)
    if code is None:
        raise ValueError(f"embedding_bag: expected mode 'sum', 'mean' or 'max', got {mode!r}")
    if weight.ndim != 2:
        raise ValueError(f"embedding_bag: expected a weight of 2 dimensions, got shape {weight.shape}")
    bags = len(indices) if offsets is None else len(offsets) - bool(include_last_offset)
    out = empty((max(bags, 0), weight.shape[1]), weight.dtype, weight)
    which = empty(out.shape, np.int64, weight) if code == 2 else None
    kernels(weight).embedding_bag_forward(
        weight, indices, offsets, per_sample_weights, out, which, code, include_last_offset, padding_idx
    )
    return out, which


@names_itself_on_arrays
def embedding_bag_backward(
    grad: np.ndarray,
    weight: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray | None = None,
    mode: str = "mean",
    per_sample_weights: np.ndarray | None = None,
    max_indices: np.ndarray | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    need_weight: bool = True,
    need_samples: bool = False,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The gradients with respect to weight and per_sample_weights; None for one that is not needed."""
    grad_weight = empty(weight.shape, weight.dtype, weight) if need_weight else None
    grad_samples = empty_like(per_sample_weights) if need_samples and per_sample_weights is not None else None
    kernels(weight).embedding_bag_backward(
        grad, weight, indices, offsets, per_sample_weights, max_indices, grad_weight, grad_samples,
        BAG_MODES[mode], include_last_offset, scale_grad_by_freq, padding_idx,
    )  # fmt: skip
    return grad_weight, grad_samples
