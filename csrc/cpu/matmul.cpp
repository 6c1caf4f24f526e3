#include "fastdl/matmul.h"

#include <cstring>
#include <optional>
#include <utility>

#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/gemm_split.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

fastdl_matmul_options checked(const fastdl_matmul_options* given, const char* op) {
  const auto o = read_options(given, fastdl_matmul_options FASTDL_MATMUL_OPTIONS_INIT, op);
  FASTDL_CHECK(o.activation.kind >= FASTDL_ACT_NONE && o.activation.kind <= FASTDL_ACT_THRESHOLD,
               FASTDL_ERROR_VALUE, "%s: unknown activation kind %d", op, o.activation.kind);
  return o;
}

void insert_dim(View& v, int at) {
  FASTDL_CHECK(v.ndim < FASTDL_MAX_NDIM, FASTDL_ERROR_SHAPE, "matmul: at most %d dimensions",
               FASTDL_MAX_NDIM);
  for (int i = v.ndim; i > at; --i) {
    v.shape[i] = v.shape[i - 1];
    v.strides[i] = v.strides[i - 1];
  }
  v.shape[at] = 1;
  v.strides[at] = 1;
  ++v.ndim;
}

// The last two dims of every operand, and up to FASTDL_MAX_NDIM batch dims that broadcast over a and b.
struct Problem {
  int64_t m, n, k;
  int batch_ndim = 0;
  int64_t batch[FASTDL_MAX_NDIM];
  enum { kA, kB, kOut, kResidual, kOperands };
  int64_t strides[kOperands][FASTDL_MAX_NDIM];
};

int64_t batch_extent(const View& v, int from_last) {  // from_last: 2 is the innermost batch dim
  const int dim = v.ndim - 1 - from_last;
  return dim < 0 ? 1 : v.shape[dim];
}
int64_t batch_stride(const View& v, int from_last) {
  const int dim = v.ndim - 1 - from_last;
  return dim < 0 || v.shape[dim] == 1 ? 0 : v.strides[dim];
}

// Checks the shapes (all at least 2-d here) and merges batch dims that are one dim in every operand.
Problem problem_of(const View& a, const View& b, const View& out, const View* residual, const char* op) {
  Problem p;
  p.m = a.extent(-2);
  p.k = a.extent(-1);
  p.n = b.extent(-1);
  FASTDL_CHECK(b.extent(-2) == p.k, FASTDL_ERROR_SHAPE,
               "%s: the last dim of a and the last but one of b differ: %s and %s", op,
               shape_string(a).c_str(), shape_string(b).c_str());
  const int ndim = a.ndim > b.ndim ? a.ndim : b.ndim;
  bool fits = out.ndim == ndim && out.extent(-2) == p.m && out.extent(-1) == p.n;
  for (int i = ndim - 1; i >= 2; --i) {
    const int64_t ea = batch_extent(a, i), eb = batch_extent(b, i), e = ea == 1 ? eb : ea;
    FASTDL_CHECK(ea == eb || ea == 1 || eb == 1, FASTDL_ERROR_SHAPE,
                 "%s: batch dims do not broadcast: %s and %s", op, shape_string(a).c_str(),
                 shape_string(b).c_str());
    fits = fits && batch_extent(out, i) == e;
    if (e == 1) continue;
    const int64_t s[Problem::kOperands] = {batch_stride(a, i), batch_stride(b, i), batch_stride(out, i),
                                           residual ? batch_stride(*residual, i) : batch_stride(out, i)};
    bool merge = p.batch_ndim > 0;
    for (int j = 0; j < Problem::kOperands && merge; ++j) merge = p.strides[j][p.batch_ndim - 1] == s[j] * e;
    if (merge) --p.batch_ndim;
    p.batch[p.batch_ndim] = merge ? p.batch[p.batch_ndim] * e : e;
    for (int j = 0; j < Problem::kOperands; ++j) p.strides[j][p.batch_ndim] = s[j];
    ++p.batch_ndim;
  }
  FASTDL_CHECK(fits, FASTDL_ERROR_SHAPE, "%s: out has shape %s, which does not fit a %s and b %s", op,
               shape_string(out).c_str(), shape_string(a).c_str(), shape_string(b).c_str());
  return p;
}

// Every batch dim but the innermost is a loop here; the innermost goes to the GEMM as a whole.
template <class T>
void run_batches(Context* context, const Problem& p, Gemm<T> g, int dim) {
  if (dim + 1 < p.batch_ndim) {
    for (int64_t i = 0; i < p.batch[dim]; ++i) {
      run_batches(context, p, g, dim + 1);
      g.a += p.strides[Problem::kA][dim];
      if (g.b) g.b += p.strides[Problem::kB][dim];
      advance_result(g, p.strides[Problem::kOut][dim]);
      if (g.end.residual) g.end.residual += p.strides[Problem::kResidual][dim];
    }
    return;
  }
  if (p.batch_ndim == 0) return gemm(context, g);
  const GemmBatch batch{p.batch[dim], p.strides[Problem::kA][dim], p.strides[Problem::kB][dim],
                        p.strides[Problem::kOut][dim], p.strides[Problem::kResidual][dim]};
  if (g.m == 1) {  // the batch dim can serve as the row dim
    g.a_row = batch.a;
    g.ldc = batch.c;
    g.end.ld_residual = batch.residual;
  }
  // One b for all, and rows that follow one another from item to item: a single product with more rows.
  if (batch.b == 0 && batch.a == g.m * g.a_row && batch.c == g.m * g.ldc &&
      (!g.end.residual || batch.residual == g.m * g.end.ld_residual)) {
    g.m *= batch.count;
    return gemm(context, g);
  }
  gemm_batched(context, g, batch);
}

template <class T>
void run(Context* context, const View& a, const View& b, const View* bias, const View* residual,
         const View& out, const fastdl_matmul_options& o, const Problem& p, const T* packed) {
  Gemm<T> g{p.m,       p.n,          p.k,          a.as<T>(), a.stride(-2),  a.stride(-1),
            b.as<T>(), b.stride(-2), b.stride(-1), nullptr,   out.stride(-2)};
  set_result(g, out);
  g.packed_b = packed;
  if (packed) g.b = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    if (packed && split_b_bytes(p.k, p.n)) g.split_b = packed + packed_b_size<float>(p.k, p.n);
  }
  g.end.alpha = static_cast<compute_t<T>>(o.alpha);
  g.end.beta = static_cast<compute_t<T>>(o.beta);
  g.end.activation = o.activation;
  if (bias) g.end.bias = bias->as<T>();
  if (residual) {
    g.end.residual = residual->as<T>();
    g.end.ld_residual = residual->stride(-2);
  }
  run_batches(context, p, g, 0);
}

View last_two_swapped(View v) {
  std::swap(v.shape[v.ndim - 1], v.shape[v.ndim - 2]);
  std::swap(v.strides[v.ndim - 1], v.strides[v.ndim - 2]);
  return v;
}

// The kernels read and write C, the bias and the residual in rows of unit stride; what lies otherwise goes
// through a contiguous copy.
bool unit_rows(const View& v) { return v.ndim == 0 || v.extent(-1) <= 1 || v.stride(-1) == 1; }

class UnitRows {
 public:
  UnitRows(Context* context, const View* v, bool load)
      : context_(context), space_(context, v && !unit_rows(*v) ? static_cast<size_t>(v->nbytes()) : 0) {
    if (!v) return;
    source_ = view_ = *v;
    present_ = true;
    if (unit_rows(*v)) return;
    view_.data = space_.as<void>();
    int64_t stride = 1;
    for (int i = view_.ndim - 1; i >= 0; --i) {
      view_.strides[i] = stride;
      stride *= view_.shape[i];
    }
    if (load) copy(context, source_, view_);
  }
  const View* get() const { return present_ ? &view_ : nullptr; }
  void write_back() {
    if (view_.data != source_.data) copy(context_, view_, source_);
  }

 private:
  Context* context_;
  Workspace space_;
  View source_, view_;
  bool present_ = false;
};

// All operands at least 2-d. `packed`: b's data in packed form; b then gives its shape only.
void matmul(Context* context, const char* op, const View& a, const View& b, const View* bias,
            const View* residual, const View& out, const fastdl_matmul_options& o,
            const void* packed = nullptr) {
  const Problem p = problem_of(a, b, out, residual, op);
  FASTDL_CHECK(!bias || (bias->ndim <= 1 && bias->size() == p.n), FASTDL_ERROR_SHAPE,
               "%s: expected bias of shape (%lld,), got %s", op, static_cast<long long>(p.n),
               bias ? shape_string(*bias).c_str() : "");
  if (residual) check_same_shape(out, "out", *residual, "residual", op);
  if (out.size() == 0) return;
  dispatch_products(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* const panels = static_cast<const T*>(packed);
    if (unit_rows(out) && (!residual || unit_rows(*residual)) && (!bias || unit_rows(*bias))) {
      return run<T>(context, a, b, bias, residual, out, o, p, panels);
    }
    if (out.stride(-2) == 1 && !bias && !residual && !packed) {  // a transposed out is the transposed product
      const View at = last_two_swapped(a), bt = last_two_swapped(b), ot = last_two_swapped(out);
      return run<T>(context, bt, at, nullptr, nullptr, ot, o, problem_of(bt, at, ot, nullptr, op), nullptr);
    }
    UnitRows c(context, &out, o.beta != 0);
    const UnitRows row(context, bias, true), plus(context, residual, true);
    run<T>(context, a, b, row.get(), plus.get(), *c.get(), o, problem_of(a, b, *c.get(), plus.get(), op),
           panels);
    c.write_back();
  });
}

// What stands before the panels of a packed b.
struct PackedHeader {
  char magic[8];
  char isa[16];
  int64_t k, n, item_size;
};
constexpr char kMagic[8] = {'f', 'd', 'l', 'p', 'a', 'c', 'k', '1'};
constexpr int64_t kHeaderBytes = 64;
static_assert(sizeof(PackedHeader) <= kHeaderBytes, "the panels begin at a cache line");

// The panels of 16-bit operands that have no products are float32, in memory of the operand's dtype.
DType panel_dtype(DType dtype) { return has_products(dtype) ? dtype : DType::kFloat32; }

PackedHeader header_for(int64_t k, int64_t n, DType dtype) {
  PackedHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  std::strncpy(h.isa, kernels().isa, sizeof h.isa - 1);
  h.k = k;
  h.n = n;
  h.item_size = item_size(panel_dtype(dtype));
  return h;
}

int64_t packed_elements(int64_t k, int64_t n, DType dtype) {
  int64_t bytes = kHeaderBytes;
  dispatch_products(panel_dtype(dtype), [&](auto zero) {
    using T = decltype(zero);
    bytes += packed_b_size<T>(k, n) * static_cast<int64_t>(sizeof(T));
    if constexpr (std::is_same_v<T, float>) bytes += split_b_bytes(k, n);
  });
  return bytes / item_size(dtype);
}

void pack_panels(Context* context, const View& b, char* out) {
  dispatch_products(b.dtype, [&](auto zero) {
    using T = decltype(zero);
    pack_b(context, b.as<const T>(), b.strides[0], b.strides[1], b.shape[0], b.shape[1],
           reinterpret_cast<T*>(out));
    if constexpr (std::is_same_v<T, float>) {  // behind the panels: the parts, for the matrix unit
      const int64_t k = b.shape[0], n = b.shape[1];
      if (split_b_bytes(k, n)) {
        split_b(context, b.as<const T>(), b.strides[0], b.strides[1], k, n,
                reinterpret_cast<T*>(out) + packed_b_size<T>(k, n));
      }
    }
  });
}

// Whether out takes part in the sum; options may be those of an older caller, shorter than ours.
bool reads_out(const fastdl_matmul_options* o) {
  return o && o->struct_size >= offsetof(fastdl_matmul_options, beta) + sizeof o->beta && o->beta != 0;
}

// Gives 1-d operands their missing dim, in out (and residual) too.
void add_missing_dims(View& a, View& b, View& out, View* residual) {
  if (a.ndim > 1 && b.ndim > 1) return;
  const bool row = a.ndim == 1, column = b.ndim == 1;
  if (row) insert_dim(a, 0);
  if (column) insert_dim(b, 1);
  for (View* v : {&out, residual}) {
    if (!v) continue;
    if (column) insert_dim(*v, v->ndim);
    if (row && v->ndim >= 1) insert_dim(*v, v->ndim - 1);
  }
}

// `packed` is of dtype `stored`: a's, or the 16-bit type from which a was widened.
fastdl_status packed_product(Context* context, const fastdl_tensor* a_, const fastdl_tensor* packed_,
                             DType stored, const fastdl_tensor* bias_, const fastdl_tensor* residual_,
                             const fastdl_tensor* out_, const fastdl_matmul_options* options) {
  return guarded([&] {
    const char* op = "matmul_packed";
    View a = any_float_view(a_, op, "a"), out = result_view(out_, a.dtype, op, "out");
    const View packed = view_like(packed_, stored, op, "packed b");
    View bias, residual, b;
    if (bias_) bias = view_like(bias_, a.dtype, op, "bias");
    if (residual_) residual = view_like(residual_, a.dtype, op, "residual");
    FASTDL_CHECK(a.ndim >= 1, FASTDL_ERROR_SHAPE, "%s: expected a to be at least 1-d", op);
    PackedHeader h{};
    const bool sized = packed.ndim == 1 && packed.contiguous() && packed.nbytes() >= kHeaderBytes;
    if (sized) std::memcpy(&h, packed.as<char>(), sizeof h);
    FASTDL_CHECK(sized && std::memcmp(h.magic, kMagic, sizeof kMagic) == 0 &&
                     h.item_size == item_size(panel_dtype(stored)),
                 FASTDL_ERROR_VALUE, "%s: packed b was not made by matmul_pack_b for %s", op,
                 name_of(stored));
    FASTDL_CHECK(std::strncmp(h.isa, kernels().isa, sizeof h.isa) == 0, FASTDL_ERROR_VALUE,
                 "%s: packed b was made for %s, but %s is in force; pack it again", op, h.isa, kernels().isa);
    const int64_t most = packed.size();  // of what was packed, whatever the header says
    FASTDL_CHECK(h.k >= 0 && h.n >= 0 && (h.k == 0 || h.n <= most / h.k), FASTDL_ERROR_VALUE,
                 "%s: packed b is damaged", op);
    b.dtype = a.dtype;
    b.ndim = 2;
    b.shape[0] = h.k;
    b.shape[1] = h.n;
    b.strides[0] = h.n;
    b.strides[1] = 1;
    FASTDL_CHECK(packed.size() == packed_elements(h.k, h.n, stored), FASTDL_ERROR_SHAPE,
                 "%s: packed b has %lld elements, expected %lld", op, static_cast<long long>(packed.size()),
                 static_cast<long long>(packed_elements(h.k, h.n, stored)));
    add_missing_dims(a, b, out, residual_ ? &residual : nullptr);
    matmul(context, op, a, b, bias_ ? &bias : nullptr, residual_ ? &residual : nullptr, out,
           checked(options, op), packed.as<char>() + kHeaderBytes);
  });
}

// Of operands that were widened.
template <DType stored>
fastdl_status widened_packed_product(Context* context, const fastdl_tensor* a, const fastdl_tensor* packed,
                                     const fastdl_tensor* bias, const fastdl_tensor* residual,
                                     const fastdl_tensor* out, const fastdl_matmul_options* options) {
  return packed_product(context, a, packed, stored, bias, residual, out, options);
}

}  // namespace
}  // namespace fastdl::cpu

using namespace fastdl::cpu;

extern "C" {

fastdl_status fastdl_matmul(fastdl_context* context, const fastdl_tensor* a_, const fastdl_tensor* b_,
                            const fastdl_tensor* bias_, const fastdl_tensor* residual_,
                            const fastdl_tensor* out_, const fastdl_matmul_options* options) {
  if (is_narrow(a_) && !has_products(a_)) {
    return in_float32("matmul", fastdl_matmul, context, reads(a_, "a"), reads(b_, "b"), reads(bias_, "bias"),
                      reads(residual_, "residual"),
                      or_float32(reads_out(options) ? updates(out_, "out") : writes(out_, "out")), options);
  }
  return guarded([&] {
    const char* op = "matmul";
    View a = any_float_view(a_, op, "a"), b = view_like(b_, a.dtype, op, "b"),
         out = result_view(out_, a.dtype, op, "out");
    View bias, residual;
    if (bias_) bias = view_like(bias_, a.dtype, op, "bias");
    if (residual_) residual = view_like(residual_, a.dtype, op, "residual");
    FASTDL_CHECK(a.ndim >= 1 && b.ndim >= 1, FASTDL_ERROR_SHAPE,
                 "%s: expected at least 1-d operands, got %s and %s", op, shape_string(a).c_str(),
                 shape_string(b).c_str());
    add_missing_dims(a, b, out, residual_ ? &residual : nullptr);
    matmul(context, op, a, b, bias_ ? &bias : nullptr, residual_ ? &residual : nullptr, out,
           checked(options, op));
  });
}

fastdl_status fastdl_matmul_packed_b_size(fastdl_context*, const fastdl_tensor* b_, int64_t* elements) {
  return guarded([&] {
    const char* op = "matmul_packed_b_size";
    const View b = any_float_view(b_, op, "b");
    check_ndim(b, 2, op, "b");
    FASTDL_CHECK(elements != nullptr, FASTDL_ERROR_VALUE, "%s: elements is NULL", op);
    *elements = packed_elements(b.shape[0], b.shape[1], b.dtype);
  });
}

fastdl_status fastdl_matmul_pack_b(fastdl_context* context, const fastdl_tensor* b_,
                                   const fastdl_tensor* packed_) {
  return guarded([&] {
    const char* op = "matmul_pack_b";
    const View b = any_float_view(b_, op, "b"), packed = out_view(packed_, b.dtype, op, "packed");
    check_ndim(b, 2, op, "b");
    const int64_t elements = packed_elements(b.shape[0], b.shape[1], b.dtype);
    FASTDL_CHECK(packed.ndim == 1 && packed.contiguous() && packed.size() == elements, FASTDL_ERROR_SHAPE,
                 "%s: expected packed to be contiguous with %lld elements, got shape %s", op,
                 static_cast<long long>(elements), shape_string(packed).c_str());
    std::optional<Float32Copy> wide;
    if (!has_products(b.dtype)) wide.emplace(context, b);
    char* const out = packed.as<char>();
    const PackedHeader h = header_for(b.shape[0], b.shape[1], b.dtype);
    std::memset(out, 0, kHeaderBytes);
    std::memcpy(out, &h, sizeof h);
    pack_panels(context, wide ? **wide : b, out + kHeaderBytes);
  });
}

fastdl_status fastdl_matmul_packed(fastdl_context* context, const fastdl_tensor* a,
                                   const fastdl_tensor* packed, const fastdl_tensor* bias,
                                   const fastdl_tensor* residual, const fastdl_tensor* out,
                                   const fastdl_matmul_options* options) {
  if (is_narrow(a) && !has_products(a)) {
    const auto product = a->dtype.code == FASTDL_BFLOAT ? widened_packed_product<DType::kBFloat16>
                                                        : widened_packed_product<DType::kFloat16>;
    return in_float32("matmul_packed", product, context, reads(a, "a"), packed, reads(bias, "bias"),
                      reads(residual, "residual"),
                      or_float32(reads_out(options) ? updates(out, "out") : writes(out, "out")), options);
  }
  DType dtype = DType::kFloat32;
  const fastdl_status status = guarded([&] { dtype = any_float_view(a, "matmul_packed", "a").dtype; });
  return status == FASTDL_OK ? packed_product(context, a, packed, dtype, bias, residual, out, options)
                             : status;
}
}
