"""Every elementwise activation of torch.nn.functional, and its derivative.

`<name>_backward(grad, x, ...)` is grad * f'(x). At a kink the derivative is torch's choice, stated where
there is one. NaN in, NaN out everywhere: conditions are written so that a NaN takes the branch that passes it
on.
"""

import math

import numpy as np

from .common import f64, unbroadcast

SQRT_2 = math.sqrt(2.0)
SQRT_2PI = math.sqrt(2.0 * math.pi)
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946

# NumPy has no erf; the C library's, one element at a time, is as plain as it gets.
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def erf(x):
    """2 / sqrt(pi) * integral from 0 to x of exp(-t^2)."""
    return _erf(f64(x))


def _exp(x):
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(x)


def _quiet():
    """0 * inf and overflow are either discarded by an np.where or what IEEE says the function is there."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore")


def apply_activation(activation, x):
    """What other ops fuse: None, a name, or (name, parameters...) in the order of the function here."""
    if activation in (None, "none", "linear"):
        return f64(x)
    name, *parameters = (activation,) if isinstance(activation, str) else activation
    if name == "gelu_tanh":
        return gelu(x, "tanh")
    return globals()[{"swish": "silu"}.get(name, name)](x, *parameters)


def relu(x):
    """max(x, 0), NaN kept."""
    x = f64(x)
    return np.where(x <= 0, 0.0, x)


def relu_backward(grad, x):
    """grad where x > 0, else 0 (0 at 0)."""
    return np.where(f64(x) <= 0, 0.0, f64(grad))


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope * x."""
    x = f64(x)
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_backward(grad, x, negative_slope=0.01):
    """negative_slope at 0."""
    return np.where(f64(x) > 0, f64(grad), negative_slope * f64(grad))


def rrelu(x, lower=1 / 8, upper=1 / 3):
    """Evaluation mode: leaky_relu with the mean slope. Xu et al. (2015)."""
    return leaky_relu(x, (lower + upper) / 2)


def rrelu_backward(grad, x, lower=1 / 8, upper=1 / 3):
    return leaky_relu_backward(grad, x, (lower + upper) / 2)


def _prelu_weight(x, weight):
    """weight of size 1, or one per channel (axis 1; axis 0 of a 1-d input never has channels in torch)."""
    weight = f64(weight).reshape(-1)
    if weight.size == 1 or x.ndim < 2:
        return weight.reshape([1] * x.ndim) if weight.size == 1 else weight
    return weight.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


def prelu(x, weight):
    """x where x > 0, else weight * x; weight per channel. He et al. (2015), eq. 1."""
    x = f64(x)
    return np.where(x > 0, x, _prelu_weight(x, weight) * x)


def prelu_backward(grad, x, weight):
    """(dx, dweight)."""
    grad, x, shape = f64(grad), f64(x), np.shape(weight)
    weight = _prelu_weight(x, weight)
    dx = np.where(x > 0, grad, weight * grad)
    dweight = unbroadcast(np.where(x > 0, 0.0, x * grad), weight.shape)
    return dx, dweight.reshape(shape)


def hardtanh(x, min_val=-1.0, max_val=1.0):
    """x clipped to [min_val, max_val]."""
    x = f64(x)
    return np.where(x < min_val, min_val, np.where(x > max_val, max_val, x))


def hardtanh_backward(grad, x, min_val=-1.0, max_val=1.0):
    """0 at and beyond both ends."""
    x = f64(x)
    return np.where((x <= min_val) | (x >= max_val), 0.0, f64(grad))


def relu6(x):
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def relu6_backward(grad, x):
    return hardtanh_backward(grad, x, 0.0, 6.0)


def elu(x, alpha=1.0):
    """x where x > 0, else alpha * (exp(x) - 1). Clevert et al. (2016), eq. 16."""
    x = f64(x)
    with _quiet():
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(grad, x, alpha=1.0):
    x = f64(x)
    return np.where(x > 0, f64(grad), f64(grad) * alpha * _exp(np.minimum(x, 0)))


def selu(x):
    """scale * elu(x, alpha) with the fixed point's constants. Klambauer et al. (2017), eq. 2."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


def selu_backward(grad, x):
    return SELU_SCALE * elu_backward(grad, x, SELU_ALPHA)


def celu(x, alpha=1.0):
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)). Barron (2017)."""
    x = f64(x)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def celu_backward(grad, x, alpha=1.0):
    x = f64(x)
    return np.where(x > 0, f64(grad), f64(grad) * _exp(np.minimum(x, 0) / alpha))


def gelu(x, approximate="none"):
    """x * Phi(x), Phi the normal distribution function; "tanh" is Hendrycks & Gimpel's (2016) approximation
    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    x = f64(x)
    with _quiet():
        if approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        # erfc keeps relative accuracy in the left tail, where 1 + erf cancels.
        return 0.5 * x * _erfc(-x / SQRT_2)


def gelu_backward(grad, x, approximate="none"):
    """Phi(x) + x phi(x), or the derivative of the tanh form."""
    x = f64(x)
    with _quiet():
        if approximate == "tanh":
            k = math.sqrt(2 / math.pi)
            t = np.tanh(k * (x + 0.044715 * x**3))
            d = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x)
        else:
            d = 0.5 * _erfc(-x / SQRT_2) + x * _exp(-0.5 * x * x) / SQRT_2PI
        return f64(grad) * d


def sigmoid(x):
    """1 / (1 + exp(-x)), computed from exp(-|x|) so that neither side overflows."""
    x = f64(x)
    e = _exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid_backward(grad, x):
    """s (1 - s), where 1 - s(x) = s(-x)."""
    return f64(grad) * sigmoid(x) * sigmoid(-f64(x))


def logsigmoid(x):
    """-log(1 + exp(-x)) = min(x, 0) - log1p(exp(-|x|))."""
    x = f64(x)
    return np.minimum(x, 0) - np.log1p(_exp(-np.abs(x)))


def logsigmoid_backward(grad, x):
    return f64(grad) * sigmoid(-f64(x))


def tanh(x):
    return np.tanh(f64(x))


def tanh_backward(grad, x):
    """1 - tanh^2."""
    return f64(grad) * (1 - np.tanh(f64(x)) ** 2)


def silu(x):
    """x * sigmoid(x). Elfwing et al. (2018)."""
    with _quiet():
        return f64(x) * sigmoid(x)


def silu_backward(grad, x):
    """s (1 + x (1 - s))."""
    x = f64(x)
    with _quiet():
        return f64(grad) * sigmoid(x) * (1 + x * sigmoid(-x))


def softplus(x, beta=1.0, threshold=20.0):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    x = f64(x)
    z = beta * x
    return np.where(z > threshold, x, (np.maximum(z, 0) + np.log1p(_exp(-np.abs(z)))) / beta)


def softplus_backward(grad, x, beta=1.0, threshold=20.0):
    """sigmoid(beta x); 1 where beta x > threshold."""
    z = beta * f64(x)
    return np.where(z > threshold, f64(grad), f64(grad) * sigmoid(z))


def mish(x):
    """x * tanh(softplus(x)). Misra (2019), eq. 1."""
    with _quiet():
        return f64(x) * np.tanh(softplus(x, threshold=np.inf))


def mish_backward(grad, x):
    """t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))."""
    x = f64(x)
    with _quiet():
        t = np.tanh(softplus(x, threshold=np.inf))
        return f64(grad) * (t + x * (1 - t * t) * sigmoid(x))


def hardsigmoid(x):
    """min(max(x + 3, 0), 6) / 6."""
    return relu6(f64(x) + 3) / 6


def hardsigmoid_backward(grad, x):
    """1/6 strictly inside (-3, 3), else 0."""
    x = f64(x)
    return np.where((x <= -3) | (x >= 3), 0.0, f64(grad) / 6)


def hardswish(x):
    """x * hardsigmoid(x). Howard et al. (2019), section 5.2."""
    with _quiet():
        return f64(x) * relu6(f64(x) + 3) / 6


def hardswish_backward(grad, x):
    """0 for x <= -3, (2 x + 3) / 6 between, 1 for x >= 3."""
    x, grad = f64(x), f64(grad)
    with _quiet():
        return np.where(x <= -3, 0.0, np.where(x >= 3, grad, grad * (2 * x + 3) / 6))


def hardshrink(x, lambd=0.5):
    """0 on [-lambd, lambd], x elsewhere."""
    x = f64(x)
    return np.where((x >= -lambd) & (x <= lambd), 0.0, x)


def hardshrink_backward(grad, x, lambd=0.5):
    x = f64(x)
    return np.where((x >= -lambd) & (x <= lambd), 0.0, f64(grad))


def softshrink(x, lambd=0.5):
    """x - lambd above lambd, x + lambd below -lambd, 0 between."""
    x = f64(x)
    return np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, np.where(np.isnan(x), x, 0.0)))


def softshrink_backward(grad, x, lambd=0.5):
    return hardshrink_backward(grad, x, lambd)


def tanhshrink(x):
    """x - tanh(x)."""
    return f64(x) - np.tanh(f64(x))


def tanhshrink_backward(grad, x):
    """tanh^2."""
    return f64(grad) * np.tanh(f64(x)) ** 2


def threshold(x, threshold, value):
    """x where x > threshold, else value."""
    x = f64(x)
    return np.where(x <= threshold, value, x)


def threshold_backward(grad, x, threshold, value=0.0):
    return np.where(f64(x) <= threshold, 0.0, f64(grad))


def softsign(x):
    """x / (1 + |x|)."""
    with _quiet():
        return f64(x) / (1 + np.abs(f64(x)))


def softsign_backward(grad, x):
    """1 / (1 + |x|)^2."""
    return f64(grad) / (1 + np.abs(f64(x))) ** 2


def glu(x, dim=-1):
    """a * sigmoid(b), a and b the two halves of x along dim. Dauphin et al. (2017)."""
    a, b = np.split(f64(x), 2, axis=dim)
    return a * sigmoid(b)


def glu_backward(grad, x, dim=-1):
    """[g s(b), g a s(b) (1 - s(b))] along dim."""
    grad = f64(grad)
    a, b = np.split(f64(x), 2, axis=dim)
    return np.concatenate([grad * sigmoid(b), grad * a * sigmoid(b) * sigmoid(-b)], axis=dim)
