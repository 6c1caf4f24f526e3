"""Many Python threads at once. On a free-threaded build nothing but fastdl's own locks keeps them apart: results are
those of one thread, what threads share is neither lost nor counted twice, and nothing crashes. The same holds, less
interestingly, under the GIL."""

import os
import sys
import sysconfig
import threading

import numpy as np
import pytest
from test_threads import python

import fastdl
from fastdl import _core, backend, nn, ops, random

pytestmark = pytest.mark.cpu

THREADS = 8
FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True)
def often():
    """Where there is a GIL, let it change hands as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work, count=THREADS):
    """[work(0), work(1), ...], each in a thread of its own, all begun at once."""
    start, results, errors = threading.Barrier(count), [None] * count, []

    def run(i):
        try:
            start.wait(60)
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not any(t.is_alive() for t in threads), "the threads wait for each other"
    if errors:
        raise errors[0]
    return results


# ---------------------------------------------------------------------------------------------------- importing


@pytest.mark.skipif(not FREE, reason="this Python has a GIL")
def test_import_leaves_the_gil_off():
    program = """
import sys, warnings
warnings.simplefilter("error", RuntimeWarning)
import fastdl
from fastdl import _core, data, io, nn, ops, optim, train
fastdl.manual_seed(0)
fastdl.rand(3, dtype=fastdl.bfloat16) @ fastdl.rand(3, dtype=fastdl.bfloat16)
assert not sys._is_gil_enabled()
"""
    result = python(program)
    assert result.returncode == 0, result.stderr
    assert "GIL" not in result.stderr


IMPORTS = """
import threading
start, failed, found = threading.Barrier(8), [], []

def work(i):
    try:
        start.wait(30)
        %s
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join(40)
assert not any(t.is_alive() for t in threads), "a thread waits for ever"
if failed: raise failed[0]
assert all(f == found[0] for f in found) and len(found) == 8, found
"""


def test_threads_import_at_once():
    """Nobody sees a module that another thread is still filling."""
    what = """
        import fastdl
        from fastdl import nn, ops
        layer = nn.Linear(3, 2)
        layer(fastdl.ones(4, 3)).sum().backward()
        found.append((id(fastdl), id(ops), layer.weight.grad.shape))
"""
    result = python(IMPORTS % what.strip())
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("seed", range(3))
def test_threads_ask_for_lazy_names_at_once(seed):
    """What `fastdl` loads at first use is loaded once, whoever asks in whatever order."""
    names = [n for n in (*fastdl._MODULES, *fastdl._ELSEWHERE) if n != "cuda"]
    order = np.random.default_rng(seed).permutation(names).tolist()
    what = f"""
        import fastdl
        mine = {order}
        mine = mine[3 * i :] + mine[: 3 * i]
        values = {{name: getattr(fastdl, name) for name in mine}}
        found.append([id(values[name]) for name in {order}])
"""
    result = python(IMPORTS % what.strip())
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------------------------------------------- computing


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def calls(rng):
    """A call of every family, small ones and such as are divided among the pool's threads."""
    images, kernels = normal(rng, 4, 8, 14, 14), normal(rng, 16, 8, 3, 3)
    q, k, v = (normal(rng, 2, 4, 40, 16) for _ in range(3))
    sequence, params = normal(rng, 12, 5, 6), [normal(rng, *s) for s in ((16, 6), (16, 4), (16,), (16,))]
    rows, table, indices = normal(rng, 200, 300), normal(rng, 50, 24), rng.integers(0, 50, (7, 9))
    weight, labels = normal(rng, 300), rng.integers(0, 300, 200)
    grad = normal(rng, 4, 16, 14, 14)
    narrow = rows.astype(fastdl.bfloat16)

    def conv_backward():
        return ops.conv_backward(grad, images, kernels, padding=1)

    def attention_backward():
        out, lse = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
        return ops.scaled_dot_product_attention_backward(v, q, k, v, None, out, lse, is_causal=True)

    return {
        "matmul": lambda: ops.matmul(rows, rows.T),
        "small matmul": lambda: ops.matmul(params[1], params[1].T),
        "bfloat16 matmul": lambda: ops.matmul(narrow, narrow.T),
        "conv": lambda: ops.conv(images, kernels, padding=1),
        "conv_backward": conv_backward,
        "max_pool": lambda: ops.max_pool(images, 2, return_indices=True),
        "attention": attention_backward,
        "lstm": lambda: ops.lstm(sequence, params),
        "layer_norm": lambda: ops.layer_norm(rows, (300,), weight, weight),
        "softmax": lambda: ops.softmax(rows),
        "cross_entropy": lambda: ops.cross_entropy(rows, labels),
        "embedding": lambda: ops.embedding(table, indices),
        "gelu": lambda: ops.activation(rows, "gelu"),
        "dropout": lambda: ops.dropout(rows, 0.3, seed=5, offset=77),
    }


def flat(result):
    if isinstance(result, list | tuple):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [np.asarray(result).tobytes()]


def test_ops_give_the_bits_of_one_thread(rng):
    jobs = calls(rng)
    expected = {name: flat(call()) for name, call in jobs.items()}
    order = list(jobs)

    def work(i):
        wrong = []
        for turn in range(12):
            for name in order[i:] + order[:i]:
                if flat(jobs[name]()) != expected[name]:
                    wrong.append((turn, name))
        return wrong

    assert together(work) == [[]] * THREADS


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0][-1])


def convolutional():
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 4))


def perceptron():
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))


KINDS = [  # model, its input's shape, optimizer, precision
    (convolutional, (12, 1, 8, 8), "Adam", None),
    (Recurrent, (9, 12), "RMSprop", None),
    (perceptron, (12, 16), "SGD", "autocast"),
    (perceptron, (12, 16), "AdamW", "bfloat16"),
]


def test_threads_train_different_models(rng):
    """Layers, gradients, optimizers, mixed precision and gradient mode: what one thread sets, no other sees."""
    jobs = []
    for i in range(THREADS):
        make, shape, optimizer, precision = KINDS[i % len(KINDS)]
        fastdl.manual_seed(i)
        model = make()
        x = fastdl.tensor(rng.integers(0, 20, shape) if make is Recurrent else normal(rng, *shape))
        if precision == "bfloat16":
            model, x = model.to("bfloat16"), x.bfloat16()
        jobs.append((model, x, fastdl.tensor(rng.integers(0, 4, 12)), optimizer, precision))
    initial = [{k: v.clone() for k, v in job[0].state_dict().items()} for job in jobs]

    def work(i):
        model, x, labels, name, precision = jobs[i]
        model.load_state_dict(initial[i])
        optimizer = getattr(fastdl.optim, name)(model.parameters(), lr=0.01)
        losses = []
        for _ in range(15):
            optimizer.zero_grad()
            with fastdl.autocast("bfloat16", enabled=precision == "autocast"):
                loss = nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            with fastdl.no_grad():
                assert not model(x).requires_grad
            losses.append(loss.item())
        return losses, [p.detach().float().tolist() for p in model.parameters()]

    alone = [work(i) for i in range(THREADS)]
    assert alone[0][0][-1] < alone[0][0][0]
    assert together(work) == alone


# ------------------------------------------------------------------------------------------- what threads share


def test_gradients_of_shared_parameters_add_up():
    """Each thread's own graph over one parameter: no contribution is lost. Whole numbers, so that the order of the
    sum does not matter."""
    p = fastdl.zeros(5000, requires_grad=True)
    middle = fastdl.ones(3, requires_grad=True) * 2
    middle.retain_grad()

    def work(i):
        for _ in range(20):
            (p * (i + 1)).sum().backward()
            middle.sum().backward(retain_graph=True)

    together(work)
    assert (p.grad.numpy() == 20 * sum(range(1, THREADS + 1))).all()
    assert (middle.grad.numpy() == 20 * THREADS).all()


def test_changes_in_place_disturb_no_other_thread(rng):
    """Whether an array was changed since it was saved is told by a count that all threads share: a thread that changes
    its own tensors in the right places is never told that it did not."""
    expected = np.full(6, 2 * 3.0**2 * 2)

    def work(i):
        for _ in range(150):
            x = fastdl.full((6,), 2.0, requires_grad=True)
            y = x + 0
            y.mul_(3)
            y.mul_(1)
            (y * y).sum().backward()
            assert (x.grad.numpy() == expected).all()
        y = x * 1
        z = y * y
        y.add_(1)
        with pytest.raises(RuntimeError, match="in-place"):
            z.sum().backward()

    together(work)


def test_steps_of_one_optimizer_take_turns():
    p = fastdl.zeros(20_000, requires_grad=True)
    p.grad = fastdl.ones(20_000)
    optimizer = fastdl.optim.SGD([p], lr=1.0)
    optimizer.step()
    together(lambda i: [optimizer.step() for _ in range(50)])
    assert (p.detach().numpy() == -1.0 - 50 * THREADS).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_children_of_a_fork_find_no_lock_taken():
    """A fork while other threads are at work: the child computes, whatever they were doing."""
    program = """
import os, threading, fastdl
p = fastdl.zeros(2000, requires_grad=True)
fastdl.autocast("bfloat16"), (p * 2).sum().backward()  # imports what they need: Python's own locks are not ours
stop = False

def work():
    while not stop:
        (p * 2).sum().backward()
        (p * 1).add_(1)
        with fastdl.autocast("bfloat16"):
            fastdl.random.next_offset(1)

threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
failed = []
for turn in range(30):
    child = os.fork()
    if child == 0:
        import signal
        signal.alarm(20)  # instead of waiting for ever
        p.grad = None
        (p * 2).sum().backward()
        (p * 1).add_(1)
        with fastdl.autocast("bfloat16"):
            fastdl.manual_seed(turn)
        os._exit(0 if (p.grad.numpy() == 2).all() and fastdl.random.next_offset(1)[1] == 0 else 1)
    failed.append(os.waitpid(child, 0)[1])
stop = True
for t in threads: t.join()
assert not any(failed), failed
"""
    result = python(program)
    assert result.returncode == 0, result.stderr


def test_lists_that_change_while_they_are_read(rng):
    """A list of arrays handed to a kernel is taken as it is at that moment."""
    arrays = [normal(rng, 50) for _ in range(20)]
    shared = list(arrays)
    longest = np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays))

    def work(i):
        norm = np.zeros(())
        for turn in range(300):
            if i % 2:
                shared.append(arrays[turn % 20] * 1)
                del shared[0]
            else:
                _core.norm(shared, 2.0, norm)
                assert 0 < norm < 4 * longest

    together(work)


def test_memory_of_outputs_passes_between_threads():
    """Blocks given back by one thread serve another, and never two at once."""
    shelf, lock = [], threading.Lock()

    def work(i):
        for turn in range(60):
            a = backend.empty((200, 256 + 8 * (turn % 3)), np.float32)
            a[...] = i
            with lock:
                shelf.append((i, a))
                owner, b = shelf.pop(0) if len(shelf) > 5 else (i, a)
            assert (b == owner).all()

    together(work)


# ----------------------------------------------------------------------------------------------- random numbers


def test_drawn_numbers_are_those_of_one_thread():
    """Threads share one stream: together they draw its numbers, none twice."""
    fastdl.manual_seed(3)
    expected = np.sort(fastdl.rand(THREADS * 200 * 3).numpy())
    fastdl.manual_seed(3)
    drawn = together(lambda i: np.concatenate([fastdl.rand(3).numpy() for _ in range(200)]))
    assert (np.sort(np.concatenate(drawn)) == expected).all()


def test_dropout_masks_do_not_overlap():
    fastdl.manual_seed(0)
    drawn = together(lambda i: [(random.next_offset(i + 1)[1], i + 1) for _ in range(300)])
    end = 0
    for offset, count in sorted(pair for pairs in drawn for pair in pairs):
        assert offset == end
        end += count
    assert end == 300 * sum(range(1, THREADS + 1))


def test_seeding_while_others_draw():
    """A saved state is one that the streams were in, and seeds and states may be set at any time."""
    x = fastdl.ones(64)

    def work(i):
        for turn in range(150):
            if i == 0:
                fastdl.manual_seed(turn)
            elif i == 1:
                fastdl.set_rng_state(fastdl.get_rng_state())
            elif i == 2:
                assert random.position()[0] < 150
            else:
                a, b = fastdl.rand(5).numpy(), nn.functional.dropout(x, 0.5).numpy()
                assert (a >= 0).all() and (a < 1).all() and np.isin(b, (0, 2)).all()
        return fastdl.initial_seed()

    fastdl.manual_seed(0)
    together(work)
    fastdl.manual_seed(7)
    expected = fastdl.rand(9).tolist()
    fastdl.manual_seed(7)
    assert fastdl.rand(9).tolist() == expected


def test_threads_that_draw_first_agree_on_the_seed(monkeypatch):
    """The first draw seeds from the operating system, once; a seed that was set meanwhile stays."""
    for _ in range(40):
        monkeypatch.setattr(random, "_generator", None)
        assert len(set(together(lambda i: fastdl.initial_seed()))) == 1
        monkeypatch.setattr(random, "_generator", None)
        together(lambda i: fastdl.manual_seed(11) if i == 4 else fastdl.rand(1))
        assert fastdl.initial_seed() == 11
