"""Fixtures for all tests: instruction sets, thread counts, random numbers, poisoned outputs."""

import zlib

import devices
import numpy as np
import pytest

THREAD_COUNTS = (1, 2, 3, 7)


def _available_isas():
    try:
        from fastdl import _core
    except ImportError:  # reference tests run without the compiled part
        return []
    return list(_core.available_isas())


def pytest_configure(config):
    config.addinivalue_line("markers", "cpu: about the CPU itself; skipped with --device")
    if config.getoption("--device") != "cpu":
        devices.install(config.getoption("--device"))


def pytest_terminal_summary(terminalreporter):
    if devices.core is not None:
        devices.summarize(terminalreporter)


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=("cpu", "cuda-sim", "cuda"), default="cpu", help="whose kernels to test"
    )
    parser.addoption(
        "--every", type=int, default=1, help="run only every n-th test (of the slow builds in .ci/run)"
    )


def pytest_collection_modifyitems(config, items):
    every = config.getoption("--every")
    if devices.core is not None:
        config.hook.pytest_deselected(items=[t for t in items if devices.is_about_the_cpu(t)])
        items[:] = [t for t in items if not devices.is_about_the_cpu(t)]
    config.hook.pytest_deselected(items=[t for i, t in enumerate(items) if i % every])
    items[:] = items[::every]


def pytest_generate_tests(metafunc):
    given = " ".join(str(m.args[0]) for m in metafunc.definition.iter_markers("parametrize"))
    if "isa" in metafunc.fixturenames and "isa" not in given:
        metafunc.parametrize("isa", _available_isas(), indirect=True)
    if "threads" in metafunc.fixturenames and "threads" not in given:
        metafunc.parametrize("threads", THREAD_COUNTS if devices.core is None else (1,), indirect=True)


@pytest.fixture
def isa(request):
    """Runs the test once per instruction set this machine has; the value is its name."""
    from fastdl import _core

    before = _core.get_cpu_isa()
    _core.set_cpu_isa(request.param)
    yield request.param
    _core.set_cpu_isa(before)


@pytest.fixture
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
    if devices.core is not None:
        devices.core.seconds, devices.core.testing = 0.0, True
    before = getattr(backend, "POISON", False)
    backend.POISON = True
    yield
    backend.POISON = before
