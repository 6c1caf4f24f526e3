"""Module: the base of all layers, with torch's semantics.

Parameters, buffers and child modules live in the instance's own ``__dict__``, so that reading ``self.weight`` costs a
plain attribute lookup; the registries beside them only keep names and order. ``module(x)`` costs one Python call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import autograd
from ..device import check_device, gpu, place
from ..device import device as Device
from ..dtypes import as_dtype
from ..tensor import Tensor
from .calling import call, call_unary, is_unary
from .parameter import Parameter
from .state import IncompatibleKeys, load_state

Self = TypeVar("Self", bound="Module")

DEVICES = ("cpu", "cuda", "cuda-sim", "mps", "xpu")  # strings that `Module.to` takes for devices, not dtypes


class Module:
    """Base class of all layers and models: subclass it, assign Parameters and Modules, define ``forward``.

    >>> import fastdl
    >>> from fastdl import nn
    >>> class Double(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = nn.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> model = Double()
    >>> model(fastdl.tensor([3.0])).tolist()
    [6.0]
    >>> list(model.state_dict())
    ['factor']
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _transient: set[str]

    def __init__(self) -> None:
        self.__dict__.update(training=True, _parameters={}, _buffers={}, _modules={}, _transient=set())

    if TYPE_CHECKING:  # what is registered is found, but not declared

        def __getattr__(self, name: str) -> Any: ...

    # -------------------------------------------------------------------------------------------------- calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module calculates; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__}: forward is not defined")

    __call__ = call

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        forward = cls.__dict__.get("forward")
        if forward is not None and "__call__" not in cls.__dict__:
            cls.__call__ = call_unary if is_unary(forward) else call  # type: ignore[method-assign]

    # --------------------------------------------------------------------------------------------- registration

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under ``name`` (or reserve the name, with None)."""
        self._check_name("register_parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"register_parameter: expected a Parameter or None for {name!r}, got {type(param).__name__}"
            )
        self._parameters[name] = self.__dict__[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is part of the module's state but no parameter (``persistent``: in the state_dict)."""
        self._check_name("register_buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"register_buffer: expected a Tensor or None for {name!r}, got {type(tensor).__name__}"
            )
        self._buffers[name] = self.__dict__[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child module under ``name``."""
        self._check_name("add_module", name, self._modules)
        if module is not None and not isinstance(module, Module):
            raise TypeError(
                f"add_module: expected a Module or None for {name!r}, got {type(module).__name__}"
            )
        self._modules[name] = self.__dict__[name] = module

    register_module = add_module

    def _check_name(self, op: str, name: str, registry: Mapping) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{op}: expected a string for the name, got {type(name).__name__}")
        if "_modules" not in self.__dict__:
            raise AttributeError(f"cannot assign {name!r} before Module.__init__() was called")
        if not name or "." in name:
            raise KeyError(f"{op}: a name must not be empty or contain a dot, got {name!r}")
        if name not in registry and hasattr(self, name):
            raise KeyError(f"{op}: attribute {name!r} already exists")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        registries = (own.get("_parameters", ()), own.get("_buffers", ()), own.get("_modules", ()))
        register: Callable[[str, Any], None]
        if isinstance(value, Parameter):
            kind, register = 0, self.register_parameter
        elif isinstance(value, Module):
            kind, register = 2, self.add_module
        else:
            for registry, wanted in zip(registries, (Parameter, Tensor, Module), strict=True):
                if name in registry:
                    if value is not None and not isinstance(value, wanted):
                        raise TypeError(
                            f"cannot assign {type(value).__name__} to {name!r}: expected a {wanted.__name__} or None"
                        )
                    registry[name] = own[name] = value
                    return
            object.__setattr__(self, name, value)
            return
        if name not in registries[kind]:
            if "_modules" not in own:
                raise AttributeError(f"cannot assign {name!r} before Module.__init__() was called")
            for registry in registries:
                registry.pop(name, None)
            own.pop(name, None)
        register(name, value)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            registry.pop(name, None)
        self._transient.discard(name)
        object.__delattr__(self, name)

    # -------------------------------------------------------------------------------------------------- walking

    def named_modules(
        self, memo: set[int] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, with dotted names (the module itself has ``prefix``)."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        if remove_duplicate:
            memo.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        stack: list[Module] = [self]
        while stack:
            module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                stack.extend([child for child in reversed(module._modules.values()) if child is not None])

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, with their names, each once."""
        seen: set[int] = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below."""
        for _, child in self.named_children():
            yield child

    def _named_members(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(None, prefix, remove_duplicate) if recurse else ((prefix, self),)
        for path, module in modules:
            for name, member in getattr(module, registry).items():
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield f"{path}.{name}" if path else name, member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names; one that is shared comes once, under its first name."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once: what an optimizer takes."""
        seen: set[int] = set()
        for module in self.modules() if recurse else (self,):
            for param in module._parameters.values():
                if param is not None and id(param) not in seen:
                    seen.add(id(param))
                    yield param

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with dotted names."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path. Raises AttributeError where there is none."""
        module = self
        for part in target.split(".") if target else ():
            child = module._modules.get(part)
            if child is None:
                raise AttributeError(
                    f"get_submodule: {type(module).__name__} has no submodule {part!r} ({target!r})"
                )
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. Raises AttributeError where there is none."""
        return self._get_member("get_parameter", "_parameters", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path. Raises AttributeError where there is none."""
        return self._get_member("get_buffer", "_buffers", target)

    def _get_member(self, op: str, registry: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if name not in getattr(module, registry):
            raise AttributeError(f"{op}: {type(module).__name__} has none of the name {name!r} ({target!r})")
        return module.__dict__[name]

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module below and then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ---------------------------------------------------------------------------------------------------- modes

    def train(self: Self, mode: bool = True) -> Self:
        """Switch training mode on (or off) here and below: dropout and batch norm behave differently."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: expected True or False for the mode, got {mode!r}")
        self.__dict__["training"] = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Switch to evaluation mode: ``train(False)``."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Say whether the parameters want gradients (False freezes the module)."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for param in self.parameters():
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad = autograd.wrap(np.zeros_like(param.grad._data))

    # ---------------------------------------------------------------------------------------------------- dtype

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move parameters and buffers to a device and convert the floating-point ones to a dtype, in place:
        ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(tensor)``. Optimizers that know the
        parameters follow.

        Raises TypeError for a dtype that is not floating-point, RuntimeError for a device that is not there.
        """
        dtype, device = kwargs.pop("dtype", None), kwargs.pop("device", None)
        kwargs.pop("non_blocking", None)
        if kwargs:
            raise TypeError(f"to: unexpected keyword {next(iter(kwargs))!r}")
        for arg in args:
            if isinstance(arg, Tensor):
                dtype, device = arg._data.dtype, arg.device
            elif isinstance(arg, Device) or (isinstance(arg, str) and arg.split(":")[0] in DEVICES):
                device = arg
            elif arg is not None and not isinstance(arg, bool):
                dtype = arg
        if device is not None:
            check_device(device)
        if dtype is not None:
            dtype = as_dtype(dtype)
            if not autograd.is_float(dtype):
                raise TypeError(f"to: expected a floating-point dtype, got {dtype}")
        with np.errstate(over="ignore"):
            for member in (*self.parameters(), *self.buffers()):
                for tensor in (member, member.grad):
                    if tensor is None:
                        continue
                    data = place(tensor._data, device)
                    if dtype is not None and autograd.is_float(data.dtype):
                        data = data.astype(dtype, copy=False)
                    tensor._data = data
        return self

    def double(self: Self) -> Self:
        """Convert to float64."""
        return self.to(np.float64)

    def half(self: Self) -> Self:
        """Convert to float16."""
        return self.to(np.float16)

    def bfloat16(self: Self) -> Self:
        """Convert to bfloat16."""
        return self.to("bfloat16")

    def cpu(self: Self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self: Self, device: Any = None) -> Self:
        """Move to a GPU (default: the current one). Raises RuntimeError without one."""
        return self.to("cuda" if device is None else gpu(device))

    def float(self: Self) -> Self:
        """Convert to float32."""
        return self.to(np.float32)

    # ---------------------------------------------------------------------------------------------------- state

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, as detached Tensors that share memory with the module
        (``keep_vars``: the parameters themselves)."""
        state: dict[str, Tensor] = {}
        for name, member in self._named_state(prefix):
            state[name] = member if keep_vars else member.detach()
        return state

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for path, module in self.named_modules(None, prefix.removesuffix("."), remove_duplicate=False):
            for name, member in (*module._parameters.items(), *module._buffers.items()):
                if member is not None and name not in module._transient:
                    yield f"{path}.{name}" if path else name, member

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into parameters and persistent buffers, by name.

        state_dict: Tensors or arrays of any device (torch's CPU tensors too); dtypes are converted to the module's.
        strict: whether missing and unexpected keys are errors; wrong shapes always are. assign: take the arrays as
        they are, dtype and all, instead of copying their values.

        Raises StateDictError (a RuntimeError and a ValueError) that lists everything that does not fit, in which case
        nothing was loaded; TypeError if it is no mapping.
        """
        return load_state(type(self).__name__, dict(self._named_state()), state_dict, strict, assign)

    # -------------------------------------------------------------------------------------------------- printin

    def extra_repr(self) -> str:
        """What ``repr`` shows between the brackets; subclasses define it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [f"({name}): {_indent(repr(child))}" for name, child in self._modules.items()]
        if not children and "\n" not in extra:
            return f"{type(self).__name__}({extra})"
        lines = extra.split("\n") * bool(extra) + children
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")
