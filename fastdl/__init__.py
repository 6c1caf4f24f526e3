from . import autograd, backend, functional
from .autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from .dtypes import float32, float64, int64
from .tensor import Tensor, tensor
