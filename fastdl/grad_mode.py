"""Whether operations are recorded: one switch per thread, as context managers and decorators."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    enabled = True  # what a new thread starts with


_mode = _Mode()


class set_grad_enabled:
    """Switch recording on or off for this thread: at once, and until the end of the block where used with `with`.

    >>> import fastdl
    >>> x = fastdl.ones(2, requires_grad=True)
    >>> with fastdl.set_grad_enabled(False):
    ...     (x * 2).requires_grad
    False
    """

    def __init__(self, mode: bool):
        self.mode = bool(mode)
        self.previous = _mode.enabled
        _mode.enabled = self.mode

    def __enter__(self) -> None:
        _mode.enabled = self.mode

    def __exit__(self, *exc: Any) -> None:
        _mode.enabled = self.previous

    def __call__(self, function: Callable) -> Callable:
        _mode.enabled = self.previous
        return _decorate(function, self.mode)


def _decorate(function: Callable, mode: bool) -> Callable:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            it = function(*args, **kwargs)
            while True:
                with _Switch(mode):
                    try:
                        value = next(it)
                    except StopIteration as stop:
                        return stop.value
                yield value

        return generator

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Switch(mode):
            return function(*args, **kwargs)

    return call


class _Switch:
    """A gradient mode for the length of a `with` block, or of a function it decorates."""

    mode = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and callable(args[0]):  # used as @no_grad without parentheses
            return _decorate(args[0], cls.mode)
        return object.__new__(cls)

    def __init__(self, mode: bool | None = None):
        if mode is not None:
            self.mode = bool(mode)

    def __enter__(self) -> Any:
        self.previous = _mode.enabled
        _mode.enabled = self.mode
        return self

    def __exit__(self, *exc: Any) -> None:
        _mode.enabled = self.previous

    def __call__(self, function: Callable) -> Callable:
        return _decorate(function, self.mode)


class no_grad(_Switch):
    """Record nothing: a context manager and a decorator.

    >>> import fastdl
    >>> x = fastdl.ones(2, requires_grad=True)
    >>> with fastdl.no_grad():
    ...     (x * 2).requires_grad
    False
    """


class enable_grad(_Switch):
    """Record again inside a `no_grad` block: a context manager and a decorator."""

    mode = True


class inference_mode(_Switch):
    """What torch calls inference mode; here the same as `no_grad` (``inference_mode(False)`` records)."""

    def __init__(self, mode: bool = True):
        self.mode = not mode


def is_grad_enabled() -> bool:
    """Whether operations on tensors that require gradients are recorded in this thread."""
    return _mode.enabled
