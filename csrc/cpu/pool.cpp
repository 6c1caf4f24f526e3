// Pooling works on channels-last memory, (N, D, H, W, C) with missing spatial dimensions of extent 1: every
// tap of a window is then a contiguous run of channels.
#include "fastdl/pool.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

// Where one window lies along one dimension: taps at begin, begin + step, ... (count of them, all inside the
// input).
struct Range {
  int64_t begin, count, step;
  int64_t padded;  // extent for the average's divisor, padding included
};

struct Plan {
  int64_t n, c, in[3], out[3];
  std::vector<Range> ranges[3];
  bool max;
  int64_t divisor;  // 0: by window
  bool include_pad;

  int64_t in_plane() const { return in[0] * in[1] * in[2]; }
  int64_t out_plane() const { return out[0] * out[1] * out[2]; }
  int64_t taps(int dim) const {
    int64_t most = 0;
    for (const Range& r : ranges[dim]) most = std::max(most, r.count);
    return most;
  }
};

Range sliding(int64_t o, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t start = o * stride - padding;
  const int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;  // taps lost to the left padding
  const int64_t begin = start + first * dilation;
  int64_t count = begin >= in ? 0 : (in - 1 - begin) / dilation + 1;
  count = std::max<int64_t>(0, std::min(count, kernel - first));
  return {begin, count, dilation, std::min(start + kernel, in + padding) - start};
}

Range adaptive(int64_t o, int64_t in, int64_t out) {
  const int64_t begin = o * in / out, end = ((o + 1) * in + out - 1) / out;
  return {begin, end - begin, 1, end - begin};
}

Plan make_plan(const View& x, const View& out, const fastdl_pool_options* options, bool max, const char* op) {
  const auto p = read_options(options, fastdl_pool_options FASTDL_POOL_OPTIONS_INIT, op);
  FASTDL_CHECK(x.ndim >= 3 && x.ndim <= 5, FASTDL_ERROR_SHAPE,
               "%s: expected an input of shape (N, C, *spatial) with 1 to 3 spatial dimensions, got %s", op,
               shape_string(x).c_str());
  FASTDL_CHECK(out.ndim == x.ndim && out.shape[0] == x.shape[0] && out.shape[1] == x.shape[1],
               FASTDL_ERROR_SHAPE, "%s: an output of shape %s does not fit an input of shape %s", op,
               shape_string(out).c_str(), shape_string(x).c_str());
  for (const View* v : {&x, &out}) {
    double plane = 1;
    for (int i = 2; i < v->ndim; ++i) plane *= static_cast<double>(v->shape[i]);
    FASTDL_CHECK(plane <= INT32_MAX, FASTDL_ERROR_SHAPE,
                 "%s: a plane of more than 2^31 - 1 elements is not supported, got shape %s", op,
                 shape_string(*v).c_str());
  }
  Plan plan;
  plan.n = x.shape[0];
  plan.c = x.shape[1];
  plan.max = max;
  plan.divisor = p.adaptive ? 0 : p.divisor_override;
  plan.include_pad = p.count_include_pad != 0;
  const int spatial = x.ndim - 2, lead = 3 - spatial;
  for (int i = 0; i < lead; ++i) {
    plan.in[i] = plan.out[i] = 1;
    plan.ranges[i] = {{0, 1, 1, 1}};
  }
  for (int i = 0; i < spatial; ++i) {
    const int64_t in = x.shape[2 + i], outs = out.shape[2 + i];
    plan.in[lead + i] = in;
    plan.out[lead + i] = outs;
    auto& ranges = plan.ranges[lead + i];
    if (p.adaptive) {
      FASTDL_CHECK(in > 0 || outs == 0, FASTDL_ERROR_SHAPE,
                   "%s: the input's spatial dimensions are empty, got %s", op, shape_string(x).c_str());
      for (int64_t o = 0; o < outs; ++o) ranges.push_back(adaptive(o, in, outs));
      continue;
    }
    const int64_t kernel = p.kernel[i], stride = p.stride[i], padding = p.padding[i];
    const int64_t dilation = max ? p.dilation[i] : 1;
    FASTDL_CHECK(kernel > 0 && stride > 0 && dilation > 0, FASTDL_ERROR_VALUE,
                 "%s: kernel_size, stride and dilation must be positive, got %lld, %lld, %lld", op,
                 static_cast<long long>(kernel), static_cast<long long>(stride),
                 static_cast<long long>(dilation));
    FASTDL_CHECK(kernel <= INT32_MAX && stride <= INT32_MAX && dilation <= INT32_MAX, FASTDL_ERROR_VALUE,
                 "%s: kernel_size, stride and dilation must be below 2^31", op);
    FASTDL_CHECK(in > 0, FASTDL_ERROR_SHAPE, "%s: the input's spatial dimensions are empty, got %s", op,
                 shape_string(x).c_str());
    FASTDL_CHECK(padding >= 0 && padding <= kernel / 2, FASTDL_ERROR_VALUE,
                 "%s: padding must be between 0 and half the kernel_size %lld, got %lld", op,
                 static_cast<long long>(kernel), static_cast<long long>(padding));
    const int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
    int64_t expected = room < 0 ? 0 : room / stride + 1;
    if (p.ceil_mode && room + stride - 1 >= 0) {
      expected = (room + stride - 1) / stride + 1;
      if ((expected - 1) * stride >= in + padding) --expected;
    }
    FASTDL_CHECK(expected > 0 && outs == expected, FASTDL_ERROR_SHAPE,
                 "%s: spatial dimension %d of the output should be %lld for an input of shape %s, got %lld",
                 op, i, static_cast<long long>(expected), shape_string(x).c_str(),
                 static_cast<long long>(outs));
    for (int64_t o = 0; o < outs; ++o) ranges.push_back(sliding(o, in, kernel, stride, padding, dilation));
  }
  FASTDL_CHECK(plan.divisor >= 0, FASTDL_ERROR_VALUE, "%s: divisor_override must be positive, got %lld", op,
               static_cast<long long>(plan.divisor));
  return plan;
}

// One window: its three ranges and the divisor of its average.
struct Window {
  const Range *d, *h, *w;
  int64_t count() const { return d->count * h->count * w->count; }
};

double divisor_of(const Plan& p, const Window& w) {
  if (p.divisor) return static_cast<double>(p.divisor);
  return static_cast<double>(p.include_pad ? w.d->padded * w.h->padded * w.w->padded : w.count());
}

// Calls body(position in the input plane) for each tap, in C order.
template <class Body>
void for_taps(const Plan& p, const Window& w, Body&& body) {
  for (int64_t i = 0; i < w.d->count; ++i) {
    for (int64_t j = 0; j < w.h->count; ++j) {
      const int64_t row =
          ((w.d->begin + i * w.d->step) * p.in[1] + w.h->begin + j * w.h->step) * p.in[2] + w.w->begin;
      for (int64_t k = 0; k < w.w->count; ++k) body(row + k * w.w->step);
    }
  }
}

// Calls body(window, output position in its plane) for the windows of rows [begin, end) of D x H.
template <class Body>
void for_windows(const Plan& p, int64_t begin, int64_t end, Body&& body) {
  for (int64_t row = begin; row < end; ++row) {
    Window w{&p.ranges[0][static_cast<size_t>(row / p.out[1])],
             &p.ranges[1][static_cast<size_t>(row % p.out[1])], nullptr};
    for (int64_t o = 0; o < p.out[2]; ++o) {
      w.w = &p.ranges[2][static_cast<size_t>(o)];
      body(w, row * p.out[2] + o);
    }
  }
}

// True if the windows along the last dimension all have the same taps, a fixed step apart (no padding in
// them), and positions are small enough for the row kernels.
bool uniform_rows(const Plan& p) {
  const std::vector<Range>& w = p.ranges[2];
  if (w.empty() || p.in_plane() > int64_t{1} << 24) return false;
  const int64_t step = w.size() > 1 ? w[1].begin - w[0].begin : 1;
  for (size_t o = 0; o < w.size(); ++o) {
    if (w[o].count != w[0].count || w[o].begin != w[0].begin + static_cast<int64_t>(o) * step) return false;
  }
  return w[0].count > 0;
}

// Row `row` of D x H as one PoolRow; `positions` has room for all taps. No taps: the row sees nothing.
PoolRow pool_row(const Plan& p, int64_t row, int64_t* positions) {
  const Window first{&p.ranges[0][static_cast<size_t>(row / p.out[1])],
                     &p.ranges[1][static_cast<size_t>(row % p.out[1])], &p.ranges[2][0]};
  int64_t taps = 0;
  for_taps(p, first, [&](int64_t position) { positions[taps++] = position; });
  return {p.out[2], p.out[2] > 1 ? p.ranges[2][1].begin - p.ranges[2][0].begin : 1, taps, positions, p.c};
}

double work_per_window(const Plan& p) {
  return static_cast<double>(p.c * p.taps(0) * p.taps(1) * p.taps(2)) * 0.25;
}

template <class T>
void max_forward(Context* context, const Plan& p, const T* x, T* out, int32_t* where) {
  const auto& table = table_for<T>(*kernels().pool);
  const int64_t rows = p.out[0] * p.out[1], taps = p.taps(0) * p.taps(1) * p.taps(2);
  const bool uniform = uniform_rows(p);
  parallel_for(context, p.n * rows, work_per_window(p) * static_cast<double>(p.out[2]), [&](int64_t task) {
    const int64_t n = task / rows, row = task % rows;
    const T* xn = x + n * p.in_plane() * p.c;
    static_assert(sizeof(T*) <= sizeof(int64_t), "scratch serves pointers or positions");
    const Workspace scratch(context, static_cast<size_t>(taps) * sizeof(int64_t));
    if (where && uniform) {
      const PoolRow r = pool_row(p, row, scratch.as<int64_t>());
      const int64_t at = (n * p.out_plane() + row * p.out[2]) * p.c;
      if (r.taps > 0) return table.max_row(r, xn, out + at, where + at);
    }
    const T** pointers = scratch.as<const T*>();
    for_windows(p, row, row + 1, [&](const Window& w, int64_t o) {
      T* y = out + (n * p.out_plane() + o) * p.c;
      int64_t tap = 0;
      if (!where) {
        for_taps(p, w, [&](int64_t position) { pointers[tap++] = xn + position * p.c; });
        // A dilated window that straddles a short input may have no element.
        if (tap == 0) std::fill(y, y + p.c, -std::numeric_limits<T>::infinity());
        else table.max_of(p.c, tap, pointers, y);
        return;
      }
      int32_t* at = where + (n * p.out_plane() + o) * p.c;
      for_taps(p, w, [&](int64_t position) {
        (tap++ ? table.max_next : table.max_first)(p.c, xn + position * p.c, static_cast<int32_t>(position),
                                                   y, at);
      });
      if (tap == 0) {
        std::fill(y, y + p.c, -std::numeric_limits<T>::infinity());
        std::fill(at, at + p.c, -1);
      }
    });
  });
}

template <class T>
void avg_forward(Context* context, const Plan& p, const T* x, T* out) {
  const auto& table = table_for<T>(*kernels().pool);
  const int64_t rows = p.out[0] * p.out[1], taps = p.taps(0) * p.taps(1) * p.taps(2);
  parallel_for(context, p.n * rows, work_per_window(p) * static_cast<double>(p.out[2]), [&](int64_t task) {
    const int64_t n = task / rows, row = task % rows;
    const T* xn = x + n * p.in_plane() * p.c;
    const Workspace scratch(context, static_cast<size_t>(taps) * sizeof(T*));
    const T** pointers = scratch.as<const T*>();
    for_windows(p, row, row + 1, [&](const Window& w, int64_t o) {
      T* y = out + (n * p.out_plane() + o) * p.c;
      int64_t tap = 0;
      for_taps(p, w, [&](int64_t position) { pointers[tap++] = xn + position * p.c; });
      table.sum_of(p.c, tap, pointers, static_cast<T>(1 / divisor_of(p, w)), y);
    });
  });
}

// Backward: windows may overlap, so a task owns a whole plane of `block` channels of one sample and adds in
// window order.
template <class T, class Body>
void backward_planes(Context* context, const Plan& p, T* dx, Body&& body) {
  constexpr int64_t kBlock = 256;  // channels: long enough runs, and tasks enough for a batch of one
  const int64_t blocks = (p.c + kBlock - 1) / kBlock;
  const double cost = work_per_window(p) * static_cast<double>(p.out_plane()) / static_cast<double>(blocks);
  parallel_for(context, p.n * blocks, cost, [&](int64_t task) {
    const int64_t n = task / blocks, c0 = task % blocks * kBlock, cs = std::min(kBlock, p.c - c0);
    T* plane = dx + n * p.in_plane() * p.c + c0;
    if (cs == p.c) {
      std::memset(plane, 0, static_cast<size_t>(p.in_plane() * p.c) * sizeof(T));
    } else {
      for (int64_t i = 0; i < p.in_plane(); ++i)
        std::memset(plane + i * p.c, 0, static_cast<size_t>(cs) * sizeof(T));
    }
    body(n * p.out_plane() * p.c + c0, cs, plane);
  });
}

template <class T>
void max_backward(Context* context, const Plan& p, const T* dy, const int32_t* where, T* dx) {
  const auto& table = table_for<T>(*kernels().pool);
  const int64_t rows = p.out[0] * p.out[1], taps = p.taps(0) * p.taps(1) * p.taps(2);
  const bool uniform = uniform_rows(p);
  backward_planes(context, p, dx, [&](int64_t first, int64_t cs, T* plane) {
    if (uniform) {
      const Workspace scratch(context, static_cast<size_t>(taps) * sizeof(int64_t));
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = first + row * p.out[2] * p.c;
        table.max_scatter_row(pool_row(p, row, scratch.as<int64_t>()), cs, dy + at, where + at, plane);
      }
      return;
    }
    for_windows(p, 0, rows, [&](const Window& w, int64_t o) {
      const int64_t at = first + o * p.c;
      for_taps(p, w, [&](int64_t position) {
        table.max_scatter(cs, dy + at, where + at, static_cast<int32_t>(position), plane + position * p.c);
      });
    });
  });
}

template <class T>
void avg_backward(Context* context, const Plan& p, const T* dy, T* dx) {
  const auto& table = table_for<T>(*kernels().pool);
  backward_planes(context, p, dx, [&](int64_t first, int64_t cs, T* plane) {
    for_windows(p, 0, p.out[0] * p.out[1], [&](const Window& w, int64_t o) {
      const T scale = static_cast<T>(1 / divisor_of(p, w));
      for_taps(p, w, [&](int64_t position) {
        table.add_scaled(cs, dy + first + o * p.c, scale, plane + position * p.c);
      });
    });
  });
}

// Kernels count positions in int32; callers may hold int64 (torch's).
class Indices {
 public:
  Indices(Context* context, const View* v, bool load)
      : wide_(v && v->dtype == DType::kInt64),
        scratch_(context, wide_ ? static_cast<size_t>(v->size()) * sizeof(int32_t) : 0),
        data_(!v      ? nullptr
              : wide_ ? scratch_.as<int32_t>()
                      : v->as<int32_t>()) {
    if (!wide_) return;
    size_ = v->size();
    user_ = v->as<int64_t>();
    if (load) {
      for (int64_t i = 0; i < size_; ++i) {
        // No position is -1, nor what int32 does not hold.
        data_[i] = user_[i] >= 0 && user_[i] <= INT32_MAX ? static_cast<int32_t>(user_[i]) : -1;
      }
    }
  }
  int32_t* data() const { return data_; }
  void store() const {
    for (int64_t i = 0; i < size_; ++i) user_[i] = data_[i];
  }

 private:
  bool wide_;
  Workspace scratch_;
  int32_t* data_;
  int64_t* user_ = nullptr;
  int64_t size_ = 0;
};

View index_view(const fastdl_tensor* t, const View& out, const char* op) {
  const View v = view(t, op, "indices");
  FASTDL_CHECK(v.dtype == DType::kInt32 || v.dtype == DType::kInt64, FASTDL_ERROR_DTYPE,
               "%s: expected indices to be int32 or int64, got %s", op, name_of(v.dtype));
  check_same_shape(out, "out", v, "indices", op);
  return v;
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_max_pool_forward(fastdl_context* context, const fastdl_tensor* x_,
                                      const fastdl_tensor* out_, const fastdl_tensor* indices,
                                      const fastdl_pool_options* options) {
  if (is_narrow(x_)) {
    return in_float32("max_pool", fastdl_max_pool_forward, context, reads(x_, "x"), writes(out_, "out"),
                      indices, options);
  }
  return guarded([&] {
    const char* op = "max_pool";
    const View x = float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    const Plan plan = make_plan(x, out, options, true, op);
    View where;
    if (indices) {
      where = channels_last(index_view(indices, out, op));
      check_out(where, op, "indices");
    }
    if (out.size() == 0) return;
    const Contiguous xc(context, channels_last(x));
    ContiguousOut yc(context, channels_last(out)), wc(context, where);
    const Indices at(context, indices ? &*wc : nullptr, false);
    dispatch_float(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      max_forward<T>(context, plan, xc->as<T>(), yc->as<T>(), at.data());
    });
    yc.write_back();
    if (indices) {
      at.store();
      wc.write_back();
    }
  });
}

fastdl_status fastdl_max_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* indices, const fastdl_tensor* grad_x,
                                       const fastdl_pool_options* options) {
  if (is_narrow(grad_out)) {
    return in_float32("max_pool_backward", fastdl_max_pool_backward, context, reads(grad_out, "grad_out"),
                      indices, writes(grad_x, "grad_x"), options);
  }
  return guarded([&] {
    const char* op = "max_pool_backward";
    const View dy = float_view(grad_out, op, "grad_out"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
    const Plan plan = make_plan(dx, dy, options, true, op);
    const View where = index_view(indices, dy, op);
    if (dx.size() == 0) return;
    const Contiguous dyc(context, channels_last(dy)), wc(context, channels_last(where));
    const Indices at(context, &*wc, true);
    ContiguousOut dxc(context, channels_last(dx));
    dispatch_float(dy.dtype, [&](auto zero) {
      using T = decltype(zero);
      max_backward<T>(context, plan, dyc->as<T>(), at.data(), dxc->as<T>());
    });
    dxc.write_back();
  });
}

fastdl_status fastdl_avg_pool_forward(fastdl_context* context, const fastdl_tensor* x_,
                                      const fastdl_tensor* out_, const fastdl_pool_options* options) {
  if (is_narrow(x_)) {
    return in_float32("avg_pool", fastdl_avg_pool_forward, context, reads(x_, "x"), writes(out_, "out"),
                      options);
  }
  return guarded([&] {
    const char* op = "avg_pool";
    const View x = float_view(x_, op, "x"), out = out_view(out_, x.dtype, op, "out");
    const Plan plan = make_plan(x, out, options, false, op);
    if (out.size() == 0) return;
    const Contiguous xc(context, channels_last(x));
    ContiguousOut yc(context, channels_last(out));
    dispatch_float(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      avg_forward<T>(context, plan, xc->as<T>(), yc->as<T>());
    });
    yc.write_back();
  });
}

fastdl_status fastdl_avg_pool_backward(fastdl_context* context, const fastdl_tensor* grad_out,
                                       const fastdl_tensor* grad_x, const fastdl_pool_options* options) {
  if (is_narrow(grad_out)) {
    return in_float32("avg_pool_backward", fastdl_avg_pool_backward, context, reads(grad_out, "grad_out"),
                      writes(grad_x, "grad_x"), options);
  }
  return guarded([&] {
    const char* op = "avg_pool_backward";
    const View dy = float_view(grad_out, op, "grad_out"), dx = out_view(grad_x, dy.dtype, op, "grad_x");
    const Plan plan = make_plan(dx, dy, options, false, op);
    if (dx.size() == 0) return;
    const Contiguous dyc(context, channels_last(dy));
    ContiguousOut dxc(context, channels_last(dx));
    dispatch_float(dy.dtype, [&](auto zero) {
      using T = decltype(zero);
      avg_backward<T>(context, plan, dyc->as<T>(), dxc->as<T>());
    });
    dxc.write_back();
  });
}
}
