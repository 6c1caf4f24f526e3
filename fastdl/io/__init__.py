"""Files: tensors and checkpoints as safetensors, written atomically. No pickle anywhere."""

from .checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from .files import atomic_write, load, load_with_metadata, save

__all__ = [
    "atomic_write",
    "load",
    "load_checkpoint",
    "load_with_metadata",
    "read_checkpoint",
    "save",
    "save_checkpoint",
]
