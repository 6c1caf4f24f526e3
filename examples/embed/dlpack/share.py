"""Arrays of fastdl, PyTorch, JAX and NumPy over the same memory, by DLPack. Prints what is installed and shared."""

import importlib
import importlib.util

import numpy as np

import fastdl

x = fastdl.nn.functional.relu(
    fastdl.randn(256, 256)
)  # large results are aligned as JAX wants them, to 64 bytes
address = x.numpy().ctypes.data

array = np.from_dlpack(x)
assert array.ctypes.data == address
print("numpy shares fastdl's memory")

if importlib.util.find_spec("torch"):
    import torch

    there = torch.from_dlpack(x)
    assert there.data_ptr() == address and there.shape == (256, 256)
    there[0, 0] = 7
    assert x[0, 0].item() == 7
    theirs = torch.arange(6.0).reshape(2, 3).T  # strided
    ours = fastdl.from_dlpack(theirs)
    assert ours.numpy().ctypes.data == theirs.data_ptr() and ours.shape == (3, 2)
    print("torch shares memory both ways")

if importlib.util.find_spec("jax"):
    jax = importlib.import_module("jax")
    there = jax.dlpack.from_dlpack(x, copy=False)
    assert there.unsafe_buffer_pointer() == address
    theirs = jax.numpy.ones((2, 3))
    ours = fastdl.from_dlpack(theirs)
    assert ours.numpy().ctypes.data == theirs.unsafe_buffer_pointer()
    print("jax shares memory both ways")
