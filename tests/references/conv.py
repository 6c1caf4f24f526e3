"""Convolution (cross-correlation, as in every deep-learning library) and its transpose, in 1, 2 or 3
dimensions.

Shapes are torch's: x (N, C, *S) or unbatched (C, *S), weight (O, C / groups, *K), bias (O,). For the
transpose the weight is (C, O / groups, *K). See Dumoulin & Visin, "A guide to convolution arithmetic for deep
learning" (2016).
"""

import itertools

import numpy as np

from .activation import apply_activation
from .common import f64, ntuple


def _pad_amounts(padding, kernel, stride, dilation):
    """[(before, after)] per spatial axis; "same" puts the odd element after, as torch does."""
    n = len(kernel)
    if padding == "valid":
        return [(0, 0)] * n
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError("padding='same' needs stride 1")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in ntuple(padding, n)]


def _output_size(size, kernel, stride, pads, dilation):
    return tuple(
        (n + lo + hi - d * (k - 1) - 1) // s + 1
        for n, k, s, (lo, hi), d in zip(size, kernel, stride, pads, dilation, strict=True)
    )


def _taps(kernel, stride, dilation, out_size):
    """For each kernel tap: its index, and the slices of the padded input that meet it, one element per
    output.
    """
    for tap in itertools.product(*map(range, kernel)):
        yield (
            tap,
            tuple(
                slice(t * d, t * d + s * (o - 1) + 1, s)
                for t, s, d, o in zip(tap, stride, dilation, out_size, strict=True)
            ),
        )


def _split_groups(array, axis, groups):
    return np.split(array, groups, axis=axis)


def conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, residual=None):
    """y[n, o, p] = bias[o] + sum over c in o's group and taps t of w[o, c, t] * x[n, c, p * stride - pad + t
    * dilation].

    Then activation(y + residual), where those are given.
    """
    x, weight = f64(x), f64(weight)
    nd = weight.ndim - 2
    if x.ndim == nd + 1:
        if residual is not None:
            residual = f64(residual)[None]
        return conv(x[None], weight, bias, stride, padding, dilation, groups, activation, residual)[0]
    kernel, stride, dilation = weight.shape[2:], ntuple(stride, nd), ntuple(dilation, nd)
    pads = _pad_amounts(padding, kernel, stride, dilation)
    out_size = _output_size(x.shape[2:], kernel, stride, pads, dilation)
    xp = np.pad(x, [(0, 0), (0, 0), *pads])
    y = np.zeros((x.shape[0], weight.shape[0], *out_size))
    y_parts = _split_groups(y, 1, groups)  # views of y
    for xg, wg, yg in zip(
        _split_groups(xp, 1, groups), _split_groups(weight, 0, groups), y_parts, strict=True
    ):
        for tap, where in _taps(kernel, stride, dilation, out_size):
            yg += np.einsum(
                "nc...,oc->no...",
                xg[(slice(None), slice(None), *where)],
                wg[(slice(None), slice(None), *tap)],
            )
    if bias is not None:
        y += f64(bias).reshape(-1, *[1] * nd)
    if residual is not None:
        y = y + f64(residual)
    return apply_activation(activation, y)


def conv_backward_data(grad, weight, input_shape, stride=1, padding=0, dilation=1, groups=1):
    """dx[n, c, i] = sum of w[o, c, t] * g[n, o, p] over all (o, p, t) with p * stride - pad + t * dilation =
    i.
    """
    grad, weight = f64(grad), f64(weight)
    nd = weight.ndim - 2
    if len(input_shape) == nd + 1:
        return conv_backward_data(grad[None], weight, (1, *input_shape), stride, padding, dilation, groups)[0]
    kernel, stride, dilation = weight.shape[2:], ntuple(stride, nd), ntuple(dilation, nd)
    pads = _pad_amounts(padding, kernel, stride, dilation)
    padded = [n + lo + hi for n, (lo, hi) in zip(input_shape[2:], pads, strict=True)]
    dxp = np.zeros((*input_shape[:2], *padded))
    parts = _split_groups(dxp, 1, groups)  # views of dxp
    for gg, wg, dxg in zip(
        _split_groups(grad, 1, groups), _split_groups(weight, 0, groups), parts, strict=True
    ):
        for tap, where in _taps(kernel, stride, dilation, grad.shape[2:]):
            dxg[(slice(None), slice(None), *where)] += np.einsum(
                "no...,oc->nc...", gg, wg[(slice(None), slice(None), *tap)]
            )
    inside = tuple(slice(lo, lo + n) for n, (lo, _) in zip(input_shape[2:], pads, strict=True))
    return dxp[(slice(None), slice(None), *inside)]


def conv_backward_weight(grad, x, weight_shape, stride=1, padding=0, dilation=1, groups=1):
    """dw[o, c, t] = sum over n, p of g[n, o, p] * x[n, c, p * stride - pad + t * dilation]."""
    grad, x = f64(grad), f64(x)
    nd = len(weight_shape) - 2
    if x.ndim == nd + 1:
        grad, x = grad[None], x[None]
    kernel, stride, dilation = weight_shape[2:], ntuple(stride, nd), ntuple(dilation, nd)
    xp = np.pad(x, [(0, 0), (0, 0), *_pad_amounts(padding, kernel, stride, dilation)])
    dw = np.zeros(weight_shape)
    parts = _split_groups(dw, 0, groups)  # views of dw
    for gg, xg, dwg in zip(_split_groups(grad, 1, groups), _split_groups(xp, 1, groups), parts, strict=True):
        for tap, where in _taps(kernel, stride, dilation, grad.shape[2:]):
            window = xg[(slice(None), slice(None), *where)]
            summed = [0, *range(2, nd + 2)]
            dwg[(slice(None), slice(None), *tap)] = np.tensordot(gg, window, axes=(summed, summed))
    return dw


def conv_backward_bias(grad, nd):
    """db[o] = sum of g over batch and space; nd is the number of spatial axes."""
    grad = f64(grad)
    return grad.sum(axis=tuple(range(-nd, 0))).reshape(-1, grad.shape[-nd - 1]).sum(axis=0)


def conv_backward(grad, x, weight, stride=1, padding=0, dilation=1, groups=1):
    """(dx, dw, db) of conv."""
    x, weight = f64(x), f64(weight)
    return (
        conv_backward_data(grad, weight, x.shape, stride, padding, dilation, groups),
        conv_backward_weight(grad, x, weight.shape, stride, padding, dilation, groups),
        conv_backward_bias(grad, weight.ndim - 2),
    )


def conv_transpose_output_size(size, kernel, stride, padding, output_padding, dilation):
    """(n - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1 on each axis."""
    return tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + op + 1
        for n, k, s, p, op, d in zip(size, kernel, stride, padding, output_padding, dilation, strict=True)
    )


def conv_transpose(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, activation=None
):
    """The adjoint of conv in x: y[n, o, i] = bias[o] + sum of w[c, o, t] * x[n, c, p], p * stride - pad + t *
    dilation = i.

    Argument order is torch.nn.functional.conv_transpose2d's (groups before dilation). The weight of shape
    (C, O / groups, *K) is just the weight of a conv from O to C channels.
    """
    x, weight = f64(x), f64(weight)
    nd = weight.ndim - 2
    if x.ndim == nd + 1:
        return conv_transpose(
            x[None], weight, bias, stride, padding, output_padding, groups, dilation, activation
        )[0]
    size = conv_transpose_output_size(
        x.shape[2:],
        weight.shape[2:],
        ntuple(stride, nd),
        ntuple(padding, nd),
        ntuple(output_padding, nd),
        ntuple(dilation, nd),
    )
    out_shape = (x.shape[0], weight.shape[1] * groups, *size)
    y = conv_backward_data(x, weight, out_shape, stride, padding, dilation, groups)
    if bias is not None:
        y = y + f64(bias).reshape(-1, *[1] * nd)
    return apply_activation(activation, y)


def conv_transpose_backward(grad, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """(dx, dw, db): dx is the forward conv of the gradient; dw is conv's dw with input and gradient
    exchanged.
    """
    grad, x, weight = f64(grad), f64(x), f64(weight)
    nd = weight.ndim - 2
    # output_padding may leave room for one more output of the conv than x has elements: those do not exist.
    dx = conv(grad, weight, None, stride, padding, dilation, groups)
    dx = dx[(..., *(slice(0, n) for n in x.shape[-nd:]))]
    dw = conv_backward_weight(x, grad, weight.shape, stride, padding, dilation, groups)
    return dx, dw, conv_backward_bias(grad, nd)
