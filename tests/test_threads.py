"""The thread pool as a program meets it: many Python threads, fork, environment variables, the GIL."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastdl
from fastdl import nn, ops


def python(program, **environment):
    """Runs a program outside the source tree, where `fastdl` is what is installed."""
    folder = os.path.dirname(os.path.dirname(fastdl.__file__))
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=60,
    )


def read(code, **environment):
    result = python(f"from fastdl import _core; print({code})", **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def product(rng):
    return (
        rng.standard_normal((300, 200)).astype(np.float32),
        rng.standard_normal((200, 250)).astype(np.float32),
    )


def test_python_threads_compute_at_once(rng):
    a, b = product(rng)
    expected = ops.matmul(a, b)
    wrong, errors = [], []

    def work():
        try:
            for _ in range(30):
                if not np.array_equal(ops.matmul(a, b), expected):
                    wrong.append(1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not errors and not any(t.is_alive() for t in threads)


def test_python_threads_train_models_of_their_own(rng):
    """Layers, gradients and optimizers in several threads, one of which runs without gradients: each as if alone."""
    x = rng.standard_normal((8, 3, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 5, 8)

    def model(seed):
        fastdl.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(288, 5),
        )

    def train(m):
        optimizer = fastdl.optim.Adam(m.parameters(), lr=0.01)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(m(fastdl.tensor(x)), fastdl.tensor(labels))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def infer(m):
        with fastdl.no_grad():
            for _ in range(10):
                y = m(fastdl.tensor(x))
                assert not y.requires_grad
        return y.numpy().tolist()

    jobs = [(train, seed) for seed in range(5)] + [(infer, 9)]
    expected = [job(model(seed)) for job, seed in jobs]
    models = [model(seed) for _, seed in jobs]
    with ThreadPoolExecutor(len(jobs)) as threads:
        results = list(threads.map(lambda pair: pair[0][0](pair[1]), zip(jobs, models, strict=True)))
    assert results == expected


def test_gil_is_released_around_kernels(rng):
    """Another Python thread makes progress during one long kernel call."""
    a = rng.standard_normal((1500, 1500))
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    t = threading.Thread(target=tick)
    t.start()
    begin = time.perf_counter()
    ops.matmul(a, a)
    end = time.perf_counter()
    stop.set()
    t.join(10)
    assert sum(begin < x < end for x in ticks) >= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_fork_rebuilds_the_pool():
    program = """
import os, numpy as np, fastdl
from fastdl import ops
fastdl.set_num_threads(3)
a = np.random.default_rng(0).standard_normal((400, 400)).astype(np.float32)
expected = ops.matmul(a, a)
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(ops.matmul(a, a), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(ops.matmul(a, a), expected)
"""
    result = python(program)
    assert result.returncode == 0, result.stderr


def test_environment():
    assert read("_core.get_num_threads()", FASTDL_NUM_THREADS="5") == "5"
    if hasattr(os, "sched_getaffinity"):
        for nonsense in ("0", "-3", "many"):
            got = read("_core.get_num_threads()", FASTDL_NUM_THREADS=nonsense)
            assert got == str(len(os.sched_getaffinity(0)))
    assert read("_core.get_cpu_isa()", FASTDL_CPU_ISA="generic") == "generic"
    for name, nonsense, message in (
        ("FASTDL_CPU_ISA", "avx1024", "this machine runs generic"),
        ("FASTDL_NUM_THREADS", "many", "expected 1 to 1024 threads"),
    ):
        unknown = python("import fastdl; fastdl.get_num_threads()", **{name: nonsense})
        assert f"RuntimeError: {name}={nonsense}: {message}" in unknown.stderr


def test_set_num_threads():
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(2)
    assert fastdl.get_num_threads() == 2
    for bad in (0, -1, 5000):
        with pytest.raises(ValueError, match="threads"):
            fastdl.set_num_threads(bad)
    assert fastdl.get_num_threads() == 2
    fastdl.set_num_threads(before)
    with pytest.raises(ValueError, match="expected one of generic"):
        fastdl._core.set_cpu_isa("mmx")


def test_exit_with_a_running_pool():
    program = """
import numpy as np, fastdl
from fastdl import ops
fastdl.set_num_threads(4)
ops.matmul(np.ones((500, 500)), np.ones((500, 500)))
"""
    result = python(program)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux")
def test_workers_keep_their_cpus(rng):
    """A worker is woken away from the caller's CPU; afterwards it may use all of the process's again."""
    a, b = product(rng)
    before = set(os.listdir("/proc/self/task"))
    for _ in range(20):
        ops.matmul(a, b)
        time.sleep(0.002)  # longer than idle workers poll
    mine, begin = os.sched_getaffinity(0), time.monotonic()
    for task in set(os.listdir("/proc/self/task")) - before:
        while os.sched_getaffinity(int(task)) != mine:
            assert time.monotonic() - begin < 30
            ops.matmul(a, b)
