"""How far a kernel's result may lie from the float64 reference, derived from error analysis instead of
guessed.

u is the unit roundoff, half of np.finfo(dtype).eps: 2^-24 for float32, 2^-53 for float64.

Sums.  A sum of k products evaluated in any order satisfies |computed - exact| <= gamma_k * sum |a_i b_i| with
gamma_k = k u / (1 - k u) (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 3.1).
The bound is reached only when all roundings push the same way; treated as independent with mean zero, they
stay within lambda * sqrt(k) * u with probability at least 1 - 2 exp(-lambda^2 / 2) (Higham & Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019). With lambda = 6 an
element fails by bad luck once in 3e7. So

    |actual - ref| <= c * u * min(k + extra, 6 * sqrt(k) + extra) * abs_ref

where abs_ref is the same expression with every term replaced by its magnitude (|A| @ |B| + |bias|), `extra`
counts the roundings outside the sum (inputs rounded on the way, epilogue, the final store) and c = 2 covers
the error of the reference itself when that is not wider than the kernel (float64), and the second order in u.

Elementwise functions.  The error is counted in ulps, units in the last place of the reference rounded to the
kernel's
type: a correctly rounded result is within 0.5, a good vectorised exp or tanh within 1 to 2.

Comparisons also demand that NaN and infinities stand in the same places with the same signs.
"""

import math

import numpy as np

LAMBDA = 6.0


def unit_roundoff(dtype):
    return np.finfo(dtype).eps / 2


def sum_bound(k, dtype, extra=2.0, c=2.0):
    """The relative factor c * u * min(k, 6 sqrt(k)) + roundings outside the sum, of the module's
    docstring.
    """
    k = max(int(k), 1)
    return c * unit_roundoff(dtype) * (min(k, LAMBDA * math.sqrt(k)) + extra)


def assert_close_sum(actual, ref, abs_ref, k, dtype=None, extra=2.0, c=2.0, what=""):
    """|actual - ref| <= c * u * (min(k, 6 sqrt(k)) + extra) * abs_ref, element by element.

    abs_ref: the sum of the magnitudes of the terms, broadcastable to ref; k: the number of terms; dtype: in
    which the kernel calculated (default: actual's).
    """
    actual = np.asarray(actual)
    dtype = np.dtype(dtype or actual.dtype)
    # Terms that underflow lose at most half the smallest subnormal each, or the smallest normal where flushed
    # to zero.
    floor = max(int(k), 1) * float(np.finfo(dtype).tiny)
    allowed = sum_bound(k, dtype, extra, c) * np.abs(np.asarray(abs_ref, np.float64)) + floor
    _assert_within(actual, ref, allowed, f"sum of {k} terms in {dtype}", what)


def assert_close(actual, ref, rtol_u=8.0, scale=None, dtype=None, what=""):
    """|actual - ref| <= rtol_u * u * scale, for short fixed chains of operations: rtol_u is their number of
    roundings.

    scale: magnitude of the largest intermediate value (default |ref|).
    """
    actual, ref = np.asarray(actual), np.asarray(ref, np.float64)
    dtype = np.dtype(dtype or actual.dtype)
    scale = np.abs(ref) if scale is None else np.abs(np.asarray(scale, np.float64))
    allowed = rtol_u * unit_roundoff(dtype) * scale + float(np.finfo(dtype).tiny)
    _assert_within(actual, ref, allowed, f"{rtol_u} roundings in {dtype}", what)


def assert_ulp(actual, ref64, max_ulp=1.0, atol=0.0, what=""):
    """Within max_ulp units in the last place (of ref64 rounded to actual's dtype), or within atol.

    atol is for functions whose kernels flush tiny results to zero, or subtract nearly equal values by
    definition.
    """
    actual, ref = np.asarray(actual), np.asarray(ref64, np.float64)
    with np.errstate(over="ignore"):
        rounded = ref.astype(actual.dtype)
    finite = np.isfinite(rounded)
    spacing = np.spacing(np.abs(np.where(finite, rounded, 1)).astype(actual.dtype)).astype(np.float64)
    ref = np.where(
        np.isinf(rounded), rounded.astype(np.float64), ref
    )  # beyond the type's range: infinity is right
    _assert_within(actual, ref, max_ulp * spacing + atol, f"{max_ulp} ulp of {actual.dtype}", what)


def max_ulp_error(actual, ref64):
    """The largest error in ulps over the finite elements (for reports)."""
    actual, ref = np.asarray(actual), np.asarray(ref64, np.float64)
    with np.errstate(over="ignore"):
        rounded = ref.astype(actual.dtype)
    ok = np.isfinite(rounded) & np.isfinite(actual)
    if not ok.any():
        return 0.0
    spacing = np.spacing(np.abs(rounded[ok])).astype(np.float64)
    return float(np.max(np.abs(actual[ok].astype(np.float64) - ref[ok]) / spacing))


def assert_same_non_finite(actual, ref):
    """NaN and infinities stand in the same places with the same signs; of the finite numbers nothing is said."""
    actual, ref = (np.asarray(a).astype(np.float64) for a in (actual, ref))
    for kind in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(kind(actual), kind(ref))


def assert_same_bits(actual, expected, what=""):
    """Bit for bit the same, the sign of zero and the payload of NaN included."""
    actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    assert actual.dtype == expected.dtype, f"{what} dtype {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{what} shape {actual.shape}, expected {expected.shape}"
    unsigned = f"u{actual.dtype.itemsize}"
    differ = actual.reshape(-1).view(unsigned) != expected.reshape(-1).view(unsigned)
    if differ.any():
        i = int(np.argmax(differ))
        raise AssertionError(
            f"{what} {int(differ.sum())} of {differ.size} elements differ in their bits; first at "
            f"{np.unravel_index(i, actual.shape)}: {actual.reshape(-1)[i]!r} != {expected.reshape(-1)[i]!r}"
        )


def _assert_within(actual, ref, allowed, rule, what):
    ref = np.asarray(ref, np.float64)
    assert actual.shape == ref.shape, f"{what} shape {actual.shape}, expected {ref.shape}"
    if actual.size == 0:
        return
    got = actual.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(got - ref)
        good = (np.isfinite(error) & (error <= allowed)) | (got == ref) | (np.isnan(got) & np.isnan(ref))
    if good.all():
        return
    allowed = np.broadcast_to(allowed, ref.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        excess = np.where(
            good, 0.0, np.where(np.isfinite(error), error / np.maximum(allowed, 5e-324), np.inf)
        )
    i = np.unravel_index(int(np.argmax(excess)), ref.shape)
    raise AssertionError(
        f"{what + ': ' if what else ''}{int((~good).sum())} of {ref.size} elements are off by more than "
        f"{rule}; "
        f"worst at {tuple(map(int, i))}: got {got[i]!s}, expected {ref[i]!s}, "
        f"error {error[i]:.3g}, allowed {allowed[i]:.3g}"
    )
