"""Kernels on arrays: NumPy arrays in, NumPy arrays out; no Tensor, no graph."""
