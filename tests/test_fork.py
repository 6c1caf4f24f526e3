"""A fork while other threads are at work: none of their locks stays locked in the child, where they do not exist."""

import os

import pytest
from test_threads import python

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]

CHILD = """
import os, signal, sys, threading, traceback
import numpy as np
import fastdl
from fastdl import autograd, casting, nn, random

device = sys.modules["fastdl.device"]  # fastdl.device is the class

def child(job):
    "What became of a child that does job(): 0 if it ended well."
    pid = os.fork()
    if pid == 0:
        signal.alarm(45)  # ends one that hangs
        try:
            job()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]
"""

HELD = """
fastdl.rand(1)
lock = %s

def job():
    x = fastdl.ones(4, requires_grad=True)
    y = x * 3
    y.mul_(2)
    y.sum().backward()
    assert x.grad.tolist() == [6, 6, 6, 6]
    nn.functional.dropout(fastdl.rand(3) + fastdl.randn(3), 0.5)
    with fastdl.autocast("bfloat16"):
        assert (fastdl.ones(2, 2) @ fastdl.ones(2, 2)).dtype == fastdl.bfloat16
    fastdl.set_rng_state(fastdl.get_rng_state())
    fastdl.manual_seed(3)
    with device._lock:
        pass

held, over = threading.Event(), threading.Event()

def hold():
    with lock:
        held.set()
        over.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
try:
    status = child(job)
finally:
    over.set()
    thread.join()
assert status == 0, status
job()
"""


@pytest.mark.parametrize(
    "lock",
    [
        "autograd._accumulating",
        "autograd._modifying",
        "casting._lock",
        "device._lock",
        "random._lock",
        "random._philox.lock",
    ],
)
def test_locks_that_other_threads_hold_at_a_fork(lock):
    result = python(CHILD + HELD % lock)
    assert result.returncode == 0, result.stderr


STEPS = """
fastdl.set_num_threads(1)
p = fastdl.zeros(2_000_000, requires_grad=True)
p.grad = fastdl.ones(2_000_000)
optimizer = fastdl.optim.SGD([p], lr=1.0)
optimizer.step()
over = threading.Event()

def steps():
    while not over.is_set():
        optimizer.step()

def job():
    "Two threads: neither waits for one that is not there, and they take turns."
    p.data.zero_()
    threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(3)]) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert (p.detach().numpy() == -6).all()

thread = threading.Thread(target=steps)
thread.start()
try:
    found = [child(job) for _ in range(8)]
finally:
    over.set()
    thread.join()
assert found == [0] * 8, found
"""


def test_fork_during_steps_of_an_optimizer():
    result = python(CHILD + STEPS)
    assert result.returncode == 0, result.stderr
