"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from .optimizer import Optimizer, Params, check_ignored, check_range


class SGD(Optimizer):
    """Gradient descent with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013, section 2).

    b = momentum * b + (1 - dampening) * g, the first time b = g; p -= lr * b, with ``nesterov``
    p -= lr * (g + momentum * b). ``weight_decay * p`` is added to g first; ``maximize`` ascends. ``foreach`` and
    ``fused`` are accepted: there is one implementation, one kernel call for all parameters.

    Raises ValueError for negative options, or ``nesterov`` without momentum or with dampening.

    >>> import fastdl
    >>> p = fastdl.tensor([1.0], requires_grad=True)
    >>> optimizer = fastdl.optim.SGD([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.])
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = True,
    ) -> None:
        check_range("SGD", "lr", lr)
        check_range("SGD", "momentum", momentum)
        check_range("SGD", "weight_decay", weight_decay)
        check_ignored("SGD", differentiable=differentiable)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum and zero dampening")
        defaults = dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        )  # fmt: skip
        super().__init__(params, defaults, master_weights)

    def _keys(self, group: dict[str, Any]) -> list[str]:
        return ["momentum_buffer"] if group["momentum"] else []

    def _create_state(self, p: Any, group: dict[str, Any]) -> bool:
        if not group["momentum"]:  # no state at all, as in torch
            return False
        fresh = self.state[p].get("momentum_buffer") is None
        super()._create_state(p, group)
        return fresh

    def _update(self, prepared: Any, group: dict[str, Any]) -> bool:
        return prepared.sgd(
            group["lr"], group["momentum"], group["dampening"], group["weight_decay"], group["nesterov"],
            group["maximize"],
        )  # fmt: skip
