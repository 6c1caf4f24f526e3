"""fastdl's layer norm inside jitted, differentiated JAX programs.

python layer_norm.py LIBRARY     LIBRARY: libfastdl_jax.so, built from the CMakeLists.txt beside this file
"""

import ctypes
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

library = ctypes.CDLL(sys.argv[1])
for target, symbol in (
    ("fastdl_layer_norm", "LayerNorm"),
    ("fastdl_layer_norm_backward", "LayerNormBackward"),
):
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")


def _forward(x, weight, bias, eps):
    like, row = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(x.shape[:-1], x.dtype)
    call = jax.ffi.ffi_call("fastdl_layer_norm", (like, row, row), vmap_method="sequential")
    y, mean, rstd = call(x, weight, bias, eps=np.float64(eps))
    return y, (x, weight, mean, rstd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis; float32 arrays."""
    return _forward(x, weight, bias, eps)[0]


def _backward(eps, kept, grad):
    like = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (kept[0], kept[1], kept[1])]
    return tuple(jax.ffi.ffi_call("fastdl_layer_norm_backward", like)(grad, *kept))


layer_norm.defvjp(_forward, _backward)


def in_jax(x, weight, bias, eps=1e-5):
    centered = x - x.mean(-1, keepdims=True)
    return centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + eps) * weight + bias


if __name__ == "__main__":
    keys = jax.random.split(jax.random.key(0), 4)
    x, g = (jax.random.normal(key, (6, 20, 100)) for key in keys[:2])
    weight, bias = (jax.random.normal(key, (100,)) for key in keys[2:])
    for ours, theirs in zip(
        *(
            jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) * g).sum(), (0, 1, 2)))(x, weight, bias)
            for f in (layer_norm, in_jax)
        )
    ):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4), ours, theirs)
    try:
        layer_norm(x, weight[:50], bias).block_until_ready()
    except Exception as error:
        print(str(error).splitlines()[0])
    print("values and gradients as JAX computes them")
