"""What can be hung into ``fit``: subclass Callback, or use these."""

from __future__ import annotations

import csv
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .loop import Trainer


class Callback:
    """Base class. Override what you need; ``self.trainer`` has model, optimizer, epoch, history and ``stop``.

    Epochs and batches count from 1; ``logs`` are the epoch's loss, metrics, ``lr`` and ``val_...`` values.
    """

    trainer: Trainer

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_train_end(self) -> None:
        """After the last epoch, also when training ends with an exception."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before the first batch of an epoch."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """After the epoch and its validation."""

    def on_batch_begin(self, batch: int) -> None:
        """Before a training step."""

    def on_loss(self, batch: int, loss: float) -> None:
        """Between the forward and the backward pass: an exception here leaves the weights as they were."""

    def on_batch_end(self, batch: int, loss: float) -> None:
        """After the optimizer's step."""


class _Monitor(Callback):
    """Follows one quantity of the logs and knows what better means."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        kind = type(self).__name__
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{kind}: expected mode auto, min or max, got {mode!r}")
        if min_delta < 0:
            raise ValueError(f"{kind}: expected min_delta of at least 0, got {min_delta}")
        if mode == "auto":
            mode = "max" if monitor.endswith(("accuracy", "precision", "recall", "f1")) else "min"
        self.monitor = monitor
        self.min_delta = min_delta
        self.sign = 1.0 if mode == "max" else -1.0
        self.best = -math.inf

    def improved(self, logs: Mapping[str, Any]) -> bool:
        """Whether the quantity is better than ever before. Raises ValueError when the logs do not have it."""
        if self.monitor not in logs:
            raise ValueError(
                f"{type(self).__name__}: expected one of {', '.join(logs)} to monitor, got {self.monitor!r}"
            )
        value = self.sign * float(logs[self.monitor])
        if value > self.best + self.min_delta:
            self.best = value
            return True
        return False


class EarlyStopping(_Monitor):
    """Stops after ``patience`` epochs without an improvement of more than ``min_delta``.

    ``mode`` "auto" takes accuracy, precision, recall and F1 as better when higher, all else when lower.
    ``restore_best_weights`` puts the weights of the best epoch back at the end.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if patience < 0:
            raise ValueError(f"EarlyStopping: expected patience of at least 0, got {patience}")
        self.patience = patience
        self.restore_best_weights = restore_best_weights
        self.best_epoch = 0
        self._weights: Any = None

    def on_train_begin(self) -> None:
        self.best, self.best_epoch, self._weights = -math.inf, self.trainer.epoch, None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        if self.improved(logs):
            self.best_epoch = epoch
            if self.restore_best_weights:
                state = self.trainer.model.state_dict()
                self._weights = {name: value.detach().clone() for name, value in state.items()}
        elif epoch - self.best_epoch > self.patience:
            self.trainer.stop = True

    def on_train_end(self) -> None:
        if self._weights is not None:
            self.trainer.model.load_state_dict(self._weights)


class ModelCheckpoint(_Monitor):
    """Writes a checkpoint (``fastdl.io.save_checkpoint``) after every epoch, or with ``monitor`` after
    better ones.

    ``path`` may hold ``{epoch}`` and names from the logs, as in
    ``"model-{epoch}-{val_loss:.3f}.safetensors"``. ``metadata`` maps names to values JSON can hold.
    ``saved_epoch`` is the epoch of the last file written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str | None = None,
        mode: str = "auto",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(monitor or "", mode)
        self.path = os.fspath(path)
        self.metadata = metadata
        self.saved_epoch = 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        if self.monitor and not self.improved(logs):
            return
        from ..io import save_checkpoint

        trainer = self.trainer
        save_checkpoint(
            self.path.format(**{**logs, "epoch": epoch}) if "{" in self.path else self.path,
            trainer.model,
            trainer.optimizer,
            trainer.scheduler,
            trainer.loader if hasattr(trainer.loader, "state_dict") else None,
            epoch=epoch,
            extra={"history": trainer.history.state_dict()},
            metadata=self.metadata,
        )
        self.saved_epoch = epoch


class CSVLogger(Callback):
    """Writes one line of scalars per epoch to a CSV file, starting it anew unless ``append``."""

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = path
        self.append = append
        self._columns: list[str] | None = None

    def on_train_begin(self) -> None:
        self._columns = None
        if self.append and os.path.exists(self.path):
            with open(self.path, newline="") as file:
                self._columns = next(csv.reader(file), None)
        else:
            with open(self.path, "w"):  # fails now, rather than after the first epoch
                pass

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        row = {"epoch": epoch} | {k: v for k, v in logs.items() if isinstance(v, (int, float))}
        with open(self.path, "a", newline="") as file:
            if self._columns is None:
                self._columns = list(row)
                csv.writer(file).writerow(self._columns)
            csv.DictWriter(file, self._columns, extrasaction="ignore").writerow(row)


class NaNGuard(Callback):
    """Raises FloatingPointError naming epoch and batch at a NaN or infinite loss, before it does harm."""

    def on_loss(self, batch: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"epoch {self.trainer.epoch}, batch {batch}: the loss is {loss}; lower the learning rate, "
                "clip gradients, or look for bad values in the data"
            )


class LRSchedulerCallback(Callback):
    """Steps a learning-rate scheduler after every epoch, or with ``per="batch"`` after every batch.

    A ReduceLROnPlateau gets ``monitor`` from the logs.
    """

    def __init__(self, scheduler: Any, per: str = "epoch", monitor: str = "val_loss") -> None:
        if per not in ("epoch", "batch"):
            raise ValueError(f"LRSchedulerCallback: expected per epoch or batch, got {per!r}")
        self.scheduler = scheduler
        self.per = per
        self.monitor = monitor

    def on_train_begin(self) -> None:
        if self.trainer.scheduler is None:  # so that checkpoints hold its state
            self.trainer.scheduler = self.scheduler

    def on_batch_end(self, batch: int, loss: float) -> None:
        if self.per == "batch":
            self.scheduler.step()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        if self.per != "epoch":
            return
        if type(self.scheduler).__name__ != "ReduceLROnPlateau":
            self.scheduler.step()
            return
        if self.monitor not in logs:
            raise ValueError(
                f"LRSchedulerCallback: expected one of {', '.join(logs)} to monitor, got {self.monitor!r}"
            )
        self.scheduler.step(logs[self.monitor])


class ProgressBar(Callback):
    """One line per epoch, and while it runs, on a terminal, a live bar with loss, metrics and time left."""

    REFRESH = 0.1  # seconds between redraws

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file
        self._bar: Any = None
        self._drawn = 0.0

    def on_epoch_begin(self, epoch: int) -> None:
        out = self._out()
        if not out.isatty():
            return
        from tqdm import tqdm

        trainer = self.trainer
        self._bar = tqdm(
            total=trainer.batches,
            desc=f"Epoch {epoch}/{trainer.epochs} ",
            file=out,
            ncols=shutil.get_terminal_size((100, 24)).columns,  # some terminals say 0: then 100
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self._drawn = time.monotonic()

    def on_batch_end(self, batch: int, loss: float) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._drawn >= self.REFRESH:
            self._drawn = now
            self._bar.set_postfix_str(describe(self.trainer.running()), refresh=False)
            self._bar.update(batch - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        text = describe({name: value for name, value in logs.items() if name != "lr"})
        if self._bar is not None:  # the whole line stays, however narrow the terminal; the bar goes
            self._bar.update((self._bar.total or self._bar.n) - self._bar.n)
            self._bar.refresh()
            self._bar.leave = False
            self._close()
        line = f"Epoch {epoch}/{self.trainer.epochs}  {text}  {self.trainer.seconds:.1f} s"
        print(line, file=self._out(), flush=True)

    def on_train_end(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _out(self) -> TextIO:
        return sys.stdout if self.file is None else self.file


def describe(logs: Mapping[str, Any]) -> str:
    """``loss 0.1234  accuracy 0.9876``: the scalars of the logs."""
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if isinstance(value, (int, float)))
