"""Normalisation layers. All are (x - mean) / sqrt(var + eps) over some axes with the biased variance, then an
affine map.
"""

import numpy as np

from .common import f64


def _standardise(x, axes, eps):
    """(x_hat, 1 / sqrt(var + eps)) over axes."""
    mean = x.mean(axis=axes, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + eps)
    return (x - mean) * rstd, rstd


def _standardise_backward(grad, x_hat, rstd, axes):
    """dx = rstd * (g - mean(g) - x_hat * mean(g x_hat)). Ioffe & Szegedy (2015), section 3, put together."""
    return rstd * (
        grad - grad.mean(axis=axes, keepdims=True) - x_hat * (grad * x_hat).mean(axis=axes, keepdims=True)
    )


def _per_channel(p, ndim):
    """A vector of C values, to be broadcast along axis 1."""
    return f64(p).reshape(1, -1, *[1] * (ndim - 2))


def _scaled(grad, weight):
    return grad if weight is None else grad * weight


# ---- layer norm and RMS norm: over the last axes ----


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Ba et al. (2016), over the trailing axes normalized_shape; weight and bias have that shape."""
    x = f64(x)
    y, _ = _standardise(x, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * f64(weight)
    return y if bias is None else y + f64(bias)


def layer_norm_backward(grad, x, normalized_shape, weight=None, eps=1e-5):
    """(dx, dweight, dbias)."""
    grad, x = f64(grad), f64(x)
    axes = tuple(range(-len(normalized_shape), 0))
    leading = tuple(range(x.ndim - len(normalized_shape)))
    x_hat, rstd = _standardise(x, axes, eps)
    dx = _standardise_backward(_scaled(grad, f64(weight)), x_hat, rstd, axes)
    return dx, (grad * x_hat).sum(axis=leading), grad.sum(axis=leading)


def rms_norm(x, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight. Zhang & Sennrich (2019), eq. 4. eps None: the machine epsilon of
    x's type.
    """
    eps = np.finfo(np.asarray(x).dtype).eps if eps is None else eps
    x = f64(x)
    axes = tuple(range(-len(normalized_shape), 0))
    return _scaled(x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps), f64(weight))


def rms_norm_backward(grad, x, normalized_shape, weight=None, eps=None):
    """(dx, dweight): dx = r (g w - x r^2 mean(g w x)), r = 1 / sqrt(mean(x^2) + eps)."""
    eps = np.finfo(np.asarray(x).dtype).eps if eps is None else eps
    grad, x = f64(grad), f64(x)
    axes = tuple(range(-len(normalized_shape), 0))
    r = 1 / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    gw = _scaled(grad, f64(weight))
    dx = r * (gw - x * r * r * (gw * x).mean(axis=axes, keepdims=True))
    return dx, (grad * x * r).sum(axis=tuple(range(x.ndim - len(normalized_shape))))


# ---- group norm and instance norm: over groups of channels of one sample ----


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Wu & He (2018): each sample's channels in num_groups groups; x (N, C, *), weight and bias (C,)."""
    x = f64(x)
    grouped = x.reshape(x.shape[0], num_groups, -1)
    y = _standardise(grouped, (2,), eps)[0].reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def group_norm_backward(grad, x, num_groups, weight=None, eps=1e-5):
    """(dx, dweight, dbias)."""
    grad, x = f64(grad), f64(x)
    gw = grad if weight is None else grad * _per_channel(weight, x.ndim)
    x_hat, rstd = _standardise(x.reshape(x.shape[0], num_groups, -1), (2,), eps)
    dx = _standardise_backward(gw.reshape(x_hat.shape), x_hat, rstd, (2,)).reshape(x.shape)
    axes = (0, *range(2, x.ndim))
    return dx, (grad * x_hat.reshape(x.shape)).sum(axis=axes), grad.sum(axis=axes)


def instance_norm(x, weight=None, bias=None, eps=1e-5):
    """Ulyanov et al. (2016): every channel of every sample by itself, x (N, C, *) or unbatched (C, *) given
    as (1, C, *).
    """
    return group_norm(x, np.shape(x)[1], weight, bias, eps)


def instance_norm_backward(grad, x, weight=None, eps=1e-5):
    return group_norm_backward(grad, x, np.shape(x)[1], weight, eps)


def instance_norm_running(x, running_mean, running_var, momentum=0.1):
    """Running statistics after one step: the batch average of each instance's mean and unbiased variance."""
    x = f64(x)
    axes = tuple(range(2, x.ndim))
    mean, var = x.mean(axis=axes).mean(axis=0), x.var(axis=axes, ddof=1).mean(axis=0)
    return (1 - momentum) * f64(running_mean) + momentum * mean, (1 - momentum) * f64(
        running_var
    ) + momentum * var


# ---- batch norm: over everything but the channels ----


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Ioffe & Szegedy (2015). (y, running_mean', running_var'); x (N, C, *).

    Training normalises with the batch's biased variance but the running variance takes the unbiased one
    (times n / (n - 1)); running' = (1 - momentum) running + momentum batch. Running statistics may be None in
    training.
    """
    x = f64(x)
    axes = (0, *range(2, x.ndim))
    new_mean, new_var = f64(running_mean), f64(running_var)
    if training:
        y, _ = _standardise(x, axes, eps)
        n = x.size // x.shape[1]
        if running_mean is not None:
            new_mean = (1 - momentum) * new_mean + momentum * x.mean(axis=axes)
            new_var = (1 - momentum) * new_var + momentum * x.var(axis=axes) * n / (n - 1)
    else:
        y = (x - _per_channel(running_mean, x.ndim)) / np.sqrt(_per_channel(running_var, x.ndim) + eps)
    y = y if weight is None else y * _per_channel(weight, x.ndim)
    y = y if bias is None else y + _per_channel(bias, x.ndim)
    return y, new_mean, new_var


def batch_norm_backward(grad, x, running_mean, running_var, weight=None, training=False, eps=1e-5):
    """(dx, dweight, dbias); in evaluation the statistics are constants."""
    grad, x = f64(grad), f64(x)
    axes = (0, *range(2, x.ndim))
    gw = grad if weight is None else grad * _per_channel(weight, x.ndim)
    if training:
        x_hat, rstd = _standardise(x, axes, eps)
        dx = _standardise_backward(gw, x_hat, rstd, axes)
    else:
        rstd = 1 / np.sqrt(_per_channel(running_var, x.ndim) + eps)
        x_hat = (x - _per_channel(running_mean, x.ndim)) * rstd
        dx = gw * rstd
    return dx, (grad * x_hat).sum(axis=axes), grad.sum(axis=axes)
