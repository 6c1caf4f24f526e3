"""The engine: order, memory, modes, in-place rules, custom functions."""

# ruff: noqa: E501
import gc
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from gradcheck import gradcheck

import fastdl
from fastdl import autograd
from fastdl.autograd import ArrayFunction, Function


@pytest.fixture
def no_gc():
    """The cyclic collector is off: what goes away goes by reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def leaf(*values):
    return fastdl.tensor(values if len(values) > 1 else values[0], requires_grad=True)


# ------------------------------------------------------------------------------------------------- the walk


def test_gradients_add_up_over_paths():
    x = leaf(2.0)
    y = x * x
    z = y * x + y + x  # x^3 + x^2 + x
    z.backward()
    assert x.grad.item() == 3 * 4 + 2 * 2 + 1


def test_every_consumer_runs_before_its_producer():
    order = []

    class Mark(ArrayFunction):
        @staticmethod
        def forward(ctx, x, name):
            ctx.name = name
            return x + 1

        @staticmethod
        def backward(ctx, grad):
            order.append(ctx.name)
            return grad

    x = leaf(1.0)
    a = Mark.apply(x, "a")
    b = Mark.apply(a, "b")
    c = Mark.apply(a, "c")
    d = Mark.apply(b, "d")
    (c + d + b + a).backward()
    assert sorted(order) == ["a", "b", "c", "d"]  # once each
    assert order.index("d") < order.index("b") < order.index("a")
    assert order.index("c") < order.index("a")
    assert x.grad.item() == 4


def test_hundred_thousand_ops_backward_and_away(no_gc):
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1
    node = weakref.ref(y._node)
    del y
    assert node() is None
    # A graph that never ran backward, with saved arrays, goes as quietly.
    y = x
    for _ in range(100_000):
        y = y * 1.0
    last = weakref.ref(y._node)
    y = None
    assert last() is None


def test_wide_fan_in():
    x = leaf(1.0)
    total = fastdl.stack([x * float(i) for i in range(500)]).sum()
    total.backward()
    assert x.grad.item() == sum(range(500))


def test_second_backward_needs_retain_graph():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4, 8])
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4, 8])


def test_backward_needs_a_graph_and_a_fitting_gradient():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="scalar"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        fastdl.ones(1).backward()
    with pytest.raises(RuntimeError, match=r"shape \(2,\), got \(3,\)"):
        (x * 2).backward(fastdl.ones(3))
    with pytest.raises(NotImplementedError, match="create_graph"):
        x.sum().backward(create_graph=True)
    (x * 2).backward(fastdl.tensor([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [2, 20])
    x.backward(fastdl.tensor([1.0, 1.0]))  # a leaf is its own graph
    np.testing.assert_array_equal(x.grad.numpy(), [3, 21])


def test_an_error_in_backward_leaves_gradients_alone():
    class Fails(ArrayFunction):
        @staticmethod
        def forward(ctx, x):
            return x + 0

        @staticmethod
        def backward(ctx, grad):
            raise ZeroDivisionError

    x, y = leaf(1.0), leaf(1.0)
    z = Fails.apply(x) + y
    with pytest.raises(ZeroDivisionError):
        z.backward()
    assert x.grad is None


def test_grad_function():
    x, w, other = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(1.0)
    y = x * w
    z = (y * y).sum()
    gx, gy = autograd.grad(z, (x, y), retain_graph=True)
    np.testing.assert_array_equal(gx.numpy(), 2 * x.detach().numpy() * w.detach().numpy() ** 2)
    np.testing.assert_array_equal(gy.numpy(), 2 * y.detach().numpy())
    assert x.grad is None and w.grad is None
    with pytest.raises(RuntimeError, match="allow_unused"):
        autograd.grad(z, [other], retain_graph=True)
    assert autograd.grad(z, [other, x], allow_unused=True, retain_graph=True)[0] is None
    (g,) = autograd.grad([y, y], w, [fastdl.ones(2), fastdl.ones(2)])
    np.testing.assert_array_equal(g.numpy(), [2, 4])
    with pytest.raises(RuntimeError, match="does not require grad"):
        autograd.grad(x.sum(), fastdl.ones(1))


def test_retain_grad():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y * y
    y.retain_grad()
    z.retain_grad()
    z.sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), [6, 12])
    np.testing.assert_array_equal(z.grad.numpy(), [1, 1])
    before = len(autograd.retained)
    del y, z
    assert len(autograd.retained) < before
    with pytest.raises(RuntimeError, match="retain_grad"):
        fastdl.ones(1).retain_grad()


# --------------------------------------------------------------------------------------- gradients and aliasing


def test_grads_share_no_memory():
    x, y = leaf(1.0, 2.0), leaf(1.0, 2.0)
    seed = fastdl.tensor([5.0, 6.0])
    (x + y).backward(seed)
    assert x.grad is not y.grad
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy())
    assert not np.shares_memory(x.grad.numpy(), seed.numpy())
    x.grad.zero_()
    np.testing.assert_array_equal(y.grad.numpy(), [5, 6])
    np.testing.assert_array_equal(seed.numpy(), [5, 6])


@pytest.mark.parametrize("function", [lambda t: t.reshape(4), lambda t: t.T, lambda t: t.expand(3, 2, 2), lambda t: t.sum(), lambda t: t[0], lambda t: t.sum(0)])  # fmt: skip
def test_grads_are_writable_and_their_own(function):
    x = fastdl.ones(2, 2, requires_grad=True)
    y = fastdl.ones(2, 2, requires_grad=True)
    (function(x) + function(y)).sum().backward()
    for g in (x.grad.numpy(), y.grad.numpy()):
        assert g.flags.writeable and 0 not in [s for s, n in zip(g.strides, g.shape) if n > 1]
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy())


def test_accumulation_keeps_the_grad_tensor():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    g = x.grad
    (x * 3).sum().backward()
    assert x.grad is g
    np.testing.assert_array_equal(g.numpy(), [5, 5])


def test_sole_gradient_is_taken_over_not_copied():
    made = []

    class Fresh(ArrayFunction):
        @staticmethod
        def forward(ctx, x):
            return x + 1

        @staticmethod
        def backward(ctx, grad):
            g = np.ones_like(grad)
            made.append(g.ctypes.data)
            return g

    x = fastdl.ones(1000, requires_grad=True)
    Fresh.apply(x).sum().backward()
    assert x.grad.numpy().ctypes.data == made[0]


def test_requires_grad_of_results():
    x = leaf(1.0)
    assert (x * 2).requires_grad and not (x.detach() * 2).requires_grad
    assert x.is_leaf and not (x * 2).is_leaf and x.detach().is_leaf
    assert (x * 2).grad_fn is not None and x.grad_fn is None
    assert not (x > 0).requires_grad
    with pytest.raises(RuntimeError, match="floating"):
        fastdl.arange(3).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf"):
        (x * 2).requires_grad_(False)
    x.requires_grad_(False)
    assert not (x * 2).requires_grad


# ------------------------------------------------------------------------------------------------------ memory


def step(w1, w2, x):
    h = (x @ w1).tanh()
    y = fastdl.cat([h, h * 2], 1) @ w2
    loss = (y * y).mean() + y.amax(1).sum() + y[:, 0].exp().sum() + y.max(1).values.sum()
    loss.backward()
    for w in (w1, w2):
        with fastdl.no_grad():
            w -= 0.001 * w.grad
        w.grad = None
    return loss


def test_memory_is_flat_over_a_thousand_steps(no_gc):
    fastdl.manual_seed(0)
    w1, w2 = fastdl.randn(8, 16, requires_grad=True), fastdl.randn(32, 4, requires_grad=True)
    x = fastdl.randn(32, 8)
    for _ in range(1500):  # also fills CPython's free list of tuples, which tracemalloc would count
        step(w1, w2, x)
    tracemalloc.start()
    step(w1, w2, x)
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    step(w1, w2, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for _ in range(1000):
        step(w1, w2, x)
    end, later_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert end - start < 2000
    assert later_peak - peak < 2000
    assert len(autograd._modified) < 50


def test_the_graph_goes_with_its_last_tensor(no_gc):
    x = fastdl.ones(3, requires_grad=True)

    class Double(Function):
        @staticmethod
        def forward(ctx, a):
            out = a * 2
            ctx.save_for_backward(a, out)
            return out

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    y = Double.apply(x)
    z = (y.view(3, 1) * y).sum()
    z.retain_grad()
    refs = [weakref.ref(o) for o in (y, z, y._node, z._node, y._data)]
    del y, z
    assert [r() for r in refs] == [None] * len(refs)
    tensor = weakref.ref(x)
    del x
    assert tensor() is None


def test_saved_arrays_are_freed_as_backward_passes():
    alive = []

    class Watch(ArrayFunction):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            ctx.save(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            alive.append(sum(r() is not None for r in refs))
            return grad * 2

    refs = []
    x = fastdl.ones(10, requires_grad=True)
    y = x
    for _ in range(5):
        y = Watch.apply(y)
        refs.append(weakref.ref(y._data))
    s = y.sum()
    del y
    s.backward()
    assert alive == [5, 4, 3, 2, 1]


# ------------------------------------------------------------------------------------------------ gradient modes


def test_modes_nest_and_come_back():
    x = leaf(1.0)
    with fastdl.no_grad():
        assert not fastdl.is_grad_enabled() and not (x * 2).requires_grad
        with fastdl.enable_grad():
            assert (x * 2).requires_grad
        assert not fastdl.is_grad_enabled()
        with fastdl.set_grad_enabled(True):
            assert (x * 2).requires_grad
        assert not fastdl.is_grad_enabled()
    assert fastdl.is_grad_enabled()
    with fastdl.inference_mode():
        assert not (x * 2).requires_grad
    with fastdl.inference_mode(False):
        assert (x * 2).requires_grad
    with pytest.raises(KeyError), fastdl.no_grad():
        raise KeyError
    assert fastdl.is_grad_enabled()
    fastdl.set_grad_enabled(False)
    assert not fastdl.is_grad_enabled()
    fastdl.set_grad_enabled(True)


def test_modes_decorate():
    x = leaf(1.0)

    @fastdl.no_grad()
    def f():
        return x * 2

    @fastdl.no_grad
    def g():
        """Doc."""
        return x * 2

    @fastdl.set_grad_enabled(False)
    def h():
        return x * 2

    @fastdl.no_grad()
    def items():
        yield x * 2
        yield x * 3

    assert fastdl.is_grad_enabled()
    assert not f().requires_grad and not g().requires_grad and not h().requires_grad
    assert g.__name__ == "g" and g.__doc__ == "Doc."
    for item in items():
        assert not item.requires_grad and fastdl.is_grad_enabled()

    @fastdl.no_grad()
    def recursive(n):
        return x * 2 if n == 0 else recursive(n - 1)

    assert not recursive(3).requires_grad and fastdl.is_grad_enabled()


def test_modes_belong_to_threads():
    seen = []
    with fastdl.no_grad():
        t = threading.Thread(target=lambda: seen.append(fastdl.is_grad_enabled()))
        t.start()
        t.join()
    assert seen == [True]


def test_threads_share_leaves():
    w = fastdl.ones(100, requires_grad=True)
    failures = []

    def work():
        try:
            for i in range(50):
                (g,) = autograd.grad((w * float(i)).sum(), w)
                assert (g.numpy() == i).all()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


# ---------------------------------------------------------------------------------------------------- in place


def test_leaf_may_not_change_in_place():
    x = leaf(1.0, 2.0)
    for change in (lambda: x.add_(1), lambda: x.__setitem__(0, 1.0), lambda: x.zero_(), lambda: x.uniform_(), lambda: x[0].add_(1), lambda: x.view(2, 1).T.mul_(2)):  # fmt: skip
        with pytest.raises(RuntimeError, match="leaf Tensor that requires grad"):
            change()
    np.testing.assert_array_equal(x.detach().numpy(), [1, 2])
    with fastdl.no_grad():
        x.add_(1)
        x[0] = 7.0
        x *= 2
    np.testing.assert_array_equal(x.detach().numpy(), [14, 6])
    assert x.requires_grad and x.is_leaf
    x.data.add_(1)
    np.testing.assert_array_equal(x.detach().numpy(), [15, 7])


def test_saved_arrays_that_changed_are_noticed():
    x = leaf(1.0, 2.0)
    for change in (lambda t: t.add_(1), lambda t: t[:1].zero_(), lambda t: t.detach().mul_(2), lambda t: t.__setitem__(0, 5.0)):  # fmt: skip
        y = x * 2
        z = y.exp() * y
        change(y)
        with pytest.raises(RuntimeError, match="modified by an in-place operation"):
            z.sum().backward()
    y = x * 2
    z = y + 3  # saves nothing
    y.add_(1)
    z.sum().backward()


def test_change_between_backward_passes_is_noticed():
    w = leaf(1.0, 2.0)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    with fastdl.no_grad():
        w -= 0.1 * w.grad
    with pytest.raises(RuntimeError, match="in-place"):
        loss.backward()


def test_in_place_on_a_view_reaches_the_base():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    y[1:].mul_(2)
    y.view(3, 1)[0] = 5.0
    (y * y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 16, 24])


def test_in_place_errors_change_nothing():
    i = fastdl.arange(3)
    with pytest.raises(RuntimeError, match="can't be cast"):
        i.add_(1.5)
    with pytest.raises(RuntimeError, match="shape"):
        fastdl.ones(3).add_(fastdl.ones(2, 3))
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        fastdl.from_numpy(frozen).add_(1)
    np.testing.assert_array_equal(i.numpy(), [0, 1, 2])


# ------------------------------------------------------------------------------------------- functions of the user


class Sincos(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return (x * scale).sin(), (x * scale).cos()

    @staticmethod
    def backward(ctx, gs, gc_):
        (x,) = ctx.saved_tensors
        s = ctx.scale
        return (gs * (x * s).cos() - gc_ * (x * s).sin()) * s, None


def test_custom_function():
    x = np.linspace(-1, 1, 5)
    gradcheck(lambda t: Sincos.apply(t, 2.0), x)
    gradcheck(lambda t: Sincos.apply(t, 2.0)[1], x)  # the other gradient arrives as zeros
    t = fastdl.tensor(x)
    s, _ = Sincos.apply(t, 2.0)
    assert not s.requires_grad


def test_custom_function_context():
    seen = {}

    class F(Function):
        @staticmethod
        def forward(ctx, a, b, n):
            seen["needs"] = ctx.needs_input_grad
            seen["grad"] = fastdl.is_grad_enabled()
            ctx.set_materialize_grads(False)
            index = fastdl.argmax(a)
            ctx.mark_non_differentiable(index)
            out = a * n
            ctx.save_for_backward(out, b)
            ctx.n = n
            return out, index, b * 1

        @staticmethod
        def backward(ctx, g, gi, gb):
            seen["none"] = gb is None
            out, _ = ctx.saved_tensors
            assert out.shape == (2,) and not fastdl.is_grad_enabled()
            return g * ctx.n, gb, None

    a, b = leaf(1.0, 2.0), fastdl.tensor([1.0, 2.0])
    out, index, _ = F.apply(a, b, 3.0)
    assert seen == {"needs": (True, False, False), "grad": False}
    assert not index.requires_grad and index.item() == 1
    out.sum().backward()
    assert seen["none"]
    np.testing.assert_array_equal(a.grad.numpy(), [3, 3])
    with pytest.raises(RuntimeError, match="retain_graph"):
        out.sum().backward()


def test_custom_function_in_two_parts():
    class Square(Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x * g

    gradcheck(Square.apply, np.array([1.0, -2.0, 3.0]))


def test_custom_function_mistakes():
    class Wrong(Function):
        result = None

        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return Wrong.result

    x = leaf(1.0, 2.0)
    for result, error, words in [
        (fastdl.ones(3), RuntimeError, r"expected shape \(2,\), got \(3,\)"),
        ((fastdl.ones(2), fastdl.ones(2)), RuntimeError, "expected 1 gradients, got 2"),
        (np.ones(2), TypeError, "expected a Tensor"),
    ]:
        Wrong.result = result
        with pytest.raises(error, match=words):
            Wrong.apply(x).sum().backward()
    assert x.grad is None
    with pytest.raises(TypeError, match="save_for_backward"):
        Wrong().save_for_backward(1)


def test_custom_function_returning_its_input():
    class Same(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 5

    x = leaf(1.0)
    y = Same.apply(x)
    assert y is not x
    y.backward()
    assert x.grad.item() == 5 and x.is_leaf


def test_array_function_outputs_without_gradient_get_zeros():
    class Two(ArrayFunction):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3, x > 0

        @staticmethod
        def backward(ctx, a, b, _):
            assert a.shape == b.shape == (2,)
            return a * 2 + b * 3

    x = leaf(1.0, 2.0)
    _, second, flag = Two.apply(x)
    assert not flag.requires_grad
    second.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3, 3])


def test_recursion_limit_is_left_alone():
    assert sys.getrecursionlimit() < 10_000


def test_an_optimizer_step_counts_as_an_in_place_change():
    weight = fastdl.tensor([2.0], requires_grad=True)
    loss = (weight * weight).sum()
    loss.backward(retain_graph=True)
    fastdl.optim.SGD([weight], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_gradients_of_one_element_accumulate(shape, dtype):
    x = fastdl.ones(shape, dtype=dtype, requires_grad=True)
    for i in range(3):
        (x.sum() if i % 2 else x.sum(tuple(range(len(shape))))).backward()
    assert x.grad.dtype == x.dtype and x.grad.sum().item() == 3.0
    x.mean().backward()
    x.expand(4, *shape).sum(0).sum().backward()
    assert x.grad.sum().item() == 8.0
