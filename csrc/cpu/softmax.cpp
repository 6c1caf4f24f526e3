#include "common/softmax.h"

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/tensor.h"

namespace fastdl::cpu {
namespace {

constexpr double kCost = 1.5;         // elementary operations an element costs, a vector at a time
constexpr int64_t kGrain = 8192;      // elements per task
constexpr int64_t kColumnGrain = 64;  // columns per task at least: whole cache lines

// A dense tensor seen in memory as [outer, n, inner], n being the softmax's dim.
struct Extents {
  int64_t outer, n, inner;
};
Extents extents(const View& v, int dim) {
  if (v.ndim == 0) return {1, 1, 1};
  const int64_t n = v.shape[dim], inner = n == 1 ? v.size() : v.strides[dim];
  return {v.size() / (n * inner), n, inner};
}

// Calls rows(first, count) over the rows, or columns(offset, count) over groups of adjacent columns.
template <class Rows, class Columns>
void for_parts(Context* context, const Extents& e, Rows&& rows, Columns&& columns) {
  if (e.inner == 1) {
    const int64_t grain = e.n >= kGrain ? 1 : kGrain / e.n;
    return parallel_ranges(context, e.outer, grain, static_cast<double>(e.n) * kCost,
                           [&](int64_t begin, int64_t end) { rows(begin, end - begin); });
  }
  int64_t group = kGrain / e.n / kColumnGrain * kColumnGrain;
  if (group < kColumnGrain) group = kColumnGrain;
  if (group > e.inner) group = e.inner;
  const int64_t groups = (e.inner + group - 1) / group;
  parallel_for(context, e.outer * groups, static_cast<double>(group * e.n) * kCost, [&](int64_t task) {
    const int64_t begin = task % groups * group;
    columns(task / groups * e.n * e.inner + begin, begin + group < e.inner ? group : e.inner - begin);
  });
}

template <class S>
void forward(Context* context, int32_t kind, const View& x, const View& out, int dim) {
  using T = compute_t<S>;
  const Extents e = extents(x, dim);
  const auto& table = table_for<S>(*kernels().softmax);
  const S* xp = x.as<S>();
  S* y = out.as<S>();
  for_parts(
      context, e,
      [&](int64_t first, int64_t count) {
        const Workspace scratch(context,
                                sizeof(S) < sizeof(T) ? 2 * static_cast<size_t>(e.n) * sizeof(T) : 0);
        table.forward(kind, count, e.n, xp + first * e.n, y + first * e.n, scratch.as<T>());
      },
      [&](int64_t at, int64_t count) { table.forward_columns(kind, count, e.n, e.inner, xp + at, y + at); });
}

template <class S>
void backward(Context* context, int32_t kind, const View& dy, const View& out, const View& dx, int dim) {
  const Extents e = extents(dy, dim);
  const auto& table = table_for<S>(*kernels().softmax);
  const S *g = dy.as<S>(), *y = out.as<S>();
  S* d = dx.as<S>();
  constexpr int64_t kLongestRow = 65536;  // longer ones would not stay in a core's cache beside their inputs
  const Output output(e.n <= kLongestRow ? dx.nbytes() : 0);
  for_parts(
      context, e,
      [&](int64_t first, int64_t count) {
        const int64_t at = first * e.n;
        output.put_rows(context, d + at, count, e.n, [&](S* to, int64_t row, int64_t rows) {
          table.backward(kind, rows, e.n, g + at + row * e.n, y + at + row * e.n, to);
        });
      },
      [&](int64_t at, int64_t count) {
        table.backward_columns(kind, count, e.n, e.inner, g + at, y + at, d + at);
      });
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_softmax_forward(fastdl_context* context, const fastdl_tensor* x_,
                                     const fastdl_tensor* out, int32_t dim, int32_t kind) {
  return guarded([&] {
    const check::Softmax s = check::softmax_forward(x_, out, dim, kind);
    if (s.x.size() == 0) return;
    dispatch_storage(s.x.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context, [&](const View& y, const View& x) { forward<S>(context, kind, x, y, s.dim); }, s.out, s.x);
    });
  });
}

fastdl_status fastdl_softmax_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                      const fastdl_tensor* out, const fastdl_tensor* grad_x, int32_t dim,
                                      int32_t kind) {
  return guarded([&] {
    const check::SoftmaxBackward s = check::softmax_backward(grad_out, out, grad_x, dim, kind);
    if (s.grad_out.size() == 0) return;
    dispatch_storage(s.grad_out.dtype, [&](auto zero) {
      using S = decltype(zero);
      in_one_layout<Memory>(
          context,
          [&](const View& dx, const View& dy, const View& y) {
            backward<S>(context, kind, dy, y, dx, s.dim);
          },
          s.grad_x, s.grad_out, s.out);
    });
  });
}
}
