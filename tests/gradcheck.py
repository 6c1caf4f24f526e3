"""Finite-difference checks of the gradients of functions on fastdl Tensors, in float64.

Central differences with step h have an error of h^2 |f'''| / 6 from the formula and u |f| / h from rounding,
smallest near h = u^(1/3), about 5e-6: then some 1e-10 relative remain, and the default tolerance of 1e-6
leaves room for functions with large third derivatives while any wrong formula is off by far more. Inputs must
keep away from kinks by more than h.
"""

import numpy as np

STEP = 6e-6
SMALL = 300  # Jacobians of up to this many rows + columns are checked in full


def gradcheck(function, *inputs, wrt=None, rtol=1e-6, atol=1e-8, projections=3, seed=0, full=None):
    """Asserts that function's gradients match finite differences.

    function(*tensors) -> Tensor or tuple of Tensors. Inputs that are floating arrays become float64 Tensors
    with requires_grad (only those at the positions in `wrt`, where given); everything else is passed through
    untouched. The whole Jacobian is compared if it is small (or `full`), else `projections` random directions
    of it.
    """
    values = [np.array(x, np.float64) if _is_float_array(x) else x for x in inputs]
    if wrt is None:
        wrt = [i for i, x in enumerate(values) if isinstance(x, np.ndarray)]
    assert wrt, "gradcheck: no differentiable input"
    outputs = _evaluate(function, values)
    n_in, n_out = sum(values[i].size for i in wrt), sum(y.size for y in outputs)
    if full or (full is None and n_in + n_out <= SMALL):
        _check_jacobian(function, values, wrt, outputs, rtol, atol)
    else:
        _check_directions(
            function, values, wrt, outputs, rtol, atol, projections, np.random.default_rng(seed)
        )


def _is_float_array(x):
    return isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating)


def _tensors(values, wrt=()):
    import fastdl

    return [
        fastdl.tensor(x, dtype=fastdl.float64, requires_grad=i in wrt) if _is_float_array(x) else x
        for i, x in enumerate(values)
    ]


def _as_tuple(outputs):
    """The floating Tensors among the outputs, nested tuples flattened ((h, c) of an LSTM)."""
    if isinstance(outputs, (tuple, list)):
        return tuple(t for o in outputs for t in _as_tuple(o))
    return (outputs,) if "float" in str(getattr(outputs, "dtype", "")) else ()


def _evaluate(function, values):
    import fastdl

    with fastdl.no_grad():
        return [np.array(y.numpy(), np.float64) for y in _as_tuple(function(*_tensors(values)))]


def _gradients(function, values, wrt, cotangents):
    """The gradients of sum(outputs * cotangents) that autograd gives, as arrays (zeros where none
    arrived).
    """
    import fastdl

    tensors = _tensors(values, wrt)
    total = None
    for y, w in zip(_as_tuple(function(*tensors)), cotangents, strict=True):
        if y.requires_grad:
            term = (y * fastdl.tensor(w, dtype=fastdl.float64)).sum()
            total = term if total is None else total + term
    assert total is not None, "gradcheck: no output requires a gradient"
    total.backward()
    grads = []
    for i in wrt:
        grad = tensors[i].grad
        grads.append(np.zeros(values[i].shape) if grad is None else np.array(grad.numpy(), np.float64))
        assert grads[-1].shape == values[i].shape, (
            f"gradcheck: gradient of input {i} has shape {grads[-1].shape}, the input {values[i].shape}"
        )
    return grads


def _difference(function, values, i, direction):
    """(f(x_i + h d) - f(x_i - h d)) / 2h for every output."""
    plus, minus = list(values), list(values)
    plus[i], minus[i] = np.asarray(values[i] + STEP * direction), np.asarray(values[i] - STEP * direction)
    pairs = zip(_evaluate(function, plus), _evaluate(function, minus), strict=True)
    return [(p - m) / (2 * STEP) for p, m in pairs]


def _check_jacobian(function, values, wrt, outputs, rtol, atol):
    flat = lambda arrays: np.concatenate([a.ravel() for a in arrays]) if arrays else np.zeros(0)  # noqa: E731
    n_out = sum(y.size for y in outputs)
    splits = np.cumsum([y.size for y in outputs])[:-1]
    # One row per output element, by backward with a one-hot cotangent.
    analytic = {i: np.zeros((n_out, values[i].size)) for i in wrt}
    for row in range(n_out):
        one_hot = np.zeros(n_out)
        one_hot[row] = 1
        cotangents = [w.reshape(y.shape) for w, y in zip(np.split(one_hot, splits), outputs, strict=True)]
        for i, g in zip(wrt, _gradients(function, values, wrt, cotangents), strict=True):
            analytic[i][row] = g.ravel()
    scale = max(1.0, float(np.max(np.abs(flat(outputs)), initial=0.0)))
    for i in wrt:
        for column in range(values[i].size):
            direction = np.zeros(values[i].size)
            direction[column] = 1
            numeric = flat(_difference(function, values, i, direction.reshape(values[i].shape)))
            got = analytic[i][:, column]
            allowed = rtol * np.maximum(np.abs(numeric), np.abs(got)) + atol * scale
            bad = ~(np.abs(got - numeric) <= allowed)
            if bad.any():
                row = int(np.argmax(np.where(bad, np.abs(got - numeric), -1)))
                index = tuple(map(int, np.unravel_index(column, values[i].shape)))
                raise AssertionError(
                    f"gradcheck: d output[{row}] / d input {i}{index}: backward gives {got[row]!r}, finite "
                    f"differences {numeric[row]!r} ({int(bad.sum())} outputs disagree for this input element)"
                )


def _check_directions(function, values, wrt, outputs, rtol, atol, projections, rng):
    for _ in range(projections):
        cotangents = [rng.standard_normal(y.shape) for y in outputs]
        grads = _gradients(function, values, wrt, cotangents)
        for i, grad in zip(wrt, grads, strict=True):
            direction = rng.standard_normal(values[i].shape)
            columns = _difference(function, values, i, direction)
            numeric = sum(float(np.sum(w * d)) for w, d in zip(cotangents, columns, strict=True))
            got = float(np.sum(grad * direction))
            # Rounding and truncation act on every term of both inner products, so their norms set the scale.
            scale = np.linalg.norm(grad) * np.linalg.norm(direction) / np.sqrt(max(grad.size, 1))
            size = sum(
                np.linalg.norm(w) * max(1.0, np.linalg.norm(y))
                for w, y in zip(cotangents, outputs, strict=True)
            )
            if not abs(got - numeric) <= rtol * max(abs(numeric), scale) + atol * size:
                raise AssertionError(
                    f"gradcheck: derivative along a random direction of input {i} (shape {values[i].shape}): "
                    f"backward gives {got!r}, finite differences {numeric!r}"
                )
