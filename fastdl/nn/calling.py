"""What happens when a module is called: straight to forward, and errors learn which layer they came from."""

from __future__ import annotations

import sys
from typing import Any

from ..autograd import TensorBase


def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``Module.__call__``: try costs nothing until something is raised."""
    try:
        return self.forward(*args, **kwargs)
    except Exception as error:
        wrong = _wrong_argument(self, error, (*args, *kwargs.values()))
        _name_layer(self, wrong or error)
        if wrong is not None:
            raise wrong from error
        raise


def call_unary(self: Any, input: Any) -> Any:
    """``__call__`` of the many modules with the signature forward(self, input): half the cost of the general one."""
    try:
        return self.forward(input)
    except Exception as error:
        wrong = _wrong_argument(self, error, (input,))
        _name_layer(self, wrong or error)
        if wrong is not None:
            raise wrong from error
        raise


def is_unary(forward: Any) -> bool:
    """Whether a function is declared as forward(self, input), so that calls by position and by name both fit
    `call_unary`."""
    code = getattr(forward, "__code__", None)
    return (
        code is not None
        and code.co_varnames[: code.co_argcount] == ("self", "input")
        and code.co_kwonlyargcount == 0
        and not code.co_flags & 0x0C  # *args or **kwargs
        and not forward.__defaults__
    )


call.__qualname__ = call_unary.__qualname__ = "Module.__call__"  # what Python calls them in its complaints
_CALLS = (call.__code__, call_unary.__code__)


def _wrong_argument(module: Any, error: Exception, args: tuple) -> TypeError | None:
    """What to raise where a layer of ours failed on an argument that is no Tensor."""
    if isinstance(error, AttributeError) and type(module).forward.__module__.startswith("fastdl."):
        for i, argument in enumerate(args):
            if argument is error.obj and not isinstance(argument, TensorBase):
                got = type(argument).__name__
                return TypeError(f"{type(module).__name__}: expected a Tensor for argument {i}, got {got}")
    return None


def _name_layer(module: Any, error: Exception) -> None:
    """Add to an exception where in the model it came from: the innermost module that was called, named from the
    outermost one."""
    if hasattr(error, "layer"):
        return  # an inner module has named itself already
    root, frame = module, sys._getframe(1)
    while frame is not None:
        if frame.f_code in _CALLS:
            root = frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]
    path = next((name for name, m in root.named_modules() if m is module), "")
    what = f"{type(module).__name__}({module.extra_repr()})"
    error.layer = path  # type: ignore[attr-defined]
    error.add_note(f"in layer {path!r} of {type(root).__name__}: {what}" if path else f"in {what}")
