"""Devices: the strictness of simulated arrays, moving, computing elsewhere, checkpoints, messages."""

import copy
import functools
import pickle
import sys

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import autograd, backend, io, nn, ops, optim
from fastdl.data import DataLoader, TensorDataset
from fastdl.device import backend_of
from fastdl.simulated import SimArray, from_numpy, to_numpy

SIM = "cuda-sim"
registry = sys.modules["fastdl.device"]  # the attribute of that name is the class


def _available():
    try:
        backend_of(SIM)
    except RuntimeError:
        return False
    return True


class FakeKernels:
    """Kernels that every build has: the CPU's, on arrays that pass for a device's."""

    def __getattr__(self, name):
        return getattr(backend.kernels(None), name)

    def check(self):
        pass


@pytest.fixture
def sim(monkeypatch):
    """The device "cuda-sim" with the kernels of the CPU: what is tested here is all that happens around them.
    NumPy's conversions refuse simulated arrays, as CuPy's do."""
    from fastdl import simulated

    memory = simulated.empty, from_numpy, to_numpy
    made = backend.Backend(
        SIM, SimArray, FakeKernels(), *memory, lambda _: None, simulated.empty((), np.float32)
    )
    monkeypatch.setitem(registry._loaded, SIM, made)
    monkeypatch.setitem(backend._others, SimArray, made)
    monkeypatch.setitem(registry._MODULES, SIM, "fastdl.simulated")
    for name in ("array", "asarray", "ascontiguousarray"):
        monkeypatch.setattr(np, name, _strict(getattr(np, name)))
    return SIM


def _strict(function):
    @functools.wraps(function)
    def convert(x, *args, like=None, **kwargs):
        if like is not None:
            return function(x, *args, like=like, **kwargs)
        if isinstance(x, SimArray) or (
            isinstance(x, list | tuple) and any(isinstance(i, SimArray) for i in x)
        ):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")
        return function(x, *args, **kwargs)

    return convert


# ------------------------------------------------------------------------------------------------ simulated arrays


def test_simulated_arrays_do_not_mix():
    a, x = from_numpy(np.arange(6.0).reshape(2, 3)), np.ones((2, 3))
    for mixed in (lambda: a + x, lambda: x + a, lambda: np.add(a, a, out=x), lambda: np.where(a > 1, a, x),
                  lambda: np.concatenate([a, x]), lambda: np.stack([x, a]), lambda: np.matmul(x, a.T),
                  lambda: a.__setitem__(0, x[0]), lambda: np.copyto(a, x), lambda: a.dot(x.T)):  # fmt: skip
        with pytest.raises(TypeError, match="CPU"):
            mixed()
    with pytest.raises(TypeError, match="by itself"):
        a.__array__()
    for allowed in (a + 1, a * np.float32(2), a - np.array(1.0), np.where(a > 1, a, 0.0), np.sum(a), a[0, 0], a.max(),
                    a.argmax(), a.sum(0), a[a > 2], a.take([0, 1], 1), np.zeros(3, like=a), np.arange(2, like=a),
                    np.asarray(x, like=a), np.full_like(a, 2), a.copy(), a.T, a[..., None], a[np.array([1, 0])],
                    *a.nonzero(), np.argsort(a), a.mean(1), a.all(), np.count_nonzero(a, 0), np.unique(a)):  # fmt: skip
        assert type(allowed) is SimArray
    assert (
        a.sum().ndim == 0
        and float(a.sum()) == 15.0
        and a[1, 2].item() == 5.0
        and (a + a).tolist()[0] == [0, 2, 4]
    )
    a += 1
    a[0] = 7.0
    assert type(a) is SimArray and to_numpy(a).tolist() == [[7, 7, 7], [4, 5, 6]]


def test_simulated_memory_is_separate():
    x = np.arange(3.0)
    a = from_numpy(x)
    b = np.asarray(x, like=a)
    x[0] = 9
    assert a.tolist() == b.tolist() == [0, 1, 2]
    back = to_numpy(a)
    a[0] = 5
    assert type(back) is np.ndarray and back[0] == 0
    assert np.asarray(a, like=a) is a and type(pickle.loads(pickle.dumps(a))) is SimArray


# ------------------------------------------------------------------------------------------------------ moving


def test_tensor_to(sim):
    t = fastdl.tensor([[1.0, 2.0]], requires_grad=True)
    m = t.to(sim)
    assert (str(t.device), str(m.device), m.is_cuda) == ("cpu", sim, False)
    assert (
        m.to(sim) is m
        and m.to(sim, copy=True) is not m
        and t.to(m).device == m.device
        and m.to(t).device == t.device
    )
    assert (
        m.to(sim, fastdl.float64).dtype == fastdl.float64 and m.tolist() == [[1, 2]] and m.sum().item() == 3
    )
    (m * m).sum().backward()
    assert t.grad.device == "cpu" and t.grad.tolist() == [[2, 4]]
    with pytest.raises(TypeError, match=r"cuda-sim.*cpu\(\)"):
        m.detach().numpy()
    assert type(m.detach().numpy(force=True)) is np.ndarray and type(m.detach().cpu().numpy()) is np.ndarray
    assert repr(m.detach()) == "tensor([[1., 2.]], device='cuda-sim')"
    assert copy.deepcopy(m.detach()).device == sim and pickle.loads(pickle.dumps(m.detach())).device == sim
    assert type(m.data_ptr()) is int and len(m) == 1 and bool((m > 0).all())
    with pytest.raises(TypeError):
        np.asarray(m.detach())


def test_channels_last_stays_so(sim):
    x = fastdl.from_numpy(np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2))
    assert x.to(sim).stride() == x.stride() == x.to(sim).cpu().stride()


def test_creation(sim):
    base = fastdl.ones(2, 3, device=sim)
    made = [
        fastdl.zeros(2, device=sim), fastdl.ones((2,), device=sim), fastdl.empty(2, device=sim),
        fastdl.full((2,), 3.0, device=sim), fastdl.tensor([1.0, 2.0], device=sim), fastdl.arange(2, device=sim),
        fastdl.linspace(0, 1, 3, device=sim), fastdl.eye(2, device=sim), fastdl.rand(2, device=sim),
        fastdl.randn(2, device=sim), fastdl.randint(5, (2,), device=sim), fastdl.randperm(4, device=sim),
        fastdl.zeros_like(base), fastdl.ones_like(base), fastdl.empty_like(base), fastdl.full_like(base, 2),
        fastdl.rand_like(base), fastdl.randn_like(base), fastdl.randint_like(base, 3), fastdl.bernoulli(base * 0.5),
        base.new_zeros(2), base.new_ones(2), base.new_full((2,), 1), base.new_tensor([1]), base.new_empty(2),
        fastdl.Tensor([1.0], device=sim), fastdl.as_tensor(np.ones(2), device=sim), fastdl.multinomial(base, 2),
        fastdl.normal(base, 1.0), base.clone().normal_(), base.clone().uniform_(), base.clone().random_(0, 5),
        base.clone().fill_(3), base.clone().copy_(fastdl.zeros(2, 3)),
    ]  # fmt: skip
    assert [str(t.device) for t in made] == [sim] * len(made)
    assert fastdl.zeros_like(base, device="cpu").device == "cpu"
    fastdl.manual_seed(1)
    a = fastdl.randn(3)
    fastdl.manual_seed(1)
    assert fastdl.equal(a, fastdl.randn(3, device=sim).cpu())


# Differentiable functions of one (3, 4) tensor, by name where they are methods.
FUNCTIONS = {
    "index": lambda x: x[1:, [0, 2]] + x[x > 0].sum() + x[fastdl.tensor([0, 1]).to(x.device)][:, :2],
    "set": lambda x: _set(x.clone()),
    "gather": lambda x: x.gather(1, fastdl.zeros(3, 2, dtype=fastdl.int64, device=x.device)),
    "scatter": lambda x: x.scatter_add(0, fastdl.zeros(1, 4, dtype=fastdl.int64, device=x.device), x[:1] * 2),
    "where": lambda x: fastdl.where(x > 0, x, 0.5) + fastdl.where(x > 0, 1.0, x * 2) + x.masked_fill(x < 0, 3.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=x.detach() * 0) + x.maximum(x * 0.5),
    "reduce": lambda x: x.sum() + x.mean(0).sum() + x.prod(1).sum() + x.amax(0).sum() + x.max(1).values.sum()
    + x.var() + x.std(0).sum() + x.norm() + x.logsumexp(1).sum() + x.median() + x.median(0).values.sum(),
    "sort": lambda x: x.sort(1).values + x.topk(4, 1).values + x.argsort(1) + x.cumsum(0) + x.cummax(1).values
    + x.cumprod(0) + x.flip(0),
    "shape": lambda x: fastdl.cat([x.reshape(4, 3).T, fastdl.stack([x, x], 0).sum(0), x.expand(3, 4)], 0)
    .roll(1, 0).repeat(2, 1).unfold(1, 2, 2).sum(-1),
    "diagonal": lambda x: x.diagonal().sum() + x.tril() + x.triu() + x[0].diag().sum(),
    "pad": lambda x: F.pad(x, (1, 2)).sum() + F.pad(x[None], (1, 1), mode="reflect").sum()
    + F.interpolate(x[None], 7, mode="linear").sum() + F.interpolate(x[None], 7).sum(),
    "repeat": lambda x: x.repeat_interleave(2, 0) * x.repeat_interleave(fastdl.tensor([2, 2, 2]), 0),
    "matmul": lambda x: x @ x.T + F.linear(x, x, None).relu() + fastdl.einsum("ij,kj->ik", x, x),
    "loss": lambda x: F.cross_entropy(x, fastdl.tensor([0, 1, 2]).to(x.device)) + F.mse_loss(x, x.detach() * 0.5)
    + F.multi_margin_loss(x, fastdl.tensor([0, 1, 2]).to(x.device)) + F.huber_loss(x, x.detach() + 2)
    + F.ctc_loss(x[:, None].log_softmax(-1), fastdl.tensor([[1]]), [3], [1]),
    "norm": lambda x: F.layer_norm(x, (4,)) + F.softmax(x, 1) + F.normalize(x) + F.gelu(x) + x.tanh(),
    "images": lambda x: F.max_pool2d(F.conv2d(x[None, None], x[None, None, :2, :2], padding=1), 2).sum()
    + F.avg_pool2d(x[None], 2).sum() + F.batch_norm(x, None, None, training=True).sum(),
    "scalars": lambda x: 1 - x / 2 + x**2 + 2**x + (x > 0) + x.sign() + x.round() + x.float().exp(),
    "heads": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
    "embedding": lambda x: F.embedding(fastdl.tensor([[0, 2], [2, 1]]).to(x.device), x),
    "onehot": lambda x: x * F.one_hot(fastdl.tensor([0, 1, 3]).to(x.device), 4),
}  # fmt: skip


def _set(x):
    x[0] = 1.0
    x[1, :2] = fastdl.tensor([5.0, 6.0])
    x[:, 3] *= 2
    return x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_stay_on_the_device(sim, rng, name):
    """The same values and gradients as on the CPU, and no array that is forgotten there."""
    data = rng.standard_normal((3, 4)).astype(np.float32)
    results = []
    for device in ("cpu", sim):
        x = fastdl.tensor(data, device=device, requires_grad=True)
        y = FUNCTIONS[name](x)
        assert str(y.device) == device
        (y * y).sum().backward()
        assert str(x.grad.device) == device
        results.append((y.detach().cpu().numpy(), x.grad.cpu().numpy()))
    for there, here in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)


def test_dropout_masks_are_the_same(sim):
    x = fastdl.ones(4, 5, 6)
    for function in (F.dropout, F.dropout1d, F.alpha_dropout):
        drawn = []
        for device in ("cpu", sim):
            fastdl.manual_seed(3)
            drawn.append(function(x.to(device), 0.5, True).cpu())
        assert fastdl.equal(*drawn)


def test_custom_functions_and_grad(sim):
    class Split(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b * 3

    x = fastdl.ones(3, device=sim, requires_grad=True)
    y, _ = Split.apply(x)
    (g,) = autograd.grad(y.sum(), x)
    assert g.tolist() == [2, 2, 2] and g.device == sim
    x.max(0).values.backward()
    assert x.grad.device == sim
    with pytest.raises(RuntimeError, match="modified"):
        z = x * x
        w = z * z
        z += 1
        w.sum().backward()


# ---------------------------------------------------------------------------------------------- modules, training


def _mlp():
    fastdl.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, 3))


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, 0.01),
    "adagrad": lambda p: optim.Adagrad(p, 0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01),
}


def _train(model, optimizer, device, steps, start=0):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.integers(0, 3, 64)
    fastdl.manual_seed(start)
    for i in range(steps):
        a = fastdl.tensor(x[i * 8 : i * 8 + 8], device=device)
        b = fastdl.tensor(y[i * 8 : i * 8 + 8], device=device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(a), b)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def _close(a, b):
    for name, value in a.state_dict().items():
        np.testing.assert_allclose(
            b.state_dict()[name].cpu().numpy(), value.cpu().numpy(), 1e-5, 1e-6, err_msg=name
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training(sim, name):
    models = [_mlp(), _mlp().to(sim)]
    assert {str(t.device) for t in (*models[1].parameters(), *models[1].buffers())} == {sim}
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in models]
    losses = [_train(m, o, d, 4) for m, o, d in zip(models, optimizers, ("cpu", sim), strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    _close(*models)
    states = [v for s in optimizers[1].state.values() for v in s.values() if isinstance(v, fastdl.Tensor)]
    assert {str(v.device) for v in states} == {sim}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_its_parameters(sim, name):
    model, other = _mlp(), _mlp()
    optimizer, reference = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](other.parameters())
    for device in ("cpu", sim, "cpu"):
        model.to(device)
        _train(model, optimizer, device, 2)
        _train(other, reference, "cpu", 2)
    _close(other, model)


def test_fit_evaluate_predict(sim):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((32, 8)).astype(np.float32), rng.integers(0, 3, 32)
    logs = []
    for device in ("cpu", sim):
        model = _mlp().to(device)
        history = fastdl.fit(
            model, data, "cross_entropy", "adam", 2, data, ["accuracy"], seed=0, verbose=False
        )
        logs.append((history["loss"], history["val_accuracy"], fastdl.predict(model, data[0])))
    assert logs[0][0] == pytest.approx(logs[1][0], rel=1e-4) and logs[0][1] == logs[1][1]
    assert type(logs[1][2]) is np.ndarray
    fastdl.summary(model, (8,))


def test_other_modules(sim, rng):
    for layer, shape in (
        (lambda d: nn.Conv2d(2, 3, 3, device=d), (1, 2, 5, 5)),
        (lambda d: nn.LSTM(4, 5, device=d), (3, 2, 4)),
        (lambda d: nn.TransformerEncoderLayer(8, 2, 16, 0.0, device=d), (5, 2, 8)),
        (lambda d: nn.PositionalEncoding(8, device=d), (2, 5, 8)),
        (lambda d: nn.BatchNorm2d(2, device=d), (2, 2, 3, 3)),
        (lambda d: nn.MultiheadAttention(8, 2, device=d), (5, 2, 8)),
    ):
        x, outs = rng.standard_normal(shape).astype(np.float32), []
        for device in ("cpu", sim):
            fastdl.manual_seed(0)
            module, t = layer(device), fastdl.tensor(x, device=device)
            out = module(t, t, t) if isinstance(module, nn.MultiheadAttention) else module(t)
            out = out[0] if isinstance(out, tuple) else out
            assert str(out.device) == device
            outs.append(out.detach().cpu().numpy())
        np.testing.assert_allclose(outs[1], outs[0], 1e-5, 1e-6)


def test_packed_sequences(sim):
    packs = []
    for device in ("cpu", sim):
        x = fastdl.arange(12, dtype=fastdl.float32, device=device).reshape(3, 4, 1)
        packed = nn.utils.rnn.pack_padded_sequence(x, [2, 4, 1], batch_first=True, enforce_sorted=False)
        padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        assert packed.data.device == padded.device == x.device
        packs.append((packed.data.tolist(), padded.tolist(), lengths.tolist()))
    assert packs[0] == packs[1]


# ------------------------------------------------------------------------------------------ data, files, messages


def test_data(sim):
    x = fastdl.arange(6, device=sim).reshape(3, 2)
    loader = DataLoader(TensorDataset(x, np.arange(3)), batch_size=2, pin_memory=True)
    first, second = next(iter(loader))
    assert (str(first.device), str(second.device)) == (sim, "cpu") and first.tolist() == [[0, 1], [2, 3]]
    assert (
        DataLoader([x[0], x[1]], 2, pin_memory=True).pin_memory
        and next(iter(DataLoader([x[0], x[1]], 2))).device == sim
    )


def test_checkpoints_move(sim, tmp_path):
    paths = []
    for device in ("cpu", sim):
        model = _mlp().to(device)
        optimizer = optim.Adam(model.parameters(), 0.01)
        _train(model, optimizer, device, 2)
        paths.append(tmp_path / device)
        io.save_checkpoint(paths[-1], model, optimizer, epoch=1)
        for other in ("cpu", sim):
            again = _mlp().to(other)
            resumed = optim.Adam(again.parameters(), 0.01)
            io.load_checkpoint(paths[-1], again, resumed)
            _close(model, again)
            assert {str(v.device) for s in resumed.state.values() for v in s.values()} == {other}
            model_copy = copy.deepcopy(model)
            continued = optim.Adam(model_copy.parameters(), 0.01)
            continued.load_state_dict(optimizer.state_dict())
            assert _train(again, resumed, other, 2, 7) == pytest.approx(
                _train(model_copy, continued, device, 2, 7), rel=1e-4
            )
            _close(model_copy, again)
    path = tmp_path / "weights"
    fastdl.save(model.state_dict(), path)
    assert {str(t.device) for t in fastdl.load(path).values()} == {"cpu"}
    assert {str(t.device) for t in fastdl.load(path, map_location=sim).values()} == {sim}


def test_autocast(sim):
    x, w = fastdl.ones(2, 3, device=sim), fastdl.ones(4, 3, device=sim, requires_grad=True)
    with fastdl.autocast(sim, "bfloat16"):
        y = F.linear(x, w)
    y.sum().backward()
    assert y.dtype.name == "bfloat16" and y.device == sim and w.grad.device == sim


def test_a_mix_of_devices_is_an_error(sim):
    x, y = fastdl.ones(3, device=sim), fastdl.ones(3)
    with pytest.raises(TypeError, match="CPU"):
        x + y
    assert (x + fastdl.tensor(1.0)).tolist() == [2, 2, 2]  # as in torch, a 0-d tensor may be anywhere
    p, q = fastdl.ones(3, device=sim, requires_grad=True), fastdl.ones(3, requires_grad=True)
    p.grad, q.grad = x, y
    with pytest.raises(RuntimeError, match="different devices"):
        optim.SGD([p, q], 0.1).step()
    with pytest.raises(RuntimeError, match="pack_b"):
        if hasattr(backend.kernels(x._data), "matmul_pack_b"):
            raise RuntimeError("pack_b: these kernels have it")
        ops.pack_b(fastdl.ones(2, 2, device=sim)._data)


def test_what_is_missing(monkeypatch):
    from fastdl import cuda

    if not cuda.is_available():
        for call in (cuda.current_stream, cuda.get_device_name, lambda: cuda.graph(lambda: None, "cuda")):
            with pytest.raises(RuntimeError, match="device 'cuda' is not available: "):
                call()
        x = fastdl.ones(2)
        assert x.pin_memory() is x
        cuda.synchronize()
        cuda.empty_cache()

    class Kernels:
        def __init__(self, count):
            self.count = count

        def device_count(self):
            return self.count

    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(cuda, "_kernels", lambda: Kernels(0))
    with pytest.raises(RuntimeError, match="no GPU"):
        registry.backend_of("cuda")
    monkeypatch.setattr(cuda, "_kernels", lambda: Kernels(1))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install 'fastdl\[cuda13\]'"):
        registry.backend_of("cuda")
    with pytest.raises(RuntimeError, match="'xpu' is not available"):
        fastdl.ones(1, device="xpu")


@pytest.mark.skipif(not _available(), reason="built without the host executor")
def test_the_executor():
    """The real kernels of the device, on a Tensor."""
    x = fastdl.randn(3, 5)
    y = F.softmax(x.to(SIM), 1)
    np.testing.assert_allclose(y.cpu().numpy(), F.softmax(x, 1).numpy(), 1e-6, 1e-7)
    fastdl.cuda.synchronize()


@pytest.mark.skipif(not _available(), reason="built without the host executor")
def test_training_on_the_executor():
    """Steps of an MLP on the device's own kernels."""
    needed = ("linear", "linear_backward", "cross_entropy", "ParameterGroup", "norm", "scale")
    missing = [name for name in needed if not hasattr(backend_of(SIM).kernels, name)]
    if missing:
        pytest.skip(f"no CUDA kernel for {', '.join(missing)} yet")
    models = [nn.Sequential(nn.Linear(8, 16, activation="relu"), nn.Linear(16, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(SIM)
    for model, where in zip(models, ("cpu", SIM), strict=True):
        _train(model, optim.Adam(model.parameters(), 0.01), where, 3)
    fastdl.cuda.synchronize()
    _close(*models)
