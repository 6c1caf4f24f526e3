"""RMSprop."""

from __future__ import annotations

from typing import Any

from .optimizer import Optimizer, Params, check_ignored, check_range


class RMSprop(Optimizer):
    """Hinton's lecture 6e (2012): v = alpha * v + (1 - alpha) * g^2; p -= lr * g / (sqrt(v) + eps). ``centered``
    takes the squared running mean of g from v (Graves 2013, section 4.2); with ``momentum`` the quotients are
    accumulated, b = momentum * b + quotient, and p -= lr * b. ``weight_decay * p`` is added to g first; ``maximize``
    ascends.

    Raises ValueError for negative options.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        master_weights: bool = True,
    ) -> None:
        for option, value in (
            ("lr", lr), ("alpha", alpha), ("eps", eps), ("weight_decay", weight_decay), ("momentum", momentum),
        ):  # fmt: skip
            check_range("RMSprop", option, value)
        check_ignored("RMSprop", differentiable=differentiable)
        defaults = dict(
            lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered, weight_decay=weight_decay,
            capturable=capturable, foreach=foreach, maximize=maximize, differentiable=differentiable,
        )  # fmt: skip
        super().__init__(params, defaults, master_weights)

    def _keys(self, group: dict[str, Any]) -> list[str]:
        keys = ["step", "square_avg"]
        if group["momentum"]:
            keys.append("momentum_buffer")
        if group["centered"]:
            keys.append("grad_avg")
        return keys

    def _update(self, prepared: Any, group: dict[str, Any]) -> bool:
        return prepared.rmsprop(
            group["lr"], group["alpha"], group["eps"], group["weight_decay"], group["momentum"], group["centered"],
            group["maximize"],
        )  # fmt: skip
