"""``save`` and ``load``: state dicts, and nested structures of tensors and plain values, in safetensors
files.

A flat dict of tensors becomes a plain safetensors file that any other program reads. Anything nested is
stored as its tensors, named by their path, and a JSON skeleton under the metadata key ``fastdl.tree``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..backend import is_array, to_numpy
from ..device import check_device, place
from ..tensor import Tensor

_TREE = "fastdl.tree"
_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
# safetensors caps the JSON header at 100 MB.
_MAX_HEADER = 100_000_000

Path = str | os.PathLike[str]


def save(obj: Any, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes ``obj`` to ``path`` in safetensors format, atomically: the old file stays until the new one is
    whole.

    ``obj`` is a state dict (name -> Tensor or array), or any nesting of dicts, lists and tuples of those and
    of None, bools, ints, floats and strings. ``metadata`` is stored beside it, text by text.

    Raises TypeError for anything else in ``obj``, OSError when the file cannot be written; nothing is
    changed then.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save({"weight": np.ones((2, 2), np.float32)}, path)
    >>> load(path)["weight"].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: expected metadata of strings, got {key!r}: {value!r}")
    arrays: dict[str, np.ndarray] = {}
    if (
        isinstance(obj, Mapping)
        and all(isinstance(k, str) for k in obj)
        and all(map(_is_tensor, obj.values()))
    ):
        arrays = {key: _array(value) for key, value in obj.items()}
    else:
        texts[_TREE] = json.dumps(_flatten(obj, "", arrays))
    atomic_write(path, _serialize(arrays, texts))


def load(path: Path, map_location: Any = None, *, weights_only: bool = True) -> Any:
    """What ``save`` wrote: a dict of Tensors, or the nested structure.

    Files do not say where their tensors lived: all come on the CPU, or on the device that ``map_location`` names.
    ``weights_only`` changes nothing, for no file here can hold code.

    Raises FileNotFoundError or another OSError when the file cannot be read, ValueError naming the file and
    what is wrong when it is truncated, corrupt or of another format.
    """
    return load_with_metadata(path, map_location)[0]


def load_with_metadata(path: Path, map_location: Any = None) -> tuple[Any, dict[str, str]]:
    """``load``, and the file's metadata. Raises as ``load`` does."""
    if map_location is not None:
        check_device(map_location)
    arrays, texts = _deserialize(os.fspath(path))
    if map_location is not None:
        arrays = {name: place(array, map_location) for name, array in arrays.items()}
    tree = texts.pop(_TREE, None)
    if tree is None:
        return {name: Tensor(array) for name, array in arrays.items()}, texts
    try:
        return _unflatten(json.loads(tree), arrays), texts
    except (KeyError, ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)}: corrupt: its {_TREE} metadata does not fit its tensors ({error})"
        ) from None


def atomic_write(path: Path, data: bytes) -> None:
    """Writes a file so that at every moment, power cuts included, ``path`` holds the old content or all of
    the new.

    Raises OSError (with the original errno) naming the file; then the old file is untouched and nothing is
    left over.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)  # a symbolic link keeps pointing where it did
    folder = os.path.dirname(target)
    temporary = None
    try:
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if os.path.exists(target) and not os.path.isfile(target):  # a device or a pipe must not be replaced
            raise OSError(errno.EINVAL, "not a regular file")
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(target)[:100]}.", suffix=".tmp", dir=folder
        )
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_for(target))
        os.replace(temporary, target)
        temporary = None
        _sync_folder(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, f"cannot write {name}: {reason}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _mode_for(target: str) -> int:
    """The permissions a plain ``open`` would have given (mkstemp's are private)."""
    with contextlib.suppress(OSError):
        return os.stat(target).st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: str) -> None:
    # Makes the rename itself durable; some systems cannot open a directory, and the data is safe there
    # already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or is_array(value)


def _array(value: Any) -> np.ndarray:
    return to_numpy(value._data if isinstance(value, Tensor) else value)


def _flatten(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The JSON skeleton of ``value`` (tagged objects stand for what JSON lacks); arrays go to ``arrays``."""
    if _is_tensor(value):
        if path in arrays:  # {"a": {"b": x}, "a.b": y}
            path = next(f"{path}#{i}" for i in range(2, 2 + len(arrays)) if f"{path}#{i}" not in arrays)
        arrays[path] = _array(value)
        return {"$tensor": path}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _flatten(item, _join(path, key), arrays) for key, item in value.items()}
        pairs = [[_key(key, path), _flatten(item, _join(path, key), arrays)] for key, item in value.items()]
        return {"$pairs": pairs}
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, _join(path, i), arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    where = f" at {path!r}" if path else ""
    raise TypeError(
        "save: expected tensors, numbers, strings, None, dicts, lists or tuples, "
        f"got {type(value).__name__}{where}"
    )


def _key(key: Any, path: str) -> Any:
    if key is None or isinstance(key, (bool, int, float, str)):
        return key
    raise TypeError(f"save: expected string or number keys, got {type(key).__name__} at {path!r}")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _unflatten(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, list):
        return [_unflatten(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return Tensor(arrays[node["$tensor"]])
    if "$tuple" in node:
        return tuple(_unflatten(item, arrays) for item in node["$tuple"])
    if "$pairs" in node:
        return {key: _unflatten(item, arrays) for key, item in node["$pairs"]}
    return {key: _unflatten(item, arrays) for key, item in node.items()}


def _serialize(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """A safetensors file: 8 bytes of header length, the JSON header, the tensors' bytes.

    Written here rather than by the safetensors package so that equal content gives equal files: the package's
    order of the metadata changes from run to run.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(texts.items()))} if texts else {}
    # The widest types first, so that every tensor is aligned to its own type.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    parts, position = [], 0
    for name in order:
        array = arrays[name]
        code = _CODES.get(array.dtype.name)
        if code is None:
            raise TypeError(f"save: safetensors has no {array.dtype.name}, the dtype of {name!r}")
        if name == "__metadata__":
            raise ValueError("save: safetensors reserves the name '__metadata__'")
        parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _deserialize(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with open(name, "rb") as file:  # OSError here names the file by itself
        problem = _header_problem(file, os.fstat(file.fileno()).st_size)
    if problem:
        raise ValueError(f"{name}: {problem}")
    import ml_dtypes  # noqa: F401  (safe_open finds bfloat16 there; safetensors.numpy.load does not)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(name, framework="numpy") as file:
            texts = file.metadata() or {}
            return {key: _owned(file.get_tensor(key)) for key in file.keys()}, texts  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{name}: corrupt safetensors file ({error})") from None
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{name}: holds a dtype NumPy lacks ({error})") from None


def _owned(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable and array.flags.aligned else array.copy()


def _header_problem(file: Any, size: int) -> str | None:
    """What is wrong with a safetensors file's frame: 8 bytes of header length, JSON header, tensor bytes."""
    if size < 8:
        return f"not a safetensors file: expected at least 8 bytes, got {size}"
    length = int.from_bytes(file.read(8), "little")
    start = file.read(1)
    if length > _MAX_HEADER or (start and start != b"{"):
        first = (length.to_bytes(8, "little") + start).hex(" ")
        if first.startswith("50 4b 03 04"):
            return (
                "a zip archive, as torch.save writes, not a safetensors file; convert it where torch is installed: "
                "safetensors.torch.save_file(torch.load(path), new_path)"
            )
        return f"not a safetensors file: expected a length and a JSON header, got {first}"
    if 8 + length > size:
        return f"truncated: expected a header of {length} bytes, got {size - 8}"
    try:
        header = json.loads(start + file.read(length - 1)) if length else {}
        expected = max(_ends(header), default=0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        return f"corrupt safetensors header ({error})"
    if size - 8 - length < expected:
        return f"truncated: expected {expected} bytes of tensors, got {size - 8 - length}"
    if size - 8 - length > expected:
        return f"corrupt: expected {expected} bytes of tensors, got {size - 8 - length}"
    return None


def _ends(header: Any) -> Iterator[int]:
    if not isinstance(header, dict):
        raise TypeError(f"expected an object, got {type(header).__name__}")
    for name, entry in header.items():
        if name != "__metadata__":
            yield int(entry["data_offsets"][1])
