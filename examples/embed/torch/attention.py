"""fastdl's attention as a PyTorch operator: autograd, fake tensors and `torch.compile` know it.

python attention.py     checks it against PyTorch's own and runs torch.library.opcheck
"""

import numpy as np
import torch

from fastdl import ops


@torch.library.custom_op("fastdl::attention", mutates_args=(), device_types="cpu")
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T / sqrt(E)) v and the log of each row's sum: q (B, H, L, E), k (B, H, S, E), v (B, H, S, Ev)."""
    # .numpy() shares the memory: nothing is copied on the way in or out.
    out, lse = ops.scaled_dot_product_attention(q.numpy(), k.numpy(), v.numpy(), is_causal=is_causal)
    return torch.from_numpy(out), torch.from_numpy(lse)


@attention.register_fake
def _(q, k, v, is_causal):
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1])


@torch.library.custom_op("fastdl::attention_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v."""
    given = (np.asarray(t) for t in (grad, q, k, v))
    gradients = ops.scaled_dot_product_attention_backward(
        *given, None, out.numpy(), lse.numpy(), is_causal=is_causal
    )
    return tuple(torch.from_numpy(g) for g in gradients[:3])


@attention_backward.register_fake
def _(grad, q, k, v, out, lse, is_causal):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx, inputs, output):
    *tensors, ctx.is_causal = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    return *attention_backward(grad.contiguous(), *ctx.saved_tensors, ctx.is_causal), None


attention.register_autograd(_backward, setup_context=_keep)


if __name__ == "__main__":
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 50, 32, requires_grad=True) for _ in range(3))
    w = torch.randn(2, 4, 50, 32)
    grads = []
    for call in (
        lambda: attention(q, k, v, True)[0],
        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        torch.compile(lambda: attention(q, k, v, True)[0], backend="aot_eager"),
    ):
        out = call()
        grads.append((out, *torch.autograd.grad((out * w).sum(), (q, k, v))))
    for ours, theirs in zip((*grads[0], *grads[2]), grads[1] * 2):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for is_causal in (False, True):
        torch.library.opcheck(attention, (q, k, v, is_causal))
    print("values, gradients, torch.compile and opcheck: all as they should be")
