"""The hyper-parameters of a run: defaults, storage in a checkpoint, and building the parts from them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import fastdl

from .. import backend, models, optim
from ..nn import functional
from ..train import Callback
from .sources import Source

DTYPES = ("float32", "bfloat16", "autocast")
OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")

# Tuned for accuracy after the default number of epochs.
_RATES = {"sgd": 0.1, "momentum": 0.02, "adagrad": 0.02, "rmsprop": 1e-3, "adam": 3e-3, "adamw": 3e-3}
_EPOCHS = {"digits": 20}
_BATCH = {"digits": 32}
_DECAY = {"digits": 0.85}
_FLOOR = 0.02  # of the first learning rate; so long runs go on learning


@dataclass
class Run:
    """Everything that determines the final weights, apart from the data."""

    model: str
    optimizer: str
    lr: float
    lr_decay: float
    batch_size: int
    seed: int
    epochs: int
    data: str
    data_crc32: int
    input_shape: list[int]
    class_names: list[str]
    mean: float
    std: float
    dtype: str = "float32"
    precision: str = "highest"

    @classmethod
    def start(cls, args: Any, source: Source) -> Run:
        """A new run from command-line options, with defaults for those left out."""
        optimizer = args.optimizer or "adam"
        return cls(
            model=args.model or "cnn",
            optimizer=optimizer,
            lr=_RATES[optimizer] if args.lr is None else args.lr,
            lr_decay=_DECAY.get(source.spec, 0.6) if args.lr_decay is None else args.lr_decay,
            batch_size=_BATCH.get(source.spec, 64) if args.batch_size is None else args.batch_size,
            seed=0 if args.seed is None else args.seed,
            epochs=_EPOCHS.get(source.spec, 5) if args.epochs is None else args.epochs,
            data=source.spec,
            data_crc32=source.fingerprint(),
            input_shape=list(source.input_shape),
            class_names=list(source.class_names),
            mean=source.mean,
            std=source.std,
            dtype=args.dtype or "float32",
            precision=args.precision or "highest",
        )

    @classmethod
    def restore(cls, path: str, metadata: Mapping[str, Any]) -> Run:
        """The run a checkpoint belongs to. Raises ValueError when ``fastdl train`` did not write it."""
        stored = metadata.get("run")
        try:
            return cls(**stored)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(
                f"{path}: expected a checkpoint of fastdl train, got one of another program"
            ) from None

    def check_options(self, path: str, args: Any) -> None:
        """Raises ValueError when an option of a resumed run differs from the checkpoint's."""
        for name in ("model", "optimizer", "lr", "lr_decay", "batch_size", "seed", "dtype", "precision"):
            given, stored = getattr(args, name), getattr(self, name)
            if given is not None and given != stored:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{path}: was made with {option} {stored}, got {option} {given}")

    def check_data(self, path: str, source: Source) -> None:
        """Raises ValueError when the data cannot be what the checkpoint was made for."""
        expected = (tuple(self.input_shape), len(self.class_names))
        got = (source.input_shape, len(source.class_names))
        if got[0] != expected[0] or got[1] > expected[1]:
            raise ValueError(
                f"{path}: is a model for images of shape {expected[0]} in {expected[1]} classes, "
                f"got {got[0]} in {got[1]} ({source.description})"
            )

    def metadata(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"run": asdict(self)}

    def build_model(self) -> Any:
        """A new model with initial weights drawn from the seed, and the precision it computes with."""
        fastdl.set_float32_precision(self.precision)
        fastdl.manual_seed(self.seed)
        model = models.build(self.model, self.input_shape, len(self.class_names))
        return model.to("bfloat16") if self.dtype == "bfloat16" else model

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Images as the model takes them."""
        return backend.convert(x, fastdl.dtypes.as_dtype("bfloat16")) if self.dtype == "bfloat16" else x

    @property
    def autocast(self) -> str | None:
        """What fit and evaluate are told."""
        return "bfloat16" if self.dtype == "autocast" else None

    @staticmethod
    def loss(output: Any, target: Any) -> Any:
        """Cross-entropy in float32, whatever the model's dtype."""
        return functional.cross_entropy(output.float(), target)

    def build_optimizer(self, model: Any) -> Any:
        """The optimizer over the model's parameters."""
        parameters = model.parameters()
        if self.optimizer == "momentum":
            return optim.SGD(parameters, lr=self.lr, momentum=0.9, nesterov=True)
        kinds = {
            "sgd": optim.SGD,
            "adagrad": optim.Adagrad,
            "rmsprop": optim.RMSprop,
            "adam": optim.Adam,
            "adamw": optim.AdamW,
        }
        return kinds[self.optimizer](parameters, lr=self.lr)


def arithmetic(run: Run) -> str:
    """What a run computes with, in words."""
    if run.dtype == "bfloat16":
        return "bfloat16"
    text = "float32" if run.precision == "highest" else f"float32 of {run.precision} precision"
    return f"{text} with bfloat16 autocast" if run.dtype == "autocast" else text


class LearningRate(Callback):
    """lr * decay^(epoch - 1), at least 2% of lr: it depends on the epoch alone, as resuming needs."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_epoch_begin(self, epoch: int) -> None:
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.run.lr * max(self.run.lr_decay ** (epoch - 1), _FLOOR)


def check_writable(path: str, option: str) -> None:
    """Raises OSError now rather than after an hour of training when ``path`` cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, f"{option} {path}: is a directory")
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, f"{option} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"{option} {path}: the folder {folder} is not writable")
