import csv
import io
import math

import numpy as np
import pytest

import fastdl
from fastdl import nn, optim
from fastdl.data import DataLoader, TensorDataset, digits
from fastdl.tensor import Tensor
from fastdl.train import (
    Accuracy,
    Callback,
    ConfusionMatrix,
    CSVLogger,
    EarlyStopping,
    F1Score,
    History,
    LRSchedulerCallback,
    MeanAbsoluteError,
    MeanSquaredError,
    ModelCheckpoint,
    NaNGuard,
    Precision,
    ProgressBar,
    Recall,
    TopKAccuracy,
    evaluate,
    fit,
    predict,
    summary,
)


@pytest.fixture(autouse=True)
def seeded():
    fastdl.manual_seed(0)


def line(n=64, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)
    return x, (x @ np.array([[2.0], [-1.0]], np.float32) + 0.5).astype(np.float32)


def blobs(n=90, seed=0):
    """Three well separated classes in the plane."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.array([[3, 0], [-3, 3], [0, -4]])
    return (centres[y] + 0.3 * rng.normal(size=(n, 2))).astype(np.float32), y


def classifier():
    fastdl.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))


def weights(model):
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# --- fit, evaluate, predict ---------------------------------------------------------------------------------


def test_fit_solves_a_regression_and_evaluates():
    model = nn.Linear(2, 1)
    x, y = line()
    log = fit(
        model,
        (x, y),
        "mse",
        optim.SGD(model.parameters(), lr=0.1),
        20,
        (x, y),
        ["mae"],
        seed=0,
        verbose=False,
    )
    assert len(log) == 20 and log.epochs == list(range(1, 21))
    assert set(log.history) == {"loss", "mae", "lr", "val_loss", "val_mae"}
    assert log["loss"][-1] < 1e-4 < log["loss"][0] and log["lr"] == [0.1] * 20
    result = evaluate(model, (x, y), "mse", ["mae"])
    assert result == {"loss": log["val_loss"][-1], "mae": log["val_mae"][-1]}
    np.testing.assert_allclose(predict(model, x), y, atol=1e-2)


@pytest.mark.parametrize("kind", ["arrays", "tensors", "dataset", "loader"])
def test_all_kinds_of_data_train_alike(kind):
    x, y = blobs()
    model = classifier()
    data = {
        "arrays": (x, y),
        "tensors": (Tensor(x), Tensor(y)),
        "dataset": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), 8, shuffle=True, seed=3),
    }[kind]
    log = fit(
        model, data, "cross_entropy", "adam", 2, batch_size=8, seed=3, metrics=["accuracy"], verbose=False
    )
    reference = classifier()
    expected = fit(
        reference,
        (x, y),
        "cross_entropy",
        "adam",
        2,
        batch_size=8,
        seed=3,
        metrics=["accuracy"],
        verbose=False,
    )
    assert same(weights(model), weights(reference)) and log.history == expected.history


def test_fit_learns_a_classification():
    x, y = blobs()
    model = classifier()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    log = fit(model, (x, y), "cross_entropy", optimizer, 5, metrics=["accuracy"], seed=0, verbose=False)
    assert log["accuracy"][-1] > 0.95
    assert evaluate(model, blobs(seed=1), metrics=["accuracy"])["accuracy"] > 0.95
    assert predict(model, Tensor(x)).shape == (90, 3) and predict(model, TensorDataset(x, y)).shape == (90, 3)


def test_same_seed_same_bits():
    def run():
        model = classifier()
        fit(model, blobs(), "cross_entropy", "adam", 2, seed=5, verbose=False)
        return weights(model)

    assert same(run(), run())


def test_clipping_bounds_the_step():
    x, y = line()
    model = nn.Linear(2, 1)
    before = weights(model)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    fit(model, (x, 1000 * y), "mse", optimizer, 1, batch_size=64, clip_grad_norm=0.5, verbose=False)
    after = weights(model)
    moved = math.sqrt(sum(float(((after[k] - before[k]) ** 2).sum()) for k in before))
    assert 0.49 < moved < 0.51


def test_modes_are_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model[1].eval()
    seen = []

    def loss(output, target):
        seen.append((model.training, model[1].training))
        return (output - target).pow(2).mean()

    evaluate(model, (np.ones((4, 2), np.float32), np.ones((4, 2), np.float32)), loss)
    assert seen == [(False, False)] and model.training and not model[1].training


def test_models_with_several_inputs_and_outputs():
    class Both(nn.Module):
        def forward(self, a, b):
            return a + b, a - b

    x = np.ones((5, 2), np.float32)
    total, difference = predict(Both(), (x, x, np.zeros(5)))
    assert (total == 2).all() and (difference == 0).all() and total.shape == (5, 2)


@pytest.mark.parametrize(
    "changes, error, text",
    [
        (dict(epochs=-1), ValueError, "epochs"),
        (dict(epochs=1.5), ValueError, "epochs"),
        (dict(clip_grad_norm=0), ValueError, "clip_grad_norm"),
        (dict(loss="l7"), ValueError, "loss: expected one of"),
        (dict(loss=3), TypeError, "loss"),
        (dict(optimizer="magic"), ValueError, "optimizer: expected one of"),
        (dict(optimizer=None), TypeError, "optimizer"),
        (dict(metrics=["luck"]), ValueError, "metrics: expected one of"),
        (dict(metrics=[3]), TypeError, "metrics"),
        (dict(callbacks=[print]), TypeError, "Callback"),
        (dict(data=None), TypeError, "DataLoader"),
        (dict(data="abc"), TypeError, "DataLoader"),
        (dict(data=np.zeros((3, 2))), TypeError, "DataLoader"),
        (dict(data=(np.zeros((3, 2)), None)), TypeError, "NoneType"),
        (dict(data=(np.zeros((3, 2)), np.zeros(4))), ValueError, "first dimension"),
        (dict(data=(np.zeros((3, 2), np.float32),)), ValueError, "input, target"),
        (
            dict(data=(np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32))),
            ValueError,
            "at least one batch",
        ),
        (dict(batch_size=0), ValueError, "batch_size"),
    ],
)
def test_fit_rejects(changes, error, text):
    model = nn.Linear(2, 1)
    before = weights(model)
    options = dict(data=line(), loss="mse", optimizer="sgd", epochs=1, verbose=False) | changes
    with pytest.raises(error, match=text):
        fit(model, **options)
    assert same(weights(model), before)
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate(model, (np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32)), "mse")
    with pytest.raises(ValueError, match="at least one sample"):
        predict(model, np.zeros((0, 2), np.float32))


# --- callbacks ----------------------------------------------------------------------------------------------


def test_callback_order():
    calls = []

    class Log(Callback):
        def on_train_begin(self):
            calls.append("begin")

        def on_epoch_begin(self, epoch):
            calls.append(f"epoch {epoch}")

        def on_batch_begin(self, batch):
            calls.append(f"batch {batch}")

        def on_loss(self, batch, loss):
            assert isinstance(loss, float)
            calls.append("loss")

        def on_batch_end(self, batch, loss):
            calls.append("done")

        def on_epoch_end(self, epoch, logs):
            assert "loss" in logs and self.trainer.history["loss"][-1] == logs["loss"]
            calls.append("logs")

        def on_train_end(self):
            calls.append("end")

    fit(nn.Linear(2, 1), line(4), "mse", "sgd", 2, callbacks=[Log()], batch_size=2, verbose=False)
    batches = ["batch 1", "loss", "done", "batch 2", "loss", "done", "logs"]
    assert calls == ["begin", "epoch 1", *batches, "epoch 2", *batches, "end"]


def test_nan_guard_names_the_batch_before_the_weights_change():
    x, y = line(8)
    y[5] = np.nan
    model = nn.Linear(2, 1)
    loader = DataLoader(TensorDataset(x, y), 2)
    after_two = []

    class Keep(Callback):
        def on_batch_end(self, batch, loss):
            after_two.append(weights(model))

    with pytest.raises(FloatingPointError, match="epoch 1, batch 3: the loss is nan"):
        fit(model, loader, "mse", "sgd", 1, callbacks=[NaNGuard(), Keep()], verbose=False)
    assert len(after_two) == 2 and same(weights(model), after_two[1])


class Script(Callback):
    """Puts chosen values into the logs."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs["score"] = self.values[epoch - 1]


def test_early_stopping_and_restored_weights():
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(weights(self.trainer.model))

    model = nn.Linear(2, 1)
    stop = EarlyStopping("score", patience=1, min_delta=0.1, mode="max", restore_best_weights=True)
    script = Script([1, 3, 3.05, 2, 9])
    log = fit(model, line(), "mse", "sgd", 5, callbacks=[script, Keep(), stop], verbose=False)
    assert len(log) == 4 and stop.best_epoch == 2 and same(weights(model), seen[1])
    with pytest.raises(ValueError, match="expected one of loss, lr to monitor, got 'val_loss'"):
        fit(model, line(), "mse", "sgd", 1, callbacks=[EarlyStopping()], verbose=False)
    for bad in (dict(mode="up"), dict(patience=-1), dict(min_delta=-1)):
        with pytest.raises(ValueError):
            EarlyStopping(**bad)
    assert EarlyStopping("val_accuracy").sign == 1 and EarlyStopping("val_loss").sign == -1


def test_checkpoint_of_the_best_epoch(tmp_path):
    keep = ModelCheckpoint(tmp_path / "best-{epoch}.safetensors", monitor="score", mode="max")
    fit(nn.Linear(2, 1), line(), "mse", "sgd", 4, callbacks=[Script([1, 3, 2, 4]), keep], verbose=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"best-{n}.safetensors" for n in (1, 2, 4)]
    assert keep.saved_epoch == 4


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("crash", [False, True])
def test_resumed_training_is_bit_identical(tmp_path, name, crash):
    """Four epochs in one go against two and two more, with dropout, momentum, a schedule and shuffling."""
    path = tmp_path / "c.safetensors"

    def parts():
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        kind = {"sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9), "adam": lambda p: optim.Adam(p, lr=0.01)}
        optimizer = kind[name](model.parameters())
        scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return model, optimizer, scheduler, DataLoader(TensorDataset(*blobs()), 16, shuffle=True)

    class Crash(Callback):
        def on_batch_end(self, batch, loss):
            if self.trainer.epoch == 3 and batch == 2:
                raise KeyboardInterrupt

    def train(model, optimizer, scheduler, loader, epochs, callbacks, **options):
        return fit(
            model, loader, "cross_entropy", optimizer, epochs, scheduler=scheduler, callbacks=callbacks,
            metrics=["accuracy"], verbose=False, **options,
        )  # fmt: skip

    fastdl.manual_seed(7)
    straight = parts()
    expected = train(*straight, 4, [])

    fastdl.manual_seed(7)
    first = parts()
    if crash:
        with pytest.raises(KeyboardInterrupt):
            train(*first, 4, [ModelCheckpoint(path), Crash()])
    else:
        train(*first, 2, [ModelCheckpoint(path)])

    fastdl.manual_seed(99)
    second = parts()
    content = fastdl.io.load_checkpoint(path, *second)
    assert content["epoch"] == 2
    history = History()
    history.load_state_dict(content["extra"]["history"])
    log = train(*second, 4, [], initial_epoch=2, history=history)
    assert same(weights(second[0]), weights(straight[0]))
    assert log.history == expected.history and log.epochs == expected.epochs


def test_checkpoint_of_another_model_names_the_mismatch(tmp_path):
    path = tmp_path / "c.safetensors"
    model = nn.Linear(2, 3)
    fastdl.io.save_checkpoint(path, model, optim.Adam(model.parameters()))
    other = nn.Linear(2, 4)
    before = weights(other)
    with pytest.raises(ValueError, match=r"(?s)c\.safetensors: does not fit this model: .*weight.*\(4, 2\)"):
        fastdl.io.load_checkpoint(path, other)
    with pytest.raises(ValueError, match=r"(?s)c\.safetensors: does not fit this model: .*0\.weight"):
        fastdl.io.load_checkpoint(path, nn.Sequential(nn.Linear(2, 3)))
    assert same(weights(other), before)


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    model, data = nn.Linear(2, 1), line()
    fit(model, data, "mse", "sgd", 2, data, callbacks=[CSVLogger(path)], verbose=False)
    log = fit(
        model,
        data,
        "mse",
        "sgd",
        3,
        data,
        callbacks=[CSVLogger(path, append=True)],
        initial_epoch=2,
        verbose=False,
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"] and list(rows[0]) == [
        "epoch",
        "loss",
        "lr",
        "val_loss",
    ]
    assert float(rows[2]["loss"]) == log["loss"][0]
    with pytest.raises(OSError):
        fit(model, data, "mse", "sgd", callbacks=[CSVLogger(tmp_path / "no" / "log.csv")], verbose=False)


def test_schedulers():
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    step = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    log = fit(model, line(8), "mse", optimizer, 3, scheduler=step, verbose=False)
    assert log["lr"] == [1e-3, 5e-4, 2.5e-4]
    per_batch = LRSchedulerCallback(optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1), per="batch")
    fit(model, line(8), "mse", optimizer, 1, callbacks=[per_batch], batch_size=2, verbose=False)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.25e-6)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    with pytest.raises(ValueError, match="monitor, got 'val_loss'"):
        fit(model, line(8), "mse", optimizer, 1, scheduler=plateau, verbose=False)
    with pytest.raises(ValueError, match="epoch or batch"):
        LRSchedulerCallback(step, per="hour")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress(capsys):
    data = blobs()
    fit(classifier(), data, "cross_entropy", "adam", 2, data, ["accuracy"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("Epoch 1/2  loss ") and "val_accuracy" in lines[1]
    terminal = Terminal()
    fit(classifier(), data, "cross_entropy", "adam", 2, data, ["accuracy"], [ProgressBar(terminal)])
    text = terminal.getvalue()
    assert "Epoch 2/2" in text and "100%" in text and "val_accuracy" in text and "3/3" in text
    assert capsys.readouterr().out == ""
    fit(classifier(), data, "cross_entropy", "adam", 1, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_history():
    log = History()
    log.append(1, {"a": 1.0})
    log.append(2, {"a": 2.0, "b": 3.0})
    assert log.history == {"a": [1.0, 2.0], "b": [None, 3.0]} and log.last() == {"a": 2.0, "b": 3.0}
    other = History()
    other.load_state_dict(log.state_dict())
    assert other.history == log.history and "b" in other and len(other) == 2 and "2 epochs" in repr(other)
    with pytest.raises(ValueError):
        other.load_state_dict({"a": 1})


# --- metrics ------------------------------------------------------------------------------------------------


def streamed(metric, prediction, target, parts=3):
    for a, b in zip(np.array_split(prediction, parts), np.array_split(target, parts), strict=True):
        metric.update(a, b)
    return metric.compute()


def test_metrics_against_scikit_learn(rng):
    sk = pytest.importorskip("sklearn.metrics")
    scores, y = rng.normal(size=(200, 5)), rng.integers(0, 5, 200)
    guess = scores.argmax(1)
    assert streamed(Accuracy(), scores, y) == sk.accuracy_score(y, guess)
    assert streamed(TopKAccuracy(2), scores, y) == sk.top_k_accuracy_score(y, scores, k=2)
    assert (streamed(ConfusionMatrix(), scores, y) == sk.confusion_matrix(y, guess)).all()
    for metric, reference in (
        (Precision, sk.precision_score),
        (Recall, sk.recall_score),
        (F1Score, sk.f1_score),
    ):
        for average in ("macro", "weighted", "micro", None):
            expected = reference(y, guess, average=average)
            np.testing.assert_allclose(streamed(metric(average), scores, y), expected, rtol=1e-12)


def test_metrics_by_hand():
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    assert streamed(MeanSquaredError(), a, b) == 29 / 4 and streamed(MeanAbsoluteError(), a, b) == 9 / 4
    assert streamed(Accuracy(), np.array([0.2, 0.7, 0.9]), np.array([0, 1, 0])) == 2 / 3  # binary scores
    assert streamed(Accuracy(), np.array([2, 1, 0]), np.array([2, 1, 1])) == 2 / 3  # labels
    pixels = np.zeros((2, 3, 2, 2))
    pixels[:, 1] = 1
    assert streamed(Accuracy(), pixels, np.ones((2, 2, 2), np.int64), 1) == 1
    masked = Accuracy(ignore_index=-100)
    masked.update(np.eye(3), np.array([0, 0, -100]))
    assert masked.compute() == 0.5
    tied = TopKAccuracy(1)
    tied.update(np.ones((3, 3)), np.array([0, 1, 2]))
    assert tied.compute() == pytest.approx(1 / 3)
    metric = Accuracy()
    assert math.isnan(metric.compute())
    metric.update(Tensor(np.eye(2, dtype=np.float32)), Tensor(np.array([0, 1])))
    assert metric.compute() == 1
    metric.reset()
    assert math.isnan(metric.compute())
    grown = ConfusionMatrix()
    grown.update(np.array([0]), np.array([0]))
    grown.update(np.array([2]), np.array([1]))
    assert grown.compute().tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_metrics_reject():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4,\)"):
        Accuracy().update(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(ValueError, match="mse"):
        MeanSquaredError().update(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="top5"):
        TopKAccuracy().update(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="at least 0"):
        ConfusionMatrix().update(np.array([0]), np.array([-1]))
    with pytest.raises(ValueError, match="average"):
        Precision("middle")
    with pytest.raises(ValueError, match="k of at least 1"):
        TopKAccuracy(0)


def test_function_metric():
    def bias(output, target):
        return (output - target).mean().item()

    x, y = line(10)
    result = evaluate(nn.Linear(2, 1), (x, y), metrics=[bias], batch_size=3)
    assert list(result) == ["bias"] and math.isfinite(result["bias"])


# --- summary ------------------------------------------------------------------------------------------------


def test_summary_of_a_cnn(capsys):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 3 * 3, 2)
    )
    model[0].weight.requires_grad_(False)
    table = summary(model, (1, 8, 8))
    out = capsys.readouterr().out
    assert str(table) + "\n" == out
    assert [r.output_shape for r in table.rows] == [
        "(N, 4, 6, 6)", "(N, 4, 6, 6)", "(N, 4, 3, 3)", "(N, 36)", "(N, 36)", "(N, 2)",
    ]  # fmt: skip
    assert [r.parameters for r in table.rows] == [40, 0, 0, 0, 0, 74]
    assert (table.parameters, table.trainable, table.nbytes) == (114, 78, 456)
    assert (
        "Conv2d" in out
        and "Parameters: 114" in out
        and repr(table) == "Summary(Sequential: 6 layers, 114 parameters)"
    )
    assert model.training and "forward" not in model[0].__dict__


def test_summary_of_nested_models():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(Tensor(np.ones(3, np.float32)))
            self.inner = nn.Linear(3, 3)
            self.unused = nn.Linear(3, 5)

        def forward(self, x):
            return self.inner(self.inner(x)) * self.scale

    table = summary(nn.Sequential(Block(), nn.Linear(3, 2)), (3,), file=io.StringIO())
    names = {row.name: (row.output_shape, row.parameters) for row in table.rows}
    assert names == {"0.inner": ("(N, 3)", 12), "1": ("(N, 2)", 8), "0": ("-", 3), "0.unused": ("-", 20)}
    assert table.parameters == sum(row.parameters for row in table.rows) == 43
    single = summary(nn.Linear(3, 2), (3,), file=io.StringIO())
    assert [(r.name, r.output_shape, r.parameters) for r in single.rows] == [("", "(N, 2)", 8)]


def test_summary_restores_after_an_error():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(4, 2))
    with pytest.raises(ValueError):
        summary(model, (3,), file=io.StringIO())
    assert model.training and all("forward" not in m.__dict__ for m in model.modules())
    with pytest.raises(ValueError, match="input_shape"):
        summary(model, 3)


# --- real data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm"])
def test_digits_accuracy(kind):
    pytest.importorskip("sklearn")
    from fastdl import models

    fastdl.backend.POISON = False
    fastdl.manual_seed(0)
    train, test = digits()
    mean, std = train[0].mean(), train[0].std()
    train, test = (((x - mean) / std, y) for x, y in (train, test))
    model = models.build(kind, (1, 8, 8), 10)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.85)
    fit(model, train, "cross_entropy", optimizer, 20, scheduler=schedule, seed=0, verbose=False)
    assert evaluate(model, test, metrics=["accuracy"])["accuracy"] >= 0.97
