#include "common/matmul.h"

#include <cstring>
#include <optional>
#include <utility>

#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/gemm_batch.h"
#include "cpu/gemm_split.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/tensor.h"
#include "cpu/widen.h"

namespace fastdl::cpu {
namespace {

// Every batch dim but the innermost is a loop here; the innermost goes to the GEMM as a whole.
template <class T>
void run_batches(Context* context, const MatmulProblem& p, Gemm<T> g, int dim) {
  if (p.batch_ndim == 0) return gemm(context, g);
  const GemmBatch batch{p.batch[dim], p.strides[MatmulProblem::kA][dim], p.strides[MatmulProblem::kB][dim],
                        p.strides[MatmulProblem::kOut][dim], p.strides[MatmulProblem::kResidual][dim]};
  if (dim + 1 < p.batch_ndim) {
    for (int64_t i = 0; i < batch.count; ++i) run_batches(context, p, batch_item(g, batch, i), dim + 1);
    return;
  }
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

// The product of m's operands, which may have been exchanged for copies.
template <class T>
void run(Context* context, const check::Matmul& m, const T* packed) {
  const MatmulProblem& p = m.problem;
  const View &a = m.a, &b = m.b;
  Gemm<T> g{p.m,       p.n,          p.k,          a.as<T>(), a.stride(-2),    a.stride(-1),
            b.as<T>(), b.stride(-2), b.stride(-1), nullptr,   m.out.stride(-2)};
  set_result(g, m.out);
  g.packed_b = packed;
  if (packed) g.b = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    if (packed && split_b_bytes(p.k, p.n)) g.split_b = packed + packed_b_size<float>(p.k, p.n);
  }
  g.end.alpha = static_cast<compute_t<T>>(m.options.alpha);
  g.end.beta = static_cast<compute_t<T>>(m.options.beta);
  g.end.activation = m.options.activation;
  if (m.bias) g.end.bias = m.bias->as<T>();
  if (m.residual) {
    g.end.residual = m.residual->as<T>();
    g.end.ld_residual = m.residual->stride(-2);
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
  UnitRows(Context* context, const View& v, bool load)
      : context_(context),
        space_(context, unit_rows(v) ? 0 : static_cast<size_t>(v.nbytes())),
        source_(v),
        view_(v) {
    if (unit_rows(v)) return;
    view_.data = space_.as<void>();
    set_c_strides(view_);
    if (load) copy(context, source_, view_);
  }
  const View& operator*() const { return view_; }
  void write_back() {
    if (view_.data != source_.data) copy(context_, view_, source_);
  }

 private:
  Context* context_;
  Workspace space_;
  View source_, view_;
};

// The product by way of contiguous copies of whatever does not lie in rows of unit stride.
template <class T>
void run_copied(Context* context, check::Matmul m, const T* packed) {
  UnitRows out(context, m.out, m.options.beta != 0);
  std::optional<UnitRows> bias, residual;
  if (m.bias) m.bias = *bias.emplace(context, *m.bias, true);
  if (m.residual) m.residual = *residual.emplace(context, *m.residual, true);
  m.out = *out;
  m.problem = matmul_problem(m.a, m.b, m.out, m.residual ? &*m.residual : nullptr, m.op);
  run(context, m, packed);
  out.write_back();
}

// `packed`: b's data in packed form; b then gives its shape only.
void matmul(Context* context, const check::Matmul& m, const void* packed = nullptr) {
  if (m.out.size() == 0) return;
  dispatch_products(m.a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* const panels = static_cast<const T*>(packed);
    if (unit_rows(m.out) && (!m.residual || unit_rows(*m.residual)) && (!m.bias || unit_rows(*m.bias))) {
      return run(context, m, panels);
    }
    if (m.out.stride(-2) == 1 && !m.bias && !m.residual && !packed) {  // the transposed product's out
      check::Matmul t = m;
      t.a = last_two_swapped(m.b), t.b = last_two_swapped(m.a), t.out = last_two_swapped(m.out);
      t.problem = matmul_problem(t.a, t.b, t.out, nullptr, t.op);
      return run(context, t, panels);
    }
    run_copied(context, m, panels);
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

// `packed` is of dtype `stored`: a's, or the 16-bit type from which a was widened.
fastdl_status packed_product(Context* context, const fastdl_tensor* a, const fastdl_tensor* packed,
                             DType stored, const fastdl_tensor* bias, const fastdl_tensor* residual,
                             const fastdl_tensor* out, const fastdl_matmul_options* options) {
  return guarded([&] {
    check::Matmul m = check::matmul_packed(a, packed, stored, bias, residual, out);
    const View panels = m.b;
    PackedHeader h{};
    const bool sized = panels.ndim == 1 && panels.contiguous() && panels.nbytes() >= kHeaderBytes;
    if (sized) std::memcpy(&h, panels.as<char>(), sizeof h);
    FASTDL_CHECK(sized && std::memcmp(h.magic, kMagic, sizeof kMagic) == 0 &&
                     h.item_size == item_size(panel_dtype(stored)),
                 FASTDL_ERROR_VALUE, "%s: packed b was not made by matmul_pack_b for %s", m.op,
                 name_of(stored));
    FASTDL_CHECK(std::strncmp(h.isa, kernels().isa, sizeof h.isa) == 0, FASTDL_ERROR_VALUE,
                 "%s: packed b was made for %s, but %s is in force; pack it again", m.op, h.isa,
                 kernels().isa);
    const int64_t most = panels.size();  // of what was packed, whatever the header says
    FASTDL_CHECK(h.k >= 0 && h.n >= 0 && (h.k == 0 || h.n <= most / h.k), FASTDL_ERROR_VALUE,
                 "%s: packed b is damaged", m.op);
    FASTDL_CHECK(panels.size() == packed_elements(h.k, h.n, stored), FASTDL_ERROR_SHAPE,
                 "%s: packed b has %lld elements, expected %lld", m.op, static_cast<long long>(panels.size()),
                 static_cast<long long>(packed_elements(h.k, h.n, stored)));
    m.b.dtype = m.a.dtype;
    m.b.ndim = 2;
    m.b.shape[0] = h.k;
    m.b.shape[1] = h.n;
    set_c_strides(m.b);
    m.complete(options);
    matmul(context, m, panels.as<char>() + kHeaderBytes);
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

fastdl_status fastdl_matmul(fastdl_context* context, const fastdl_tensor* a, const fastdl_tensor* b,
                            const fastdl_tensor* bias, const fastdl_tensor* residual,
                            const fastdl_tensor* out, const fastdl_matmul_options* options) {
  if (is_narrow(a) && !has_products(a)) {
    return in_float32("matmul", fastdl_matmul, context, reads(a, "a"), reads(b, "b"), reads(bias, "bias"),
                      reads(residual, "residual"),
                      or_float32(reads_out(options) ? updates(out, "out") : writes(out, "out")), options);
  }
  return guarded([&] { matmul(context, check::matmul(a, b, bias, residual, out, options)); });
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
