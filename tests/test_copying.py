"""Copies and pickles of what holds more than its attributes: optimizers between steps, streams of random numbers."""

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import nn, optim

pytestmark = pytest.mark.cpu

WAYS = [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
OPTIMIZERS = [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {}), ("Adagrad", {}), ("RMSprop", {})]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name, options", OPTIMIZERS)
def test_copies_of_optimizers_go_on_as_they(name, options, way, dtype, rng):
    x = fastdl.tensor(rng.standard_normal((5, 4)).astype(np.float32)).to(dtype)
    model = nn.Linear(4, 3).to(dtype)
    optimizer = getattr(optim, name)(model.parameters(), lr=0.01, **options)

    def train(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()
        return [p.detach().float().tolist() for p in model.parameters()]

    train(model, optimizer)
    other, its = way((model, optimizer))
    assert its.param_groups[0]["params"][0] is other.weight is not model.weight
    before = [p.detach().float().tolist() for p in model.parameters()]
    after = train(other, its)
    assert [p.detach().float().tolist() for p in model.parameters()] == before
    assert train(model, optimizer) == after != before


@pytest.mark.parametrize("way", [*WAYS, copy.copy], ids=["deepcopy", "pickle", "copy"])
def test_copies_of_generators(way):
    generator = fastdl.Generator().manual_seed(4)
    fastdl.rand(3, generator=generator)
    found = way(generator)
    assert type(found) is fastdl.Generator
    if way is not copy.copy:  # which shares the stream, as NumPy's does
        assert found.random(5).tolist() == generator.random(5).tolist()
    assert found.manual_seed(4).random() == fastdl.Generator().manual_seed(4).random()
