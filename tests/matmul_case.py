"""What the tests of Hopper's matrix products share: a product by the kernels under test, and the error it may have."""

import devices
import ml_dtypes
import numpy as np

sim = devices.cuda_kernels()

BFLOAT16 = ml_dtypes.bfloat16
NONE, RELU, GELU = 0, 1, 7


def product(a, b, bias=None, residual=None, out=None, alpha=1.0, beta=0.0, activation=NONE):
    """Into an array of NaN unless ``out`` is given."""
    if out is None:
        out = np.full(
            (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), np.nan, a.dtype
        )
    sim.matmul(a, b, bias, residual, out, alpha, beta, activation, 0.0, 0.0)
    return out


def wide(x):
    return x.astype(np.float64)


def check(c, a, b, expected=None):
    """Sums in float32 rounded once to the type of c: an error of half an ulp, and of the sums' own."""
    eps = 2.0**-24 if c.dtype == np.float32 else float(ml_dtypes.finfo(c.dtype).eps) / 2
    scale = np.abs(wide(a)) @ np.abs(wide(b))
    expected = wide(a) @ wide(b) if expected is None else expected
    np.testing.assert_array_less(
        np.abs(wide(c) - expected), eps * np.abs(expected) * 1.01 + 2.0**-18 * scale + 1e-30
    )


def matrix(rng, dtype, rows, columns, transposed, padding=0):
    """Random numbers, contiguous along rows or columns, whose rows in memory are `padding` elements further apart."""
    if transposed:
        return matrix(rng, dtype, columns, rows, False, padding).swapaxes(-1, -2)
    return rng.standard_normal((rows, columns + padding)).astype(dtype)[:, :columns]


def error(c, a, b):
    """The largest |error| / (|A||B|) against float64."""
    return (np.abs(c - wide(a) @ wide(b)) / (np.abs(wide(a)) @ np.abs(wide(b)))).max()


def check_end(rng, portable, activation, m, n, k):
    """Bias along C's columns, residual and activation: as the portable kernel and, without a curve, as float64."""
    a, b = matrix(rng, BFLOAT16, m, k, False), matrix(rng, BFLOAT16, k, n, False)
    bias, residual = rng.standard_normal(n).astype(BFLOAT16), rng.standard_normal((m, n)).astype(BFLOAT16)

    def compute():
        return product(a, b, bias, residual, alpha=0.5, activation=activation)

    c = compute()
    np.testing.assert_allclose(wide(c), wide(portable(compute)), rtol=2.0**-7, atol=2.0**-7)
    if activation == RELU:
        check(c, a, b, np.maximum(0.5 * wide(a) @ wide(b) + wide(bias) + wide(residual), 0))


def check_out_of_every_layout(rng, beta, k, n):
    """C in other memory: not aligned, with a gap that has to stay, along its columns, float32."""
    a, b = matrix(rng, BFLOAT16, 70, k, False), matrix(rng, BFLOAT16, k, n, True)
    for begin in (3, 8):
        whole = rng.standard_normal((70, n + 16)).astype(BFLOAT16)
        before, out = whole.copy(), whole[:, begin : begin + n]
        expected = wide(a) @ wide(b) + beta * wide(out)
        check(product(a, b, out=out, beta=beta), a, b, expected)
        gap = np.r_[:begin, begin + n : n + 16]
        np.testing.assert_array_equal(whole[:, gap], before[:, gap])
    for out in (
        rng.standard_normal((n, 70)).astype(BFLOAT16).T,
        rng.standard_normal((70, n)).astype(np.float32),
    ):
        expected = wide(a) @ wide(b) + beta * wide(out)
        check(product(a, b, out=out, beta=beta), a, b, expected)


DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "lognormal": lambda rng, shape: np.exp(6.5 * rng.standard_normal(shape)),  # over 17 decades
}
