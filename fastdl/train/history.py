"""What happened in training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class History:
    """``history[name]`` is the list of a quantity's values, ``epochs`` the epochs (from 1) they belong to.

    >>> log = History()
    >>> log.append(1, {"loss": 0.5})
    >>> log["loss"], log.epochs
    ([0.5], [1])
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def append(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Adds an epoch. A quantity that was not there before is None for the earlier epochs."""
        for name in logs:
            self.history.setdefault(name, [None] * len(self.epochs))
        self.epochs.append(epoch)
        for name, values in self.history.items():
            values.append(logs.get(name))

    def last(self) -> dict[str, Any]:
        """The values of the last epoch."""
        return {name: values[-1] for name, values in self.history.items()} if self.epochs else {}

    def __getitem__(self, name: str) -> list[Any]:
        return self.history[name]

    def __contains__(self, name: object) -> bool:
        return name in self.history

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        return f"History({len(self)} epochs: {', '.join(self.history)})"

    def state_dict(self) -> dict[str, Any]:
        """Plain Python values, for a checkpoint."""
        return {"epochs": list(self.epochs), "history": {k: list(v) for k, v in self.history.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ValueError for a state of something else."""
        if not isinstance(state, Mapping) or set(state) != {"epochs", "history"}:
            raise ValueError("History: expected a state with epochs and history")
        self.epochs = list(state["epochs"])
        self.history = {name: list(values) for name, values in state["history"].items()}
