"""Layers, with torch's names, parameters and semantics."""

from .container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from .module import IncompatibleKeys, Module, StateDictError
from .parameter import Parameter

__all__ = [
    "IncompatibleKeys",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "Sequential",
    "StateDictError",
]
