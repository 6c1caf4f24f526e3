"""Optimizers, schedules and gradient clipping: against the references, and what they do with odd parameters."""

import math

import numpy as np
import pytest
from references import optim as ref
from tolerance import assert_same_bits

import fastdl
from fastdl import _core
from fastdl.nn.utils import clip_grad_norm_, clip_grad_value_
from fastdl.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

CASES = [
    (SGD, ref.sgd, {"lr": 0.1}), (SGD, ref.sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    (SGD, ref.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}), (SGD, ref.sgd, {"lr": 0.1, "maximize": True}),
    (Adagrad, ref.adagrad, {}),
    (Adagrad, ref.adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    (RMSprop, ref.rmsprop, {}), (RMSprop, ref.rmsprop, {"momentum": 0.9, "weight_decay": 0.1}),
    (RMSprop, ref.rmsprop, {"centered": True}), (RMSprop, ref.rmsprop, {"centered": True, "momentum": 0.5}),
    (Adam, ref.adam, {"lr": 0.01}), (Adam, ref.adam, {"weight_decay": 0.1, "betas": (0.5, 0.7), "maximize": True}),
    (Adam, ref.adam, {"amsgrad": True, "eps": 1e-3}), (AdamW, ref.adamw, {"lr": 0.01}),
    (AdamW, ref.adamw, {"amsgrad": True, "weight_decay": 0.3}),
]  # fmt: skip
IDS = [f"{c[0].__name__}-{i}" for i, c in enumerate(CASES)]
SHAPES = [(), (1,), (17,), (3, 5), (0, 4), (33, 40), (2, 3, 4, 5)]


def parameters(rng, dtype):
    return [fastdl.tensor(np.asarray(rng.standard_normal(s), dtype), requires_grad=True) for s in SHAPES]


def set_gradients(params, arrays):
    for p, a in zip(params, arrays, strict=True):
        p.grad = None if a is None else fastdl.from_numpy(a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("cls", "reference", "options"), CASES, ids=IDS)
def test_against_reference(cls, reference, options, dtype, isa, rng):
    params = parameters(rng, dtype)
    expected = [p.detach().numpy().astype(np.float64) for p in params]
    states = [{} for _ in params]
    optimizer = cls(params, **options)
    for step in range(4):
        grads = [np.asarray(rng.standard_normal(s), dtype) for s in SHAPES]
        grads[step] = None  # each parameter is left out once, the first one from the start
        set_gradients(params, grads)
        optimizer.step()
        for i, g in enumerate(grads):
            if g is not None:
                expected[i], states[i] = reference(expected[i], g, states[i], **options)
    u = np.finfo(dtype).eps
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=40 * u, atol=40 * u)
    for p, s in zip(params, states, strict=True):
        for key, value in s.items():
            got = optimizer.state[p][key]
            # Where terms cancelled, what is left has their error: they are as large as the largest that is left.
            top = max(1.0, float(np.abs(value).max(initial=0)))
            np.testing.assert_allclose(got.numpy(), value, rtol=60 * u, atol=20 * u * top)


@pytest.mark.parametrize(("cls", "reference", "options"), CASES, ids=IDS)
def test_layouts(cls, reference, options, rng):
    """Gradients in another layout than the parameter, a parameter that is a strided view of something larger."""
    big = np.zeros((8, 10))
    arrays = [np.ascontiguousarray(rng.standard_normal((5, 4)).T), rng.standard_normal((4, 5)), big[1:5, ::2]]
    arrays[2][...] = rng.standard_normal((4, 5))
    start = [a.copy() for a in arrays]
    params = [fastdl.from_numpy(a).requires_grad_() for a in arrays]
    optimizer = cls(params, **options)
    grads = [rng.standard_normal((4, 5)), rng.standard_normal((5, 4)).T, rng.standard_normal((4, 5))]
    for _ in range(2):
        set_gradients(params, grads)
        optimizer.step()
    for p, g, e in zip(params, grads, start, strict=True):
        state = {}
        for _ in range(2):
            e, state = reference(e, g, state, **options)
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=1e-12)
    assert (big[0] == 0).all() and (big[:, 1::2] == 0).all()


@pytest.mark.parametrize("cls", [SGD, Adam, RMSprop, Adagrad])
def test_threads_give_the_same_bits(cls, threads, rng):
    values = [rng.standard_normal(s).astype(np.float32) for s in ((300, 400), (7,), (50_001,))]
    grads = [rng.standard_normal(v.shape).astype(np.float32) for v in values]

    def run():
        params = [fastdl.tensor(v, requires_grad=True) for v in values]
        optimizer = cls(params, lr=0.1)
        for _ in range(2):
            set_gradients(params, [g.copy() for g in grads])
            norm = clip_grad_norm_(params, 1.0)
            optimizer.step()
        return [*(p.detach().numpy() for p in params), norm.numpy()]

    got = run()
    _core.set_num_threads(1)
    for a, b in zip(got, run(), strict=True):
        assert_same_bits(a, b)


def test_groups_and_mixed_dtypes(rng):
    a, b = (
        fastdl.tensor([1.0], requires_grad=True),
        fastdl.tensor([1.0], dtype=fastdl.float64, requires_grad=True),
    )
    c = fastdl.ones(2, requires_grad=True)
    optimizer = SGD([{"params": [a, b]}, {"params": c, "lr": 0.5}], lr=0.1)
    set_gradients([a, b, c], [np.ones(1, np.float32), np.ones(1), np.ones(2, np.float32)])
    optimizer.step()
    assert a.item() == pytest.approx(0.9) and b.item() == pytest.approx(0.9) and c.tolist() == [0.5, 0.5]
    optimizer.param_groups[1]["lr"] = 1.0
    optimizer.step()
    assert c.tolist() == [-0.5, -0.5]
    d = fastdl.zeros(1, requires_grad=True)
    optimizer.add_param_group({"params": [d], "momentum": 0.9})
    d.grad = fastdl.ones(1)
    optimizer.step()
    assert d.item() == pytest.approx(-0.1) and "momentum_buffer" in optimizer.state[d]
    optimizer.zero_grad()
    assert all(p.grad is None for p in (a, b, c, d))
    a.grad = fastdl.ones(1)
    optimizer.zero_grad(set_to_none=False)
    assert a.grad.tolist() == [0.0]


def test_options_changed_between_steps():
    """Momentum or amsgrad switched on later: the states appear then."""
    p = fastdl.ones(3, requires_grad=True)
    p.grad = fastdl.ones(3)
    sgd, adam = SGD([p], lr=0.1), Adam([p])
    for optimizer, option, value, key in (
        (sgd, "momentum", 0.9, "momentum_buffer"),
        (adam, "amsgrad", True, "max_exp_avg_sq"),
    ):
        optimizer.step()
        optimizer.param_groups[0][option] = value
        optimizer.step()
        assert key in optimizer.state[p]
        optimizer.param_groups[0][option] = type(value)(0)
        optimizer.step()


def test_states_and_data_replaced_from_outside():
    p = fastdl.ones(2, requires_grad=True)
    optimizer = Adam([p], lr=0.1)
    p.grad = fastdl.ones(2)
    optimizer.step()
    optimizer.state.clear()
    p.data = fastdl.zeros(2)
    optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), [-0.1, -0.1], rtol=1e-6)
    assert optimizer.state[p]["step"].item() == 1
    optimizer.state[p]["exp_avg"] = fastdl.zeros(2)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].tolist() == pytest.approx([0.1, 0.1])


def test_closure():
    p = fastdl.tensor([2.0], requires_grad=True)
    optimizer = SGD([p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with fastdl.no_grad():
        assert optimizer.step(closure).item() == 4.0
    assert p.item() == 1.0


@pytest.mark.parametrize(("cls", "reference", "options"), CASES, ids=IDS)
def test_state_dict_round_trip(cls, reference, options, rng):
    values = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    grads = [[rng.standard_normal(v.shape) for v in values] for _ in range(4)]

    def make():
        params = [fastdl.tensor(v, requires_grad=True) for v in values]
        return params, cls(params, **options)

    params, optimizer = make()
    for g in grads:
        set_gradients(params, g)
        optimizer.step()
    first, half = make()
    for g in grads[:2]:
        set_gradients(first, g)
        half.step()
    state = half.state_dict()
    # As a checkpoint would have it: arrays instead of Tensors.
    state["state"] = {
        str(i): {k: np.array(v.numpy()) if v is not None else v for k, v in s.items()}
        for i, s in state["state"].items()
    }
    second, rest = make()
    for p, q in zip(second, first, strict=True):
        p.data = q.detach().clone()
    rest.load_state_dict(state)
    for g in grads[2:]:
        set_gradients(second, g)
        rest.step()
    for p, q in zip(second, params, strict=True):
        assert_same_bits(p.detach().numpy(), q.detach().numpy())


def test_bad_state_dicts_change_nothing(rng):
    p = fastdl.ones(3, requires_grad=True)
    p.grad = fastdl.ones(3)
    optimizer = Adam([p], lr=0.1)
    optimizer.step()
    good = optimizer.state_dict()
    for change, message in (
        ({"param_groups": []}, "parameter groups"),
        ({"param_groups": [{**good["param_groups"][0], "params": [0, 1]}]}, "parameters in group"),
        ({"state": {5: {}}}, "parameter 5"),
        ({"state": {0: {"step": 9.0, "exp_avg": np.zeros(4)}}}, r"exp_avg of shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict({**good, **change})
        assert optimizer.state[p]["step"].item() == 1


def test_a_bad_gradient_changes_nothing():
    a, b = fastdl.ones(3, requires_grad=True), fastdl.ones(3, requires_grad=True)
    for cls in (SGD, Adam, RMSprop, Adagrad):
        optimizer = cls([a, b], lr=0.1)
        a.grad = fastdl.ones(3)
        b._data, keep = np.ones(3, np.float32), b._data
        b.grad = fastdl.ones(3)
        b.grad._data = np.ones(4, np.float32)
        with pytest.raises(ValueError, match="grad"):
            optimizer.step()
        b.grad._data = np.ones(3)
        with pytest.raises(TypeError, match="grad"):
            optimizer.step()
        b._data = keep
        assert a.tolist() == [1, 1, 1] and b.tolist() == [1, 1, 1]
        if cls is Adam:
            assert optimizer.state[a]["step"].item() == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: SGD([], 0.1), ValueError, "empty"), (lambda p: SGD(p, 0.1), TypeError, "iterable"),
        (lambda p: SGD([p, p]), ValueError, "more than once"), (lambda p: SGD([p.numpy()]), TypeError, "ndarray"),
        (lambda p: SGD([{"params": [p]}, {"params": [p]}]), ValueError, "more than once"),
        (lambda p: SGD([p], -0.1), ValueError, "lr"), (lambda p: SGD([p], momentum=-1), ValueError, "momentum"),
        (lambda p: SGD([p], nesterov=True), ValueError, "nesterov"), (lambda p: SGD([{p}]), TypeError, "set"),
        (lambda p: Adam([p], betas=(1.0, 0.9)), ValueError, r"betas\[0\]"),
        (lambda p: Adam([p], eps=-1), ValueError, "eps"), (lambda p: RMSprop([p], alpha=-1), ValueError, "alpha"),
        (lambda p: Adagrad([p], lr_decay=-1), ValueError, "lr_decay"),
        (lambda p: SGD([p.requires_grad_() * 2]), ValueError, "non-leaf"),
        (lambda p: lr_scheduler.StepLR(None, 1), TypeError, "Optimizer"),
        (lambda p: lr_scheduler.StepLR(SGD([p]), 0), ValueError, "step_size"),
        (lambda p: lr_scheduler.LambdaLR(SGD([p]), [len, len]), ValueError, "expected 1"),
        (lambda p: lr_scheduler.OneCycleLR(SGD([p]), 1.0), ValueError, "total_steps"),
        (lambda p: lr_scheduler.ReduceLROnPlateau(SGD([p]), factor=1.0), ValueError, "factor"),
        (lambda p: lr_scheduler.LinearLR(SGD([p]), 0.0), ValueError, "start_factor"),
        (lambda p: lr_scheduler.SequentialLR(SGD([p]), [], []), ValueError, "milestone"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(fastdl.ones(2))


# ---- clipping ----


@pytest.mark.parametrize("p", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_grad_norm(p, dtype, isa, rng):
    grads = [rng.standard_normal(s).astype(dtype) for s in ((3, 5), (17,), (0,), (40_000,))]
    params = [fastdl.tensor(np.zeros_like(g), requires_grad=True) for g in grads]
    for limit in (0.5, 1e9):
        set_gradients(params, [g.copy() for g in grads])
        flat = np.concatenate([g.ravel() for g in grads]).astype(np.float64)
        # Not by BLAS, whose sum of squares may be off by more than the tolerance.
        expected = float(np.linalg.norm(flat.astype(np.longdouble), p))
        norm = clip_grad_norm_(params, limit, p)
        assert norm.item() == pytest.approx(expected, rel=4 * float(np.finfo(dtype).eps))
        factor = min(1.0, limit / (expected + 1e-6))
        for t, g in zip(params, grads, strict=True):
            np.testing.assert_allclose(t.grad.numpy(), g * factor, rtol=4 * np.finfo(dtype).eps)


def test_clip_odd_cases():
    a, b = fastdl.ones(2, requires_grad=True), fastdl.ones(2, requires_grad=True)
    assert clip_grad_norm_([a, b], 1.0).item() == 0
    a.grad = fastdl.tensor([math.nan, 1.0])
    with pytest.raises(RuntimeError, match="nan"):
        clip_grad_norm_([a, b], 1.0, error_if_nonfinite=True)
    assert a.grad.tolist()[1] == 1.0
    for p in (2.0, math.inf):
        a.grad = fastdl.tensor([math.nan, 1.0])
        assert math.isnan(clip_grad_norm_(a, 1.0, p).item()) and math.isnan(a.grad.tolist()[1])
    a.grad = fastdl.tensor([1e30, 1e30])  # the squares overflow float32
    assert clip_grad_norm_([a], 1.0).item() == pytest.approx(math.sqrt(2) * 1e30)
    b.grad = fastdl.tensor([-3.0, 0.5])
    clip_grad_value_([a, b], 1.0)
    assert b.grad.tolist() == [-1.0, 0.5]


# ---- schedules ----


def rates(make, steps=12, momentum=0.0):
    p = fastdl.ones(1, requires_grad=True)
    optimizer = SGD(
        [{"params": [p]}, {"params": [fastdl.ones(1, requires_grad=True)], "lr": 0.5}], 1.0, momentum
    )
    scheduler = make(optimizer)
    seen = [scheduler.get_last_lr()]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        seen.append(scheduler.get_last_lr())
    assert [g["lr"] for g in optimizer.param_groups] == seen[-1]
    return np.array(seen)


@pytest.mark.parametrize(
    ("make", "closed"),
    [
        (lambda o: lr_scheduler.StepLR(o, 3, 0.5), lambda t: 0.5 ** (t // 3)),
        (lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5], 0.5), lambda t: 0.5 ** ((t >= 2) + 2 * (t >= 5))),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda t: 0.9**t),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 5), lambda t: (1 + math.cos(math.pi * t / 5)) / 2),
        (lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 4), lambda t: 0.2 + 0.8 * min(t, 4) / 4),
        (lambda o: lr_scheduler.ConstantLR(o, 0.25, 3), lambda t: 0.25 if t < 3 else 1.0),
        (lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0), lambda t: (1 - min(t, 6) / 6) ** 2),
        (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
        (lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.8), lambda t: 0.8**t),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
         lambda t: (1 + math.cos(math.pi * (t % 2 / 2 if t < 2 else (t - 2) / 4 if t < 6 else (t - 6) / 8))) / 2),
        (lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.5, 1.0, 2), lr_scheduler.ExponentialLR(o, 0.5)], [4]),
         lambda t: 0.5 + min(t, 2) / 4 if t < 4 else 0.5 ** (t - 4)),
    ],
)  # fmt: skip
def test_schedules(make, closed):
    expected = np.array([closed(t) for t in range(13)])
    np.testing.assert_allclose(rates(make), expected[:, None] * [1.0, 0.5], rtol=1e-9, atol=1e-12)


def test_one_cycle():
    seen = rates(lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=11, pct_start=0.3), 10, momentum=0.9)[
        :, 0
    ]
    assert seen[0] == pytest.approx(1 / 25) and seen.max() == pytest.approx(1, abs=0.1)
    assert seen[-1] == pytest.approx(1 / 25 / 1e4)
    assert (np.diff(seen[: seen.argmax() + 1]) > 0).all() and (np.diff(seen[seen.argmax() :]) < 0).all()
    optimizer = Adam([fastdl.ones(1, requires_grad=True)])
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, epochs=2, steps_per_epoch=2)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    for _ in range(4):
        scheduler.step()
    with pytest.raises(ValueError, match="of 4"):
        scheduler.step()


def test_plateau():
    p = fastdl.ones(1, requires_grad=True)
    optimizer = SGD([p], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5, cooldown=1, min_lr=0.2)
    seen = []
    for metric in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        scheduler.step(fastdl.tensor(metric))
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]


def test_schedule_state_dict():
    def make():
        optimizer = SGD([fastdl.ones(1, requires_grad=True)], lr=1.0)
        return optimizer, lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 3), lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5)],
            [3],
        )

    optimizer, scheduler = make()
    for _ in range(2):
        scheduler.step()
    other, resumed = make()
    resumed.load_state_dict(scheduler.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for _ in range(4):
        scheduler.step()
        resumed.step()
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
