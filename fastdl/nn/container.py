"""Modules that hold other modules or parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from ..tensor import Tensor
from .module import Module, _indent
from .parameter import Parameter


def _position(op: str, index: Any, length: int) -> int:
    """An index counted from the front. Raises IndexError outside [-length, length)."""
    try:
        index = index.__index__()
    except AttributeError:
        raise TypeError(f"{op}: expected an integer index, got {type(index).__name__}") from None
    if not -length <= index < length:
        raise IndexError(f"{op}: index {index} is out of range for {length} entries")
    return index % length


class _ModuleSequence(Module):
    """Children named "0", "1", ... (or by an OrderedDict), with the methods of a list."""

    def _rebuild(self, modules: Iterable[Module | None]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def _name(self, index: Any) -> str:
        return list(self._modules)[_position(type(self).__name__, index, len(self._modules))]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._take(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    def _take(self, items: list[tuple[str, Any]]) -> Any:
        raise NotImplementedError

    def __setitem__(self, index: Any, module: Module) -> None:
        name = self._name(index)
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: expected a Module, got {type(module).__name__}")
        setattr(self, name, module)

    def __delitem__(self, index: Any) -> None:
        doomed = (
            range(len(self))[index] if isinstance(index, slice) else (_position("del", index, len(self)),)
        )
        names = list(self._modules)
        for i in doomed:
            delattr(self, names[i])
        if all(name.isdigit() for name in names):
            self._rebuild(list(self))

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before position ``index``."""
        if not -len(self) <= index <= len(self):
            raise IndexError(f"insert: index {index} is out of range for {len(self)} entries")
        modules = list(self)
        modules.insert(index, module)
        self._rebuild(modules)
        return self

    def pop(self, index: int | slice = -1) -> Any:
        """Remove and return a module."""
        module = self[index]
        del self[index]
        return module

    def __add__(self, other: Iterable[Module]) -> Any:
        return self._take([(str(i), m) for i, m in enumerate((*self, *other))])

    def __iadd__(self, other: Iterable[Module]) -> Any:
        return self.extend(other)


class Sequential(_ModuleSequence):
    """Modules applied one after the other: ``Sequential(*modules)`` or ``Sequential(dict_of_modules)``.

    >>> import fastdl
    >>> from fastdl import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model(fastdl.zeros(3, 4)).shape
    (3, 2)
    >>> model[1]
    ReLU()
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def _take(self, items: list[tuple[str, Any]]) -> Sequential:
        return Sequential(dict(items))

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]
        return input


class ModuleList(_ModuleSequence):
    """A list of modules whose parameters are found.

    >>> from fastdl import nn
    >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _take(self, items: list[tuple[str, Any]]) -> ModuleList:
        return ModuleList([module for _, module in items])

    def __repr__(self) -> str:
        """As Module's, with runs of equal entries told once."""
        lines: list[str] = []
        runs: list[list[Any]] = []
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1][1] = i
            else:
                runs.append([i, i, text])
        for first, last, text in runs:
            head = f"({first}): " if first == last else f"({first}-{last}): {last - first + 1} x "
            lines.append(head + _indent(text))
        return f"{type(self).__name__}(" + ("\n  " + "\n  ".join(lines) + "\n" if lines else "") + ")"


class _Dict:
    """The methods of a dict, for a Module that names its registry."""

    _registry = ""

    def _entries(self) -> dict[str, Any]:
        return getattr(self, self._registry)

    def __getitem__(self, key: str) -> Any:
        return self._entries()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self._entries():
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __contains__(self, key: object) -> bool:
        return key in self._entries()

    def keys(self) -> Any:
        """The names."""
        return self._entries().keys()

    def values(self) -> Any:
        """The entries."""
        return self._entries().values()

    def items(self) -> Any:
        """Pairs of name and entry."""
        return self._entries().items()

    def clear(self) -> None:
        """Remove all entries."""
        for key in list(self._entries()):
            del self[key]

    def pop(self, key: str) -> Any:
        """Remove and return an entry."""
        value = self[key]
        del self[key]
        return value

    def update(self, entries: Any) -> None:
        """Add entries from a mapping or an iterable of pairs."""
        for key, value in entries.items() if hasattr(entries, "items") else entries:
            self[key] = value


class ModuleDict(_Dict, Module):
    """A dict of modules whose parameters are found.

    >>> from fastdl import nn
    >>> heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)})
    >>> heads["b"].out_features
    3
    """

    _registry = "_modules"

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._modules:
            setattr(self, key, value)
        else:
            self.add_module(key, value)


class ParameterDict(_Dict, Module):
    """A dict of parameters; Tensors become Parameters."""

    _registry = "_parameters"

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        if parameters is not None:
            self.update(parameters)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        if key in self._parameters:
            setattr(self, key, value)
        else:
            self.register_parameter(key, value)


class ParameterList(Module):
    """A list of parameters; Tensors become Parameters.

    >>> import fastdl
    >>> from fastdl import nn
    >>> scales = nn.ParameterList([fastdl.ones(2) for _ in range(3)])
    >>> [name for name, _ in scales.named_parameters()]
    ['0', '1', '2']
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        if values is not None:
            self.extend(values)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parameters.values())

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ParameterList(list(self)[index])
        return self._parameters[str(_position("ParameterList", index, len(self)))]

    def __setitem__(self, index: int, param: Any) -> None:
        setattr(self, str(_position("ParameterList", index, len(self))), _as_parameter(param))

    def append(self, value: Any) -> ParameterList:
        """Add a parameter at the end."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add parameters at the end."""
        for value in values:
            self.append(value)
        return self

    __iadd__ = extend


def _as_parameter(value: Any) -> Parameter:
    if isinstance(value, Parameter):
        return value
    if not isinstance(value, Tensor):
        raise TypeError(f"ParameterList: expected Tensors or Parameters, got {type(value).__name__}")
    return Parameter(value)
