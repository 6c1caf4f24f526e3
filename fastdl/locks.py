"""Locks for what all threads of the process share."""

from __future__ import annotations

import os
import threading
from typing import Any


def process_lock() -> Any:
    """A reentrant lock that a child made by fork finds free, and what it guards whole: fork waits for it.

    >>> lock = process_lock()
    >>> with lock, lock:
    ...     pass
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
