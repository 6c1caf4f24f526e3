"""The functions of `fastdl.functional` that are also methods of a Tensor, and their in-place forms: a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .autograd import TensorBase
from .functional import arithmetic as A
from .functional import comparison as Cp
from .functional import creation as C
from .functional import cumulative as Cu
from .functional import diagonal as Di
from .functional import division as Dv
from .functional import gather as Ga
from .functional import indexing as I
from .functional import joining as Jo
from .functional import linalg as L
from .functional import mutation as M
from .functional import pointwise as P
from .functional import power as Pw
from .functional import reduction as R
from .functional import repeating as Rp
from .functional import shape as S
from .functional import sorting as So
from .functional import statistics as St
from .functional.core import inplace
from .naming import names_itself

if TYPE_CHECKING:
    from .tensor import Tensor

_Int = int  # methods below have the names of types


class Methods(TensorBase):
    """What a Tensor can do besides being one."""

    __slots__ = ()

    __add__ = A.plus
    __radd__ = A.plus
    __sub__ = A.minus
    __rsub__ = A.rsub
    __mul__ = A.mul
    __rmul__ = A.mul
    __truediv__ = A.divided
    __rtruediv__ = A.rdiv
    __floordiv__ = Dv.floor_divide
    __rfloordiv__ = Dv.rfloordiv
    __mod__ = Dv.remainder
    __rmod__ = Dv.rmod
    __pow__ = Pw.pow
    __rpow__ = Pw.rpow
    __matmul__ = L.matmul
    __rmatmul__ = L.rmatmul
    __neg__ = P.neg
    __pos__ = P.positive
    __abs__ = P.abs
    __invert__ = P.bitwise_not
    __eq__ = Cp.eq  # type: ignore[assignment]
    __ne__ = Cp.ne  # type: ignore[assignment]
    __lt__ = Cp.lt
    __le__ = Cp.le
    __gt__ = Cp.gt
    __ge__ = Cp.ge
    __hash__ = object.__hash__
    __and__ = Cp.bitwise_and
    __rand__ = Cp.bitwise_and
    __or__ = Cp.bitwise_or
    __ror__ = Cp.bitwise_or
    __xor__ = Cp.bitwise_xor
    __rxor__ = Cp.bitwise_xor
    __lshift__ = Cp.bitwise_left_shift
    __rshift__ = Cp.bitwise_right_shift
    __getitem__ = I.getitem
    __setitem__ = I.setitem
    __iter__ = I.iterate

    add = A.add
    sub = A.sub
    mul = A.mul
    div = Dv.div
    pow = Pw.pow
    remainder = Dv.remainder
    fmod = Dv.fmod
    floor_divide = Dv.floor_divide
    maximum = Cp.maximum
    minimum = Cp.minimum
    atan2 = Pw.atan2
    logaddexp = Pw.logaddexp
    hypot = Pw.hypot
    eq = Cp.eq
    ne = Cp.ne
    lt = Cp.lt
    le = Cp.le
    gt = Cp.gt
    ge = Cp.ge
    logical_and = Cp.logical_and
    logical_or = Cp.logical_or
    logical_xor = Cp.logical_xor
    bitwise_and = Cp.bitwise_and
    bitwise_or = Cp.bitwise_or
    bitwise_xor = Cp.bitwise_xor
    bitwise_left_shift = Cp.bitwise_left_shift
    bitwise_right_shift = Cp.bitwise_right_shift

    neg = P.neg
    negative = P.negative
    positive = P.positive
    abs = P.abs
    absolute = P.absolute
    exp = P.exp
    exp2 = P.exp2
    expm1 = P.expm1
    log = P.log
    log2 = P.log2
    log10 = P.log10
    log1p = P.log1p
    sqrt = P.sqrt
    rsqrt = P.rsqrt
    reciprocal = P.reciprocal
    square = P.square
    sin = P.sin
    cos = P.cos
    tan = P.tan
    asin = P.asin
    acos = P.acos
    atan = P.atan
    arcsin = P.arcsin
    arccos = P.arccos
    arctan = P.arctan
    sinh = P.sinh
    cosh = P.cosh
    tanh = P.tanh
    asinh = P.asinh
    acosh = P.acosh
    atanh = P.atanh
    arcsinh = P.arcsinh
    arccosh = P.arccosh
    arctanh = P.arctanh
    sigmoid = P.sigmoid
    erf = P.erf
    sign = P.sign
    floor = P.floor
    ceil = P.ceil
    trunc = P.trunc
    fix = P.fix
    frac = P.frac
    round = P.round
    clamp = P.clamp
    clip = P.clip
    clamp_min = P.clamp_min
    clamp_max = P.clamp_max
    nan_to_num = P.nan_to_num
    lerp = P.lerp
    addcmul = P.addcmul
    addcdiv = P.addcdiv
    isnan = P.isnan
    isinf = P.isinf
    isfinite = P.isfinite
    isposinf = P.isposinf
    isneginf = P.isneginf
    signbit = P.signbit
    logical_not = P.logical_not
    bitwise_not = P.bitwise_not
    isclose = P.isclose
    allclose = P.allclose
    equal = P.equal

    sum = R.sum
    nansum = R.nansum
    nanmean = R.nanmean
    diff = Cu.diff
    quantile = St.quantile
    histc = St.histc
    mean = R.mean
    prod = R.prod
    amax = R.amax
    amin = R.amin
    aminmax = R.aminmax
    max = R.max
    min = R.min
    argmax = R.argmax
    argmin = R.argmin
    median = St.median
    kthvalue = St.kthvalue
    var = St.var
    std = St.std
    logsumexp = R.logsumexp
    norm = St.norm
    dist = St.dist
    cumsum = Cu.cumsum
    cumprod = Cu.cumprod
    cummax = Cu.cummax
    cummin = Cu.cummin
    any = R.any
    all = R.all
    count_nonzero = R.count_nonzero
    bincount = St.bincount

    reshape = S.reshape
    view = S.view
    reshape_as = S.reshape_as
    ravel = S.ravel
    flatten = S.flatten
    unflatten = S.unflatten
    squeeze = S.squeeze
    unsqueeze = S.unsqueeze
    permute = S.permute
    transpose = S.transpose
    swapaxes = S.swapaxes
    swapdims = S.swapdims
    t = S.t
    movedim = S.movedim
    moveaxis = S.moveaxis
    expand = S.expand
    expand_as = S.expand_as
    broadcast_to = S.broadcast_to
    narrow = Jo.narrow
    select = Jo.select
    split = Jo.split
    chunk = Jo.chunk
    tensor_split = Jo.tensor_split
    unbind = Jo.unbind
    repeat = Rp.repeat
    tile = Rp.tile
    repeat_interleave = Rp.repeat_interleave
    flip = Rp.flip
    fliplr = Rp.fliplr
    flipud = Rp.flipud
    roll = Rp.roll
    rot90 = Rp.rot90
    unfold = Rp.unfold

    gather = Ga.gather
    take_along_dim = Ga.take_along_dim
    scatter = Ga.scatter
    scatter_add = Ga.scatter_add
    scatter_reduce = Ga.scatter_reduce
    index_select = I.index_select
    index_add = I.index_add
    index_copy = I.index_copy
    index_fill = I.index_fill
    take = I.take
    masked_fill = I.masked_fill
    masked_select = I.masked_select
    masked_scatter = I.masked_scatter
    nonzero = I.nonzero
    argwhere = I.argwhere
    tril = Di.tril
    triu = Di.triu
    diagonal = Di.diagonal
    diag = Di.diag
    diag_embed = Di.diag_embed
    sort = So.sort
    argsort = So.argsort
    msort = So.msort
    topk = So.topk
    unique = So.unique
    unique_consecutive = So.unique_consecutive

    matmul = L.matmul
    mm = L.mm
    bmm = L.bmm
    mv = L.mv
    dot = L.dot
    vdot = L.vdot
    inner = L.inner
    outer = L.outer
    ger = L.ger
    addmm = L.addmm
    addmv = L.addmv
    baddbmm = L.baddbmm
    addr = L.addr
    trace = L.trace
    cross = L.cross

    new_tensor = C.new_tensor
    new_zeros = C.new_zeros
    new_ones = C.new_ones
    new_empty = C.new_empty
    new_full = C.new_full

    multiply = A.mul
    divide = Dv.div
    true_divide = Dv.div
    subtract = A.sub
    greater = Cp.gt
    greater_equal = Cp.ge
    less = Cp.lt
    less_equal = Cp.le
    not_equal = Cp.ne
    T = property(S.transpose_all)
    mT = property(S.matrix_transpose)

    def where(self: Any, condition: Tensor, other: Any) -> Tensor:
        """The elements where ``condition`` holds, else ``other``."""
        return P.where(condition, self, other)

    def view_as(self: Any, other: Tensor) -> Tensor:
        """A view in the shape of ``other``."""
        return S.view(self, other._data.shape)

    def relu(self: Any) -> Tensor:
        """max(x, 0)."""
        from .functional.activation import relu

        return relu(self)

    def relu_(self: Any) -> Tensor:
        """max(x, 0) in place."""
        from .functional.activation import relu

        return relu(self, True)

    def softmax(self: Any, dim: _Int, dtype: Any = None) -> Tensor:
        """exp(x) / sum(exp(x)) along ``dim``."""
        from .functional.softmax import softmax

        return softmax(self, dim, dtype=dtype)

    def log_softmax(self: Any, dim: _Int, dtype: Any = None) -> Tensor:
        """log(softmax(x)) along ``dim``."""
        from .functional.softmax import log_softmax

        return log_softmax(self, dim, dtype=dtype)

    # ---------------------------------------------------------------------------------------------- in place

    add_ = inplace(A.add)
    sub_ = inplace(A.sub)
    mul_ = inplace(A.mul)
    div_ = inplace(Dv.div)
    pow_ = inplace(Pw.pow)
    remainder_ = inplace(Dv.remainder)
    fmod_ = inplace(Dv.fmod)
    floor_divide_ = inplace(Dv.floor_divide)
    neg_ = inplace(P.neg)
    abs_ = inplace(P.abs)
    exp_ = inplace(P.exp)
    exp2_ = inplace(P.exp2)
    expm1_ = inplace(P.expm1)
    log_ = inplace(P.log)
    log2_ = inplace(P.log2)
    log10_ = inplace(P.log10)
    log1p_ = inplace(P.log1p)
    sqrt_ = inplace(P.sqrt)
    rsqrt_ = inplace(P.rsqrt)
    reciprocal_ = inplace(P.reciprocal)
    square_ = inplace(P.square)
    sin_ = inplace(P.sin)
    cos_ = inplace(P.cos)
    tan_ = inplace(P.tan)
    sigmoid_ = inplace(P.sigmoid)
    tanh_ = inplace(P.tanh)
    erf_ = inplace(P.erf)
    sign_ = inplace(P.sign)
    floor_ = inplace(P.floor)
    ceil_ = inplace(P.ceil)
    trunc_ = inplace(P.trunc)
    frac_ = inplace(P.frac)
    round_ = inplace(P.round)
    clamp_ = inplace(P.clamp)
    clamp_min_ = inplace(P.clamp_min)
    clamp_max_ = inplace(P.clamp_max)
    nan_to_num_ = inplace(P.nan_to_num)
    lerp_ = inplace(P.lerp)
    addcmul_ = inplace(P.addcmul)
    addcdiv_ = inplace(P.addcdiv)
    cumsum_ = inplace(Cu.cumsum)
    cumprod_ = inplace(Cu.cumprod)
    scatter_ = inplace(Ga.scatter)
    scatter_add_ = inplace(Ga.scatter_add)
    scatter_reduce_ = inplace(Ga.scatter_reduce)
    index_add_ = inplace(I.index_add)
    index_copy_ = inplace(I.index_copy)
    index_fill_ = inplace(I.index_fill)
    masked_fill_ = inplace(I.masked_fill)
    masked_scatter_ = inplace(I.masked_scatter)
    tril_ = inplace(Di.tril)
    triu_ = inplace(Di.triu)
    addmm_ = inplace(L.addmm)
    addmv_ = inplace(L.addmv)
    baddbmm_ = inplace(L.baddbmm)
    __iadd__ = inplace(A.plus)
    __isub__ = inplace(A.minus)
    __imul__ = mul_
    __itruediv__ = div_
    __ifloordiv__ = floor_divide_
    __imod__ = remainder_
    __ipow__ = pow_
    __iand__ = inplace(Cp.bitwise_and)
    __ior__ = inplace(Cp.bitwise_or)
    __ixor__ = inplace(Cp.bitwise_xor)
    copy_ = M.copy_
    fill_ = M.fill_
    zero_ = M.zero_
    uniform_ = M.uniform_
    normal_ = M.normal_
    exponential_ = M.exponential_
    bernoulli_ = M.bernoulli_
    random_ = M.random_
    fill_diagonal_ = M.fill_diagonal_
    detach_ = M.detach_


for _name in (  # those that take a second Tensor and do not convert it
    *("addmm", "addmm_", "addmv", "addmv_", "addr", "baddbmm", "baddbmm_", "bmm", "cross", "dot", "expand_as", "ger"),
    *("inner", "mm", "mv", "outer", "reshape_as", "vdot", "view_as"),
):  # fmt: skip
    setattr(Methods, _name, names_itself(getattr(Methods, _name)))
