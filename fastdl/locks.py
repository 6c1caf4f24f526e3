"""Locks that survive a fork: of the threads of a process only the one that forks goes on in the child, so that a lock
which another one held would stay locked there for ever."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["lock", "renew_after_fork"]


def renew_after_fork(renew: Any) -> None:
    """Call ``renew()`` in every child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def lock() -> Any:
    """A reentrant lock for the life of the process; children get it unlocked."""
    made: Any = threading.RLock()
    renew_after_fork(made._at_fork_reinit)
    return made
