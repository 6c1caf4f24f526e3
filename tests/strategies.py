"""What the hypothesis tests draw: shapes, memory layouts, and settings that make every run the same."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from layouts import strided_variants

# Hypothesis varies shapes, strides and options; the values themselves come from a seeded generator, which is
# faster and never hits rounding coincidences. Derandomised, so that a failure is a failure for everyone.
few = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def shapes(min_dims=0, max_dims=4, max_side=5, min_side=0):
    return st.lists(st.integers(min_side, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def laid_out(draw, shape, dtype=np.float64, scale=1.0):
    """Normal values of the given shape in some memory layout."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = (scale * rng.standard_normal(shape)).astype(dtype)
    if draw(st.booleans()) and x.ndim and x.shape[0]:
        x = np.repeat(x[:1], x.shape[0], axis=0)  # constant along an axis: may become a stride of 0
    variants = list(strided_variants(x))
    return variants[draw(st.integers(0, len(variants) - 1))][1]


@st.composite
def broadcastable(draw, shape):
    """A shape that broadcasts to `shape`: some axes 1, some leading axes missing."""
    cut = draw(st.integers(0, len(shape)))
    return tuple(1 if draw(st.booleans()) else n for n in shape[cut:])
