// Batch and group normalisation on channels-last memory: (samples, positions, C). Statistics are taken per
// channel over fixed chunks of rows, mean and squared deviations apart in each chunk, and merged in double
// precision in chunk order (Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"). Group
// norm then merges channels.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/norm.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

// x as `samples` blocks of `rows` rows of C channels; batch norm sees one sample with all rows.
struct Shape {
  int64_t samples, rows, c;
  int64_t chunk() const { return std::max<int64_t>(8, 16384 / std::max<int64_t>(1, c)); }
  int64_t chunks() const { return (rows + chunk() - 1) / chunk(); }
  // Of an output, if its chunks stay in a core's cache.
  template <class S>
  int64_t bytes() const {
    return chunk() * c <= 65536 ? samples * rows * c * static_cast<int64_t>(sizeof(S)) : 0;
  }
};

// A vector of the caller's with any stride; false for one that was not given.
template <class T>
struct Strided {
  T* data = nullptr;
  int64_t stride = 1;
  T& operator[](int64_t i) const { return data[i * stride]; }
  explicit operator bool() const { return data != nullptr; }
};

template <class T>
Strided<T> vector_of(const View& v) {
  if (!v.data) return {};
  return {v.as<T>(), v.ndim == 1 ? v.strides[0] : 1};
}

// Calls body(sample, first row, rows) for every chunk of every sample, in parallel.
template <class Body>
void for_chunks(Context* context, const Shape& s, double cost_per_element, Body&& body) {
  const int64_t chunks = s.chunks();
  parallel_for(context, s.samples * chunks, cost_per_element * static_cast<double>(s.chunk() * s.c),
               [&](int64_t task) {
                 const int64_t sample = task / chunks, chunk = task % chunks, begin = chunk * s.chunk();
                 body(sample, chunk, begin, std::min(s.chunk(), s.rows - begin));
               });
}

struct Moments {
  double count = 0, mean = 0, m2 = 0;
  void merge(double n, double other_mean, double other_m2) {
    const double total = count + n, delta = other_mean - mean;
    mean += delta * n / total;
    m2 += other_m2 + delta * delta * count * n / total;
    count = total;
  }
};

// moments[sample][c] over all rows of each sample.
template <class S, class T = compute_t<S>>
std::vector<Moments> column_moments(Context* context, const Shape& s, const S* x) {
  const auto& table = table_for<S>(*kernels().norm);
  const int64_t chunks = s.chunks();
  const Workspace partial(context, static_cast<size_t>(s.samples * chunks * 2 * s.c) * sizeof(T));
  T* p = partial.as<T>();
  for_chunks(context, s, 0.3, [&](int64_t sample, int64_t chunk, int64_t begin, int64_t rows) {
    T* to = p + (sample * chunks + chunk) * 2 * s.c;
    table.column_stats(rows, s.c, x + (sample * s.rows + begin) * s.c, to, to + s.c);
  });
  std::vector<Moments> moments(static_cast<size_t>(s.samples * s.c));
  parallel_ranges(
      context, s.samples * s.c, 64, static_cast<double>(chunks) * 8, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const int64_t sample = i / s.c, c = i % s.c;
          for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const T* from = p + (sample * chunks + chunk) * 2 * s.c + c;
            const double rows = static_cast<double>(std::min(s.chunk(), s.rows - chunk * s.chunk()));
            moments[static_cast<size_t>(i)].merge(rows, from[0], from[s.c]);
          }
        }
      });
  return moments;
}

// sums[sample][c] = {sum of dy, sum of dy * (x - m[sample][c])}.
template <class S, class T = compute_t<S>>
std::vector<double> gradient_sums(Context* context, const Shape& s, const S* dy, const S* x, const T* m) {
  const auto& table = table_for<S>(*kernels().norm);
  const int64_t chunks = s.chunks();
  const Workspace partial(context, static_cast<size_t>(s.samples * chunks * 2 * s.c) * sizeof(T));
  T* p = partial.as<T>();
  for_chunks(context, s, 0.3, [&](int64_t sample, int64_t chunk, int64_t begin, int64_t rows) {
    const int64_t at = (sample * s.rows + begin) * s.c;
    T* to = p + (sample * chunks + chunk) * 2 * s.c;
    table.column_sums(rows, s.c, dy + at, x + at, m + sample * s.c, to, to + s.c);
  });
  std::vector<double> sums(static_cast<size_t>(s.samples * s.c * 2), 0.0);
  for (int64_t sample = 0; sample < s.samples; ++sample) {
    double* to = sums.data() + sample * 2 * s.c;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const T* from = p + (sample * chunks + chunk) * 2 * s.c;
      for (int64_t i = 0; i < 2 * s.c; ++i) to[i] += static_cast<double>(from[i]);
    }
  }
  return sums;
}

// Coefficients of the affine and gradient passes, one set per sample and channel.
template <class T>
struct Coefficients {
  explicit Coefficients(const Shape& s)
      : size(static_cast<size_t>(s.samples * s.c)), m(size), a(size), b(size), d(size) {}
  size_t size;
  std::vector<T> m, a, b, d;
};

template <class S, class T = compute_t<S>>
void affine(Context* context, const Shape& s, const S* x, const Coefficients<T>& k, S* y) {
  const auto& table = table_for<S>(*kernels().norm);
  const Output output(s.bytes<S>());
  for_chunks(context, s, 0.3, [&](int64_t sample, int64_t, int64_t begin, int64_t rows) {
    const int64_t at = (sample * s.rows + begin) * s.c, c = sample * s.c;
    output.put_rows(context, y + at, rows, s.c, [&](S* to, int64_t first, int64_t count) {
      table.column_affine(count, s.c, x + at + first * s.c, k.m.data() + c, k.a.data() + c, k.b.data() + c,
                          to);
    });
  });
}

template <class S, class T = compute_t<S>>
void gradient(Context* context, const Shape& s, const S* dy, const S* x, const Coefficients<T>& k, S* dx) {
  const auto& table = table_for<S>(*kernels().norm);
  const Output output(s.bytes<S>());
  for_chunks(context, s, 0.4, [&](int64_t sample, int64_t, int64_t begin, int64_t rows) {
    const int64_t at = (sample * s.rows + begin) * s.c, c = sample * s.c;
    output.put_rows(context, dx + at, rows, s.c, [&](S* to, int64_t first, int64_t count) {
      const int64_t from = at + first * s.c;
      table.column_gradient(count, s.c, dy + from, x + from, k.m.data() + c, k.a.data() + c, k.b.data() + c,
                            k.d.data() + c, to);
    });
  });
}

template <class T>
T inverse_std(double variance, double eps) {
  return static_cast<T>(1.0 / std::sqrt(variance + eps));
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_batch_norm_forward(fastdl_context* context, const fastdl_tensor* x_,
                                        const fastdl_tensor* weight, const fastdl_tensor* bias,
                                        const fastdl_tensor* running_mean, const fastdl_tensor* running_var,
                                        const fastdl_tensor* out_, const fastdl_tensor* mean_,
                                        const fastdl_tensor* rstd_,
                                        const fastdl_batch_norm_options* options) {
  if (narrow_like(x_, weight, bias, running_mean, running_var)) {
    return in_float32("batch_norm", fastdl_batch_norm_forward, context, x_,
                      of_any_dtype(reads(weight, "weight")), of_any_dtype(reads(bias, "bias")),
                      of_any_dtype(updates(running_mean, "running_mean")),
                      of_any_dtype(updates(running_var, "running_var")), out_, mean_, rstd_, options);
  }
  return guarded([&] {
    const auto o =
        read_options(options, fastdl_batch_norm_options FASTDL_BATCH_NORM_OPTIONS_INIT, "batch_norm");
    const check::ColumnNorm p =
        check::batch_norm_forward(x_, weight, bias, running_mean, running_var, out_, mean_, rstd_, o);
    const Shape s{p.samples, p.rows, p.c};
    const View& x = p.x;
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Strided<T> w = vector_of<T>(p.weight);
      const Strided<T> b = vector_of<T>(p.bias);
      const Strided<T> rm = vector_of<T>(p.running_mean);
      const Strided<T> rv = vector_of<T>(p.running_var);
      const Strided<T> mean = vector_of<T>(p.mean);
      const Strided<T> rstd = vector_of<T>(p.rstd);
      const Contiguous xc(context, x);
      Coefficients<T> k(s);
      std::vector<Moments> moments;
      if (o.training && s.rows > 0) moments = column_moments<S>(context, s, xc->template as<S>());
      for (int64_t c = 0; c < s.c; ++c) {
        if (o.training && s.rows > 0) {
          const Moments& q = moments[static_cast<size_t>(c)];
          mean[c] = static_cast<T>(q.mean);
          rstd[c] = inverse_std<T>(q.m2 / q.count, o.eps);
          const double unbiased = q.m2 / std::max(1.0, q.count - 1);
          if (rm) rm[c] = static_cast<T>((1 - o.momentum) * rm[c] + o.momentum * q.mean);
          if (rv) rv[c] = static_cast<T>((1 - o.momentum) * rv[c] + o.momentum * unbiased);
        } else {
          mean[c] = rm ? rm[c] : T(0);
          rstd[c] = inverse_std<T>(rv ? static_cast<double>(rv[c]) : 1.0, o.eps);
        }
        const auto i = static_cast<size_t>(c);
        k.m[i] = mean[c];
        k.a[i] = w ? rstd[c] * w[c] : rstd[c];
        k.b[i] = b ? b[c] : T(0);
      }
      if (x.size() == 0) return;
      ContiguousOut yc(context, p.out);
      affine<S>(context, s, xc->template as<S>(), k, yc->template as<S>());
      yc.write_back();
    });
  });
}

fastdl_status fastdl_batch_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* x_, const fastdl_tensor* weight,
                                         const fastdl_tensor* mean_, const fastdl_tensor* rstd_,
                                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                         const fastdl_tensor* grad_bias, int32_t training) {
  if (narrow_like(grad_out, weight, grad_weight, grad_bias)) {
    return in_float32("batch_norm_backward", fastdl_batch_norm_backward, context, grad_out, x_,
                      of_any_dtype(reads(weight, "weight")), mean_, rstd_, grad_x,
                      of_any_dtype(writes(grad_weight, "grad_weight")),
                      of_any_dtype(writes(grad_bias, "grad_bias")), training);
  }
  return guarded([&] {
    const check::ColumnNormBackward p =
        check::batch_norm_backward(grad_out, x_, weight, mean_, rstd_, grad_x, grad_weight, grad_bias);
    const Shape s{p.samples, p.rows, p.c};
    const View& x = p.x;
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Strided<T> w = vector_of<T>(p.weight);
      const Strided<T> mean = vector_of<T>(p.mean);
      const Strided<T> rstd = vector_of<T>(p.rstd);
      const Strided<T> dw = vector_of<T>(p.grad_weight);
      const Strided<T> db = vector_of<T>(p.grad_bias);
      const Contiguous dyc(context, p.grad_out), xc(context, x);
      std::vector<T> center(static_cast<size_t>(s.c));
      for (int64_t c = 0; c < s.c; ++c) center[static_cast<size_t>(c)] = mean[c];
      const std::vector<double> sums =
          gradient_sums<S>(context, s, dyc->template as<S>(), xc->template as<S>(), center.data());
      Coefficients<T> k(s);
      for (int64_t c = 0; c < s.c; ++c) {
        const auto i = static_cast<size_t>(c);
        const double s1 = sums[i], s2 = sums[static_cast<size_t>(s.c) + i], r = rstd[c];
        if (db) db[c] = static_cast<T>(s1);
        if (dw) dw[c] = static_cast<T>(s2 * r);
        const double a = w ? r * w[c] : r, rows = static_cast<double>(std::max<int64_t>(1, s.rows));
        k.m[i] = mean[c];
        k.a[i] = static_cast<T>(a);
        k.b[i] = training ? static_cast<T>(-a * r * r * s2 / rows) : T(0);
        k.d[i] = training ? static_cast<T>(-a * s1 / rows) : T(0);
      }
      if (!grad_x || x.size() == 0) return;
      ContiguousOut dxc(context, p.grad_x);
      gradient<S>(context, s, dyc->template as<S>(), xc->template as<S>(), k, dxc->template as<S>());
      dxc.write_back();
    });
  });
}

fastdl_status fastdl_group_norm_forward(fastdl_context* context, const fastdl_tensor* x_,
                                        const fastdl_tensor* weight, const fastdl_tensor* bias,
                                        const fastdl_tensor* out_, const fastdl_tensor* mean_,
                                        const fastdl_tensor* rstd_, int64_t groups, double eps) {
  if (narrow_like(x_, weight, bias)) {
    return in_float32("group_norm", fastdl_group_norm_forward, context, x_,
                      of_any_dtype(reads(weight, "weight")), of_any_dtype(reads(bias, "bias")), out_, mean_,
                      rstd_, groups, eps);
  }
  return guarded([&] {
    const check::ColumnNorm p = check::group_norm_forward(x_, weight, bias, out_, mean_, rstd_, groups, eps);
    const Shape s{p.samples, p.rows, p.c};
    const View& x = p.x;
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Strided<T> w = vector_of<T>(p.weight);
      const Strided<T> b = vector_of<T>(p.bias);
      const Strided<T> mean = vector_of<T>(p.mean);
      const Strided<T> rstd = vector_of<T>(p.rstd);
      if (x.size() == 0) return;
      const Contiguous xc(context, x);
      const std::vector<Moments> moments = column_moments<S>(context, s, xc->template as<S>());
      Coefficients<T> k(s);
      const int64_t width = s.c / groups;
      for (int64_t at = 0; at < s.samples * groups; ++at) {
        const int64_t first = at / groups * s.c + at % groups * width;
        Moments q;
        for (int64_t i = first; i < first + width; ++i) {
          const Moments& other = moments[static_cast<size_t>(i)];
          q.merge(other.count, other.mean, other.m2);
        }
        mean[at] = static_cast<T>(q.mean);
        rstd[at] = inverse_std<T>(q.m2 / q.count, eps);
        for (int64_t i = first; i < first + width; ++i) {
          const auto j = static_cast<size_t>(i);
          k.m[j] = mean[at];
          k.a[j] = w ? rstd[at] * w[i % s.c] : rstd[at];
          k.b[j] = b ? b[i % s.c] : T(0);
        }
      }
      ContiguousOut yc(context, p.out);
      affine<S>(context, s, xc->template as<S>(), k, yc->template as<S>());
      yc.write_back();
    });
  });
}

fastdl_status fastdl_group_norm_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                         const fastdl_tensor* x_, const fastdl_tensor* weight,
                                         const fastdl_tensor* mean_, const fastdl_tensor* rstd_,
                                         const fastdl_tensor* grad_x, const fastdl_tensor* grad_weight,
                                         const fastdl_tensor* grad_bias, int64_t groups) {
  if (narrow_like(grad_out, weight, grad_weight, grad_bias)) {
    return in_float32("group_norm_backward", fastdl_group_norm_backward, context, grad_out, x_,
                      of_any_dtype(reads(weight, "weight")), mean_, rstd_, grad_x,
                      of_any_dtype(writes(grad_weight, "grad_weight")),
                      of_any_dtype(writes(grad_bias, "grad_bias")), groups);
  }
  return guarded([&] {
    const check::ColumnNormBackward p = check::group_norm_backward(grad_out, x_, weight, mean_, rstd_, grad_x,
                                                                   grad_weight, grad_bias, groups);
    const Shape s{p.samples, p.rows, p.c};
    const View& x = p.x;
    dispatch_storage(x.dtype, [&](auto zero) {
      using S = decltype(zero);
      using T = compute_t<S>;
      const Strided<T> w = vector_of<T>(p.weight);
      const Strided<T> mean = vector_of<T>(p.mean);
      const Strided<T> rstd = vector_of<T>(p.rstd);
      const Strided<T> dw = vector_of<T>(p.grad_weight);
      const Strided<T> db = vector_of<T>(p.grad_bias);
      const Contiguous dyc(context, p.grad_out), xc(context, x);
      Coefficients<T> k(s);
      const int64_t width = s.c / groups;
      for (int64_t i = 0; i < s.samples * s.c; ++i) {
        k.m[static_cast<size_t>(i)] = mean[i / s.c * groups + i % s.c / width];
      }
      const std::vector<double> sums =
          gradient_sums<S>(context, s, dyc->template as<S>(), xc->template as<S>(), k.m.data());
      std::vector<double> sw(static_cast<size_t>(s.c), 0.0), sb(static_cast<size_t>(s.c), 0.0);
      for (int64_t at = 0; at < s.samples * groups; ++at) {
        const int64_t sample = at / groups, first = at % groups * width;
        const double* s1 = sums.data() + sample * 2 * s.c;
        const double* s2 = s1 + s.c;
        const double r = rstd[at], count = static_cast<double>(s.rows * width);
        double sum = 0, dot = 0;
        for (int64_t c = first; c < first + width; ++c) {
          sum += (w ? w[c] : T(1)) * s1[c];
          dot += (w ? w[c] : T(1)) * s2[c];
          sw[static_cast<size_t>(c)] += r * s2[c];
          sb[static_cast<size_t>(c)] += s1[c];
        }
        for (int64_t c = first; c < first + width; ++c) {
          const auto j = static_cast<size_t>(sample * s.c + c);
          k.a[j] = static_cast<T>(r * (w ? w[c] : T(1)));
          k.b[j] = static_cast<T>(-r * r * r * dot / count);
          k.d[j] = static_cast<T>(-r * sum / count);
        }
      }
      for (int64_t c = 0; c < s.c; ++c) {
        if (dw) dw[c] = static_cast<T>(sw[static_cast<size_t>(c)]);
        if (db) db[c] = static_cast<T>(sb[static_cast<size_t>(c)]);
      }
      if (!grad_x || x.size() == 0) return;
      ContiguousOut dxc(context, p.grad_x);
      gradient<S>(context, s, dyc->template as<S>(), xc->template as<S>(), k, dxc->template as<S>());
      dxc.write_back();
    });
  });
}
}
