"""Scaled dot-product attention, the whole matrix of scores written out. Vaswani et al. (2017), eq. 1."""

import math

import numpy as np

from .common import f64, unbroadcast


def _scores(q, k, mask, is_causal, scale):
    """scale * q k^T, -inf where a boolean mask is False or causality forbids, plus an additive mask."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    s = scale * np.matmul(q, np.swapaxes(k, -1, -2))
    if mask is not None:
        mask = np.asarray(mask)
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if is_causal:
        # Aligned at the top left as in torch: query i attends to keys 0..i, whatever the lengths.
        s = np.where(np.tri(s.shape[-2], s.shape[-1], dtype=bool), s, -np.inf)
    return s, scale


def _probabilities(scores):
    """Softmax over keys; a row that may attend to nothing is all zeros (torch >= 2.5), not 0 / 0."""
    if scores.shape[-1] == 0:
        return scores
    top = scores.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        e = np.exp(scores - np.where(top == -np.inf, 0.0, top))
        total = e.sum(axis=-1, keepdims=True)
        return np.where(total == 0, 0.0, e / np.where(total == 0, 1.0, total))


def _repeat_heads(x, heads):
    """Grouped-query attention: head h of the query uses head h // (heads / kv_heads) of key and value."""
    return np.repeat(x, heads // x.shape[-3], axis=-3)


def scaled_dot_product_attention(
    q, k, v, mask=None, dropout_mask=None, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(scale * q k^T + mask) v.

    q: (..., L, E), k: (..., S, E), v: (..., S, Ev); leading axes broadcast, except the heads (axis -3) under
    enable_gqa. mask: bool (True = may attend) or additive, broadcast to (..., L, S). dropout_mask multiplies
    the
    probabilities: 0 or 1 / (1 - p).
    """
    q, k, v = f64(q), f64(k), f64(v)
    if enable_gqa:
        k, v = _repeat_heads(k, q.shape[-3]), _repeat_heads(v, q.shape[-3])
    p = _probabilities(_scores(q, k, mask, is_causal, scale)[0])
    if dropout_mask is not None:
        p = p * f64(dropout_mask)
    return np.matmul(p, v)


def logsumexp_of_scores(q, k, mask=None, is_causal=False, scale=None, enable_gqa=False):
    """log sum_j exp(score_ij), (..., L): what a forward pass saves for the backward. -inf for a row of
    nothing.
    """
    q, k = f64(q), f64(k)
    s, _ = _scores(q, _repeat_heads(k, q.shape[-3]) if enable_gqa else k, mask, is_causal, scale)
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    safe = np.where(top == -np.inf, 0.0, top)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(s - safe).sum(axis=-1, keepdims=True)) + safe)[..., 0]


def scaled_dot_product_attention_backward(
    grad, q, k, v, mask=None, dropout_mask=None, is_causal=False, scale=None, enable_gqa=False
):
    """(dq, dk, dv, dmask); dmask is None unless the mask is additive.

    With P = softmax(S) and D the dropout mask: dV = (P D)^T g, dP = D (g V^T), dS = P (dP - sum_j dP P),
    dQ = scale dS K, dK = scale dS^T Q, dmask = dS.
    """
    grad, q, k, v = f64(grad), f64(q), f64(k), f64(v)
    heads, k_shape, v_shape = q.shape[-3] if enable_gqa else 0, k.shape, v.shape
    if enable_gqa:
        k, v = _repeat_heads(k, heads), _repeat_heads(v, heads)
    s, scale = _scores(q, k, mask, is_causal, scale)
    p = _probabilities(s)
    d = 1.0 if dropout_mask is None else f64(dropout_mask)
    dv = np.matmul(np.swapaxes(p * d, -1, -2), grad)
    dp = d * np.matmul(grad, np.swapaxes(v, -1, -2))
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    dq = scale * np.matmul(ds, k)
    dk = scale * np.matmul(np.swapaxes(ds, -1, -2), q)
    if enable_gqa:
        dk, dv = _sum_heads(unbroadcast(dk, k.shape), k_shape), _sum_heads(unbroadcast(dv, v.shape), v_shape)
    additive = mask is not None and np.asarray(mask).dtype != bool
    dmask = unbroadcast(ds, np.shape(mask)) if additive else None
    return unbroadcast(dq, q.shape), unbroadcast(dk, k_shape), unbroadcast(dv, v_shape), dmask


def _sum_heads(x, shape):
    """The adjoint of _repeat_heads."""
    return x.reshape(*shape[:-2], -1, *shape[-2:]).sum(axis=-3)
