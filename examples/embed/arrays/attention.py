"""The kernels on plain arrays: NumPy's on the CPU, CuPy's on a GPU. No Tensors, no graph."""

import sys

import numpy as np

from fastdl import ops

xp = np
if "--cupy" in sys.argv:
    import cupy as xp

rng = np.random.default_rng(0)
q, k, v = (xp.asarray(rng.standard_normal((2, 8, 128, 64), dtype=np.float32)) for _ in range(3))

out, _ = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
probabilities = ops.softmax(q @ k.swapaxes(-1, -2) / 8 + xp.triu(xp.full((128, 128), -xp.inf, "float32"), 1))
difference = float(abs(out - probabilities @ v).max())
print(f"{type(out).__module__} {out.shape} {out.dtype}, largest difference {difference:.0e}")
assert difference < 1e-5

image = xp.asarray(rng.standard_normal((1, 3, 32, 32), dtype=np.float32))
filters = xp.asarray(rng.standard_normal((16, 3, 3, 3), dtype=np.float32))
features = ops.conv(image, filters, padding=1, activation="relu")
print(features.shape, "largest", f"{float(features.max()):.3f}")
