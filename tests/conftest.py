"""Fixtures for all tests: instruction sets, thread counts, random numbers, poisoned outputs."""

import zlib

import numpy as np
import pytest

THREAD_COUNTS = (1, 2, 3, 7)


def _available_isas():
    try:
        from fastdl import _core
    except ImportError:  # reference tests run without the compiled part
        return []
    return list(_core.available_isas())


def pytest_addoption(parser):
    parser.addoption(
        "--every", type=int, default=1, help="run only every n-th test (of the slow builds in .ci/run)"
    )


def pytest_collection_modifyitems(config, items):
    every = config.getoption("--every")
    config.hook.pytest_deselected(items=[t for i, t in enumerate(items) if i % every])
    items[:] = items[::every]


@pytest.fixture(params=_available_isas())
def isa(request):
    """Runs the test once per instruction set this machine has; the value is its name."""
    from fastdl import _core

    before = _core.get_cpu_isa()
    _core.set_cpu_isa(request.param)
    yield request.param
    _core.set_cpu_isa(before)


@pytest.fixture(params=THREAD_COUNTS)
def threads(request):
    """Runs the test once per thread count; the value is the count."""
    from fastdl import _core

    before = _core.get_num_threads()
    _core.set_num_threads(request.param)
    yield request.param
    _core.set_num_threads(before)


@pytest.fixture
def rng(request):
    """A NumPy generator seeded by the test's own id; pytest shows the seed when the test fails."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"rng: np.random.default_rng({seed})")
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def poison():
    """Outputs are filled with NaN before kernels write them, so that an element left unwritten shows."""
    try:
        from fastdl import backend
    except ImportError:
        yield
        return
    before = getattr(backend, "POISON", False)
    backend.POISON = True
    yield
    backend.POISON = before
