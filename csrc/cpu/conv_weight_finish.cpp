// The last step of a gradient of weights: the sums of all shares, in the order in which weights lie.
#include <algorithm>
#include <type_traits>

#include "common/narrow.h"
#include "cpu/conv_plan.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace fastdl::cpu::conv {
namespace {

constexpr int64_t kFinishChannels = 16;  // channels transposed at a time

template <class T, class S>
void store_run(const T* from, int64_t n, S* to) {
  if constexpr (std::is_same_v<T, S>) std::copy(from, from + n, to);
  else kernels().convert->bf16.narrow(n, from, 1, to, 1);
}

}  // namespace

// Some channels at a time, transposed in the cache, so that whole runs of the result are written.
template <class T, class S>
void finish_weight(Context* context, const Geometry& g, bool depthwise, T* all_sums, int64_t size,
                   int64_t shares, const View& out) {
  const auto& k = gemm_kernels_of<T>(*kernels().gemm);
  const int64_t c_group = g.c_per_group(), taps = g.taps();
  const int64_t row = depthwise ? g.o : g.o_per_group(), groups = depthwise ? 1 : g.groups;
  const int nd = out.ndim - 2;
  int64_t kernel[3] = {1, 1, 1}, steps[3] = {0, 0, 0};
  for (int i = 0; i < nd; ++i) {
    kernel[3 - nd + i] = out.shape[2 + i];
    steps[3 - nd + i] = out.strides[2 + i];
  }
  const bool dense = out.contiguous();
  const int64_t parts = (c_group + kFinishChannels - 1) / kFinishChannels;
  const double cost =
      static_cast<double>(std::min(c_group, kFinishChannels) * taps * row * (shares + 1)) * 0.2;
  parallel_for(context, groups * parts, cost, [&](int64_t task) {
    const int64_t group = task / parts, c0 = task % parts * kFinishChannels;
    const int64_t channels = std::min(kFinishChannels, c_group - c0), run = channels * taps;
    T* const sums = all_sums + (group * taps * c_group + c0) * row;
    if (shares > 1) {
      for (int64_t t = 0; t < taps; ++t) {
        T* const sum = sums + t * c_group * row;
        table_for<T>(*kernels().conv).add_rows(sum + size, shares - 1, size, channels * row, sum);
      }
    }
    Workspace scratch(context, static_cast<size_t>(2 * run * k.nr) * sizeof(T)),
        run_scratch(context, dense ? 0 : static_cast<size_t>(run) * sizeof(S));
    T *const rows = scratch.as<T>(), *const columns = rows + run * k.nr;
    for (int64_t o = 0; o < row; o += k.nr) {
      const int64_t n = std::min<int64_t>(k.nr, row - o);
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          const T* const from = sums + (t * c_group + c) * row + o;
          std::copy(from, from + n, rows + (c * taps + t) * k.nr);
        }
      }
      k.pack(rows, 1, k.nr, n, static_cast<int>(run), static_cast<int>(run), columns);
      for (int64_t i = 0; i < n; ++i) {
        S* const to = out.as<S>() + (group * row + o + i) * out.strides[0] + c0 * out.strides[1];
        store_run(columns + i * run, run, dense ? to : run_scratch.as<S>());
        if (dense) continue;
        const S* from = run_scratch.as<S>();
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t t = 0; t < taps; ++t) {
            to[c * out.strides[1] + t % kernel[2] * steps[2] + t / kernel[2] % kernel[1] * steps[1] +
               t / (kernel[2] * kernel[1]) * steps[0]] = *from++;
          }
        }
      }
    }
  });
}

template void finish_weight<float, float>(Context*, const Geometry&, bool, float*, int64_t, int64_t,
                                          const View&);
template void finish_weight<float, bfloat16>(Context*, const Geometry&, bool, float*, int64_t, int64_t,
                                             const View&);
template void finish_weight<double, double>(Context*, const Geometry&, bool, double*, int64_t, int64_t,
                                            const View&);

}  // namespace fastdl::cpu::conv
