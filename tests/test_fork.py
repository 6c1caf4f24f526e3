"""A fork while other threads hold locks that are not Python's: none stays locked in the child, which lacks them."""

import os

import pytest
from test_threads import python

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]

CHILD = """
import os, signal, threading, traceback
import fastdl
from fastdl import random

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

DRAWING = """
fastdl.rand(1)
held, over = threading.Event(), threading.Event()

def draw():
    with random._philox.lock:  # as NumPy does
        held.set()
        over.wait()

thread = threading.Thread(target=draw)
thread.start()
held.wait()
try:
    found = child(lambda: (fastdl.rand(3), fastdl.get_rng_state(), fastdl.manual_seed(3)))
finally:
    over.set()
    thread.join()
assert found == 0, found
"""


def test_fork_while_another_thread_draws():
    result = python(CHILD + DRAWING)
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
