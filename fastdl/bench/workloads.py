"""The public shapes of DeepBench, kept beside this file."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def _sets() -> dict[str, Any]:
    return json.loads(resources.files(__package__).joinpath("deepbench.json").read_text())


def deepbench(name: str) -> list[tuple]:
    """The rows of a set: "gemm", "gemm_inference", "conv", "conv_inference", "rnn", "rnn_inference", "attention"."""
    return [tuple(row) for row in _sets()[name]["rows"]]
