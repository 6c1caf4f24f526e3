"""Differentiable functions on Tensors, one module per family; `fastdl.nn.functional` and `fastdl` re-export them."""
