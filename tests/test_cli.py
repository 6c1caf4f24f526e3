"""The ``fastdl`` command, run as users run it: in a process of its own, on scikit-learn's digits."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastdl
from fastdl import io
from fastdl.cli import main
from fastdl.data import write_idx

pytest.importorskip("sklearn")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(fastdl.__file__)))


def environment(**extra):
    # The fastdl under test, also when it is not installed; and no data of the caller's.
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {k: v for k, v in os.environ.items() if k not in ("FASTDL_DATA", "FASTDL_DEBUG")}
    return env | {"PYTHONPATH": os.pathsep.join(paths)} | extra


def start(*args, cwd, **env):
    # A shell's background jobs ignore SIGINT, and so would the processes they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "fastdl", *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args, cwd):
    process = start(*args, cwd=cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    return out, err


def accuracy(out):
    return re.search(r"test accuracy (\d\.\d{4})", out)[1]


def call(capsys, *args):
    """The command in this process: fast, for errors."""
    try:
        status = main(list(map(str, args)))
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


DIGITS = ("--data", "digits", "--model", "linear")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    out, err = run("train", *DIGITS, "--epochs", 2, "--save", "m.safetensors", "--plot", "h.png", cwd=folder)
    assert "Traceback" not in err
    return folder, out


def test_train_reports(trained):
    folder, out = trained
    lines = out.splitlines()
    assert lines[0] == "data: scikit-learn's digits: 1438 training and 359 test images, 1 x 8 x 8, 10 classes"
    assert sum(line.startswith("Epoch ") for line in lines) == 2
    assert lines[-1].startswith("test accuracy 0.") and lines[-1].endswith(
        "after 2 epochs on scikit-learn's digits"
    )
    assert sorted(p.name for p in folder.iterdir()) == ["h.png", "m.safetensors"]
    assert (folder / "h.png").read_bytes().startswith(b"\x89PNG")


def test_eval_gives_the_same_accuracy(trained, capsys):
    folder, out = trained
    result, _ = run("eval", "m.safetensors", cwd=folder)
    assert accuracy(result) == accuracy(out)
    assert call(capsys, "eval", folder / "m.safetensors", "--data", "digits")[1].endswith(result[-20:])
    assert "precision  recall" in result and "confusion matrix" in result
    table = [line.split() for line in result.splitlines()]
    matrix = np.array([row[2:] for row in table if len(row) == 12], int)
    assert matrix.shape == (10, 10) and matrix.sum() == 359
    assert f"{np.trace(matrix) / 359:.4f}" == accuracy(out)
    first = next(row for row in table if row and row[0] == "0" and len(row) == 5)
    assert float(first[2]) == pytest.approx(matrix[0, 0] / matrix[0].sum(), abs=1e-4)


def test_checkpoint_metadata_is_json(trained):
    from safetensors import safe_open

    with safe_open(trained[0] / "m.safetensors", framework="numpy") as file:
        metadata = file.metadata()
        assert {"model.1.weight", "model.1.bias"} <= set(file.keys())
    described = json.loads(metadata["run"])
    assert described["model"] == "linear" and described["epochs"] == 2


def train(capsys, *args):
    status, out, err = call(capsys, "train", *args)
    assert (status, err) == (0, "")
    return out


@pytest.mark.parametrize("model", ["linear", "cnn"])
def test_resume_is_bit_identical(tmp_path, model, capsys):
    straight, half, whole = (tmp_path / f"{name}.safetensors" for name in ("straight", "half", "whole"))
    options = ("--data", "digits", "--quiet")
    train(capsys, *options, "--model", model, "--epochs", 4, "--save", straight)
    train(capsys, *options, "--model", model, "--epochs", 2, "--save", half)
    train(capsys, *options, "--epochs", 4, "--resume", half, "--save", whole)
    expected = straight.read_bytes()
    assert whole.read_bytes() == expected != half.read_bytes()
    out = train(capsys, "--resume", half, "--epochs", 4)  # saves to where it came from
    assert half.read_bytes() == expected
    assert sum(line.startswith("Epoch ") for line in out.splitlines()) == 2
    again = train(capsys, "--resume", half)
    assert accuracy(again) == accuracy(out) and "holds 4 epochs of 4" in again
    assert half.read_bytes() == expected


def wait_for_epoch(process, number):
    lines = []
    while line := process.stdout.readline():
        lines.append(line)
        if line.startswith(f"Epoch {number}/"):
            return lines
    raise AssertionError((lines, process.stderr.read()))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_interrupt_keeps_the_last_whole_epoch(tmp_path, capsys):
    options = ("--data", "digits", "--model", "mlp", "--epochs", 40, "--save")
    process = start("train", *options, "cut.safetensors", cwd=tmp_path)
    wait_for_epoch(process, 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = re.fullmatch(
        r"fastdl: interrupted: cut.safetensors holds (\d+) epochs; go on with --resume cut.safetensors\n", err
    )
    assert kept, err
    cut, straight = tmp_path / "cut.safetensors", tmp_path / "straight.safetensors"
    assert 2 <= int(kept[1]) < 40 and io.read_checkpoint(cut)["epoch"] == int(kept[1])
    assert list(tmp_path.iterdir()) == [cut]
    train(capsys, "--resume", cut, "--quiet")
    train(capsys, *options, straight, "--quiet")
    assert cut.read_bytes() == straight.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_interrupt_without_save(tmp_path):
    process = start("train", *DIGITS, "--epochs", 10000, cwd=tmp_path)
    wait_for_epoch(process, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "fastdl: interrupted: nothing is saved (no --save)\n"
    assert list(tmp_path.iterdir()) == []


def test_threads_do_not_change_the_weights(tmp_path, capsys):
    before = fastdl.get_num_threads()
    paths = [tmp_path / f"{n}.safetensors" for n in (1, 2)]
    for n, path in enumerate(paths, 1):
        train(capsys, "--data", "digits", "--model", "cnn", "--epochs", 1, "--threads", n, "--save", path)
    fastdl.set_num_threads(before)
    assert paths[0].read_bytes() == paths[1].read_bytes()


# --- which data ---------------------------------------------------------------------------------------------


def write_images(folder, n=64, side=12, classes=3):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, side, side)).astype("u1"))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", (np.arange(n) % classes).astype("u1"))
    return folder


@pytest.mark.parametrize("model", ["mlp", "cnn", "lstm"])
def test_data_directory(tmp_path, model, capsys):
    folder = write_images(tmp_path / "images")
    save = tmp_path / "m.safetensors"
    status, out, err = call(
        capsys,
        "train",
        "--data",
        folder,
        "--model",
        model,
        "--epochs",
        1,
        "--save",
        save,
        "--optimizer",
        "momentum",
    )
    assert (status, err) == (0, "")
    assert f"data: IDX files from {folder}: 64 training and 64 test images, 1 x 12 x 12, 3 classes" in out
    status, result, _ = call(capsys, "eval", save)
    assert status == 0 and accuracy(result) == accuracy(out)


def test_eval_on_other_images_uses_the_training_statistics(tmp_path, capsys):
    folder, bright = write_images(tmp_path / "images"), write_images(tmp_path / "bright")
    save = tmp_path / "m.safetensors"
    out = train(capsys, "--data", folder, "--model", "linear", "--epochs", 1, "--save", save)
    # Other training images, the same test images with the classes 0 and 1 only.
    write_idx(bright / "train-images-idx3-ubyte.gz", np.full((64, 12, 12), 255, np.uint8))
    assert accuracy(call(capsys, "eval", save, "--data", bright)[1]) == accuracy(out)
    write_idx(bright / "train-labels-idx1-ubyte.gz", np.zeros(64, np.uint8))
    write_idx(bright / "t10k-labels-idx1-ubyte.gz", np.zeros(64, np.uint8))
    assert call(capsys, "eval", save, "--data", bright)[0] == 0


def test_data_from_the_environment(tmp_path, capsys, monkeypatch):
    folder = write_images(tmp_path / "images", side=28, classes=10)
    monkeypatch.setenv("FASTDL_DATA", str(folder))
    for data, name in ((), "IDX files"), (("--data", "fashion-mnist"), "Fashion-MNIST"):
        status, out, _ = call(capsys, "train", *data, "--epochs", 1, "--model", "linear")
        assert status == 0 and f"data: {name} from {folder}" in out
    monkeypatch.setenv("FASTDL_DATA", str(tmp_path / "gone"))
    status, _, err = call(capsys, "train", "--epochs", 1)
    assert status == 2 and "gone" in err


def test_fallback_to_digits_and_hint_without_scikit_learn(capsys, monkeypatch):
    monkeypatch.delenv("FASTDL_DATA", raising=False)
    monkeypatch.setattr("fastdl.data.images.FASHION_MNIST_DIR", "/nowhere/at/all")
    status, out, _ = call(capsys, "train", "--epochs", 1, "--model", "linear")
    assert status == 0 and out.startswith("data: scikit-learn's digits")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    status, out, err = call(capsys, "train", "--epochs", 1)
    assert (
        status == 2 and out == "" and "pip install 'fastdl[demo]'" in err and "dataset-fashion-mnist" in err
    )
    status, _, err = call(capsys, "train", "--data", "digits")
    assert status == 2 and "pip install 'fastdl[demo]'" in err
    status, _, err = call(capsys, "train", "--data", "fashion-mnist")
    assert status == 2 and "dataset-fashion-mnist" in err


# --- errors: one line, status 2, nothing written ------------------------------------------------------------


def expect_error(result, text):
    status, _, err = result
    assert status == 2 and re.fullmatch(rf"fastdl: error: [^\n]*{text}[^\n]*\n", err), err


@pytest.mark.parametrize(
    "args, text",
    [
        (("train", "--model", "resnet"), "invalid choice: 'resnet'"),
        (("train", "--epochs", "0"), "--epochs: expected a whole number"),
        (("train", "--batch-size", "x"), "--batch-size: expected a whole number"),
        (("train", "--lr", "-1"), "--lr: expected a number above 0"),
        (("train", "--lr", "nan"), "--lr: expected a number above 0"),
        (("train", "--seed", "-1"), "--seed: expected a whole number"),
        (("train", "--optimizer", "magic"), "invalid choice: 'magic'"),
        (("fly",), "invalid choice: 'fly'"),
        (("eval",), "FILE"),
        (("train", "--data", "/no/such/folder"), "/no/such/folder"),
        (("train", "--save", "/no/such/folder/m.safetensors"), "there is no folder /no/such/folder"),
        (("train", "--save", "/"), "is a directory"),
        (("train", "--plot", "history.doc"), "history.doc: expected a name ending in"),
        (("train", "--resume", "none.safetensors"), "none.safetensors"),
        (("eval", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_arguments(args, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expect_error(call(capsys, *args), text)
    assert list(tmp_path.iterdir()) == []


def test_save_under_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    expect_error(
        call(capsys, "train", *DIGITS, "--save", tmp_path / "file" / "m.safetensors"), "there is no folder"
    )


def test_read_only_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    expect_error(call(capsys, "train", *DIGITS, "--save", tmp_path / "m.safetensors"), "is not writable")


def test_disk_full_during_training(tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "m.safetensors"
    expect_error(call(capsys, "train", *DIGITS, "--save", path), "m.safetensors: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_corrupt_files(tmp_path, capsys, trained):
    folder = write_images(tmp_path / "images")
    whole = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole[:-50])
    expect_error(call(capsys, "train", "--data", folder), "train-images-idx3-ubyte.gz: truncated")
    (folder / "train-images-idx3-ubyte.gz").unlink()
    expect_error(call(capsys, "train", "--data", folder), "expected train-images-idx3-ubyte")
    path = tmp_path / "cut.safetensors"
    path.write_bytes((trained[0] / "m.safetensors").read_bytes()[:-5])
    expect_error(call(capsys, "eval", path), "cut.safetensors: truncated")
    expect_error(call(capsys, "train", "--resume", path), "cut.safetensors: truncated")
    path.write_text("hello, this is not a model\n")
    expect_error(call(capsys, "eval", path), "cut.safetensors: not a safetensors file")
    io.save({"weight": np.zeros(3, np.float32)}, path)
    expect_error(call(capsys, "eval", path), "expected a fastdl checkpoint")
    io.save_checkpoint(path, epoch=1)
    expect_error(call(capsys, "eval", path), "expected a checkpoint of fastdl train")


def test_checkpoints_that_do_not_fit(tmp_path, capsys, trained):
    path = trained[0] / "m.safetensors"
    folder = write_images(tmp_path / "images")
    expect_error(
        call(capsys, "eval", path, "--data", folder), r"images of shape \(1, 8, 8\) in 10 classes, got"
    )
    expect_error(call(capsys, "train", "--resume", path, "--model", "mlp"), "--model linear, got --model mlp")
    expect_error(call(capsys, "train", "--resume", path, "--lr", "1"), "--lr")
    content = io.read_checkpoint(path)
    described = content.pop("metadata")
    described["run"]["model"] = "mlp"
    wrong = tmp_path / "wrong.safetensors"
    texts = {"fastdl.checkpoint": "1", "run": json.dumps(described["run"])}
    io.save(content, wrong, texts)
    expect_error(call(capsys, "eval", wrong), "wrong.safetensors: does not fit this model: .*2.weight")


def test_diverging_training_stops_with_a_hint(tmp_path, capsys):
    args = (
        "train",
        "--data",
        "digits",
        "--model",
        "mlp",
        "--optimizer",
        "sgd",
        "--lr",
        "1e30",
        "--epochs",
        3,
    )
    save = tmp_path / "m.safetensors"
    expect_error(
        call(capsys, *args, "--save", save), "epoch 1, batch .*: the loss is .*; lower the learning rate"
    )
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    expect_error(
        call(capsys, "train", *DIGITS, "--plot", tmp_path / "h.png"), r"pip install 'fastdl\[demo\]'"
    )


def test_unexpected_errors_show_with_debug(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTDL_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["eval", str(tmp_path / "none.safetensors")])


# --- info and friends ---------------------------------------------------------------------------------------


def test_info(capsys):
    status, out, err = call(capsys, "info")
    rows = dict(line.split(None, 1) for line in out.splitlines())
    assert (status, err) == (0, "") and rows["fastdl"] == fastdl.__version__
    assert "available: " in rows["ISA"] and "generic" in rows["ISA"]
    assert re.search(r"\d GFLOP/s", out) and re.search(r"\d\.\d GB/s", out)
    for name in ("threads", "caches", "matplotlib", "sklearn", "cupy", "torch"):
        assert name in rows


def test_info_tolerates_a_strange_machine(capsys, monkeypatch):
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    status, out, _ = call(capsys, "info")
    assert status == 0 and re.search(r"caches +unknown", out)


def test_version_help_and_folders(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")  # paths are for other programs: no line breaks in them
    assert call(capsys, "--version") == (0, f"fastdl {fastdl.__version__}\n", "")
    status, out, _ = call(capsys, "--help")
    assert status == 0 and all(word in out for word in ("train", "eval", "info"))
    assert call(capsys)[0] == 0
    for flag, end in (("--includedir", "include"), ("--libdir", "lib"), ("--cmakedir", "cmake/fastdl")):
        status, out, _ = call(capsys, flag)
        assert status == 0 and out.endswith(f"{end}\n") and out.count("\n") == 1


# --- dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "autocast"])
def test_resume_in_bfloat16_is_bit_identical(tmp_path, dtype, capsys):
    straight, half = tmp_path / "straight.safetensors", tmp_path / "half.safetensors"
    options = ("--data", "digits", "--quiet", "--model", "cnn", "--dtype", dtype)
    train(capsys, *options, "--epochs", 3, "--save", straight)
    train(capsys, *options, "--epochs", 1, "--save", half)
    out = train(capsys, "--resume", half, "--epochs", 3, "--quiet")
    assert half.read_bytes() == straight.read_bytes()
    content = io.read_checkpoint(half)
    weight = "bfloat16" if dtype == "bfloat16" else "float32"
    assert content["model"]["0.weight"].dtype.name == weight
    assert ("master_param" in content["optimizer"]["state"][0]) == (dtype == "bfloat16")
    assert content["metadata"]["run"]["dtype"] == dtype
    status, report, _ = call(capsys, "eval", half)
    assert status == 0 and accuracy(report) == accuracy(out) and "bfloat16" in report.splitlines()[0]
    status, _, err = call(capsys, "train", "--resume", half, "--dtype", "float32")
    assert status == 2 and f"was made with --dtype {dtype}, got --dtype float32" in err
    status, report, _ = call(capsys, "eval", half, "--dtype", "float32", "--precision", "high")
    assert status == 0 and abs(float(accuracy(report)) - float(accuracy(out))) < 0.01
    assert "float32 of high precision" in report


def test_precision_of_a_run(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    out = train(capsys, *DIGITS, "--epochs", 1, "--precision", "medium", "--save", path)
    assert "float32 of medium precision" in out
    assert io.read_checkpoint(path)["metadata"]["run"]["precision"] == "medium"
    fastdl.set_float32_precision("highest")
    train(capsys, "--resume", path, "--epochs", 2)
    assert fastdl.get_float32_precision() == "medium"
    assert "medium (of float32 products)" in call(capsys, "info")[1]
    assert call(capsys, "train", "--precision", "low")[0] == 2


@pytest.fixture(autouse=True)
def highest_precision():
    yield
    fastdl.set_float32_precision("highest")


@pytest.mark.parametrize("model", ["cnn", "lstm"])
def test_bfloat16_learns_as_float32_does(model):
    """Three epochs on a part of Fashion-MNIST (or ten on the digits), two seeds: the means lie within what other seeds
    give. (After five epochs on all of Fashion-MNIST they differ by less than 0.5 points: README.md.)"""
    from fastdl.cli.run import LearningRate, Run
    from fastdl.cli.sources import load_source
    from fastdl.data.images import FASHION_MNIST_DIR
    from fastdl.train import evaluate, fit

    fashion = os.path.isdir(FASHION_MNIST_DIR)
    source = load_source("fashion-mnist" if fashion else "digits")
    n, epochs = (1500 if model == "cnn" else 4000, 3) if fashion else (1500, 10)
    options = dict.fromkeys(("optimizer", "lr", "precision")) | {"lr_decay": 0.3 if fashion else 0.7}
    accuracies = {}
    for dtype in ("float32", "bfloat16", "autocast"):
        found = []
        for seed in (0, 1):
            args = argparse.Namespace(
                model=model, dtype=dtype, seed=seed, epochs=epochs, batch_size=32, **options
            )
            setup = Run.start(args, source)
            network = setup.build_model()
            optimizer = setup.build_optimizer(network)
            train_set = setup.inputs(source.x_train[:n]), source.y_train[:n]
            log = fit(network, train_set, setup.loss, optimizer, epochs, callbacks=[LearningRate(setup)], seed=seed,
                      batch_size=32, verbose=False, autocast=setup.autocast)  # fmt: skip
            assert log["loss"][-1] < log["loss"][0]
            test_set = setup.inputs(source.x_test[:2000]), source.y_test[:2000]
            found.append(evaluate(network, test_set, None, ["accuracy"], autocast=setup.autocast)["accuracy"])
        accuracies[dtype] = np.mean(found)
    assert accuracies["float32"] > (0.7 if fashion else 0.9)
    for dtype in ("bfloat16", "autocast"):
        assert abs(accuracies[dtype] - accuracies["float32"]) < 0.03, accuracies


def test_selftest_passes_on_every_instruction_set(capsys):
    from fastdl import _core

    assert main(["--selftest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(_core.available_isas())
    assert lines[-1].startswith("passed in")


def test_selftest_notices_a_wrong_kernel(capsys, monkeypatch):
    import fastdl.nn.functional as F

    softmax = F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, dim: softmax(x, dim) * 1.0001)
    assert main(["--selftest"]) == 1
    out = capsys.readouterr().out
    assert "softmax forward error" in out and "softmax backward error" in out and "FAILED" in out
    assert "norm forward" not in out
