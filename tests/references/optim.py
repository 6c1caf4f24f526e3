"""One step of each optimizer, as torch.optim's documentation gives the algorithms.

Every function takes a parameter, its gradient and a state dict (empty before the first step) and returns the
new parameter and the new state; nothing is changed in place.
"""

import numpy as np

from .common import f64


def _gradient(param, grad, weight_decay, maximize):
    """The gradient to descend: negated when maximising, plus L2 decay."""
    grad = -f64(grad) if maximize else f64(grad)
    return grad + weight_decay * f64(param) if weight_decay else grad


def sgd(
    param, grad, state, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False
):
    """b = momentum b + (1 - dampening) g (b = g at first); step g + momentum b (Nesterov) or b.

    Polyak (1964); Sutskever et al. (2013) in torch's arrangement, where lr multiplies b at the end.
    """
    g, state = _gradient(param, grad, weight_decay, maximize), dict(state)
    if momentum:
        old = state.get("momentum_buffer")
        b = g if old is None else momentum * old + (1 - dampening) * g
        state["momentum_buffer"] = b
        g = g + momentum * b if nesterov else b
    return f64(param) - lr * g, state


def adagrad(
    param,
    grad,
    state,
    lr=1e-2,
    lr_decay=0.0,
    weight_decay=0.0,
    initial_accumulator_value=0.0,
    eps=1e-10,
    maximize=False,
):
    """s += g^2; p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps). Duchi et al. (2011)."""
    g, step = _gradient(param, grad, weight_decay, maximize), state.get("step", 0) + 1
    s = state.get("sum", np.full(np.shape(param), float(initial_accumulator_value))) + g * g
    rate = lr / (1 + (step - 1) * lr_decay)
    return f64(param) - rate * g / (np.sqrt(s) + eps), {"step": step, "sum": s}


def rmsprop(
    param,
    grad,
    state,
    lr=1e-2,
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    maximize=False,
):
    """v = alpha v + (1 - alpha) g^2; p -= lr g / (sqrt(v) + eps). Hinton's lecture 6.5.

    centered subtracts the squared running mean of g from v (Graves, 2013); momentum accumulates b = momentum
    b + the quotient, and p -= lr b.
    """
    g, state = _gradient(param, grad, weight_decay, maximize), dict(state)
    zeros = np.zeros(np.shape(param))
    state["step"] = state.get("step", 0) + 1
    v = state["square_avg"] = alpha * state.get("square_avg", zeros) + (1 - alpha) * g * g
    if centered:
        mean = state["grad_avg"] = alpha * state.get("grad_avg", zeros) + (1 - alpha) * g
        v = v - mean * mean
    update = g / (np.sqrt(v) + eps)
    if momentum:
        update = state["momentum_buffer"] = momentum * state.get("momentum_buffer", zeros) + update
    return f64(param) - lr * update, state


def _adam_update(param, g, state, lr, betas, eps, amsgrad):
    """m, v: running means of g and g^2, divided by 1 - beta^t; p -= lr m_hat / (sqrt(v_hat) + eps)."""
    zeros, (b1, b2), step = np.zeros(np.shape(param)), betas, state.get("step", 0) + 1
    m = b1 * state.get("exp_avg", zeros) + (1 - b1) * g
    v = b2 * state.get("exp_avg_sq", zeros) + (1 - b2) * g * g
    new = {"step": step, "exp_avg": m, "exp_avg_sq": v}
    if amsgrad:  # the largest v so far instead of v (Reddi et al., 2018), before the bias correction
        v = new["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", zeros), v)
    denominator = np.sqrt(v) / np.sqrt(1 - b2**step) + eps
    return param - lr / (1 - b1**step) * m / denominator, new


def adam(
    param, grad, state, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False
):
    """Kingma & Ba (2015), algorithm 1; weight decay is added to the gradient."""
    g = _gradient(param, grad, weight_decay, maximize)
    return _adam_update(f64(param), g, state, lr, betas, eps, amsgrad)


def adamw(
    param,
    grad,
    state,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-2,
    amsgrad=False,
    maximize=False,
):
    """Loshchilov & Hutter (2019), algorithm 2: the parameter decays by lr * weight_decay, apart from the
    gradient.
    """
    param = f64(param) * (1 - lr * weight_decay)
    return _adam_update(param, _gradient(param, grad, 0.0, maximize), state, lr, betas, eps, amsgrad)
