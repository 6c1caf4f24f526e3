"""Wrong calls as users make them: each raises the documented kind of exception, naming the function."""

import os

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import nn, ops, optim

X = fastdl.ones(2, 3)
P = [nn.Parameter(fastdl.ones(2))]
Adam = optim.Adam


@pytest.mark.parametrize("wrong", [None, "a", object()], ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        "reshape",
        "transpose",
        "permute",
        "unsqueeze",
        "split",
        "topk",
        "triu",
        "nonzero",
        "gather",
        "mm",
        "outer",
        "flip",
        "clone",
        "numel",
        "neg",
    ],
)
def test_functions_given_no_tensor(name, wrong):
    arguments = {"transpose": (0, 1), "unsqueeze": (0,), "split": (1,), "topk": (1,), "gather": (0, X)}
    arguments |= {"mm": (X,), "outer": (X,), "reshape": (2,), "permute": (0,), "flip": (0,)}
    with pytest.raises(TypeError, match=f"^(absolute|{name}|tensor): expected"):
        getattr(fastdl, name)(wrong, *arguments.get(name, ()))


@pytest.mark.parametrize(
    "name",
    [
        "addmm",
        "addmv",
        "addr",
        "baddbmm",
        "bmm",
        "cross",
        "dot",
        "expand_as",
        "inner",
        "mm",
        "mv",
        "outer",
        "reshape_as",
        "type_as",
        "view_as",
    ],
)
def test_methods_given_no_tensor(name):
    count = 2 if name.startswith(("addm", "addr", "badd")) else 1
    with pytest.raises(TypeError, match=f"{name}: expected a Tensor, got NoneType"):
        getattr(X, name)(*[None] * count)


def test_an_error_inside_is_not_hidden():
    class Broken:
        pass

    with pytest.raises(AttributeError, match="nothing"):
        fastdl.naming.names_itself(lambda x: x.nothing)(X)
    with pytest.raises(AttributeError, match="nothing"):
        fastdl.naming.names_itself(lambda x: Broken().nothing)(None)


@pytest.mark.parametrize(
    "name",
    [
        "dropout",
        "dropout2d",
        "layer_norm",
        "group_norm",
        "batch_norm",
        "instance_norm",
        "rms_norm",
        "glu",
        "leaky_relu_",
    ],
)
@pytest.mark.parametrize("wrong", [None, [1.0]], ids=repr)
def test_functional_given_no_tensor(name, wrong):
    more = {"layer_norm": ((3,),), "rms_norm": ((3,),), "group_norm": (1,), "batch_norm": (None, None)}
    with pytest.raises(TypeError, match=f"{name[:5]}.*: expected .*, got (NoneType|list)"):
        getattr(F, name)(wrong, *more.get(name, ()))


@pytest.mark.parametrize("wrong", [None, [[1.0]], "a"], ids=repr)
def test_ops_given_no_arrays(wrong):
    a = np.ones((1, 1), np.float32)
    calls = {
        "linear": (a,), "matmul": (a,), "mm": (a,), "mv": (a,), "dot": (a,), "bmm": (a,), "pack_b": (),
        "layer_norm": ((1,),), "rms_norm": ((1,),), "group_norm": (1,), "glu": (), "nll_loss": (np.zeros(1, int),),
        "cross_entropy": (np.zeros(1, int),), "softmax": (), "log_softmax": (),
        "activation": ("relu",), "conv": (a,), "max_pool": (2,),
    }  # fmt: skip
    for name, more in calls.items():
        with pytest.raises(TypeError, match=r"expected .*numpy\.ndarray"):
            getattr(ops, name)(wrong, *more)


@pytest.mark.parametrize(
    "kind, message, call",
    [
        (TypeError, "Adam: expected an iterable.*NoneType", lambda: Adam(None)),
        (TypeError, "Adam: expected an iterable.*Linear", lambda: Adam(nn.Linear(2, 2))),
        (TypeError, "Adam: expected lr to be a number, got 'a'", lambda: Adam(P, lr="a")),
        (TypeError, "Adam: expected lr to be a number, got None", lambda: Adam(P, lr=None)),
        (TypeError, "Adam: expected betas to be a pair", lambda: Adam(P, betas=0.9)),
        (ValueError, "Adam: .*'param_groups', got keys", lambda: Adam(P).load_state_dict({})),
        (TypeError, "Adam: expected a state dict, got NoneType", lambda: Adam(P).load_state_dict(None)),
        (ValueError, "SGD: .*'params', got keys", lambda: optim.SGD([{"lr": 1}])),
        (ValueError, "max_norm >= 0, got -1", lambda: nn.utils.clip_grad_norm_(P, -1)),
        (ValueError, "max_norm >= 0, got 'a'", lambda: nn.utils.clip_grad_norm_(P, "a")),
        (TypeError, "expected a PackedSequence, got Tensor", lambda: nn.utils.rnn.pad_packed_sequence(X)),
        (TypeError, "set_num_threads: expected an integer, got 'a'", lambda: fastdl.set_num_threads("a")),
        (TypeError, "expected a dtype such as float32, or its name, got 'foo'", lambda: X.to("foo")),
        (
            ValueError,
            r"copy_: expected a shape .*\(2, 3\), got \(4,\)",
            lambda: X.clone().copy_(fastdl.ones(4)),
        ),
        (ValueError, "masked_fill: expected shapes", lambda: X.masked_fill(fastdl.ones(4) > 0, 0)),
        (TypeError, "Module.__call__.* missing", lambda: nn.Linear(3, 2)()),
    ],
)
def test_options(kind, message, call):
    with pytest.raises(kind, match=message):
        call()


def test_save_leaves_devices_and_pipes_alone(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"cannot write .*not a regular file"):
        fastdl.save({"x": X}, pipe)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_load_of_a_zip_archive_says_what_to_do(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(ValueError, match=r"as torch\.save writes.*save_file"):
        fastdl.load(path)


def test_messages_name_what_is_missing():
    x, labels = fastdl.randn(2, 3), fastdl.tensor([0, 1])
    for name in (
        "cross_entropy",
        "nll_loss",
        "mse_loss",
        "l1_loss",
        "huber_loss",
        "kl_div",
        "poisson_nll_loss",
    ):
        loss = getattr(F, name)
        for call, argument, got in (
            (lambda f=loss: f(x, None), "target", "NoneType"), (lambda f=loss: f(None, x), "input", "NoneType"),
            (lambda f=loss: f(x, "a"), "target", "str"),
        ):  # fmt: skip
            with pytest.raises(TypeError, match=f"{name}: expected {argument} to be a Tensor, got {got}"):
                call()
    with pytest.raises(TypeError, match="predict: expected a model, got NoneType"):
        fastdl.predict(None, x)
    for value, dtype in ((300, "uint8"), (-1, "uint8"), (float("inf"), "int64"), (float("nan"), "int32")):
        with pytest.raises(ValueError, match=f"masked_fill: {value} can't be converted to {dtype}"):
            labels.to(dtype).masked_fill(labels > 0, value)
    assert labels.masked_fill(labels > 0, 2.5).tolist() == [0, 2]  # as torch
