"""Optimizers on bfloat16 and float16 parameters: float32 masters in the state, their rounding as the parameter."""

import copy

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import nn, optim

BF16 = np.dtype(ml_dtypes.bfloat16)
OPTIMIZERS = [
    ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adagrad", {}), ("RMSprop", {"momentum": 0.9, "centered": True}), ("Adam", {"amsgrad": True}), ("AdamW", {}),
]  # fmt: skip


def parameters(rng, dtype):
    values = [rng.standard_normal(s).astype(dtype) for s in ((5, 3), (3,), ())]
    return values, [fastdl.tensor(v, requires_grad=True) for v in values]


def bits(t):
    return t.detach().numpy().tobytes()


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_masters_are_what_float32_would_be(name, options, dtype, rng):
    values, narrow = parameters(rng, dtype)
    wide = [fastdl.tensor(v.astype(np.float32), requires_grad=True) for v in values]
    a, b = getattr(optim, name)(narrow, **options), getattr(optim, name)(wide, **options)
    for step in range(5):
        for i, v in enumerate(values):
            g = rng.standard_normal(v.shape).astype(dtype)
            skip = step == 0 and i == 1
            narrow[i].grad = None if skip else fastdl.tensor(g)
            wide[i].grad = None if skip else fastdl.tensor(g.astype(np.float32))
        a.step()
        b.step()
    for p, q in zip(narrow, wide, strict=True):
        assert p.dtype == dtype
        assert bits(a.state[p]["master_param"]) == bits(q)
        assert bits(p) == bits(q.to(dtype))
        for key, value in b.state[q].items():
            assert bits(a.state[p][key]) == bits(value), key
            assert a.state[p][key].dtype == np.float32
        assert set(a.state[p]) == {*b.state[q], "master_param"}


def test_small_steps_add_up():
    """1,000 steps of 1e-4 from 1.0: lost one by one in bfloat16, whose neighbours are 2^-8 and 2^-7 away there."""
    for masters, expected in ((True, 0.9), (False, 1.0)):
        p = fastdl.ones(3, dtype="bfloat16", requires_grad=True)
        optimizer = optim.SGD([p], lr=1e-4, master_weights=masters)
        p.grad = fastdl.ones(3, dtype="bfloat16")
        for _ in range(1000):
            optimizer.step()
        np.testing.assert_allclose(p.detach().float().numpy(), expected, rtol=2**-8)
        assert ("master_param" in optimizer.state[p]) == masters


def test_without_masters_states_are_narrow(rng):
    _, (p, *_) = parameters(rng, BF16)
    optimizer = optim.Adam([p], master_weights=False)
    p.grad = fastdl.ones_like(p)
    optimizer.step()
    assert {k: v.dtype.name for k, v in optimizer.state[p].items()} == {
        "step": "float32", "exp_avg": "bfloat16", "exp_avg_sq": "bfloat16",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_state_dict_goes_on_bit_by_bit(name, options, rng, tmp_path):
    values, mine = parameters(rng, BF16)
    grads = [[rng.standard_normal(v.shape).astype(BF16) for v in values] for _ in range(6)]

    def steps(optimizer, ps, part):
        for gs in part:
            for p, g in zip(ps, gs, strict=True):
                p.grad = fastdl.tensor(g)
            optimizer.step()

    a = getattr(optim, name)(mine, **options)
    steps(a, mine, grads[:3])
    fastdl.save({"optimizer": a.state_dict(), "params": list(mine)}, tmp_path / "state")
    loaded = fastdl.load(tmp_path / "state")
    others = [t.requires_grad_() for t in loaded["params"]]
    b = getattr(optim, name)(others, **options)
    b.load_state_dict(loaded["optimizer"])
    steps(a, mine, grads[3:])
    steps(b, others, grads[3:])
    for p, q in zip(mine, others, strict=True):
        assert bits(p) == bits(q)
        assert {k: bits(v) for k, v in a.state[p].items()} == {k: bits(v) for k, v in b.state[q].items()}


def test_changes_by_others_are_taken_over(rng):
    p = fastdl.tensor(rng.standard_normal(1000).astype(BF16), requires_grad=True)
    optimizer = optim.SGD([p], lr=1e-3)
    p.grad = fastdl.tensor(rng.standard_normal(1000).astype(BF16))
    optimizer.step()
    master = optimizer.state[p]["master_param"]
    kept = master.numpy().copy()
    with fastdl.no_grad():
        p[:10] = 5.0
    p.grad = fastdl.zeros_like(p)
    optimizer.step()
    np.testing.assert_array_equal(master.numpy()[:10], 5.0)
    np.testing.assert_array_equal(
        master.numpy()[10:], kept[10:]
    )  # the digits below bfloat16's are still there


def test_a_model_loaded_after_its_optimizer(rng):
    layer = nn.Linear(4, 3).to("bfloat16")
    optimizer = optim.Adam(layer.parameters(), lr=0.1)
    layer(fastdl.ones(2, 4, dtype="bfloat16")).sum().backward()
    optimizer.step()
    state, saved = copy.deepcopy(layer.state_dict()), copy.deepcopy(optimizer.state_dict())
    other = nn.Linear(4, 3).to("bfloat16")
    second = optim.Adam(other.parameters(), lr=0.1)
    second.load_state_dict(saved)
    other.load_state_dict(state)
    for m, o in ((layer, optimizer), (other, second)):
        o.zero_grad()
        m(fastdl.ones(2, 4, dtype="bfloat16")).sum().backward()
        o.step()
    assert bits(layer.weight) == bits(other.weight)
    assert bits(optimizer.state[layer.weight]["master_param"]) == bits(
        second.state[other.weight]["master_param"]
    )


def test_changing_the_dtype_on_the_way(rng):
    layer = nn.Linear(4, 3)
    optimizer = optim.Adam(layer.parameters())

    def step(dtype):
        layer.to(dtype)
        optimizer.zero_grad()
        layer(fastdl.ones(2, 4, dtype=dtype)).sum().backward()
        optimizer.step()

    step("float32")
    step("bfloat16")
    assert optimizer.state[layer.weight]["master_param"].dtype == np.float32
    step("float32")
    assert "master_param" not in optimizer.state[layer.weight]
    assert layer.weight.dtype == np.float32 and np.isfinite(layer.weight.detach().numpy()).all()


def test_torch_state_in_bfloat16_becomes_float32(rng):
    _, (p, *_) = parameters(rng, BF16)
    optimizer = optim.Adam([p])
    state = {"step": np.float32(1), "exp_avg": np.ones((5, 3), BF16), "exp_avg_sq": np.ones((5, 3), BF16)}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})
    p.grad = fastdl.ones_like(p)
    optimizer.step()
    assert {k: v.dtype.name for k, v in optimizer.state[p].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq", "master_param"), "float32"
    )


def test_clip_grad_norm(rng):
    gs = [rng.standard_normal(s).astype(BF16) for s in ((30, 4), (5,))]
    ps = [fastdl.tensor(g, requires_grad=True) for g in gs]
    for p, g in zip(ps, gs, strict=True):
        p.grad = fastdl.tensor(g)
    total = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gs))
    norm = nn.utils.clip_grad_norm_(ps, 0.5)
    assert float(norm) == pytest.approx(total, rel=2**-8)
    for p, g in zip(ps, gs, strict=True):
        np.testing.assert_allclose(p.grad.float().numpy(), g.astype(np.float64) * 0.5 / total, rtol=2**-7)


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=str)
def test_layouts_and_lengths(dtype, rng):
    """Gradients in another layout than their parameter, and more elements than one piece or one task takes."""
    for shape in ((40, 60), (3, 50_001), (0, 4)):
        value, g = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape[::-1]).astype(dtype).T
        narrow = fastdl.tensor(value, requires_grad=True)
        wide = fastdl.tensor(value.astype(np.float32), requires_grad=True)
        a, b = optim.Adam([narrow], lr=0.1), optim.Adam([wide], lr=0.1)
        for _ in range(2):
            narrow.grad, wide.grad = fastdl.from_numpy(g), fastdl.from_numpy(g.astype(np.float32))
            a.step()
            b.step()
        assert bits(narrow) == bits(wide.to(dtype))
        assert bits(a.state[narrow]["master_param"]) == bits(wide)
