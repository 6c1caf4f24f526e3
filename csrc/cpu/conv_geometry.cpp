#include "cpu/conv_geometry.h"

#include <algorithm>

namespace fastdl::cpu::conv {
namespace {

long long ll(int64_t v) { return static_cast<long long>(v); }

void check_options(const fastdl_conv_options& o, int nd, const char* op) {
  for (int i = 0; i < nd; ++i) {
    FASTDL_CHECK(o.stride[i] >= 1, FASTDL_ERROR_VALUE, "%s: expected stride of at least 1, got %lld", op,
                 ll(o.stride[i]));
    FASTDL_CHECK(o.dilation[i] >= 1, FASTDL_ERROR_VALUE, "%s: expected dilation of at least 1, got %lld", op,
                 ll(o.dilation[i]));
    FASTDL_CHECK(o.padding[i] >= 0 && o.padding_end[i] >= 0, FASTDL_ERROR_VALUE,
                 "%s: expected padding of at least 0, got %lld", op,
                 ll(std::min(o.padding[i], o.padding_end[i])));
  }
  FASTDL_CHECK(o.groups >= 1, FASTDL_ERROR_VALUE, "%s: expected groups of at least 1, got %lld", op,
               ll(o.groups));
  FASTDL_CHECK(o.activation.kind >= FASTDL_ACT_NONE && o.activation.kind <= FASTDL_ACT_THRESHOLD,
               FASTDL_ERROR_VALUE, "%s: unknown activation kind %d", op, o.activation.kind);
}

// Padded images, and what a kernel reaches, stay countable in 64 bits.
void check_extents(const View& big, const View& weight, const View& small, const fastdl_conv_options& o,
                   int nd, const char* op) {
  const auto d = [](int64_t v) { return static_cast<double>(v); };
  double elements =
      64 * std::max(1.0, std::max(d(big.shape[0]), 1.0) * std::max(d(big.shape[1]), d(small.shape[1])));
  for (int i = 0; i < nd; ++i) {
    elements *= d(big.shape[2 + i]) + d(o.padding[i]) + d(o.padding_end[i]) +
                d(o.dilation[i]) * d(weight.shape[2 + i]) + d(o.stride[i]) * d(small.shape[2 + i]) + 1;
  }
  FASTDL_CHECK(elements < 1e18, FASTDL_ERROR_VALUE,
               "%s: padding, dilation or stride are too big for an image of shape %s", op,
               shape_string(big).c_str());
}

}  // namespace

Geometry geometry(const View& big, const View& weight, const View& small, const fastdl_conv_options& o,
                  const Names& names) {
  const char* op = names.op;
  const View& x = names.transposed ? small : big;
  FASTDL_CHECK(x.ndim >= 3 && x.ndim <= 5, FASTDL_ERROR_SHAPE,
               "%s: expected a batch of shape (N, C, ...) with 1 to 3 spatial axes, got shape %s", op,
               shape_string(x).c_str());
  check_ndim(weight, x.ndim, op, names.weight);
  check_ndim(big, x.ndim, op, names.big);
  check_ndim(small, x.ndim, op, names.small);
  const int nd = x.ndim - 2;
  check_options(o, nd, op);
  check_extents(big, weight, small, o, nd, op);
  Geometry g;
  g.n = big.shape[0];
  g.c = big.shape[1];
  g.o = small.shape[1];
  g.groups = o.groups;
  FASTDL_CHECK(small.shape[0] == g.n, FASTDL_ERROR_SHAPE,
               "%s: expected %s and %s to have the same batch size, got %s and %s", op, names.big,
               names.small, shape_string(big).c_str(), shape_string(small).c_str());
  FASTDL_CHECK(g.c % g.groups == 0 && g.o % g.groups == 0, FASTDL_ERROR_SHAPE,
               "%s: expected channels divisible by groups = %lld, got %lld and %lld channels", op,
               ll(g.groups), ll(names.transposed ? g.o : g.c), ll(names.transposed ? g.c : g.o));
  FASTDL_CHECK(weight.shape[0] == g.o && weight.shape[1] == g.c / g.groups, FASTDL_ERROR_SHAPE,
               "%s: expected %s of shape (%lld, %lld, ...) for %lld and %lld channels in %lld groups, got %s",
               op, names.weight, ll(g.o), ll(g.c / g.groups), ll(names.transposed ? g.o : g.c),
               ll(names.transposed ? g.c : g.o), ll(g.groups), shape_string(weight).c_str());
  for (int i = 0; i < 3; ++i) {
    const int from = i - (3 - nd), dim = from + 2;
    const bool there = from >= 0;
    g.in[i] = there ? big.shape[dim] : 1;
    g.out[i] = there ? small.shape[dim] : 1;
    g.kernel[i] = there ? weight.shape[dim] : 1;
    g.stride[i] = there ? o.stride[from] : 1;
    g.dilation[i] = there ? o.dilation[from] : 1;
    g.padding[i] = there ? o.padding[from] : 0;
    if (!there) continue;
    FASTDL_CHECK(g.kernel[i] >= 1, FASTDL_ERROR_SHAPE,
                 "%s: expected a kernel of at least 1 on each axis, got %s", op,
                 shape_string(weight).c_str());
    const int64_t room =
        g.in[i] + o.padding[from] + o.padding_end[from] - g.dilation[i] * (g.kernel[i] - 1) - 1;
    if (names.transposed) {
      const int64_t least = (g.out[i] - 1) * g.stride[i] - o.padding[from] - o.padding_end[from] +
                            g.dilation[i] * (g.kernel[i] - 1) + 1;
      FASTDL_CHECK(
          g.out[i] >= 1 && g.in[i] >= 1 && g.in[i] >= least &&
              g.in[i] < least + std::max(g.stride[i], g.dilation[i]),
          FASTDL_ERROR_SHAPE,
          "%s: %s has extent %lld on spatial axis %d, expected %lld plus an output padding smaller than "
          "stride or dilation, and at least 1",
          op, names.big, ll(g.in[i]), from, ll(least));
    } else {
      FASTDL_CHECK(room >= 0, FASTDL_ERROR_SHAPE,
                   "%s: the kernel reaches %lld elements on spatial axis %d, the padded input has %lld", op,
                   ll(g.dilation[i] * (g.kernel[i] - 1) + 1), from,
                   ll(g.in[i] + o.padding[from] + o.padding_end[from]));
      FASTDL_CHECK(g.out[i] == room / g.stride[i] + 1, FASTDL_ERROR_SHAPE,
                   "%s: expected extent %lld of %s on spatial axis %d, got %lld", op,
                   ll(room / g.stride[i] + 1), names.small, from, ll(g.out[i]));
    }
  }
  return g;
}

}  // namespace fastdl::cpu::conv
