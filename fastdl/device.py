"""Where tensors live. This build has one place: the CPU."""

from __future__ import annotations

from typing import Any

KINDS = ("cpu", "cuda", "cuda-sim", "mps", "xpu", "meta")  # what a string in `Tensor.to` may name


class device:
    """A device by name: ``device("cpu")``; others can be named, but not used.

    >>> device("cuda:1").type, device("cuda:1").index
    ('cuda', 1)
    """

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, name: Any, index: int | None = None):
        if isinstance(name, device):
            name, index = name.type, name.index
        if not isinstance(name, str):
            raise TypeError(f"device: expected a name such as 'cpu', got {name.__class__.__name__}")
        kind, colon, number = name.partition(":")
        if not kind.replace("-", "").isalnum() or (colon and not number.isdigit()):
            raise ValueError(f"device: expected a name such as 'cpu' or 'cuda:0', got {name!r}")
        self.type = kind
        self.index = int(number) if colon else index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str(self) == other
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))


cpu = device("cpu")


def check_device(where: object) -> None:
    """Raise RuntimeError for a device that this build of fastdl cannot compute on."""
    if where is not None and where is not cpu and device(where).type != "cpu":  # type: ignore[arg-type]
        raise RuntimeError(
            f"device {str(where)!r} is not available: this build of fastdl computes on the CPU only"
        )
