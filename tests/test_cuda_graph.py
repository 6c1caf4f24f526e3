"""fastdl.cuda.graph, and what a step has to be for it: on a GPU where there is one, else on the host executor."""

import copy
import math

import numpy as np
import pytest
from gpu import DEVICE, has_kernels, needs_gpu

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


def _sequence_model(layer):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = layer(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.layer(x)[0][-1])

    return Model()


def _transformer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 8)
            self.layers = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1
            )
            self.out = nn.Linear(8, 3)
            self.mask = nn.Transformer.generate_square_subsequent_mask(3).to(DEVICE)

        def forward(self, x):
            return self.out(self.layers(self.embedding(x), self.mask).mean(1))

    return Model()


# What a step of each needs of the kernels, its model, its input.
MODELS = {
    "cnn": (("conv_forward",), lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                                                     nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
            lambda: fastdl.randn(2, 1, 6, 6)),
    "lstm": (("rnn_forward",), lambda: _sequence_model(nn.LSTM), lambda: fastdl.randn(3, 2, 4)),
    "gru": (("rnn_forward",), lambda: _sequence_model(nn.GRU), lambda: fastdl.randn(3, 2, 4)),
    "transformer": (("attention_forward",), _transformer, lambda: fastdl.tensor([[1, 2, 3], [4, 5, 6]])),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_every_kind_of_model(name):
    needed, make, data = MODELS[name]
    if not has_kernels(*needed):
        pytest.skip(f"no CUDA kernel for {', '.join(needed)} yet")
    losses = []
    for recorded in (False, True):
        fastdl.manual_seed(1)
        model, x = make().to(DEVICE), data().to(DEVICE)
        y = fastdl.tensor([0, 2]).to(DEVICE)
        optimizer = optim.AdamW(model.parameters(), 0.01)

        def step(model=model, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad(set_to_none=False)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.detach()

        run = graph(step) if recorded else step
        losses.append([run().item() for _ in range(4)])
    assert losses[0] == losses[1] and losses[0][3] < losses[0][0]


def test_indices_are_checked_without_waiting():
    x = fastdl.ones(3, 4, device=DEVICE)
    good, bad = (fastdl.tensor([[i], [0], [0]]).to(DEVICE) for i in (3, 4))
    step = graph(lambda: x.gather(1, good))
    assert step().sum().item() == step().sum().item() == 3
    with pytest.raises(IndexError):
        x.gather(1, bad)
        fastdl.cuda.synchronize()
    if DEVICE == "cuda-sim":  # where NumPy looked at them as well: what is noted is still to be said
        with pytest.raises(IndexError, match="out of range"):
            fastdl.cuda.synchronize()
    fastdl.cuda.synchronize()
