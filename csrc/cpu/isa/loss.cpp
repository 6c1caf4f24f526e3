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
  return weight ? Vec<T>::load(weight + i, m) : first_lanes(constant<T>(1), m);
}

// Softmax of one row: e[j] = exp(x[j] - top) into grad (if any), the sum returned.
template <class T>
FASTDL_INLINE T exponentials(int64_t n, const T* x, Vec<T> top, T* grad) {
  if (!grad) {
    return row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
      return first_lanes(exp(Vec<T>::load(x + i, m) - top), m);
    });
  }
  return row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> e = first_lanes(exp(Vec<T>::load(x + i, m) - top), m);
    e.store(grad + i, m);
    return e;
  });
}

template <class T>
void cross_entropy(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const T* x, const int64_t* labels,
                   T* loss, T* grad) {
  const T smooth = static_cast<T>(c.smooth), scale = static_cast<T>(c.scale);
  Block<T> block;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int count = rows - first < kRows ? static_cast<int>(rows - first) : kRows;
    for (int r = 0; r < count; ++r, x += n) {
      T* g = grad ? grad + (first + r) * n : nullptr;
      const int64_t label = labels[first + r];
      if (label == c.ignore_index) {
        block.sum[r] = T(1), block.factor[r] = block.rest[r] = T(0);
        if (g)
          for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE { Vec<T>::zero().store(g + i, m); });
        continue;
      }
      const T top = row_max(n, x, constant<T>(1));
      const Vec<T> vtop = Vec<T>::broadcast(top);
      const T sum = exponentials(n, x, vtop, g);
      const T at_label = static_cast<T>(c.confidence) * (c.weight ? c.weight[label] : T(1));
      const T total = at_label + static_cast<T>(c.smooth * c.weight_sum);
      T rest = at_label * (top - x[label]);
      if (smooth != T(0)) {
        rest -= smooth * row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
                  return class_weight(c.weight, i, m) * first_lanes(Vec<T>::load(x + i, m) - vtop, m);
                });
      }
      block.sum[r] = sum, block.factor[r] = total, block.rest[r] = rest;
      if (!g) continue;
      const Vec<T> factor = Vec<T>::broadcast(scale * total / sum);
      if (smooth != T(0)) {
        const Vec<T> share = Vec<T>::broadcast(scale * smooth);
        for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
          fnma(share, class_weight(c.weight, i, m), Vec<T>::load(g + i, m) * factor).store(g + i, m);
        });
      } else {
        for_vectors<T>(n, [&](int64_t i, int m)
                              FASTDL_FORCE_INLINE { (Vec<T>::load(g + i, m) * factor).store(g + i, m); });
      }
      g[label] -= scale * at_label;
    }
    block.finish(count, loss + first);
  }
}

// q = confidence * target + smooth, times the class weight; loss = sum q * log sum - sum q (x - top).
template <class T>
void cross_entropy_soft(const CrossEntropyRow<T>& c, int64_t rows, int64_t n, const T* x, const T* target,
                        T* loss, T* grad) {
  const Vec<T> confidence = constant<T>(c.confidence), smooth = constant<T>(c.smooth);
  const T scale = static_cast<T>(c.scale);
  Block<T> block;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int count = rows - first < kRows ? static_cast<int>(rows - first) : kRows;
    for (int r = 0; r < count; ++r, x += n, target += n) {
      T* g = grad ? grad + (first + r) * n : nullptr;
      const Vec<T> top = Vec<T>::broadcast(row_max(n, x, constant<T>(1)));
      const auto q = [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        return class_weight(c.weight, i, m) * fma(confidence, Vec<T>::load(target + i, m), smooth);
      };
      const T sum = exponentials(n, x, top, g);
      const T total = row_sum<T>(n, q);
      // 0 log 0 = 0: a class that cannot be costs nothing where the target does not ask for it.
      block.rest[r] = -row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        const Vec<T> p = q(i, m);
        return select(p == Vec<T>::zero(), Vec<T>::zero(), p * (Vec<T>::load(x + i, m) - top));
      });
      block.sum[r] = sum, block.factor[r] = total;
      if (!g) continue;
      const Vec<T> factor = Vec<T>::broadcast(scale * total / sum), vscale = Vec<T>::broadcast(scale);
      for_vectors<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
        fnma(vscale, q(i, m), Vec<T>::load(g + i, m) * factor).store(g + i, m);
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

template <int Kind, class T>
T elementwise_kind(double parameter, double scale, int64_t n, const T* x, const T* target, const T* weight,
                   const T* pos_weight, T* loss, T* grad) {
  const Vec<T> p = constant<T>(parameter), s = constant<T>(scale), one = constant<T>(1);
  return row_sum<T>(n, [&](int64_t i, int m) FASTDL_FORCE_INLINE {
    const Vec<T> positive = pos_weight ? Vec<T>::load(pos_weight + i, m) : one;
    const Term<T> y = term<Kind>(Vec<T>::load(x + i, m), Vec<T>::load(target + i, m), p, positive);
    const Vec<T> w = weight ? Vec<T>::load(weight + i, m) : one;
    const Vec<T> value = y.value * w;
    if (loss) value.store(loss + i, m);
    if (grad) (y.slope * w * s).store(grad + i, m);
    return first_lanes(value, m);
  });
}

template <class T>
T elementwise(int32_t kind, double parameter, double scale, int64_t n, const T* x, const T* target,
              const T* weight, const T* pos_weight, T* loss, T* grad) {
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

template <class T>
constexpr LossTable<T> kTable = {cross_entropy<T>, cross_entropy_soft<T>, elementwise<T>};

}  // namespace

extern const LossKernels loss_kernels;
const LossKernels loss_kernels = {kTable<float>, kTable<double>};

}  // namespace fastdl::cpu::FASTDL_ISA
