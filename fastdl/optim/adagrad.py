"""Adagrad."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import wrap
from .optimizer import Optimizer, Params, check_ignored, check_range


class Adagrad(Optimizer):
    """Duchi et al. (2011), "Adaptive subgradient methods", section 1.1: s += g^2;
    p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps). ``weight_decay * p`` is added to g first; ``maximize``
    ascends.

    Raises ValueError for negative options.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = True,
    ) -> None:
        for option, value in (
            ("lr", lr), ("lr_decay", lr_decay), ("weight_decay", weight_decay),
            ("initial_accumulator_value", initial_accumulator_value), ("eps", eps),
        ):  # fmt: skip
            check_range("Adagrad", option, value)
        check_ignored("Adagrad", differentiable=differentiable)
        defaults = dict(
            lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value, foreach=foreach, maximize=maximize,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        super().__init__(params, defaults, master_weights)

    def _added(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            self._create_state(p, group)

    def _keys(self, group: dict[str, Any]) -> list[str]:
        return ["step", "sum"]

    def _create_state(self, p: Any, group: dict[str, Any]) -> bool:
        if self.state[p].get("sum") is None:
            self.state[p]["sum"] = wrap(
                np.full_like(p._data, group["initial_accumulator_value"], self._state_dtype(p))
            )
        return super()._create_state(p, group)

    def _update(self, prepared: Any, group: dict[str, Any]) -> bool:
        return prepared.adagrad(
            group["lr"], group["lr_decay"], group["weight_decay"], group["eps"], group["maximize"]
        )
