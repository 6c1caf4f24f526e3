"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from .optimizer import Optimizer, Params, check_ignored, check_range


class Adam(Optimizer):
    """Kingma & Ba (2015), algorithm 1: steps of lr * m / (sqrt(v) + eps), m and v running means of the gradient and
    its square, corrected for their start at zero. ``weight_decay * p`` is added to the gradient; ``amsgrad`` uses
    the largest v so far (Reddi et al. 2018, algorithm 2); ``maximize`` ascends. ``foreach``, ``fused`` and
    ``capturable`` are accepted: there is one implementation, one kernel call for all parameters.

    Raises ValueError for options out of range.

    >>> import fastdl
    >>> p = fastdl.tensor([1.0], requires_grad=True)
    >>> optimizer = fastdl.optim.Adam([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.5000])
    """

    _decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        master_weights: bool = True,
    ) -> None:
        name = type(self).__name__
        check_range(name, "lr", lr)
        check_range(name, "eps", eps)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"{name}: expected betas to be a pair of numbers, got {betas!r}")
        check_range(name, "betas[0]", betas[0], 0, 1)
        check_range(name, "betas[1]", betas[1], 0, 1)
        check_range(name, "weight_decay", weight_decay)
        check_ignored(name, differentiable=differentiable)
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=self._decoupled or decoupled_weight_decay,
        )  # fmt: skip
        super().__init__(params, defaults, master_weights)

    def _keys(self, group: dict[str, Any]) -> list[str]:
        keys = ["step", "exp_avg", "exp_avg_sq"]
        return [*keys, "max_exp_avg_sq"] if group["amsgrad"] else keys

    def _update(self, prepared: Any, group: dict[str, Any]) -> bool:
        beta1, beta2 = group["betas"]
        return prepared.adam(
            group["lr"], beta1, beta2, group["eps"], group["weight_decay"],
            self._decoupled or group["decoupled_weight_decay"], group["amsgrad"], group["maximize"],
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter itself, p *= 1 - lr * weight_decay (Loshchilov & Hutter 2019,
    algorithm 2)."""

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
            capturable=capturable, differentiable=differentiable, fused=fused,
            master_weights=master_weights,
        )  # fmt: skip
