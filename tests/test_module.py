"""Module, Parameter and the containers: registration, walking, state, modes, errors."""

import copy
import gc
import weakref

import numpy as np
import pytest

import fastdl
from fastdl import nn


class Scale(nn.Module):
    """The smallest layer with everything: a parameter, a missing one, buffers of both kinds, a child."""

    def __init__(self, n=3, child=None):
        super().__init__()
        self.weight = nn.Parameter(fastdl.ones(n))
        self.register_parameter("bias", None)
        self.register_buffer("count", fastdl.zeros(2))
        self.register_buffer("scratch", fastdl.zeros(1), persistent=False)
        self.child = child

    def forward(self, x, factor=1.0):
        x = x * self.weight * factor
        return x if self.child is None else self.child(x)


def names(pairs):
    return [name for name, _ in pairs]


# ------------------------------------------------------------------------------------------------- registration


def test_assignment_registers():
    m = Scale(child=Scale())
    assert names(m.named_parameters()) == ["weight", "child.weight"]
    assert names(m.named_buffers()) == ["count", "scratch", "child.count", "child.scratch"]
    assert names(m.named_modules()) == ["", "child"]
    assert m.__dict__["weight"] is m._parameters["weight"]  # found without __getattr__
    first = m.weight
    m.weight = nn.Parameter(fastdl.zeros(3))
    assert m.weight is not first and next(m.parameters()) is m.weight
    m.bias = nn.Parameter(fastdl.zeros(3))
    assert names(m.named_parameters(recurse=False)) == ["weight", "bias"]
    m.bias = None
    assert names(m.named_parameters(recurse=False)) == ["weight"]
    m.child = None
    assert names(m.named_modules()) == [""]
    del m.weight
    assert not list(m.parameters()) and not hasattr(m, "weight")


def test_a_name_changes_its_kind():
    m = nn.Module()
    m.x = 3
    m.x = nn.Parameter([1.0])
    assert names(m.named_parameters()) == ["x"]
    m.x = Scale()
    assert names(m.named_parameters()) == ["x.weight"] and names(m.named_children()) == ["x"]


def test_plain_tensors_are_not_registered():
    m = nn.Module()
    m.x = fastdl.ones(2)
    assert not list(m.parameters()) and not list(m.buffers()) and m.x.shape == (2,)


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda m: setattr(m, "weight", fastdl.ones(3)), TypeError, "expected a Parameter"),
        (lambda m: setattr(m, "child", 3), TypeError, "expected a Module"),
        (lambda m: setattr(m, "count", 3), TypeError, "expected a Tensor"),
        (lambda m: m.register_parameter("w", fastdl.ones(3)), TypeError, "register_parameter"),
        (lambda m: m.register_parameter("forward", None), KeyError, "already exists"),
        (lambda m: m.register_buffer("", None), KeyError, "empty"),
        (lambda m: m.register_buffer("a.b", None), KeyError, "dot"),
        (lambda m: m.register_buffer("b", np.ones(3)), TypeError, "register_buffer"),
        (lambda m: m.add_module("weight", Scale()), KeyError, "already exists"),
        (lambda m: m.add_module(3, Scale()), TypeError, "string"),
        (lambda m: m.nothing, AttributeError, "'Scale' object has no attribute 'nothing'"),
        (lambda m: m.get_submodule("child.nothing"), AttributeError, "nothing"),
        (lambda m: m.get_parameter("child.count"), AttributeError, "count"),
        (lambda m: delattr(m, "nothing"), AttributeError, "nothing"),
    ],
)
def test_registration_errors(act, error, message):
    m = Scale(child=Scale())
    before = names(m.named_parameters()), list(m.state_dict())
    with pytest.raises(error, match=message):
        act(m)
    assert (names(m.named_parameters()), list(m.state_dict())) == before


def test_forgotten_super_init():
    class Forgot(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter([1.0])

    with pytest.raises(AttributeError, match=r"Module.__init__|super"):
        Forgot()


def test_parameter():
    t = fastdl.ones(3)
    p = nn.Parameter(t)
    assert isinstance(p, fastdl.Tensor) and p.requires_grad and p.is_leaf and p.numpy(force=True) is t.numpy()
    assert nn.Parameter([1.0, 2.0]).dtype == fastdl.float32
    assert nn.Parameter(np.ones(2)).dtype == fastdl.float64
    assert not nn.Parameter(fastdl.tensor([1, 2]), requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="floating-point"):
        nn.Parameter(fastdl.tensor([1, 2]))
    assert type(p + 1) is fastdl.Tensor
    assert repr(p).startswith("Parameter containing:\ntensor([1., 1., 1.]")
    q = copy.deepcopy(p)
    assert type(q) is nn.Parameter and q.requires_grad and q.numpy(force=True) is not p.numpy(force=True)


def test_shared_parameters_come_once():
    a, b = Scale(), Scale()
    b.weight = a.weight
    m = nn.Sequential(a, b)
    assert names(m.named_parameters()) == ["0.weight"]
    assert names(m.named_parameters(remove_duplicate=False)) == ["0.weight", "1.weight"]
    assert [k for k in m.state_dict() if "weight" in k] == ["0.weight", "1.weight"]
    c = copy.deepcopy(m)
    assert c[0].weight is c[1].weight
    shared = nn.Sequential(a, a)
    assert len(list(shared.modules())) == 2 and len(list(shared.children())) == 1


def test_walking():
    m = Scale(child=Scale(child=Scale()))
    assert m.get_submodule("child.child") is m.child.child and m.get_submodule("") is m
    assert m.get_parameter("child.weight") is m.child.weight
    assert m.get_buffer("child.child.count") is m.child.child.count
    seen = []
    assert m.apply(seen.append) is m
    assert seen == [m.child.child, m.child, m]
    assert names(m.named_parameters(prefix="net")) == [
        "net.weight",
        "net.child.weight",
        "net.child.child.weight",
    ]


# ------------------------------------------------------------------------------------------------ modes, dtypes


def test_modes():
    m = Scale(child=Scale())
    assert m.training and m.eval() is m and not m.training and not m.child.training
    assert m.train() is m and m.child.training
    with pytest.raises(ValueError, match="train"):
        m.train("yes")
    m.requires_grad_(False)
    assert not any(p.requires_grad for p in m.parameters())
    m.requires_grad_()
    assert all(p.requires_grad for p in m.parameters())


def test_zero_grad():
    m = Scale(child=Scale())
    m(fastdl.ones(3)).sum().backward()
    m.zero_grad(set_to_none=False)
    assert m.weight.grad.tolist() == [0, 0, 0]
    m.zero_grad()
    assert m.weight.grad is None and m.child.weight.grad is None


def test_dtypes():
    m = Scale(child=Scale())
    m.register_buffer("steps", fastdl.tensor(0))
    m(fastdl.ones(3)).sum().backward()
    weight = m.weight
    assert m.double() is m and m.weight is weight
    assert (
        weight.dtype == fastdl.float64
        and weight.grad.dtype == fastdl.float64
        and m.count.dtype == fastdl.float64
    )
    assert m.steps.dtype == fastdl.int64
    m(fastdl.ones(3, dtype=fastdl.float64)).sum().backward()
    assert m.to(fastdl.float32).weight.dtype == fastdl.float32
    assert m.to("cpu", fastdl.float64).weight.dtype == fastdl.float64
    assert m.to(fastdl.ones(1)).weight.dtype == fastdl.float32
    assert m.to(fastdl.device("cpu")).float().cpu() is m
    with pytest.raises(TypeError, match="floating-point"):
        m.to(fastdl.int64)
    with pytest.raises(RuntimeError, match="cuda"):
        m.to("cuda:0")
    with pytest.raises(TypeError, match="unexpected"):
        m.to(dtpye=fastdl.float64)


def test_training_after_a_change_of_dtype():
    m = nn.Sequential(Scale(), Scale()).double()
    optimizer = fastdl.optim.SGD(m.parameters(), lr=0.5)
    m(fastdl.ones(3, dtype=fastdl.float64)).sum().backward()
    optimizer.step()
    assert m[0].weight.tolist() == [0.5] * 3


def test_no_leaks():
    """A module goes away with its last reference: nothing holds it in a cycle."""
    m = nn.Sequential(Scale(), Scale(child=Scale()))
    m(fastdl.ones(3)).sum().backward()
    ref = weakref.ref(m[1].child)
    gc.collect()
    gc.disable()
    try:
        del m
        assert ref() is None
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------------------- state_dict


def test_state_dict():
    m = Scale(child=Scale())
    state = m.state_dict()
    assert list(state) == ["weight", "count", "child.weight", "child.count"]
    assert type(state["weight"]) is fastdl.Tensor and not state["weight"].requires_grad
    assert state["weight"].numpy() is m.weight.numpy(force=True)  # memory is shared, as in torch
    assert m.state_dict(keep_vars=True)["weight"] is m.weight
    assert list(m.state_dict(prefix="net."))[-1] == "net.child.count"


@pytest.mark.parametrize("kind", ["tensor", "array", "list", "float64"])
def test_load_state_dict(kind):
    m = Scale(child=Scale())
    array = m.weight.numpy(force=True)
    convert = {
        "tensor": fastdl.tensor,
        "array": lambda x: x,
        "list": lambda x: x.tolist(),
        "float64": lambda x: x.astype(np.float64),
    }[kind]
    state = {k: convert(np.random.rand(*v.shape).astype(np.float32)) for k, v in m.state_dict().items()}
    assert m.load_state_dict(state) == ([], [])
    assert m.weight.numpy(force=True) is array and array.dtype == np.float32
    for key, value in m.state_dict().items():
        np.testing.assert_allclose(value.numpy(), np.asarray(state[key]), 1e-6)


def test_load_state_dict_names_all_that_is_wrong_and_loads_nothing():
    m = Scale(child=Scale())
    before = {k: v.numpy().copy() for k, v in m.state_dict().items()}
    state = {"weight": np.full(3, 7.0), "count": np.zeros(5), "child.weight": "three", "extra": np.ones(1)}
    with pytest.raises(nn.StateDictError) as caught:
        m.load_state_dict(state)
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, ValueError)
    message = str(caught.value)
    for part in (
        "Scale",
        "'extra'",
        "'child.count'",
        "'count': expected shape (2,), got (5,)",
        "'child.weight'",
        "str",
    ):
        assert part in message
    with pytest.raises(nn.StateDictError, match="count"):  # wrong shapes are errors without strict, too
        m.load_state_dict(state, strict=False)
    for k, v in m.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])
    with pytest.raises(TypeError, match="mapping"):
        m.load_state_dict([1, 2])
    with pytest.raises(nn.StateDictError, match="missing keys"):
        m.load_state_dict({})
    with pytest.raises(nn.StateDictError, match="None"):
        m.load_state_dict(dict.fromkeys(m.state_dict()))


def test_load_state_dict_not_strict():
    m = Scale(child=Scale())
    result = m.load_state_dict({"weight": np.full(3, 7.0), "extra": np.ones(1)}, strict=False)
    assert result.missing_keys == ["count", "child.weight", "child.count"] and result.unexpected_keys == [
        "extra"
    ]
    assert m.weight.tolist() == [7, 7, 7] and m.child.weight.tolist() == [1, 1, 1]


def test_load_state_dict_assign():
    m = Scale()
    array = np.full(3, 7.0)
    m.load_state_dict({"weight": array, "count": np.zeros(2)}, assign=True)
    assert m.weight.dtype == fastdl.float64 and m.weight.numpy(force=True) is array


def test_loading_between_forward_and_backward_is_noticed():
    m = Scale()
    y = (m(fastdl.ones(3, requires_grad=True)) ** 2).sum()
    m.load_state_dict({"weight": np.full(3, 7.0), "count": np.zeros(2)})
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()


def test_deepcopy():
    m = Scale(child=Scale())
    m(fastdl.ones(3)).sum().backward()
    c = copy.deepcopy(m)
    assert c.weight is not m.weight and c.weight is c._parameters["weight"] and c.child is c._modules["child"]
    c.load_state_dict({k: np.zeros(v.shape) for k, v in c.state_dict().items()})
    assert m.weight.tolist() == [1, 1, 1]


# ---------------------------------------------------------------------------------------------- calling, errors


def test_call_forms():
    m = Scale()
    x = fastdl.ones(3)
    assert m(x, 2.0).tolist() == m(x, factor=2.0).tolist() == m(factor=2.0, x=x).tolist() == [2, 2, 2]
    assert nn.Identity()(input=x) is x
    m.forward = lambda x: "patched"
    assert m(x) == "patched"

    class Base(nn.Module):
        def forward(self, input):
            return "base"

    class Derived(Base):
        def forward(self, input, other=2):
            return other

    class Called(Base):
        def __call__(self, input):
            return "called"

    assert Base()(1) == "base" and Derived()(1, other=3) == 3 and Called()(1) == "called"
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(x)


def test_errors_name_the_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Identity(), nn.Flatten(7))])

        def forward(self, x):
            return self.blocks[0](x)

    with pytest.raises(IndexError) as caught:
        Net()(fastdl.ones(2, 3))
    assert caught.value.__notes__ == ["in layer 'blocks.0.1' of Net: Flatten(start_dim=7, end_dim=-1)"]
    assert caught.value.layer == "blocks.0.1"
    with pytest.raises(IndexError) as caught:
        nn.Flatten(7)(fastdl.ones(2, 3))
    assert caught.value.__notes__ == ["in Flatten(start_dim=7, end_dim=-1)"]


# --------------------------------------------------------------------------------------------------- containers


def test_sequential():
    layers = [Scale(), nn.Identity(), Scale()]
    m = nn.Sequential(*layers)
    assert len(m) == 3 and list(m) == layers and m[0] is layers[0] and m[-1] is layers[2]
    assert m(fastdl.ones(3)).tolist() == [1, 1, 1]
    tail = m[1:]
    assert (
        type(tail) is nn.Sequential
        and list(tail) == layers[1:]
        and names(tail.named_children()) == ["1", "2"]
    )
    assert m.append(Scale()) is m and names(m.named_children()) == ["0", "1", "2", "3"]
    m.insert(1, nn.Flatten(0))
    assert isinstance(m[1], nn.Flatten) and m[2] is layers[1]
    del m[0]
    assert isinstance(m[0], nn.Flatten) and names(m.named_children()) == ["0", "1", "2", "3"]
    m[0] = Scale()
    assert isinstance(m[0], Scale) and names(m.named_children()) == ["0", "1", "2", "3"]
    assert m.pop(0).__class__ is Scale and len(m) == 3
    assert len(m + nn.Sequential(Scale())) == 4 and len(m.extend([Scale()])) == 4
    named = nn.Sequential({"first": Scale(), "second": Scale()})
    assert named.first is named[0] and names(named.named_parameters()) == ["first.weight", "second.weight"]
    assert nn.Sequential()(5) == 5
    for bad, error in ((9, IndexError), (-9, IndexError), ("x", TypeError)):
        with pytest.raises(error):
            m[bad]
    with pytest.raises(TypeError, match="Module"):
        nn.Sequential(Scale(), 3)
    with pytest.raises(TypeError, match="Module"):
        m[0] = 3


def test_module_list():
    m = nn.ModuleList(Scale() for _ in range(3))
    assert len(m) == 3 and len(list(m.parameters())) == 3 and isinstance(m[:2], nn.ModuleList)
    m += [Scale()]
    m.insert(0, nn.Identity())
    assert isinstance(m[0], nn.Identity) and names(m.named_children()) == list("01234")
    del m[1:3]
    assert len(m) == 3 and names(m.named_children()) == list("012")
    assert repr(nn.ModuleList([Scale(), Scale()])) == "ModuleList(\n  (0-1): 2 x Scale()\n)"
    with pytest.raises(TypeError, match="Module"):
        nn.ModuleList([3])


def test_module_dict():
    m = nn.ModuleDict({"a": Scale(), "b": Scale()})
    assert list(m) == ["a", "b"] and "a" in m and len(m) == 2 and m["a"] is m.a
    m["a"] = nn.Identity()
    m.update([("c", Scale())])
    assert list(m.keys()) == ["a", "b", "c"] and len(m.values()) == len(m.items()) == 3
    assert m.pop("b").__class__ is Scale and "b" not in m
    with pytest.raises(KeyError):
        m["b"]
    with pytest.raises(KeyError):
        del m["b"]
    with pytest.raises(KeyError, match="already exists"):
        m["keys"] = Scale()
    m.clear()
    assert len(m) == 0


def test_parameter_containers():
    m = nn.ParameterList([fastdl.ones(2), nn.Parameter(fastdl.zeros(3))])
    assert (
        len(m) == 2
        and names(m.named_parameters()) == ["0", "1"]
        and m[-1].shape == (3,)
        and m[0].requires_grad
    )
    m.append(fastdl.ones(1))
    m[0] = fastdl.zeros(4)
    assert [p.shape for p in m] == [(4,), (3,), (1,)] and len(m[1:]) == 2
    with pytest.raises(TypeError, match="ParameterList"):
        m.append(3)
    d = nn.ParameterDict({"a": fastdl.ones(2)})
    d["b"] = nn.Parameter(fastdl.zeros(3))
    assert names(d.named_parameters()) == ["a", "b"] and isinstance(d["a"], nn.Parameter)


def test_repr():
    m = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Identity()))
    assert repr(m) == (
        "Sequential(\n  (0): Flatten(start_dim=1, end_dim=-1)\n  (1): Sequential(\n    (0): Identity()\n  )\n)"
    )


def test_parameter_vectors():
    m = nn.Sequential(Scale(2), Scale(3))
    vector = nn.utils.parameters_to_vector(m.parameters())
    assert vector.tolist() == [1] * 5
    nn.utils.vector_to_parameters(fastdl.arange(5.0), m.parameters())
    assert m[1].weight.tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="5 elements"):
        nn.utils.vector_to_parameters(fastdl.arange(6.0), m.parameters())
    with pytest.raises(ValueError):
        nn.utils.parameters_to_vector([])
    m[0].double()
    with pytest.raises(TypeError, match="dtype"):
        nn.utils.parameters_to_vector(m.parameters())


def test_the_quick_walks_agree_with_the_named_ones():
    shared = Scale()
    m = nn.Sequential(
        Scale(child=shared), nn.ModuleList([shared, nn.Sequential(Scale(), shared)]), nn.Identity()
    )
    m[1].append(m[0])
    assert list(m.modules()) == [module for _, module in m.named_modules()]
    assert [id(p) for p in m.parameters()] == [id(p) for _, p in m.named_parameters()]
