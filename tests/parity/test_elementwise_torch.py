"""Activations, softmax, losses, embeddings, optimizers and schedules against PyTorch, in float64."""

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import optim

torch = pytest.importorskip("torch")
TF = torch.nn.functional


def convert(module, value, grad):
    if isinstance(value, np.ndarray):
        return module.tensor(value, requires_grad=grad and value.dtype.kind == "f")
    return value


def compare(name, args, differentiated=(0,), **options):
    """Value and gradients of F.<name> on both sides, for one random cotangent."""
    rng = np.random.default_rng(1)
    results = []
    for module, functional in ((fastdl, F), (torch, TF)):
        tensors = [convert(module, a, i in differentiated) for i, a in enumerate(args)]
        keywords = {k: convert(module, v, False) for k, v in options.items()}
        out = getattr(functional, name)(*tensors, **keywords)
        results.append((out, [tensors[i] for i in differentiated]))
    (mine, my_leaves), (theirs, their_leaves) = results
    assert tuple(mine.shape) == tuple(theirs.shape), name
    np.testing.assert_allclose(
        mine.detach().numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-12, err_msg=name
    )
    g = rng.standard_normal(tuple(theirs.shape))
    mine.backward(fastdl.tensor(g))
    theirs.backward(torch.tensor(g))
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-9  # torch's 1/6 is a float32 there
    for a, b in zip(my_leaves, their_leaves, strict=True):
        np.testing.assert_allclose(
            a.grad.numpy(), b.grad.numpy(), rtol=tolerance, atol=tolerance / 100, err_msg=name
        )


ACTIVATIONS = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.3}), ("rrelu", {}), ("elu", {"alpha": 0.7}),
    ("selu", {}), ("celu", {"alpha": 2.0}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}),
    ("mish", {}), ("softplus", {"beta": 2.0, "threshold": 3.0}), ("hardswish", {}), ("hardsigmoid", {}),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}), ("sigmoid", {}), ("tanh", {}), ("logsigmoid", {}),
    ("softsign", {}), ("hardshrink", {}), ("softshrink", {}), ("tanhshrink", {}),
    ("threshold", {"threshold": 0.3, "value": -1.0}), ("glu", {}), ("glu", {"dim": 0}), ("softmax", {"dim": 0}),
    ("log_softmax", {"dim": 1}), ("softmin", {"dim": -1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activations(name, options, rng):
    x = 3 * rng.standard_normal((6, 8))
    x[0, :4] = [0.0, 3.0, -3.0, 6.0]  # the kinks
    compare(name, [x], **options)
    with np.errstate(invalid="ignore"):
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 5.0])
        mine = getattr(F, name)(fastdl.tensor(np.tile(special, (2, 1))), **options).numpy()
        theirs = getattr(TF, name)(torch.tensor(np.tile(special, (2, 1))), **options).numpy()
    assert (np.isnan(mine) == np.isnan(theirs)).all()


def test_prelu(rng):
    for shape, n in (((2, 3, 4), 3), ((5, 3), 3), ((4,), 1)):
        compare("prelu", [rng.standard_normal(shape), rng.standard_normal(n)], (0, 1))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_classification(reduction, rng):
    for shape in ((5, 4), (3, 4, 2), (2, 4, 3, 2)):
        x, labels = rng.standard_normal(shape), rng.integers(0, 4, shape[:1] + shape[2:])
        labels.flat[1] = -100
        for weight in (None, rng.random(4)):
            for smoothing in (0.0, 0.3):
                options = dict(weight=weight, reduction=reduction, label_smoothing=smoothing)
                compare("cross_entropy", [x, labels], **options)
                compare("cross_entropy", [x, rng.random(shape)], **options)
                compare("cross_entropy", [x, rng.random(shape)], (0, 1), **options)
            compare("nll_loss", [x, labels], weight=weight, reduction=reduction)
    compare("cross_entropy", [rng.standard_normal(4), np.array(2)], reduction=reduction)
    compare("multi_margin_loss", [rng.standard_normal((3, 4)), np.array([0, 3, 1])], p=2, reduction=reduction)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_elementwise_losses(reduction, rng):
    x, t, p, q = *rng.standard_normal((2, 4, 5)), *rng.uniform(0.05, 0.95, (2, 4, 5))
    s, s1 = np.sign(t), np.sign(t[:, 0])
    r = {"reduction": reduction}
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        compare(name, [x, t], (0, 1), **r)
    compare("smooth_l1_loss", [x, t], (0, 1), beta=0.3, **r)
    compare("huber_loss", [x, t], (0, 1), delta=0.3, **r)
    compare("binary_cross_entropy", [p, q], weight=rng.random(5), **r)
    compare("binary_cross_entropy_with_logits", [x, q], weight=rng.random(5), pos_weight=rng.random(5), **r)
    compare("binary_cross_entropy_with_logits", [x, q], (0, 1), **r)
    compare("kl_div", [x, q], **r)
    compare("kl_div", [x, q], (0, 1), **r)
    compare("kl_div", [x, t], log_target=True, **r)
    compare("poisson_nll_loss", [x, 5 * q], full=True, **r)
    compare("poisson_nll_loss", [p, q], log_input=False, **r)
    compare("gaussian_nll_loss", [x, t, p], (0, 1, 2), full=True, **r)
    compare("hinge_embedding_loss", [x, s], margin=0.5, **r)
    compare("soft_margin_loss", [x, s], **r)
    compare("multilabel_soft_margin_loss", [x, (t > 0) * 1.0], **r)
    compare("margin_ranking_loss", [x, t, s], (0, 1), margin=0.1, **r)
    compare("cosine_embedding_loss", [x, t, s1], (0, 1), margin=0.1, **r)
    compare("triplet_margin_loss", [x, t, p], (0, 1, 2), swap=True, **r)


def test_embeddings(rng):
    w, i = rng.standard_normal((7, 3)), rng.integers(0, 7, (4, 5))
    for options in ({}, {"padding_idx": 2}, {"padding_idx": -1, "scale_grad_by_freq": True}):
        compare("embedding", [i, w], (1,), **options)
    for mode in ("sum", "mean", "max"):
        compare("embedding_bag", [i, w], (1,), mode=mode)
        compare("embedding_bag", [i, w], (1,), mode=mode, padding_idx=int(i[0, 0]))
        compare("embedding_bag", [i.ravel(), w, np.array([0, 3, 3, 9])], (1,), mode=mode)
    a, b = fastdl.tensor(w * 3), torch.tensor(w * 3)
    F.embedding(fastdl.tensor(i), a, max_norm=1.5)
    TF.embedding(torch.tensor(i), b, max_norm=1.5)
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert (F.one_hot(fastdl.tensor(i)).numpy() == TF.one_hot(torch.tensor(i)).numpy()).all()


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}), ("Adagrad", {"lr_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}), ("Adam", {"amsgrad": True}),
    ("Adam", {"weight_decay": 0.1}), ("AdamW", {"betas": (0.7, 0.8)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_optimizers(name, options, rng):
    values = [rng.standard_normal(s) for s in ((4, 3), (3,))]
    mine = [fastdl.tensor(v, requires_grad=True) for v in values]
    theirs = [torch.tensor(v, requires_grad=True) for v in values]
    a, b = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(4):
        for i, v in enumerate(values):
            g = rng.standard_normal(v.shape)
            skip = step == 0 and i == 1
            mine[i].grad = None if skip else fastdl.tensor(g)
            theirs[i].grad = None if skip else torch.tensor(g)
        a.step()
        b.step()
    for p, q in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-12)
    mine_state, their_state = a.state_dict(), b.state_dict()
    assert mine_state["param_groups"] == their_state["param_groups"]
    for i, state in their_state["state"].items():
        assert set(mine_state["state"][i]) == set(state)
        for key, value in state.items():
            np.testing.assert_allclose(mine_state["state"][i][key].numpy(), value.numpy(), rtol=1e-12)
    # torch's state carries on here.
    a.load_state_dict({"state": {i: {k: v.numpy() for k, v in s.items()} for i, s in their_state["state"].items()},
                       "param_groups": their_state["param_groups"]})  # fmt: skip
    a.step()
    b.step()
    np.testing.assert_allclose(mine[0].detach().numpy(), theirs[0].detach().numpy(), rtol=1e-12)


SCHEDULES = {
    "step": lambda m, o: m.StepLR(o, 3, 0.5), "multistep": lambda m, o: m.MultiStepLR(o, [3, 7, 7], 0.5),
    "exponential": lambda m, o: m.ExponentialLR(o, 0.9), "cosine": lambda m, o: m.CosineAnnealingLR(o, 7, 0.01),
    "linear": lambda m, o: m.LinearLR(o, 0.2, 0.9, 8), "lambda": lambda m, o: m.LambdaLR(o, lambda e: 0.95**e),
    "multiplicative": lambda m, o: m.MultiplicativeLR(o, lambda e: 0.9), "constant": lambda m, o: m.ConstantLR(o),
    "polynomial": lambda m, o: m.PolynomialLR(o, 9, 2.0),
    "restarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    "one-cycle": lambda m, o: m.OneCycleLR(o, [0.5, 1.0], 26),
    "one-cycle-3": lambda m, o: m.OneCycleLR(o, 0.5, 26, three_phase=True, anneal_strategy="linear"),
    "sequential": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, 1.0, 5), m.CosineAnnealingLR(o, 20), m.ExponentialLR(o, 0.9)], [5, 15]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    sides = []
    for module, ones in ((optim, fastdl.ones), (torch.optim, torch.ones)):
        groups = [
            {"params": [ones(1, requires_grad=True)]},
            {"params": [ones(1, requires_grad=True)], "lr": 0.3},
        ]
        optimizer = module.SGD(groups, lr=0.1, momentum=0.9)
        sides.append((optimizer, SCHEDULES[name](module.lr_scheduler, optimizer)))
    for _ in range(25):
        for optimizer, scheduler in sides:
            optimizer.step()
            scheduler.step()
        (a, s), (b, t) = sides
        np.testing.assert_allclose(s.get_last_lr(), t.get_last_lr(), rtol=1e-12)
        for g, h in zip(a.param_groups, b.param_groups, strict=True):
            assert g["lr"] == pytest.approx(h["lr"], rel=1e-12) and g["momentum"] == pytest.approx(
                h["momentum"]
            )


def test_plateau(rng):
    a, b = (
        optim.SGD([fastdl.ones(1, requires_grad=True)], 1.0),
        torch.optim.SGD([torch.ones(1, requires_grad=True)], 1.0),
    )
    options = dict(patience=2, cooldown=1, min_lr=0.01, threshold=0.02)
    s = optim.lr_scheduler.ReduceLROnPlateau(a, **options)
    t = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
    for i in range(60):
        metric = 1 / (i + 1) + 0.3 * rng.random()
        s.step(metric)
        t.step(metric)
        assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]


def test_clip_grad_norm(rng):
    grads = [rng.standard_normal(s) for s in ((3, 4), (5,))]
    for p in (1.0, 2.0, 3.0, float("inf")):
        mine = [fastdl.tensor(np.zeros_like(g), requires_grad=True) for g in grads]
        theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads]
        for a, b, g in zip(mine, theirs, grads, strict=True):
            a.grad, b.grad = fastdl.tensor(g), torch.tensor(g)
        x = fastdl.nn.utils.clip_grad_norm_(mine, 0.5, p)
        y = torch.nn.utils.clip_grad_norm_(theirs, 0.5, p)
        np.testing.assert_allclose(x.item(), y.item(), rtol=1e-12)
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)
