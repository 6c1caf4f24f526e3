"""Dropout and the counter-based generator behind its masks.

Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11, section 3.3
and table 2.
"""

import numpy as np

from .common import f64

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, in 32 bits
MASK32 = 0xFFFFFFFF


def philox4x32(counter, key, rounds=10):
    """Four 32-bit words from a counter of four and a key of two; arrays of counters are (..., 4), the result
    as well.

    One round: (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)); the key
    grows by the Weyl constants between rounds.
    """
    c0, c1, c2, c3 = (np.asarray(counter, np.uint64)[..., i] for i in range(4))
    k0, k1 = (int(k) for k in key)
    for _ in range(rounds):
        p0, p1 = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        low, shift = np.uint64(MASK32), np.uint64(32)
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(k0),
            p1 & low,
            (p0 >> shift) ^ c3 ^ np.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK32, (k1 + WEYL[1]) & MASK32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_words(count, seed, offset=0):
    """`count` 32-bit words: word i is number i % 4 of Philox with counter (i // 4 + offset, 0) and the 64-bit
    seed as key.

    Counter words 0 and 1 are the low and high half of i // 4 + offset (modulo 2^64), words 2 and 3 are zero.
    """
    blocks = -(-count // 4)
    start = int(offset) % 2**64
    index = np.arange(blocks, dtype=np.uint64) + np.uint64(start)  # wraps modulo 2^64
    zero = np.zeros_like(index)
    counter = np.stack([index & np.uint64(MASK32), index >> np.uint64(32), zero, zero], axis=-1)
    seed = int(seed) % 2**64
    return philox4x32(counter, (seed & MASK32, seed >> 32)).ravel()[:count]


def dropout_keep(shape, p, seed, offset=0):
    """The boolean mask of kept elements, in row-major order: word >= floor(p * 2^32 + 1/2)."""
    count = int(np.prod(shape))
    threshold = int(np.floor(p * 2.0**32 + 0.5))
    return (random_words(count, seed, offset).astype(np.uint64) >= np.uint64(threshold)).reshape(shape)


def dropout_mask(shape, p, seed, offset=0):
    """What multiplies the values: 1 / (1 - p) where kept, else 0. p = 1 drops everything."""
    keep = dropout_keep(shape, p, seed, offset)
    return keep / (1 - p) if p < 1 else np.zeros(keep.shape)


def dropout(x, p, seed, offset=0):
    """x / (1 - p) with probability 1 - p, else 0 (0 also where x is NaN). Srivastava et al. (2014),
    inverted.
    """
    keep = dropout_keep(np.shape(x), p, seed, offset)
    return np.where(keep, f64(x) / (1 - p) if p < 1 else 0.0, 0.0)


def dropout_backward(grad, p, seed, offset=0):
    """The same map applied to the gradient."""
    return dropout(grad, p, seed, offset)
