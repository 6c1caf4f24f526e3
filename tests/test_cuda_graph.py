"""fastdl.cuda.graph, and what a step has to be for it: on a GPU where there is one, else on the host executor."""

import copy
import math

import numpy as np
import pytest
from gpu import DEVICE, needs_gpu

import fastdl
import fastdl.nn.functional as F
from fastdl import nn, optim

pytestmark = needs_gpu


def graph(step):
    return fastdl.cuda.graph(step, device=DEVICE)


def _model(seed=0):
    fastdl.manual_seed(seed)
    layers = nn.Linear(6, 16, activation="relu"), nn.LayerNorm(16), nn.Linear(16, 3)
    return nn.Sequential(*layers).to(DEVICE)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, 0.01, amsgrad=True),
    "adagrad": lambda p: optim.Adagrad(p, 0.1, lr_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_step_is_bit_equal_to_eager(name):
    """Forward, loss, backward, clipping, update: nothing in it waits for the device."""
    rng = np.random.default_rng(3)
    batches = [(rng.standard_normal((5, 6)).astype(np.float32), rng.integers(0, 3, 5)) for _ in range(5)]
    states, losses = [], []
    for recorded in (False, True):
        model = _model()
        optimizer = OPTIMIZERS[name](model.parameters())
        x, y = fastdl.zeros(5, 6, device=DEVICE), fastdl.zeros(5, dtype=fastdl.int64, device=DEVICE)

        def step(model=model, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad(set_to_none=False)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            return {"loss": loss.detach(), "norm": [norm]}

        run = graph(step) if recorded else step
        seen, given = [], []
        for a, b in batches:
            x.copy_(fastdl.tensor(a))
            y.copy_(fastdl.tensor(b))
            given.append(run())
            seen.append((given[-1]["loss"].item(), given[-1]["norm"][0].item()))
        losses.append(seen)
        states.append({key: value.cpu().numpy().tobytes() for key, value in model.state_dict().items()})
    assert losses[0] == losses[1] and len(set(losses[0])) == 5
    assert states[0] == states[1]
    assert given[-1]["loss"] is given[1]["loss"]  # from the recording on, the same tensors


@pytest.mark.parametrize("hidden", [12, 40])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers(layer, hidden):
    """One kernel for all steps or one each; lengths are those of the recording."""
    fastdl.manual_seed(0)
    net = layer(3, hidden, bidirectional=True).to(DEVICE)
    x = fastdl.zeros(4, 3, 3, device=DEVICE)

    def step():
        net.zero_grad(set_to_none=False)
        y, _ = net(x, lengths=[4, 2, 3])
        (y * y).sum().backward()
        return y.detach()

    run, rng = graph(step), np.random.default_rng(2)
    for _ in range(3):
        x.copy_(fastdl.tensor(rng.standard_normal((4, 3, 3)).astype(np.float32)))
        seen = []
        for call in (run, step):
            y = call()
            seen.append([t.cpu().numpy().tobytes() for t in (y, *[p.grad for p in net.parameters()])])
        assert seen[0] == seen[1]


def test_a_step_may_not_draw_random_numbers():
    x = fastdl.ones(4, 4, device=DEVICE)
    step = graph(lambda: F.dropout(x, 0.5, True))
    step()
    with pytest.raises(RuntimeError, match="draws random numbers"):
        step()


@pytest.mark.parametrize("what", ["item", "if", "cpu", "tolist", "synchronize", "nonfinite"])
def test_a_step_may_not_wait(what):
    x = fastdl.ones(3, device=DEVICE, requires_grad=True)
    x.grad = fastdl.ones(3, device=DEVICE)

    def waits():
        y = (x * x).sum()
        if what == "item":
            y.item()
        elif what == "if":
            return y if y > 1 else x
        elif what == "cpu":
            y.cpu()
        elif what == "tolist":
            x.tolist()
        elif what == "synchronize":
            fastdl.cuda.synchronize()
        else:
            nn.utils.clip_grad_norm_([x], 1.0, error_if_nonfinite=True)
        return y

    step = graph(waits)
    step()
    with pytest.raises(RuntimeError if DEVICE == "cuda-sim" else Exception):
        step()
    assert (x * x).sum().item() == 3  # the device is usable afterwards


def test_an_exception_of_the_step_passes_through():
    calls = []

    def step():
        calls.append(0)
        if len(calls) == 2:
            raise KeyError("no batch")
        return fastdl.ones(2, device=DEVICE)

    step = graph(step)
    step()
    with pytest.raises(KeyError, match="no batch"):
        step()
    assert step().tolist() == [1, 1]


def test_clipping_is_that_of_the_cpu():
    rng = np.random.default_rng(1)
    for scale, p in ((100, 2.0), (1e-3, 2.0), (10, 1.0), (10, math.inf), (10, 3.0), (math.nan, 2.0)):
        here = [
            fastdl.tensor(scale * rng.standard_normal(s), requires_grad=True) for s in ((3, 40), (7,), ())
        ]
        for t in here:
            t.grad = fastdl.tensor(t.detach().numpy())
        there = copy.deepcopy(here)
        for t, source in zip(there, here, strict=True):
            t.data = source.detach().to(DEVICE)
            t.grad = source.grad.to(DEVICE)
        norms = [nn.utils.clip_grad_norm_(ts, 0.5, p).item() for ts in (here, there)]
        np.testing.assert_allclose(norms[1], norms[0], 1e-12)
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(b.grad.cpu().numpy(), a.grad.numpy(), 1e-12)
