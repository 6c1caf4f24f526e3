"""RNN, GRU and LSTM: gradients, layers and packed sequences."""

import numpy as np
import pytest
from gradcheck import gradcheck
from test_rnn import KINDS, make, make_states
from tolerance import assert_same_bits

import fastdl
from fastdl import nn
from fastdl.functional import rnn as F
from fastdl.nn.utils import rnn as utils_rnn


def array(tensor):
    return tensor.detach().numpy()


def test_dropout_layers(rng):
    layer = nn.GRU(3, 8, 2, dropout=0.5)
    x = fastdl.tensor(rng.standard_normal((4, 2, 3)), dtype=fastdl.float32)
    fastdl.manual_seed(1)
    first, second = array(layer(x)[0]), array(layer(x)[0])
    fastdl.manual_seed(1)
    assert_same_bits(array(layer(x)[0]), first)
    assert not np.array_equal(first, second)
    layer.eval()
    assert_same_bits(array(layer(x)[0]), array(layer(x)[0]))


# ---- autograd ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [2, 3, 1]])
def test_gradients(rng, kind, lengths):
    _, params = make(rng, kind, 2, 3, 2, True)
    if kind == "rnn_relu":  # away from the kink
        params = [p + 0.3 for p in params]
    x = rng.standard_normal((3, 3, 2))
    states = make_states(rng, kind, 4, 3, 3)
    k = len(states)

    def function(x, *rest):
        return F.run(kind, x, rest[:k], rest[k:], True, 2, 0.0, True, True, False, lengths)

    gradcheck(function, x, *states, *params)


def test_gradients_of_projections(rng):
    shapes = [(16, 2), (16, 3), (16,), (16,), (3, 4)]
    params = [rng.uniform(-0.7, 0.7, s) for s in shapes * 2]
    h0, c0 = rng.standard_normal((2, 2, 3)), rng.standard_normal((2, 2, 4))

    def function(x, h0, c0, *params):
        return F.run("lstm", x, (h0, c0), params, True, 1, 0.0, True, True, False, [3, 2])

    gradcheck(function, rng.standard_normal((3, 2, 2)), h0, c0, *params)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_cells(rng, kind):
    _, params = make(rng, kind, 2, 3)
    states = tuple(s[0] for s in make_states(rng, kind, 1, 2, 3))
    k = len(states)
    gradcheck(
        lambda x, *rest: F.run_cell(kind, x, rest[:k], rest[k:]),
        rng.standard_normal((2, 2)),
        *states,
        *params,
    )


def test_only_wanted_gradients(rng):
    layer = nn.LSTM(3, 4)
    layer.weight_hh_l0.requires_grad_(False)
    x = fastdl.tensor(rng.standard_normal((2, 2, 3)), dtype=fastdl.float32)
    layer(x)[0].sum().backward()
    assert layer.weight_hh_l0.grad is None and x.grad is None and layer.weight_ih_l0.grad is not None
    with fastdl.no_grad():
        assert not layer(x)[0].requires_grad


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: nn.LSTM(3, 0), lambda: nn.LSTM(3, 4, 0), lambda: nn.LSTM(-1, 4), lambda: nn.GRU(3, 4, dropout=2),
        lambda: nn.LSTM(3, 4, proj_size=4), lambda: nn.RNN(3, 4, nonlinearity="gelu"),
        lambda: nn.LSTM(3, 4, proj_size=-1), lambda: nn.RNNCell(3, 0),
    ],
)  # fmt: skip
def test_bad_layers(make_layer):
    with pytest.raises(ValueError):
        make_layer()


def test_dropout_without_a_second_layer_warns():
    with pytest.warns(UserWarning, match="num_layers=1"):
        nn.GRU(3, 4, dropout=0.5)


# ---- layers ----


def test_parameters_are_torchs():
    layer = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    names = [
        f"{p}_l{n}{s}"
        for n in range(2)
        for s in ("", "_reverse")
        for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert list(shapes) == names
    assert shapes["weight_ih_l0"] == (20, 3) and shapes["weight_ih_l1_reverse"] == (20, 4)
    assert (
        shapes["weight_hh_l1"] == (20, 2)
        and shapes["weight_hr_l0"] == (2, 5)
        and shapes["bias_hh_l0"] == (20,)
    )
    bound = 1 / np.sqrt(5)
    for p in layer.parameters():
        assert 0.5 * bound < np.abs(array(p)).max() <= bound
    assert list(dict(nn.GRUCell(3, 4).named_parameters())) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert list(dict(nn.RNNCell(3, 4, bias=False).named_parameters())) == ["weight_ih", "weight_hh"]
    assert repr(nn.LSTM(3, 5, 2, batch_first=True)) == "LSTM(3, 5, num_layers=2, batch_first=True)"


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_unbatched_input(rng, layer):
    for batch_first in (False, True):
        net = layer(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
        x = fastdl.tensor(rng.standard_normal((5, 3)), dtype=fastdl.float32)
        batched = x.unsqueeze(0 if batch_first else 1)
        y, state = net(x)
        y2, state2 = net(batched)
        assert_same_bits(array(y), array(y2.squeeze(0 if batch_first else 1)))
        states = state if layer is nn.LSTM else (state,)
        states2 = state2 if layer is nn.LSTM else (state2,)
        for a, b in zip(states, states2, strict=True):
            assert a.shape == (4, 4)
            assert_same_bits(array(a), array(b.squeeze(1)))
        y3, _ = net(x, state)
        assert y3.shape == (5, 8)


def test_cell_layers_are_steps_of_the_sequence_layers(rng):
    for layer, cell in (
        (nn.RNN(3, 4), nn.RNNCell(3, 4)),
        (nn.GRU(3, 4), nn.GRUCell(3, 4)),
        (nn.LSTM(3, 4), nn.LSTMCell(3, 4)),
    ):
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        x = fastdl.tensor(rng.standard_normal((3, 2, 3)), dtype=fastdl.float32)
        y, _ = layer(x)
        state = None
        for t in range(3):
            state = cell(x[t], state)
            h = state[0] if isinstance(state, tuple) else state
            assert np.allclose(array(h), array(y[t]), rtol=0, atol=1e-6)
        h = cell(x[0, 0])
        assert (h[0] if isinstance(h, tuple) else h).shape == (4,)


def test_lengths_keyword_and_packed_sequences_agree(rng):
    for layer in (nn.GRU(3, 4, 2, bidirectional=True), nn.LSTM(3, 4, 2, bidirectional=True)):
        lengths = [2, 5, 1, 5]
        values = rng.standard_normal((5, 4, 3)).astype(np.float32)
        count = 2 if isinstance(layer, nn.LSTM) else 1
        states = [rng.standard_normal((4, 4, 4)).astype(np.float32) for _ in range(count)]
        results = []
        for packed in (False, True):
            x = fastdl.tensor(values, requires_grad=True)
            hx = [fastdl.tensor(s, requires_grad=True) for s in states]
            layer.zero_grad()
            given = hx if count == 2 else hx[0]
            if packed:
                y, final = layer(utils_rnn.pack_padded_sequence(x, lengths, enforce_sorted=False), given)
                y, n = utils_rnn.pad_packed_sequence(y)
                assert n.tolist() == lengths
            else:
                y, final = layer(x, given, lengths=lengths)
            final = final if count == 2 else (final,)
            ((y * y).sum() + sum((s * s).sum() for s in final)).backward()
            arrays = [y, *final, x.grad, *[h.grad for h in hx], *[p.grad for p in layer.parameters()]]
            results.append([array(a) for a in arrays])
        assert (results[0][0][2:, 0] == 0).all()
        for a, b in zip(*results, strict=True):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_packing_helpers(rng):
    sequences = [fastdl.tensor(rng.standard_normal((n, 2))) for n in (2, 4, 1)]
    padded = utils_rnn.pad_sequence(sequences, padding_value=-1)
    assert padded.shape == (4, 3, 2) and (array(padded[2:, 0]) == -1).all()
    left = utils_rnn.pad_sequence(sequences, batch_first=True, padding_side="left")
    assert (array(left[0, :2]) == 0).all()
    packed = utils_rnn.pack_sequence(sequences, enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [3, 2, 1, 1] and packed.sorted_indices.tolist() == [1, 0, 2]
    for a, b in zip(utils_rnn.unpack_sequence(packed), sequences, strict=True):
        assert_same_bits(array(a), array(b))
    back, lengths = utils_rnn.pad_packed_sequence(packed, batch_first=True, total_length=6)
    assert back.shape == (3, 6, 2) and lengths.tolist() == [2, 4, 1]
    gradcheck(
        lambda x: utils_rnn.pack_padded_sequence(x, [3, 1, 2], True, False).data,
        rng.standard_normal((3, 3, 2)),
    )
    gradcheck(
        lambda a, b: utils_rnn.pad_packed_sequence(utils_rnn.pack_sequence([a, b]))[0],
        rng.standard_normal((3, 2)), rng.standard_normal((2, 2)),
    )  # fmt: skip
    x = fastdl.zeros(3, 2, 1)
    for error, call in [
        (ValueError, lambda: utils_rnn.pack_padded_sequence(x, [1, 2])),
        (ValueError, lambda: utils_rnn.pack_padded_sequence(x, [4, 2])),
        (ValueError, lambda: utils_rnn.pack_padded_sequence(x, [2, 0])),
        (ValueError, lambda: utils_rnn.pack_padded_sequence(x, [2])),
        (TypeError, lambda: utils_rnn.pack_padded_sequence(x, [2.0, 1.0])),
        (ValueError, lambda: utils_rnn.pad_packed_sequence(packed, total_length=2)),
        (ValueError, lambda: utils_rnn.pad_sequence([])),
        (ValueError, lambda: utils_rnn.pad_sequence([fastdl.zeros(2, 1), fastdl.zeros(2, 2)])),
    ]:
        with pytest.raises(error):
            call()
