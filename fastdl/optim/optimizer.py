"""What all optimizers share: parameter groups, states, their dicts, and the path from `step` to the kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .. import backend
from ..autograd import Leaf, TensorBase, enable_grad, is_float, mark_inplace, version, wrap


class Optimizer:
    """Base class. A subclass gives its defaults, the states it keeps and the kernel that updates them.

    ``params``: Tensors, or (name, Tensor) pairs, or dicts with "params" and options of their own (a parameter
    group). Raises ValueError for an empty list or a parameter given twice, TypeError for what is no Tensor.

    A step is often too small to change a bfloat16 number. With ``master_weights`` (the default), parameters of 16
    bits therefore have a float32 copy in their state, "master_param", and float32 states: a step updates the copy, and
    the parameter is its rounding. Where somebody else changed the parameter since, the copy takes that over first.
    Without it, parameter and states are what they are, as in torch.
    """

    #: state entries with the shape of their parameter, besides "step"
    _prepared: list[Any]

    def __init__(self, params: Any, defaults: dict[str, Any], master_weights: bool = True) -> None:
        if isinstance(params, TensorBase):
            raise TypeError(f"{type(self).__name__}: expected an iterable of Tensors or dicts, got a Tensor")
        self.defaults = defaults
        self.master_weights = bool(master_weights)
        self._seen: dict[
            int, tuple[Any, int]
        ] = {}  # of 16-bit parameters: array and version after our last step
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._prepared = []
        try:
            groups = list(params)
        except TypeError:
            raise TypeError(
                f"{type(self).__name__}: expected an iterable of Tensors or dicts (model.parameters()), "
                f"got {type(params).__name__}"
            ) from None
        if not groups:
            raise ValueError(f"{type(self).__name__}: got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters, with options of their own where given (unfrozen layers, say)."""
        name = type(self).__name__
        if not isinstance(param_group, dict):
            raise TypeError(
                f"{name}: expected a parameter group to be a dict, got {type(param_group).__name__}"
            )
        if "params" not in param_group:
            raise ValueError(
                f"{name}: expected a parameter group with 'params', got keys {list(param_group)}"
            )
        params = param_group["params"]
        if isinstance(params, TensorBase):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(f"{name}: parameters need an order, got a set")
        params = list(params)
        names = None
        if params and isinstance(params[0], tuple):
            names = [p[0] for p in params]
            params = [p[1] for p in params]
        for p in params:
            if not isinstance(p, TensorBase):
                raise TypeError(f"{name}: can only optimize Tensors, got {type(p).__name__}")
            if p._node is not None and p._node.__class__ is not Leaf:
                raise ValueError(f"{name}: can't optimize a non-leaf Tensor")
        known = {id(p) for group in self.param_groups for p in group["params"]}
        ids = [id(p) for p in params]
        if len(set(ids)) != len(ids) or known.intersection(ids):
            raise ValueError(f"{name}: a parameter appears more than once")
        group = {**self.defaults, **param_group, "params": params}
        if names is not None:
            group["param_names"] = names
        self.param_groups.append(group)
        self._prepared.append(None)
        self._added(group)

    def _added(self, group: dict[str, Any]) -> None:
        """Called with each new group, for states that exist from the start."""

    # ------------------------------------------------------------------------------------------------- stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. ``closure`` recomputes the loss, which is returned.

        Raises ValueError or TypeError, with nothing changed in that group, for gradients that do not fit.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        prepared = self._prepared
        for i, group in enumerate(self.param_groups):
            p = prepared[i]
            if self._seen:
                self._follow(group)
            if p is None or not self._update(p, group):
                self._prepare(i, group)
            mark_inplace(*[p._data for p in group["params"] if p.grad is not None])
            if self.master_weights:
                for p in group["params"]:
                    if p._data.itemsize == 2:
                        self._seen[id(p)] = p._data, version(p._data)
        return loss

    def _follow(self, group: dict[str, Any]) -> None:
        """Bring float32 copies up to date with parameters that were changed by others since our last step."""
        for p in group["params"]:
            data = p._data
            if data.itemsize > 2 or p.grad is None:
                continue
            seen = self._seen.get(id(p))
            master = self.state[p].get(MASTER) if p in self.state else None
            if master is None or (seen is not None and seen[0] is data and seen[1] == version(data)):
                continue
            kept = master._data
            same = backend.convert(kept, data.dtype).view(np.uint16) == data.view(np.uint16)
            np.copyto(kept, backend.convert(data, kept.dtype), where=~same)

    def _prepare(self, i: int, group: dict[str, Any]) -> None:
        """Create missing states, make the kernel's view of the group anew and take the step."""
        fresh = []
        for k, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            for value in self.state[p].values() if p in self.state else ():  # the parameter may have moved
                if isinstance(value, TensorBase):
                    value._data = backend.beside(value._data, p._data)
            if self._has_master(p):
                if self.state[p].get(MASTER) is None:
                    self.state[p][MASTER] = wrap(p._data.astype(np.float32))
            elif p in self.state:  # perhaps no longer one of 16 bits
                self.state[p].pop(MASTER, None)
            if self._create_state(p, group):
                fresh.append(k)
        params = group["params"]
        kernels = backend.kernels(params[0]._data if params else None)
        if any(backend.kernels(p._data) is not kernels for p in params):
            raise RuntimeError(f"{type(self).__name__}: the parameters of a group are on different devices")
        masters = MASTER if self.master_weights else None
        prepared = kernels.ParameterGroup(params, self.state, self._keys(group), masters)
        prepared.set_fresh(fresh)
        self._prepared[i] = prepared
        if not self._update(prepared, group):
            raise RuntimeError(f"{type(self).__name__}: the state of a parameter is incomplete")

    def _keys(self, group: dict[str, Any]) -> list[str]:
        """The entries of a parameter's state that the kernel takes, in its order."""
        raise NotImplementedError

    def _create_state(self, p: Any, group: dict[str, Any]) -> bool:
        """Give the parameter the states it lacks; True if its momentum starts with the next gradient."""
        state = self.state[p]
        for key in self._keys(group):
            if state.get(key) is None:
                if key == "step":
                    state[key] = wrap(np.zeros((), np.float32, like=p._data))
                else:
                    state[key] = wrap(np.zeros_like(p._data, self._state_dtype(p)))
        return False

    def _has_master(self, p: Any) -> bool:
        return self.master_weights and p._data.itemsize == 2 and is_float(p._data.dtype)

    def _state_dtype(self, p: Any) -> np.dtype:
        """The dtype of the states of a parameter."""
        return np.dtype(np.float32) if self._has_master(p) else p._data.dtype

    def _update(self, prepared: Any, group: dict[str, Any]) -> bool:
        """Call the kernel; False if the group must be prepared again."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = wrap(np.zeros_like(p.grad._data))

    # ------------------------------------------------------------------------------------------------- state dicts

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: {name: Tensor}}, "param_groups": [{option: value, "params": [index]}]}: parameters are
        numbered in order over all groups."""
        index = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [index[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        return {"state": {index[id(p)]: dict(s) for p, s in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave (values may be Tensors, arrays or numbers; they are copied).

        Raises ValueError, with nothing changed, where groups, parameters or shapes do not fit.
        """
        name = type(self).__name__
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: expected a state dict, got {type(state_dict).__name__}")
        if "param_groups" not in state_dict or "state" not in state_dict:
            raise ValueError(
                f"{name}: expected a state dict with 'state' and 'param_groups', got keys {list(state_dict)[:8]}"
            )
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError(
                f"{name}: expected {len(self.param_groups)} parameter groups, the state has {len(saved)}"
            )
        owner: dict[int, Any] = {}
        for i, (old, group) in enumerate(zip(saved, self.param_groups, strict=True)):
            if len(old["params"]) != len(group["params"]):
                raise ValueError(
                    f"{name}: expected {len(group['params'])} parameters in group {i}, the state has "
                    f"{len(old['params'])}"
                )
            owner.update(zip(map(int, old["params"]), group["params"], strict=True))
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, values in state_dict["state"].items():
            p = owner.get(int(key))
            if p is None:
                raise ValueError(f"{name}: the state has an entry for parameter {key}, of {len(owner)}")
            dtype = self._state_dtype(p)
            state[p] = {k: _state_value(name, k, v, p, dtype) for k, v in values.items()}
        for old, group in zip(saved, self.param_groups, strict=True):
            for k, v in old.items():
                if k != "params":
                    group[k] = tuple(v) if isinstance(v, list) and isinstance(group.get(k), tuple) else v
        self.state = state
        self._forget_seen()
        self._prepared = [None] * len(self.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what steps make anew."""
        return {**self.__dict__, "_prepared": [None] * len(self.param_groups), "_seen": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_seen()

    def _forget_seen(self) -> None:
        # None: the next step compares 16-bit parameters with their float32 copies
        self._seen = {id(p): (None, -1) for p in self.state if self._has_master(p)}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join([*lines, ")"])


MASTER = "master_param"


def _state_value(name: str, key: str, value: Any, p: Any, dtype: Any) -> Any:
    """A copy of a state's value, in that dtype and the parameter's layout; "step" as a float32 scalar."""
    if value is None or isinstance(value, str):
        return value
    array = value._data if isinstance(value, TensorBase) else backend.as_array(value)
    if key == "step":
        return wrap(backend.copied(backend.beside(array.astype(np.float32), p._data)).reshape(()))
    if array.shape != p._data.shape:
        raise ValueError(
            f"{name}: {key} of shape {array.shape} does not fit a parameter of shape {p._data.shape}"
        )
    copy = np.empty_like(p._data, dtype)
    copy[...] = backend.beside(array, p._data)
    return wrap(copy)


def check_range(name: str, option: str, value: Any, low: float = 0.0, high: float | None = None) -> None:
    """ValueError unless low <= value (< high)."""
    try:
        fits = low <= value and (high is None or value < high)
    except TypeError:
        raise TypeError(f"{name}: expected {option} to be a number, got {value!r}") from None
    if not fits:
        limits = f">= {low:g}" if high is None else f"in [{low:g}, {high:g})"
        raise ValueError(f"{name}: expected {option} {limits}, got {value}")


def check_ignored(name: str, **options: Any) -> None:
    """Accept torch's implementation switches; refuse those that would change results."""
    for option, value in options.items():
        if value:
            raise ValueError(f"{name}: {option}=True is not supported")


Params = Iterable[Any]
