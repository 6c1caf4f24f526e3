// Cross-entropy with its gradient in one visit of each row, and the losses of single elements.
#include "cpu/isa/loss.h"

#include "cpu/isa/activation_inline.h"
#include "cpu/isa/rows.h"

namespace fastdl::cpu::FASTDL_ISA {
namespace {

// Rows are taken in blocks, so that the logarithms of a block's sums are one vector computation.
constexpr int kRows = 32;

// loss = factor * log(sum) + rest for each row of a block.
template <class T>
struct Block {
  T sum[kRows], factor[kRows], rest[kRows];
  void finish(int rows, T* loss) const {
    for_vectors<T>(rows, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      fma(Vec<T>::load(factor + i, m), log(Vec<T>::load(sum + i, m)), Vec<T>::load(rest + i, m))
          .store(loss + i, m);
    });
  }
};

template <class T>
FASTDL_INLINE Vec<T> class_weight(const T* weight, int64_t i, int m) {
  return weight ? load(weight + i, m) : first_lanes(constant<T>(1), m);
}

template <class T>
FASTDL_INLINE Vec<T> same(Vec<T> v) {
  return v;
}

// exp(x[j] - top), kept in e if that is wanted, and their sum. In the order of the elements where class
// weights or targets meet them, else as row_exponentials has it.
template <class S, class T>
FASTDL_INLINE T exponentials(int64_t n, const S* x, Vec<T> top, T* e, bool in_order) {
  const auto below = [&](Vec<T> v) FASTDL_FORCE_INLINE { return v - top; };
  if (!e) return row_sum_of(n, [&](Vec<T> v) FASTDL_FORCE_INLINE { return exp_bounded(below(v)); }, x);
  if (!in_order) return row_exponentials(n, x, e, below);
  return row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> v = first_lanes(exp_bounded(below(load(x + i, m))), m);
    store(v, e + i, m);
    return v;
  });
}

template <class S, class T = compute_t<S>>
void cross_entropy(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const S* x, const int64_t* labels,
                   T* loss, S* grad, T* scratch) {
  const T smooth = static_cast<T>(c.smooth), scale = static_cast<T>(c.scale);
  Block<T> block;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int count = rows - first < kRows ? static_cast<int>(rows - first) : kRows;
    for (int r = 0; r < count; ++r, x += n) {
      S* g = grad ? grad + (first + r) * n : nullptr;
      const int64_t label = labels[first + r];
      if (label == c.ignore_index) {
        block.sum[r] = T(1), block.factor[r] = block.rest[r] = T(0);
        if (g)
          for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { store(Vec<T>::zero(), g + i, m); });
        continue;
      }
      T* e = exponentials_in(g, scratch);
      const T top = row_max(n, x, same<T>);
      const Vec<T> vtop = Vec<T>::broadcast(top);
      const T sum = exponentials(n, x, vtop, e, smooth != T(0));
      const T at_label = static_cast<T>(c.confidence) * (c.weight ? c.weight[label] : T(1));
      const T total = at_label + static_cast<T>(c.smooth * c.weight_sum);
      T rest = at_label * (top - to_compute(x[label]));
      if (smooth != T(0)) {
        rest -= smooth * row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
                  return class_weight(c.weight, i, m) * first_lanes(load(x + i, m) - vtop, m);
                });
      }
      block.sum[r] = sum, block.factor[r] = total, block.rest[r] = rest;
      if (!g) continue;
      const Vec<T> factor = Vec<T>::broadcast(scale * total / sum);
      // The label's own gradient is rounded once as well, after its share is taken away.
      const T at_own = reduce_max(exp_bounded(Vec<T>::broadcast(to_compute(x[label])) - vtop));
      const T own = at_own * (scale * total / sum) - scale * at_label;
      if (smooth != T(0)) {
        const Vec<T> share = Vec<T>::broadcast(scale * smooth);
        for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
          store(fnma(share, class_weight(c.weight, i, m), load(e + i, m) * factor), g + i, m);
        });
        const T weight = c.weight ? c.weight[label] : T(1);
        g[label] = to_storage<S>(own - scale * smooth * weight);
      } else {
        map_exponentials(n, e, g, [&](Vec<T> v) FASTDL_FORCE_INLINE { return v * factor; });
        g[label] = to_storage<S>(own);
      }
    }
    block.finish(count, loss + first);
  }
}

// q = confidence * target + smooth, times the class weight; loss = sum q * log sum - sum q (x - top).
template <class S, class T = compute_t<S>>
void cross_entropy_soft(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const S* x, const S* target,
                        T* loss, S* grad, T* scratch) {
  const Vec<T> confidence = constant<T>(c.confidence), smooth = constant<T>(c.smooth);
  const T scale = static_cast<T>(c.scale);
  Block<T> block;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int count = rows - first < kRows ? static_cast<int>(rows - first) : kRows;
    for (int r = 0; r < count; ++r, x += n, target += n) {
      S* g = grad ? grad + (first + r) * n : nullptr;
      T* e = exponentials_in(g, scratch);
      const Vec<T> top = Vec<T>::broadcast(row_max(n, x, same<T>));
      const auto q = [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        return class_weight(c.weight, i, m) * fma(confidence, load(target + i, m), smooth);
      };
      const T sum = exponentials(n, x, top, e, true);
      const T total = row_sum<T>(n, q);
      // 0 log 0 = 0: a class that cannot be costs nothing where the target does not ask for it.
      block.rest[r] = -row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> p = q(i, m);
        return select(p == Vec<T>::zero(), Vec<T>::zero(), p * (load(x + i, m) - top));
      });
      block.sum[r] = sum, block.factor[r] = total;
      if (!g) continue;
      const Vec<T> factor = Vec<T>::broadcast(scale * total / sum), vscale = Vec<T>::broadcast(scale);
      for_vectors<S>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        store(fnma(vscale, q(i, m), load(e + i, m) * factor), g + i, m);
      });
    }
    block.finish(count, loss + first);
  }
}

// Value and derivative of one element's loss.
template <class T>
struct Term {
  Vec<T> value, slope;
};

template <int Kind, class T>
FASTDL_INLINE Term<T> term(Vec<T> x, Vec<T> t, Vec<T> parameter, Vec<T> positive) {
  const Vec<T> zero = Vec<T>::zero(), one = constant<T>(1), half = constant<T>(0.5);
  const Vec<T> d = x - t, size = abs(d);
  (void)half, (void)parameter, (void)positive, (void)size;
  if constexpr (Kind == FASTDL_LOSS_MSE) {
    return {d * d, d + d};
  } else if constexpr (Kind == FASTDL_LOSS_L1) {
    return {size, select(size > zero, copysign(one, d), d)};
  } else if constexpr (Kind == FASTDL_LOSS_SMOOTH_L1) {
    return {select(size < parameter, half * d * d / parameter, size - half * parameter),
            clamp(d / parameter, -one, one)};
  } else if constexpr (Kind == FASTDL_LOSS_HUBER) {
    return {select(size < parameter, half * d * d, parameter * (size - half * parameter)),
            clamp(d, -parameter, parameter)};
  } else if constexpr (Kind == FASTDL_LOSS_BCE) {
    const Vec<T> floor = constant<T>(-100), a = max(floor, log(x)), b = max(floor, log1p(-x));
    return {-fma(t, a, (one - t) * b), d / max(constant<T>(1e-12), x * (one - x))};
  } else if constexpr (Kind == FASTDL_LOSS_BCE_LOGITS) {
    const Vec<T> e = exp(-abs(x)), inverse = one / (one + e), rest = log1p_unit(e), small = e * inverse;
    const Mask<T> right = x >= zero;
    const Vec<T> s = select(right, inverse, small), opposite = select(right, small, inverse);
    const Vec<T> yes = positive * t, no = one - t;
    return {fma(yes, max(zero, -x) + rest, no * (max(zero, x) + rest)), fnma(yes, opposite, no * s)};
  } else if constexpr (Kind == FASTDL_LOSS_KL) {
    return {select(t == zero, zero, t * (log(t) - x)), -t};
  } else if constexpr (Kind == FASTDL_LOSS_KL_LOG_TARGET) {
    const Vec<T> e = exp(t);
    return {e * (t - x), -e};
  } else if constexpr (Kind == FASTDL_LOSS_POISSON_LOG) {
    const Vec<T> e = exp(x);
    return {fnma(t, x, e), e - t};
  } else if constexpr (Kind == FASTDL_LOSS_POISSON) {
    const Vec<T> y = x + parameter;
    return {fnma(t, log(y), x), one - t / y};
  } else if constexpr (Kind == FASTDL_LOSS_SOFT_MARGIN) {
    const Vec<T> z = t * x;
    return {max(zero, -z) + log1p_unit(exp(-abs(z))), -t * sigmoid(-z)};
  } else {
    const Vec<T> gap = parameter - x;
    const Mask<T> match = t == one;
    return {select(match, x, max(zero, gap)), select(match, one, select(gap > zero, -one, zero))};
  }
}

template <int Kind, class S, class T = compute_t<S>>
T elementwise_kind(double parameter, double scale, int64_t n, const S* x, const S* target, const S* weight,
                   const S* pos_weight, S* loss, S* grad) {
  const Vec<T> p = constant<T>(parameter), s = constant<T>(scale), one = constant<T>(1);
  return row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> positive = pos_weight ? load(pos_weight + i, m) : one;
    const Term<T> y = term<Kind>(load(x + i, m), load(target + i, m), p, positive);
    const Vec<T> w = weight ? load(weight + i, m) : one;
    const Vec<T> value = y.value * w;
    if (loss) store(value, loss + i, m);
    if (grad) store(y.slope * w * s, grad + i, m);
    return first_lanes(value, m);
  });
}

template <class S, class T = compute_t<S>>
T elementwise(int32_t kind, double parameter, double scale, int64_t n, const S* x, const S* target,
              const S* weight, const S* pos_weight, S* loss, S* grad) {
  switch (kind) {
#define FASTDL_CASE(K) \
  case K:              \
    return elementwise_kind<K>(parameter, scale, n, x, target, weight, pos_weight, loss, grad);
    FASTDL_CASE(FASTDL_LOSS_MSE)
    FASTDL_CASE(FASTDL_LOSS_L1)
    FASTDL_CASE(FASTDL_LOSS_SMOOTH_L1)
    FASTDL_CASE(FASTDL_LOSS_HUBER)
    FASTDL_CASE(FASTDL_LOSS_BCE)
    FASTDL_CASE(FASTDL_LOSS_BCE_LOGITS)
    FASTDL_CASE(FASTDL_LOSS_KL)
    FASTDL_CASE(FASTDL_LOSS_KL_LOG_TARGET)
    FASTDL_CASE(FASTDL_LOSS_POISSON_LOG)
    FASTDL_CASE(FASTDL_LOSS_POISSON)
    FASTDL_CASE(FASTDL_LOSS_SOFT_MARGIN)
    FASTDL_CASE(FASTDL_LOSS_HINGE_EMBEDDING)
#undef FASTDL_CASE
  }
  return T(0);
}

template <class S>
constexpr LossTable<S> kTable = {cross_entropy<S>, cross_entropy_soft<S>, elementwise<S>};
// Of 16-bit types the losses of single elements see float32 copies.
template <class S>
constexpr LossTable<S> kRowsOnly = {cross_entropy<S>, cross_entropy_soft<S>, nullptr};

}  // namespace

extern const LossKernels loss_kernels;
const LossKernels loss_kernels = {kTable<float>, kTable<double>, kRowsOnly<bfloat16>, kRowsOnly<float16>};

}  // namespace fastdl::cpu::FASTDL_ISA
