"""``fit``, ``evaluate`` and ``predict``."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import is_array, to_numpy
from ..data.dataset import TensorDataset, as_array
from ..data.loader import DataLoader
from ..tensor import Tensor
from .callbacks import Callback, LRSchedulerCallback, ModelCheckpoint, ProgressBar
from .history import History
from .metrics import Metric, make_metrics
from .mode import evaluation_mode

_LOSSES = {
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "cross_entropy": "cross_entropy",
    "huber": "huber_loss",
    "kl_div": "kl_div",
    "l1": "l1_loss",
    "mae": "l1_loss",
    "mse": "mse_loss",
    "nll": "nll_loss",
    "smooth_l1": "smooth_l1_loss",
}
_OPTIMIZERS = {"adagrad": "Adagrad", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}


class Trainer:
    """The state of a running ``fit``, which callbacks see as ``self.trainer``.

    ``epoch`` counts from 1; setting ``stop`` ends training after the epoch under way.
    """

    def __init__(self, model: Any, optimizer: Any, loader: Any, epochs: int, history: History) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler: Any = None
        self.loader = loader
        self.epochs = epochs
        self.epoch = 0
        self.history = history
        self.stop = False
        self.seconds = 0.0  # of the epoch under way or just finished
        self.loss_sum = 0.0
        self.samples = 0
        self.metrics: list[Metric] = []

    @property
    def batches(self) -> int | None:
        """Batches per epoch, where the data knows."""
        return len(self.loader) if hasattr(self.loader, "__len__") else None

    def running(self) -> dict[str, Any]:
        """Mean loss and metrics of the epoch so far."""
        logs: dict[str, Any] = {"loss": self.loss_sum / self.samples if self.samples else float("nan")}
        for metric in self.metrics:
            logs[metric.name] = metric.compute()
        return logs


def fit(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Any], Tensor],
    optimizer: Any,
    epochs: int = 1,
    validation_data: Any = None,
    metrics: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    *,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int | None = None,
    scheduler: Any = None,
    clip_grad_norm: float | None = None,
    initial_epoch: int = 0,
    history: History | None = None,
    verbose: bool = True,
    autocast: Any = None,
) -> History:
    """Trains ``model`` and returns the History of losses and metrics.

    * ``data``, ``validation_data``: a DataLoader, a Dataset of (input, target), or a pair of arrays or
      Tensors; the last two are batched by ``batch_size`` and, for training, shuffled (``seed``: see
      DataLoader). More than one input: (input, ..., target).
    * ``loss``: a function (output, target) -> scalar Tensor, or a name: "cross_entropy", "mse", "l1", "bce",
      "bce_with_logits", "nll", "huber", "smooth_l1", "kl_div".
    * ``optimizer``: an optimizer over the model's parameters, or a name with torch's defaults: "sgd",
      "adam", ...
    * ``metrics``: names ("accuracy", "top5", "precision", "recall", "f1", "mse", "mae"), Metric objects, or
      functions (output, target) -> float.
    * ``scheduler`` steps after every epoch; LRSchedulerCallback does other rhythms.
    * ``clip_grad_norm`` bounds the norm of all gradients together.
    * ``initial_epoch`` and ``history`` continue an earlier run: epochs ``initial_epoch + 1`` to ``epochs``.
    * ``verbose`` shows a progress bar on a terminal and one line per epoch elsewhere.
    * Batches are moved to the device of the model's parameters.
    * ``autocast``, "bfloat16" or "float16", runs model and loss in mixed precision (`fastdl.autocast`).

    Raises ValueError for options that contradict each other or data without batches, TypeError for the wrong
    kinds, and whatever model, loss and callbacks raise. A KeyboardInterrupt passes through.

    >>> import numpy as np
    >>> from fastdl import nn
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> log = fit(nn.Linear(1, 1), (x, 3 * x), "mse", "sgd", epochs=2, seed=0, verbose=False)
    >>> log["loss"][1] < log["loss"][0]
    True
    """
    if not isinstance(epochs, int) or epochs < 0 or initial_epoch < 0:
        raise ValueError(
            f"fit: expected epochs and initial_epoch of at least 0, got {epochs!r}, {initial_epoch!r}"
        )
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"fit: expected clip_grad_norm > 0, got {clip_grad_norm}")
    loss_function = _loss(loss)
    context = _autocast(autocast)
    optimizer = _optimizer(optimizer, model)
    loader = make_loader("fit", data, batch_size, shuffle, seed)
    validation = None if validation_data is None else make_loader("fit", validation_data, 256)
    trainer = Trainer(model, optimizer, loader, epochs, History() if history is None else history)
    trainer.metrics = make_metrics(metrics)
    trainer.scheduler = scheduler
    parameters = list(model.parameters())
    clip = _clipper(parameters, clip_grad_norm)

    hooks = _Hooks(trainer, callbacks, scheduler, verbose)
    model.train()
    hooks.call("on_train_begin")
    try:
        for epoch in range(initial_epoch + 1, epochs + 1):
            trainer.epoch = epoch
            _train_epoch(trainer, hooks, loss_function, clip, context)
            logs = trainer.running()
            logs["lr"] = float(optimizer.param_groups[0]["lr"])
            if validation is not None:
                values = evaluate(
                    model, validation, loss_function, copy.deepcopy(trainer.metrics), autocast=autocast
                )
                logs |= {f"val_{name}": value for name, value in values.items()}
            trainer.history.append(epoch, logs)
            hooks.call("on_epoch_end", epoch, logs)
            if trainer.stop:
                break
    finally:
        hooks.call("on_train_end")
    return trainer.history


def _train_epoch(trainer: Trainer, hooks: _Hooks, loss_function: Any, clip: Any, context: Any) -> None:
    # The loop every training step passes through: nothing here that a step does not need.
    model, optimizer, metrics = trainer.model, trainer.optimizer, trainer.metrics
    on_batch_begin, on_loss, on_batch_end = (
        hooks.of(n) for n in ("on_batch_begin", "on_loss", "on_batch_end")
    )
    trainer.loss_sum, trainer.samples = 0.0, 0
    for metric in metrics:
        metric.reset()
    start = time.perf_counter()
    hooks.call("on_epoch_begin", trainer.epoch)
    number = 0
    moved = _mover(model)
    for batch in trainer.loader:
        number += 1
        *inputs, target = moved(_members("fit", batch))
        for hook in on_batch_begin:
            hook(number)
        optimizer.zero_grad()
        with context:
            output = model(*inputs)
            loss = loss_function(output, target)
        value = loss.item()
        for hook in on_loss:
            hook(number, value)
        loss.backward()
        if clip is not None:
            clip()
        optimizer.step()
        size = target.shape[0] if target.shape else 1
        trainer.loss_sum += value * size
        trainer.samples += size
        for metric in metrics:
            metric.update(output, target)
        trainer.seconds = time.perf_counter() - start
        for hook in on_batch_end:
            hook(number, value)
    if number == 0:
        raise ValueError("fit: expected at least one batch, got none")


def evaluate(
    model: Any,
    data: Any,
    loss: str | Callable[[Any, Any], Tensor] | None = None,
    metrics: Sequence[Any] = (),
    *,
    batch_size: int = 256,
    autocast: Any = None,
) -> dict[str, Any]:
    """Mean loss and metrics of ``model`` on ``data``, in evaluation mode and without gradients.

    Arguments are those of ``fit``; without ``loss`` there is none in the result. Raises as ``fit`` does.
    """
    from .. import no_grad

    loss_function = None if loss is None else _loss(loss)
    loader = make_loader("evaluate", data, batch_size)
    made = make_metrics(metrics)
    for metric in made:
        metric.reset()
    total, samples = 0.0, 0
    with evaluation_mode(model), no_grad(), _autocast(autocast):
        moved = _mover(model)
        for batch in loader:
            *inputs, target = moved(_members("evaluate", batch))
            output = model(*inputs)
            size = target.shape[0] if target.shape else 1
            if loss_function is not None:
                total += loss_function(output, target).item() * size
            samples += size
            for metric in made:
                metric.update(output, target)
    if samples == 0:
        raise ValueError("evaluate: expected at least one sample, got none")
    result: dict[str, Any] = {} if loss_function is None else {"loss": total / samples}
    return result | {metric.name: metric.compute() for metric in made}


def predict(model: Any, data: Any, *, batch_size: int = 256, autocast: Any = None) -> Any:
    """The model's outputs for all of ``data``, as one array (or a tuple of arrays where the model returns
    several).

    ``data`` is an array or Tensor of inputs, or what ``fit`` takes, whose targets are ignored. Runs in
    evaluation mode and without gradients, with ``autocast`` as in `fit`. Raises ValueError for data without samples,
    TypeError for a model that cannot be called.
    """
    from .. import no_grad

    if not callable(model):
        raise TypeError(f"predict: expected a model, got {type(model).__name__}")

    if isinstance(data, Tensor) or is_array(data):
        data = (data,)
    outputs: list[Any] = []
    with evaluation_mode(model), no_grad(), _autocast(autocast):
        moved = _mover(model)
        for batch in make_loader("predict", data, batch_size):
            members = [batch] if isinstance(batch, Tensor) else list(batch)
            output = model(*moved(members[:-1] if len(members) > 1 else members))
            outputs.append(_arrays(output))
    if not outputs:
        raise ValueError("predict: expected at least one sample, got none")
    if isinstance(outputs[0], tuple):
        return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return np.concatenate(outputs)


def make_loader(
    caller: str, data: Any, batch_size: int, shuffle: bool = False, seed: int | None = None
) -> Iterable[Any]:
    """A DataLoader over arrays or a Dataset; other repeatable iterables are taken as they are."""
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, (tuple, list)):
        if not data or not all(isinstance(member, Tensor) or is_array(member) for member in data):
            kinds = ", ".join(type(member).__name__ for member in data)
            raise TypeError(f"{caller}: expected a pair of arrays or Tensors, got ({kinds})")
        data = TensorDataset(*data)
    if (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, (Tensor, np.ndarray, str, dict))
    ):
        return DataLoader(data, batch_size, shuffle=shuffle, seed=seed)
    if hasattr(data, "__iter__") and not isinstance(data, (Iterator, Tensor, np.ndarray, str, dict)):
        return data
    raise TypeError(f"{caller}: expected a DataLoader, a Dataset or arrays (x, y), got {type(data).__name__}")


def _members(caller: str, batch: Any) -> Sequence[Any]:
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return batch
    got = f"{len(batch)} members" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise ValueError(f"{caller}: expected batches (input, target), got {got}")


def _mover(model: Any) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What brings a batch to the device of the model: nothing to do where that is the CPU."""
    first = next(iter(model.parameters()), None) if hasattr(model, "parameters") else None
    if first is None or first.device.type == "cpu":
        return lambda members: members
    device = first.device
    return lambda members: [m.to(device) if isinstance(m, Tensor) else m for m in members]


def _arrays(output: Any) -> Any:
    if isinstance(output, (tuple, list)):
        return tuple(to_numpy(as_array(part)) for part in output)
    return to_numpy(as_array(output))


def _loss(loss: Any) -> Callable[[Any, Any], Tensor]:
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss: expected a function or a name, got {type(loss).__name__}")
    if loss not in _LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(_LOSSES)}, got {loss!r}")
    from ..nn import functional

    return getattr(functional, _LOSSES[loss])


def _optimizer(optimizer: Any, model: Any) -> Any:
    if not isinstance(optimizer, str):
        if not hasattr(optimizer, "step") or not hasattr(optimizer, "param_groups"):
            raise TypeError(f"optimizer: expected an optimizer or a name, got {type(optimizer).__name__}")
        return optimizer
    if optimizer not in _OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(_OPTIMIZERS)}, got {optimizer!r}")
    from .. import optim

    return getattr(optim, _OPTIMIZERS[optimizer])(model.parameters())


def _autocast(dtype: Any) -> Any:
    """The context in which model and loss run."""
    if dtype is None:
        return contextlib.nullcontext()
    from ..casting import autocast

    return autocast("cpu", dtype)


def _clipper(parameters: list[Any], norm: float | None) -> Callable[[], Any] | None:
    if norm is None:
        return None
    from ..nn.utils import clip_grad_norm_

    return lambda: clip_grad_norm_(parameters, norm)


class _Hooks:
    """The callbacks in their order, and for each event those that listen."""

    def __init__(
        self, trainer: Trainer, callbacks: Sequence[Callback], scheduler: Any, verbose: bool
    ) -> None:
        chosen = list(callbacks)
        for item in chosen:
            if not isinstance(item, Callback):
                raise TypeError(f"fit: expected Callback objects, got {type(item).__name__}")
        if scheduler is not None:
            chosen.append(LRSchedulerCallback(scheduler))
        if verbose and not any(isinstance(item, ProgressBar) for item in chosen):
            chosen.append(ProgressBar())
        # A checkpoint holds the rate of the epoch to come: schedulers step before it is written. The line of an
        # epoch comes last: once it shows, the checkpoint is there.
        places = {LRSchedulerCallback: 0, ModelCheckpoint: 2, ProgressBar: 3}
        chosen.sort(key=lambda item: next((p for kind, p in places.items() if isinstance(item, kind)), 1))
        for item in chosen:
            item.trainer = trainer
        self.callbacks = chosen

    def of(self, event: str) -> list[Callable[..., Any]]:
        """The methods that override ``event``."""
        base = getattr(Callback, event)
        return [getattr(item, event) for item in self.callbacks if getattr(type(item), event) is not base]

    def call(self, event: str, *args: Any) -> None:
        for method in self.of(event):
            method(*args)
