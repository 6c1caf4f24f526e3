"""Initial values: distributions, reproducibility, errors."""

import math

import numpy as np
import pytest

import fastdl
from fastdl.nn import init


@pytest.fixture(autouse=True)
def seeded():
    fastdl.manual_seed(11)


def values(function, shape=(200, 300), dtype=None, **kwargs):
    t = fastdl.empty(*shape, dtype=dtype)
    assert function(t, **kwargs) is t
    return t.numpy().astype(np.float64)


def moments(x, mean, std, kurtosis=3.0):
    """Within 5 deviations of what a sample of this size should have."""
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(x.size)
    assert abs(x.std() / std - 1) < 5 * math.sqrt((kurtosis - 1) / 4 / x.size)


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64])
def test_uniform(dtype):
    x = values(init.uniform_, dtype=dtype, a=-2.0, b=4.0)
    moments(x, 1.0, 6 / math.sqrt(12), 1.8)
    assert x.min() >= -2 and x.max() < 4.0001
    assert len(np.unique(x)) > x.size * 0.99 or dtype == fastdl.float32


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64])
def test_normal(dtype):
    x = values(init.normal_, dtype=dtype, mean=1.0, std=3.0)
    moments(x, 1.0, 3.0)
    assert abs(np.mean(((x - 1) / 3) ** 4) - 3) < 5 * math.sqrt(96 / x.size)


@pytest.mark.parametrize(
    "a, b, mean, std", [(-2, 2, 0, 1), (0, 1, 0, 2), (3, 5, 0, 1), (-math.inf, -2, 0, 1), (-9, -4, 1, 1)]
)
def test_trunc_normal(a, b, mean, std):
    if math.isinf(a):
        a = -12.0
    x = values(init.trunc_normal_, (100, 200), fastdl.float64, mean=mean, std=std, a=a, b=b)
    assert x.min() >= a and x.max() <= b
    grid = np.linspace(a, b, 20001)
    density = np.exp(-(((grid - mean) / std) ** 2) / 2)
    density /= density.sum()
    expected = (grid * density).sum()
    deviation = math.sqrt(((grid - expected) ** 2 * density).sum())
    assert abs(x.mean() - expected) < 5 * deviation / math.sqrt(x.size) + (b - a) / 20000
    assert abs(x.std() / deviation - 1) < 0.05


def test_constants():
    assert (values(init.ones_, (2, 3)) == 1).all() and (values(init.zeros_, (2, 3)) == 0).all()
    assert (values(init.constant_, (2, 3), val=2.5) == 2.5).all()
    np.testing.assert_array_equal(values(init.eye_, (2, 3)), np.eye(2, 3))


def test_dirac(rng):
    for shape, groups in (((4, 4, 3), 1), ((4, 2, 3, 3), 2), ((2, 3, 3, 3, 3), 1)):
        w = fastdl.empty(*shape, dtype=fastdl.float64)
        init.dirac_(w, groups)
        assert w.numpy().sum() == sum(min(shape[0] // groups, shape[1]) for _ in range(groups))
    x = rng.standard_normal((2, 4, 5, 5))
    y = fastdl.nn.functional.conv2d(
        fastdl.tensor(x), init.dirac_(fastdl.empty(4, 2, 3, 3, dtype=fastdl.float64), 2), padding=1, groups=2
    )
    np.testing.assert_allclose(y.numpy(), x, 1e-12)


def test_scaled_by_fans():
    for shape in ((200, 300), (40, 20, 5, 5)):
        window = math.prod(shape[2:])
        fan_in, fan_out = shape[1] * window, shape[0] * window
        moments(values(init.xavier_uniform_, shape, gain=2.0), 0, 2 * math.sqrt(2 / (fan_in + fan_out)), 1.8)
        moments(values(init.xavier_normal_, shape, gain=2.0), 0, 2 * math.sqrt(2 / (fan_in + fan_out)))
        moments(values(init.kaiming_uniform_, shape, a=math.sqrt(5)), 0, math.sqrt(1 / 3 / fan_in), 1.8)
        x = values(init.kaiming_normal_, shape, mode="fan_out", nonlinearity="relu")
        moments(x, 0, math.sqrt(2 / fan_out))


def test_orthogonal():
    for shape in ((5, 5), (3, 7), (7, 3), (4, 2, 3)):
        q = values(init.orthogonal_, shape, fastdl.float64, gain=2.0).reshape(shape[0], -1) / 2
        gram = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)
    assert init.orthogonal_(fastdl.empty(0, 3)).shape == (0, 3)


def test_sparse():
    x = values(init.sparse_, (50, 400), sparsity=0.1, std=0.5)
    assert ((x == 0).sum(axis=0) == 5).all()
    moments(x[x != 0], 0, 0.5)


def test_gains():
    assert (
        init.calculate_gain("linear")
        == init.calculate_gain("conv_transpose3d")
        == init.calculate_gain("sigmoid")
        == 1
    )
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert (
        init.calculate_gain("leaky_relu", 0.5) == math.sqrt(2 / 1.25) and init.calculate_gain("selu") == 0.75
    )


def test_seeded():
    def draw():
        fastdl.manual_seed(5)
        return [
            values(f, (20, 30)) for f in (init.uniform_, init.normal_, init.orthogonal_, init.trunc_normal_)
        ]

    for a, b in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(values(init.uniform_), values(init.uniform_))
    first = values(init.normal_, (3, 3), generator=np.random.default_rng(1))
    np.testing.assert_array_equal(first, values(init.normal_, (3, 3), generator=np.random.default_rng(1)))
    fastdl.manual_seed(5)
    a = fastdl.nn.Linear(4, 5)
    fastdl.manual_seed(5)
    np.testing.assert_array_equal(a.weight.numpy(force=True), fastdl.nn.Linear(4, 5).weight.numpy(force=True))


def test_parameters_are_filled_without_history():
    p = fastdl.nn.Parameter(fastdl.empty(3, 3))
    init.uniform_(p)
    assert p.is_leaf and p.requires_grad and p.grad_fn is None
    view = fastdl.empty(4, 4, dtype=fastdl.float64).t()[::2]
    init.ones_(view)
    assert (view.numpy() == 1).all()


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: init.uniform_(fastdl.empty(2), 1.0, 0.0), "uniform_: expected a <= b"),
        (lambda: init.uniform_(fastdl.empty(2), math.nan), "uniform_"),
        (lambda: init.normal_(fastdl.empty(2), std=-1.0), "normal_: expected std"),
        (lambda: init.trunc_normal_(fastdl.empty(2), a=2.0, b=1.0), "trunc_normal_"),
        (lambda: init.trunc_normal_(fastdl.empty(2), std=0.0), "trunc_normal_"),
        (lambda: init.xavier_uniform_(fastdl.empty(2)), "xavier_uniform_: expected 2 or more"),
        (lambda: init.kaiming_normal_(fastdl.empty(2)), "kaiming_normal_"),
        (lambda: init.kaiming_normal_(fastdl.empty(2, 2), mode="fan"), "fan_in"),
        (lambda: init.kaiming_uniform_(fastdl.empty(2, 2), nonlinearity="cube"), "cube"),
        (lambda: init.calculate_gain("leaky_relu", "x"), "slope"),
        (lambda: init.eye_(fastdl.empty(2)), "eye_"),
        (lambda: init.dirac_(fastdl.empty(2, 2)), "dirac_"),
        (lambda: init.dirac_(fastdl.empty(3, 2, 2), groups=2), "dirac_"),
        (lambda: init.orthogonal_(fastdl.empty(2)), "orthogonal_"),
        (lambda: init.sparse_(fastdl.empty(2), 0.1), "sparse_"),
        (lambda: init.sparse_(fastdl.empty(2, 2), 1.5), "sparse_"),
    ],
)
def test_errors(act, message):
    with pytest.raises(ValueError, match=message):
        act()
