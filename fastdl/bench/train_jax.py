"""The models of train.py in jax: the whole step, Adam included, compiled into one call that reuses its buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .train_models import PIXELS, Model


def _forward(jax: Any, name: str) -> Callable[[list[Any], Any], Any]:
    """parameters (as torch orders and lays them out), x -> logits"""
    nn, jnp, lax = jax.nn, jax.numpy, jax.lax

    def linear(x: Any, w: Any, b: Any) -> Any:
        return x @ w.T + b

    def mlp(p: list[Any], x: Any) -> Any:
        return linear(nn.relu(linear(x.reshape(len(x), -1), *p[:2])), *p[2:])

    def cnn(p: list[Any], x: Any) -> Any:
        def conv(x: Any, w: Any, b: Any) -> Any:
            y = lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "OIHW", "NHWC"))
            return nn.relu(y + b)

        def pool(x: Any) -> Any:
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        x = pool(conv(x.reshape(len(x), 28, 28, 1), *p[:2]))
        x = conv(pool(conv(x, *p[2:4])), *p[4:6]).transpose(0, 3, 1, 2).reshape(len(x), -1)
        return linear(nn.relu(linear(x, *p[6:8])), *p[8:])

    def lstm(p: list[Any], x: Any) -> Any:
        w, r, b, d, *head = p

        def step(state: Any, gates: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ r.T, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            return (nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros((len(x), 64), x.dtype)
        (h, _), _ = lax.scan(step, (zero, zero), x[:, 0].swapaxes(0, 1) @ w.T + b + d)
        return linear(h, *head)

    def rnn(p: list[Any], x: Any) -> Any:
        w, r, b, d, *head = p

        def step(h: Any, a: Any) -> Any:
            return jnp.tanh(a + h @ r.T), None

        inputs = x[:, 0].swapaxes(0, 1) @ w.T + b + d
        return linear(lax.scan(step, jnp.zeros((len(x), 64), x.dtype), inputs)[0], *head)

    def logistic(p: list[Any], x: Any) -> Any:
        return linear(x.reshape(len(x), -1), *p)

    def norm(x: Any, w: Any, b: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / (((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) ** 0.5 * w + b

    def transformer(p: list[Any], x: Any) -> Any:
        for i in (0, 12):
            wi, bi, wo, bo, w1, b1, w2, b2, g1, h1, g2, h2 = p[i : i + 12]
            parts = jnp.split(linear(x, wi, bi), 3, -1)
            q, k, v = (a.reshape(*x.shape[:2], 4, 64) for a in parts)
            attended = nn.dot_product_attention(q, k, v).reshape(x.shape)
            x = norm(x + linear(attended, wo, bo), g1, h1)
            x = norm(x + linear(nn.relu(linear(x, w1, b1)), w2, b2), g2, h2)
        return linear(x.mean(1), *p[24:])

    def autoencoder(p: list[Any], x: Any) -> Any:
        for i in (0, 2, 4):
            x = nn.relu(linear(x, *p[i : i + 2]))
        return nn.sigmoid(linear(x, *p[6:]))

    models = {"mlp": mlp, "mlp32": mlp, "cnn": cnn, "lstm64": lstm, "transformer": transformer}
    return {**models, "linear": logistic, "rnn64": rnn, "autoencoder": autoencoder}[name]


def _losses(jax: Any, model: Model) -> list[tuple[slice, Callable[[list[Any], Any, Any], Any]]]:
    """The loss of each part of the model that is trained by itself, and where its parameters are."""
    nn, jnp = jax.nn, jax.numpy
    if model.objective == "adversarial":  # parameters: the generator's four, the discriminator's four

        def two(p: list[Any], x: Any, last: Callable[[Any], Any]) -> Any:
            return last(nn.relu(x @ p[0].T + p[1]) @ p[2].T + p[3])

        def made(p: list[Any], x: Any) -> Any:
            return two(p[:4], x[:, PIXELS:], jnp.tanh)

        def belief(
            p: list[Any], x: Any, sign: int
        ) -> Any:  # -log of the probability of "real" (1) or "made" (-1)
            return nn.softplus(-sign * two(p[4:], x, lambda z: z).astype(jnp.float32)).mean()

        def judge(p: list[Any], x: Any, y: Any) -> Any:
            return belief(p, x[:, :PIXELS], 1) + belief(p, made(p, x), -1)

        return [(slice(4, 8), judge), (slice(0, 4), lambda p, x, y: belief(p, made(p, x), 1))]
    forward = _forward(jax, model.name)

    def reconstruction(p: list[Any], x: Any, y: Any) -> Any:
        return ((forward(p, x) - x).astype(jnp.float32) ** 2).mean()

    def classification(p: list[Any], x: Any, y: Any) -> Any:
        logits = forward(p, x).astype(jnp.float32)
        return -jnp.take_along_axis(nn.log_softmax(logits), y[:, None], 1).mean()

    return [(slice(None), reconstruction if model.objective == "reconstruct" else classification)]


def calls(
    jax: Any,
    model: Model,
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    direction: str,
    dtype: str,
) -> dict[str, Any]:
    """A training step, or inference. In bfloat16 the parameters and inputs are float32, the arithmetic is not."""
    jnp = jax.numpy
    parameters = [jnp.array(w) for w in weights]
    jx, jy = jnp.array(x), jnp.array(y)
    if direction == "forward":
        compiled = jax.jit(_forward(jax, model.name))
        return {"": lambda: (jax.block_until_ready(compiled(parameters, jx)),)}

    def narrow(a: Any) -> Any:
        return a.astype(jnp.bfloat16) if dtype == "bfloat16" else a

    def narrowed(loss: Callable[..., Any]) -> Callable[..., Any]:
        return lambda p, x, y: loss([narrow(a) for a in p], narrow(x), y)

    def step(state: Any, x: Any, y: Any) -> Any:
        p, m, v, t = state
        p, m, v = list(p), list(m), list(v)
        t = t + 1
        rate, correction = 1e-3 / (1 - 0.9**t), 1 - 0.999**t
        values = []
        for where, loss in _losses(jax, model):
            value, g = jax.value_and_grad(narrowed(loss))(p, x, y)
            values.append(value)
            m[where] = [0.9 * a + 0.1 * b for a, b in zip(m[where], g[where])]
            v[where] = [0.999 * a + 0.001 * b * b for a, b in zip(v[where], g[where])]
            moved = zip(p[where], m[where], v[where])
            p[where] = [a - rate * b / ((c / correction) ** 0.5 + 1e-8) for a, b, c in moved]
        return (p, m, v, t), values

    compiled = jax.jit(step, donate_argnums=0)
    zeros = [jnp.zeros_like(a) for a in parameters]
    state = [(parameters, zeros, [z.copy() for z in zeros], jnp.zeros((), jnp.float32))]

    def call() -> Any:
        state[0], values = compiled(state[0], jx, jy)
        return tuple(jax.block_until_ready((state[0], values))[1])

    return {"": call}
