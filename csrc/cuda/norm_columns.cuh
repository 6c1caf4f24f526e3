// Batch and group normalisation on channels-last memory: statistics per channel over fixed chunks of rows by
// Welford's recurrence, merged in float64 in a fixed order (Chan, Golub, LeVeque 1983, "Algorithms for
// computing the sample variance"); group norm then merges channels.
#pragma once

#include "cuda/norm.cuh"

namespace fastdl::cuda {

constexpr int kChannelThreads = 128;

template <class T>
struct Moments {
  T count, mean, m2;
  __device__ void merge(T n, T other_mean, T other_m2) {
    if (n == T(0)) return;
    const T total = count + n, delta = other_mean - mean;
    mean += delta * (n / total);
    m2 += other_m2 + delta * delta * (count * n / total);
    count = total;
  }
};

// partial[sample][chunk][2][c]: mean, sum of squared deviations.
template <int Width, class S>
__global__ void __launch_bounds__(kColumnLanes* kColumnRows)
    column_moments(ColumnShape s, int64_t chunk_rows, const S* x, compute_t<S>* partial) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  for_column_tasks<Width, T>(
      s, chunk_rows,
      [&](const ColumnTask& t, int part, T(&mean)[Width], T(&m2)[Width]) {
        T count = 0;
        for (int64_t row = t.begin + part; row < t.end; row += kColumnRows) {
          const P v = *reinterpret_cast<const P*>(x + (t.sample * s.rows + row) * s.c + t.first);
          count += T(1);
          const T inverse = T(1) / count;
#pragma unroll
          for (int j = 0; j < Width; ++j) {
            const T value = widen(v.at[j]), d = value - mean[j];
            mean[j] += d * inverse;
            m2[j] += d * (value - mean[j]);
          }
        }
      },
      [&](const ColumnTask& t, int part, auto&& moment) {
        if (part != 0) return;
        T* const to = partial + t.number * 2 * s.c + t.first;
        const auto count = [&](int k) {
          const int64_t rows = (t.end - t.begin - k + kColumnRows - 1) / kColumnRows;
          return static_cast<T>(rows > 0 ? rows : 0);
        };
        for (int j = 0; j < Width; ++j) {
          Moments<T> all{count(0), moment(0, j, 0), moment(1, j, 0)};
#pragma unroll 1
          for (int k = 1; k < kColumnRows; ++k) all.merge(count(k), moment(0, j, k), moment(1, j, k));
          to[j] = all.mean;
          to[s.c + j] = all.m2;
        }
      });
}

// The moments of a channel of a sample from those of its chunks.
template <class T>
__device__ Moments<double> channel_moments(const ColumnShape& s, int64_t chunk_rows, const T* partial,
                                           int64_t sample, int64_t channel) {
  const int64_t chunks = (s.rows + chunk_rows - 1) / chunk_rows;
  Moments<double> all{0, 0, 0};
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const T* from = partial + (sample * chunks + chunk) * 2 * s.c + channel;
    const int64_t left = s.rows - chunk * chunk_rows, rows = left < chunk_rows ? left : chunk_rows;
    all.merge(static_cast<double>(rows), from[0], from[s.c]);
  }
  return all;
}

// What a pass over the data does to each channel of each sample, by index sample * c + channel:
// y = (x - m) a + b, dx = a dy + b (x - m) + d.
template <class T>
struct Coefficients {
  T *m, *a, *b, *d;
};

template <class T>
struct CoefficientMemory {
  Workspace workspace;
  Coefficients<T> k;
  CoefficientMemory(Context* context, const ColumnShape& s)
      : workspace(context, static_cast<size_t>(4 * s.samples * s.c) * sizeof(T)) {
    const int64_t n = s.samples * s.c;
    T* const p = workspace.as<T>();
    k = {p, p + n, p + 2 * n, p + 3 * n};
  }
};

template <class T>
__device__ __forceinline__ T inverse_std(double variance, double eps) {
  return static_cast<T>(1.0 / sqrt(variance + eps));
}

template <class T>
struct BatchStatistics {
  const T *weight, *bias, *old_mean, *old_var;  // NULL where absent
  T *running_mean, *running_var, *mean, *rstd;
};

// partial NULL: the running statistics are used.
template <class T>
__global__ void __launch_bounds__(kChannelThreads)
    batch_coefficients(ColumnShape s, int64_t chunk_rows, const T* partial, double momentum, double eps,
                       BatchStatistics<T> v, Coefficients<T> k) {
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * kChannelThreads + threadIdx.x; c < s.c;
       c += static_cast<int64_t>(gridDim.x) * kChannelThreads) {
    if (partial) {
      const Moments<double> q = channel_moments(s, chunk_rows, partial, 0, c);
      const double unbiased = q.m2 / (q.count > 2 ? q.count - 1 : 1.0);
      v.mean[c] = static_cast<T>(q.mean);
      v.rstd[c] = inverse_std<T>(q.m2 / q.count, eps);
      if (v.running_mean)
        v.running_mean[c] = static_cast<T>((1 - momentum) * v.old_mean[c] + momentum * q.mean);
      if (v.running_var)
        v.running_var[c] = static_cast<T>((1 - momentum) * v.old_var[c] + momentum * unbiased);
    } else {
      v.mean[c] = v.old_mean ? v.old_mean[c] : T(0);
      v.rstd[c] = inverse_std<T>(v.old_var ? static_cast<double>(v.old_var[c]) : 1.0, eps);
    }
    k.m[c] = v.mean[c];
    k.a[c] = v.weight ? v.rstd[c] * v.weight[c] : v.rstd[c];
    k.b[c] = v.bias ? v.bias[c] : T(0);
  }
}

template <class T>
__global__ void __launch_bounds__(kChannelThreads)
    group_coefficients(ColumnShape s, int64_t chunk_rows, const T* partial, int64_t groups, double eps,
                       const T* weight, const T* bias, T* mean, T* rstd, Coefficients<T> k) {
  const int64_t width = s.c / groups;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kChannelThreads + threadIdx.x; at < s.samples * groups;
       at += static_cast<int64_t>(gridDim.x) * kChannelThreads) {
    const int64_t sample = at / groups, first = at % groups * width;
    Moments<double> q{0, 0, 0};
    for (int64_t c = first; c < first + width; ++c) {
      const Moments<double> other = channel_moments(s, chunk_rows, partial, sample, c);
      q.merge(other.count, other.mean, other.m2);
    }
    mean[at] = static_cast<T>(q.mean);
    rstd[at] = inverse_std<T>(q.m2 / q.count, eps);
    for (int64_t c = first; c < first + width; ++c) {
      k.m[sample * s.c + c] = mean[at];
      k.a[sample * s.c + c] = weight ? rstd[at] * weight[c] : rstd[at];
      k.b[sample * s.c + c] = bias ? bias[c] : T(0);
    }
  }
}

// y = (x - m) a + b
template <int Width, class S>
__global__ void __launch_bounds__(kMapThreads)
    column_affine(ColumnShape s, Coefficients<compute_t<S>> k, const S* x, S* y) {
  using P = Pack<S, Width>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * Width;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * Width;
       i < s.samples * s.rows * s.c; i += step) {
    const int64_t at = i / (s.rows * s.c) * s.c + i % s.c;
    P v = *reinterpret_cast<const P*>(x + i);
#pragma unroll
    for (int j = 0; j < Width; ++j) {
      v.at[j] = narrow<S>(fma(widen(v.at[j]) - k.m[at + j], k.a[at + j], k.b[at + j]));
    }
    *reinterpret_cast<P*>(y + i) = v;
  }
}

// dx = a dy + (b (x - m) + d)
template <int Width, class S>
__global__ void __launch_bounds__(kMapThreads)
    column_gradient(ColumnShape s, Coefficients<compute_t<S>> k, const S* dy, const S* x, S* dx) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * Width;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * Width;
       i < s.samples * s.rows * s.c; i += step) {
    const int64_t at = i / (s.rows * s.c) * s.c + i % s.c;
    const P g = *reinterpret_cast<const P*>(dy + i);
    P v = *reinterpret_cast<const P*>(x + i);
#pragma unroll
    for (int j = 0; j < Width; ++j) {
      const T rest = fma(k.b[at + j], widen(v.at[j]) - k.m[at + j], k.d[at + j]);
      v.at[j] = narrow<S>(fma(k.a[at + j], widen(g.at[j]), rest));
    }
    *reinterpret_cast<P*>(dx + i) = v;
  }
}

// Sums of dy and of dy (x - center), center by sample and group of channels.
template <class T>
struct CenteredTerm {
  const T* center;
  int64_t groups, width;  // a sample's centers, channels to each
  __device__ __forceinline__ void operator()(int64_t sample, int64_t, int64_t c, T g, T x, T& s1,
                                             T& s2) const {
    s1 += g;
    s2 = fma(g, x - center[sample * groups + c / width], s2);
  }
};

struct GradientSums {
  double sum, dot;
};
template <class T>
__device__ GradientSums channel_sums(const ColumnShape& s, int64_t chunk_rows, const T* partial,
                                     int64_t sample, int64_t channel) {
  const int64_t chunks = (s.rows + chunk_rows - 1) / chunk_rows;
  GradientSums all{0, 0};
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const T* from = partial + (sample * chunks + chunk) * 2 * s.c + channel;
    all.sum += static_cast<double>(from[0]);
    all.dot += static_cast<double>(from[s.c]);
  }
  return all;
}

template <class T>
__global__ void __launch_bounds__(kChannelThreads)
    batch_gradients(ColumnShape s, int64_t chunk_rows, const T* partial, bool training, const T* weight,
                    const T* mean, const T* rstd, T* dw, T* db, Coefficients<T> k) {
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * kChannelThreads + threadIdx.x; c < s.c;
       c += static_cast<int64_t>(gridDim.x) * kChannelThreads) {
    const GradientSums q = channel_sums(s, chunk_rows, partial, 0, c);
    const double r = rstd[c], a = weight ? r * weight[c] : r;
    const double rows = s.rows > 1 ? static_cast<double>(s.rows) : 1.0;
    if (db) db[c] = static_cast<T>(q.sum);
    if (dw) dw[c] = static_cast<T>(q.dot * r);
    k.m[c] = mean[c];
    k.a[c] = static_cast<T>(a);
    k.b[c] = training ? static_cast<T>(-a * r * r * q.dot / rows) : T(0);
    k.d[c] = training ? static_cast<T>(-a * q.sum / rows) : T(0);
  }
}

// A thread to a group of a sample; shares[sample][2][c]: what each sample adds to the gradients of weight and
// bias.
template <class T>
__global__ void __launch_bounds__(kChannelThreads)
    group_gradients(ColumnShape s, int64_t chunk_rows, const T* partial, int64_t groups, const T* weight,
                    const T* mean, const T* rstd, double* shares, Coefficients<T> k) {
  const int64_t width = s.c / groups;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kChannelThreads + threadIdx.x; at < s.samples * groups;
       at += static_cast<int64_t>(gridDim.x) * kChannelThreads) {
    const int64_t sample = at / groups, first = at % groups * width;
    const double r = rstd[at], count = static_cast<double>(s.rows * width);
    double sum = 0, dot = 0;
    for (int64_t c = first; c < first + width; ++c) {
      const GradientSums q = channel_sums(s, chunk_rows, partial, sample, c);
      sum += (weight ? weight[c] : T(1)) * q.sum;
      dot += (weight ? weight[c] : T(1)) * q.dot;
      shares[sample * 2 * s.c + c] = r * q.dot;
      shares[(sample * 2 + 1) * s.c + c] = q.sum;
    }
    for (int64_t c = first; c < first + width; ++c) {
      const int64_t i = sample * s.c + c;
      k.m[i] = mean[at];
      k.a[i] = static_cast<T>(r * (weight ? weight[c] : T(1)));
      k.b[i] = static_cast<T>(-r * r * r * dot / count);
      k.d[i] = static_cast<T>(-r * sum / count);
    }
  }
}

}  // namespace fastdl::cuda
