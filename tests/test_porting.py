"""Small things that programs written for torch rely on: names, keyword forms, helpers around training."""

import numpy as np
import pytest

import fastdl
from fastdl import data


def test_keyword_forms():
    x = fastdl.arange(6.0).reshape(shape=(2, 3))
    assert fastdl.flip(x, dims=[1]).tolist() == x.flip(1).tolist() == x.flip((1,)).tolist()
    assert x.permute(dims=(1, 0)).shape == fastdl.permute(x, (1, 0)).shape == (3, 2)
    assert fastdl.tile(x, dims=(2, 1)).shape == (4, 3)
    for make in (fastdl.zeros, fastdl.ones, fastdl.empty, fastdl.rand, fastdl.randn):
        assert make(size=(2, 3)).shape == make(2, 3).shape == make((2, 3)).shape == (2, 3)


def test_names():
    assert isinstance(fastdl.ones(2).shape, fastdl.Size) and isinstance(fastdl.float32, fastdl.dtype)
    x = fastdl.ones(2, 3, requires_grad=True)
    assert fastdl.clone(x).requires_grad and not fastdl.detach(x).requires_grad
    assert fastdl.ravel(x).shape == x.ravel().shape == (6,)
    assert (fastdl.inf, fastdl.newaxis) == (float("inf"), None) and 3 < fastdl.pi < 4 < fastdl.e + 2


def test_choosing_a_device():
    assert not fastdl.cuda.is_available() and fastdl.cuda.device_count() == 0
    fastdl.cuda.manual_seed_all(0)
    with pytest.raises(RuntimeError, match="cuda"):
        fastdl.ones(1).to("cuda")


def test_load_with_the_arguments_of_torch(tmp_path):
    path = tmp_path / "x.safetensors"
    fastdl.save({"x": fastdl.ones(2)}, path)
    assert fastdl.load(path, map_location="cpu", weights_only=True)["x"].tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="cuda"):
        fastdl.load(path, map_location="cuda:0")


def test_generator():
    def draw(generator):
        parts = data.random_split(range(10), [5, 5], generator=generator)
        return [*fastdl.rand(3, generator=generator).tolist(), *parts[0].indices]

    assert draw(fastdl.Generator().manual_seed(3)) == draw(fastdl.Generator("cpu").manual_seed(3))
    assert draw(fastdl.Generator()) != draw(fastdl.Generator())
    with pytest.raises(TypeError, match="integer"):
        fastdl.Generator().manual_seed("1")


def test_weighted_sampler():
    sampler = data.WeightedRandomSampler([1, 0, 3], 4000, seed=0)
    counts = np.bincount(list(sampler), minlength=3)
    assert len(sampler) == counts.sum() == 4000 and counts[1] == 0 and abs(counts[0] - 1000) < 150
    assert sorted(data.WeightedRandomSampler([1, 2, 3], 3, replacement=False)) == [0, 1, 2]
    for weights, count in (([-1, 2], 1), ([[1, 2]], 1), ([np.nan], 1), ([0, 0], 1), ([1], 0)):
        with pytest.raises(ValueError, match="WeightedRandomSampler"):
            data.WeightedRandomSampler(weights, count)
    with pytest.raises(ValueError, match="WeightedRandomSampler"):
        data.WeightedRandomSampler([1, 0], 2, replacement=False)


def test_subset_sampler():
    sampler = data.SubsetRandomSampler([7, 8, 9], seed=1)
    assert sorted(sampler) == [7, 8, 9] and len(sampler) == 3
    loader = data.DataLoader(range(10), batch_size=2, sampler=sampler)
    assert sorted(i for batch in loader for i in np.asarray(batch).tolist()) == [7, 8, 9]


def test_gradcheck():
    check = fastdl.autograd.gradcheck
    x = fastdl.randn(3, 2, dtype=fastdl.float64, requires_grad=True)
    w = fastdl.randn(2, 2, dtype=fastdl.float64, requires_grad=True)
    assert check(lambda x, w, k: ((x @ w) ** k, x.sum()), (x, w, 3)) and x.grad is None

    class Wrong(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    assert not check(Wrong.apply, x, raise_exception=False)
    with pytest.raises(RuntimeError, match="backward gives 3, finite differences 2"):
        check(Wrong.apply, x)
    with pytest.raises(TypeError, match="float64"):
        check(fastdl.tanh, x.detach().float().requires_grad_())
    with pytest.raises(ValueError, match="requires grad"):
        check(fastdl.tanh, x.detach())


def test_grad_takes_an_array():
    x = fastdl.ones(3, requires_grad=True)
    (g,) = fastdl.autograd.grad(x * 2, x, np.arange(3, dtype=np.float32))
    assert g.tolist() == [0, 2, 4]
