"""The precision setting: names, context manager, decorator, bad values; float64 is not touched by it."""

import threading

import numpy as np
import pytest

import fastdl
from fastdl import ops


@pytest.fixture(autouse=True)
def restored():
    yield
    fastdl.set_float32_precision("highest")


def test_set_and_get():
    assert fastdl.get_float32_precision() == "highest"
    for name in ("high", "medium", "highest"):
        fastdl.set_float32_precision(name)
        assert fastdl.get_float32_precision() == name


@pytest.mark.parametrize("bad", ["HIGH", "", None, 1, "bfloat16"])
def test_unknown_names(bad):
    for call in (fastdl.set_float32_precision, fastdl.float32_precision):
        with pytest.raises(ValueError, match="'highest', 'high' or 'medium'"):
            call(bad)
    assert fastdl.get_float32_precision() == "highest"
    with pytest.raises(ValueError, match="expected 0 to 2, got 3"):
        fastdl._core.set_float32_precision(3)


def test_blocks_nest_and_survive_errors():
    block = fastdl.float32_precision("high")
    with block, fastdl.float32_precision("medium"), block:
        assert fastdl.get_float32_precision() == "high"
    with pytest.raises(KeyError), fastdl.float32_precision("medium"):
        raise KeyError
    assert fastdl.get_float32_precision() == "highest"


def test_decorator():
    @fastdl.float32_precision("medium")
    def inside(depth):
        """doc"""
        return fastdl.get_float32_precision() if not depth else inside(depth - 1)

    assert inside(3) == "medium" and inside.__doc__ == "doc"
    assert fastdl.get_float32_precision() == "highest"


def test_other_threads_see_it():
    seen = []
    with fastdl.float32_precision("high"):
        thread = threading.Thread(target=lambda: seen.append(fastdl.get_float32_precision()))
        thread.start()
        thread.join()
    assert seen == ["high"]


# A product loses 2^-bits by the rounding of its two factors (to nearest), the sum of 96 at most 96 * 2^-24.
@pytest.mark.parametrize(("name", "bits"), [("highest", 23), ("high", 15), ("medium", 8)])
def test_accuracy_of_a_product(name, bits, rng):
    a, b = rng.standard_normal((2, 96, 96))
    bound = (2.0**-bits + 96 * 2.0**-24) * (np.abs(a) @ np.abs(b))
    with fastdl.float32_precision(name):
        single = ops.matmul(a.astype(np.float32), b.astype(np.float32))
        double = ops.matmul(a, b)
    assert (np.abs(single - a @ b) <= bound).all()
    assert (np.abs(double - a @ b) <= 1e-14 * (np.abs(a) @ np.abs(b))).all()
