"""Max and average pooling in 1, 2 or 3 dimensions, plain and adaptive. x: (N, C, *S) or unbatched (C, *S)."""

import itertools

import numpy as np

from .common import f64, ntuple


def _output_size(size, kernel, stride, padding, dilation, ceil_mode):
    """floor or ceil of (n + 2p - d (k - 1) - 1) / s, plus 1; with ceil a last window that starts in the right
    padding is dropped.
    """
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        span = n + 2 * p - d * (k - 1) - 1
        o = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (o - 1) * s >= n + p:
            o -= 1
        out.append(o)
    return tuple(out)


def _options(nd, kernel_size, stride, padding, dilation=1):
    kernel = ntuple(kernel_size, nd)
    return kernel, kernel if stride is None else ntuple(stride, nd), ntuple(padding, nd), ntuple(dilation, nd)


# ---- max ----


def max_pool(x, kernel_size, nd, stride=None, padding=0, dilation=1, ceil_mode=False):
    """(y, indices): the largest element of every window, and its flat index in the input's spatial axes.

    Padding counts as -inf. Of equal elements the first in row-major order wins; a NaN in the window wins over
    all.
    """
    x = f64(x)
    if x.ndim == nd + 1:
        y, i = max_pool(x[None], kernel_size, nd, stride, padding, dilation, ceil_mode)
        return y[0], i[0]
    kernel, stride, padding, dilation = _options(nd, kernel_size, stride, padding, dilation)
    out = _output_size(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    windows = [
        [
            [i for i in (o * s - p + t * d for t in range(k)) if 0 <= i < n]
            for o in range(outs)
        ]
        for outs, n, k, s, p, d in zip(out, x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]  # fmt: skip
    return _max_over(x, windows, out)


def _max_over(x, windows, out):
    """windows[axis][o] lists the input positions along axis that output o sees."""
    size = x.shape[2:]
    flat = np.arange(int(np.prod(size))).reshape(size)
    y, indices = np.empty((*x.shape[:2], *out)), np.zeros((*x.shape[:2], *out), np.int64)
    for o in itertools.product(*map(range, out)):
        seen = np.ix_(*(w[i] for w, i in zip(windows, o, strict=True)))
        where = flat[seen].ravel()
        values = x.reshape(*x.shape[:2], flat.size)[..., where]
        best = values.argmax(axis=-1)  # NumPy's argmax takes the first NaN, else the first maximum
        y[(..., *o)] = np.take_along_axis(values, best[..., None], -1)[..., 0]
        indices[(..., *o)] = where[best]
    return y, indices


def max_pool_backward(grad, indices, input_shape, nd):
    """Each gradient goes to the element that won its window; windows may share one. Adaptive pooling's
    too.
    """
    lead = input_shape[: len(input_shape) - nd]
    rows = int(np.prod(lead))
    dx = np.zeros((rows, int(np.prod(input_shape[len(lead) :]))))
    winners = int(np.prod(np.shape(grad)[len(lead) :]))
    where = (np.arange(rows)[:, None], np.asarray(indices).reshape(rows, winners))
    np.add.at(dx, where, f64(grad).reshape(rows, winners))
    return dx.reshape(input_shape)


# ---- average ----


def _average_windows(size, out, kernel, stride, padding, count_include_pad, divisor_override):
    """Yields (output index, slices of the input, divisor). Padding counts, if it does, but never what lies
    beyond it.
    """
    for o in itertools.product(*map(range, out)):
        start = [i * s - p for i, s, p in zip(o, stride, padding, strict=True)]
        stop = [min(a + k, n + p) for a, k, n, p in zip(start, kernel, size, padding, strict=True)]
        inside = [slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(start, stop, size, strict=True)]
        if divisor_override is not None:
            divisor = divisor_override
        elif count_include_pad:
            divisor = int(np.prod([b - a for a, b in zip(start, stop, strict=True)]))
        else:
            divisor = int(np.prod([s.stop - s.start for s in inside]))
        yield o, inside, divisor


def avg_pool(
    x, kernel_size, nd, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The sum over each window divided by its size: with the padding (count_include_pad) or without it."""
    x = f64(x)
    if x.ndim == nd + 1:
        return avg_pool(
            x[None], kernel_size, nd, stride, padding, ceil_mode, count_include_pad, divisor_override
        )[0]
    kernel, stride, padding, _ = _options(nd, kernel_size, stride, padding)
    out = _output_size(x.shape[2:], kernel, stride, padding, (1,) * nd, ceil_mode)
    y = np.empty((*x.shape[:2], *out))
    size, axes = x.shape[2:], tuple(range(2, nd + 2))
    for o, inside, divisor in _average_windows(
        size, out, kernel, stride, padding, count_include_pad, divisor_override
    ):
        y[(..., *o)] = x[(slice(None), slice(None), *inside)].sum(axis=axes) / divisor
    return y


def avg_pool_backward(
    grad, input_shape, kernel_size, nd, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
    divisor_override=None,
):  # fmt: skip
    """Every element of a window receives gradient / divisor."""
    grad = f64(grad)
    if len(input_shape) == nd + 1:
        return avg_pool_backward(
            grad[None], (1, *input_shape), kernel_size, nd, stride, padding, ceil_mode, count_include_pad,
            divisor_override,
        )[0]  # fmt: skip
    kernel, stride, padding, _ = _options(nd, kernel_size, stride, padding)
    dx, one = np.zeros(input_shape), (1,) * nd
    for o, inside, divisor in _average_windows(
        input_shape[2:], grad.shape[2:], kernel, stride, padding, count_include_pad, divisor_override
    ):
        dx[(slice(None), slice(None), *inside)] += (grad[(..., *o)] / divisor).reshape(*grad.shape[:2], *one)
    return dx


# ---- adaptive: output o of n_out sees input floor(o n / n_out) .. ceil((o + 1) n / n_out) - 1 ----


def _adaptive_ranges(size, output_size):
    """Per axis the list of (start, stop); None in output_size keeps an axis as it is."""
    out = tuple(n if o is None else int(o) for n, o in zip(size, output_size, strict=True))
    return out, [
        [(o * n // k, -(-(o + 1) * n // k)) for o in range(k)] for n, k in zip(size, out, strict=True)
    ]


def _sizes(output_size, nd):
    return (output_size,) * nd if output_size is None or isinstance(output_size, int) else tuple(output_size)


def adaptive_max_pool(x, output_size, nd):
    """(y, indices) as max_pool's."""
    x = f64(x)
    if x.ndim == nd + 1:
        y, i = adaptive_max_pool(x[None], output_size, nd)
        return y[0], i[0]
    out, ranges = _adaptive_ranges(x.shape[2:], _sizes(output_size, nd))
    return _max_over(x, [[list(range(a, b)) for a, b in axis] for axis in ranges], out)


def adaptive_avg_pool(x, output_size, nd):
    """The mean over each window."""
    x = f64(x)
    if x.ndim == nd + 1:
        return adaptive_avg_pool(x[None], output_size, nd)[0]
    out, ranges = _adaptive_ranges(x.shape[2:], _sizes(output_size, nd))
    y = np.empty((*x.shape[:2], *out))
    for o in itertools.product(*map(range, out)):
        window = (slice(*axis[i]) for axis, i in zip(ranges, o, strict=True))
        y[(..., *o)] = x[(slice(None), slice(None), *window)].mean(axis=tuple(range(2, nd + 2)))
    return y


def adaptive_avg_pool_backward(grad, input_shape, nd):
    """Every element of a window receives gradient / size of the window."""
    grad = f64(grad)
    if len(input_shape) == nd + 1:
        return adaptive_avg_pool_backward(grad[None], (1, *input_shape), nd)[0]
    out, ranges = _adaptive_ranges(input_shape[2:], grad.shape[2:])
    dx = np.zeros(input_shape)
    for o in itertools.product(*map(range, out)):
        window = [axis[i] for axis, i in zip(ranges, o, strict=True)]
        count = int(np.prod([b - a for a, b in window]))
        share = (grad[(..., *o)] / count).reshape(*grad.shape[:2], *(1,) * nd)
        dx[(slice(None), slice(None), *(slice(a, b) for a, b in window))] += share
    return dx
