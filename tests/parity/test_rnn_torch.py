"""Recurrent layers against torch: the same weights by name, the same outputs, states and gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastdl  # noqa: E402

CONFIGS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bias": False}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"batch_first": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 4, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"bias": False}),
]
STEPS, BATCH, INPUT, HIDDEN = 6, 4, 5, 9


def make(name, options, dtype=np.float64):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(INPUT, HIDDEN, **options).double()
    ours = getattr(fastdl.nn, name)(INPUT, HIDDEN, dtype=fastdl.float64, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


def flat(out):
    return [t for o in out for t in flat(o)] if isinstance(out, tuple | list) else [out]


def compare(name, options, form):
    ours, theirs = make(name, options)
    rng = np.random.default_rng(0)
    batch_first = options.get("batch_first", False)
    shape = (STEPS, INPUT) if form == "unbatched" else (STEPS, BATCH, INPUT)
    values = rng.standard_normal(shape)
    if batch_first and form != "unbatched":
        values = np.ascontiguousarray(values.swapaxes(0, 1))
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    sizes = [options.get("proj_size") or HIDDEN] + [HIDDEN] * (name == "LSTM")
    lead = (count,) if form == "unbatched" else (count, BATCH)
    states = [rng.standard_normal((*lead, size)) for size in sizes]
    lengths = [3, 6, 1, 4]
    results = []
    for lib, layer, pack in (
        (fastdl, ours, fastdl.nn.utils.rnn),
        (torch, theirs, torch.nn.utils.rnn),
    ):
        x = lib.tensor(values, requires_grad=True)
        hx = [lib.tensor(s, requires_grad=True) for s in states]
        given = tuple(hx) if name == "LSTM" else hx[0]
        if form == "packed":
            n = lengths if lib is fastdl else torch.tensor(lengths)
            y, final = layer(pack.pack_padded_sequence(x, n, batch_first, enforce_sorted=False), given)
            assert y.batch_sizes.tolist() == [4, 3, 3, 2, 1, 1]
            y, n = pack.pad_packed_sequence(y, batch_first)
            assert n.tolist() == lengths
        else:
            y, final = layer(x, given)
        outputs = flat([y, final])
        weights = np.random.default_rng(1)
        sum((o * lib.tensor(weights.standard_normal(tuple(o.shape)))).sum() for o in outputs).backward()
        leaves = [x, *hx, *[p for _, p in sorted(layer.named_parameters())]]
        results.append([t.detach().numpy() for t in outputs] + [t.grad.numpy() for t in leaves])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CONFIGS)
@pytest.mark.parametrize("form", ["padded", "unbatched", "packed"])
def test_layers(name, options, form):
    compare(name, options, form)


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("shape", [(INPUT,), (BATCH, INPUT)])
def test_cells(name, shape):
    ours, theirs = make(name, {})
    rng = np.random.default_rng(0)
    values, states = rng.standard_normal(shape), rng.standard_normal((2, *shape[:-1], HIDDEN))
    results = []
    for lib, cell in ((fastdl, ours), (torch, theirs)):
        x, h, c = lib.tensor(values, requires_grad=True), lib.tensor(states[0]), lib.tensor(states[1])
        out = flat(cell(x, (h, c) if name == "LSTMCell" else h)) + flat(cell(x))
        sum((o * o).sum() for o in out).backward()
        grads = [x.grad, *[p.grad for _, p in sorted(cell.named_parameters())]]
        results.append([o.detach().numpy() for o in out] + [g.numpy() for g in grads])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_packing():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 2)) for n in (3, 1, 4)]
    for options in ({}, {"batch_first": True}, {"padding_value": 2.0, "padding_side": "left"}):
        a = fastdl.nn.utils.rnn.pad_sequence([fastdl.tensor(v) for v in arrays], **options)
        b = torch.nn.utils.rnn.pad_sequence([torch.tensor(v) for v in arrays], **options)
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    a = fastdl.nn.utils.rnn.pack_sequence([fastdl.tensor(v) for v in arrays], enforce_sorted=False)
    b = torch.nn.utils.rnn.pack_sequence([torch.tensor(v) for v in arrays], enforce_sorted=False)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())


@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_repr(name, options):
    ours, theirs = make(name, options)
    assert repr(ours) == repr(theirs)
