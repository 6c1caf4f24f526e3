#include <optional>

#include <pybind11/stl.h>

#include "bindings/common.h"

namespace fastdl::bindings {
namespace {

fastdl_attention_options options_of(std::optional<double> scale, bool is_causal, double dropout_p,
                                    uint64_t seed, uint64_t offset) {
  fastdl_attention_options o = FASTDL_ATTENTION_OPTIONS_INIT;
  o.scale_given = scale.has_value();
  o.scale = scale.value_or(0);
  o.is_causal = is_causal;
  o.dropout_p = dropout_p;
  o.seed = seed;
  o.offset = offset;
  return o;
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("attention_forward",
        [](const In& q, const In& k, const In& v, const In& mask, const Out& out, const Out& lse,
           std::optional<double> scale, bool is_causal, double dropout_p, uint64_t seed, uint64_t offset) {
          const fastdl_attention_options o = options_of(scale, is_causal, dropout_p, seed, offset);
          run([&] { return fastdl_attention_forward(nullptr, q, k, v, mask, out, lse, &o); });
        });
  m.def("attention_backward",
        [](const In& grad_out, const In& q, const In& k, const In& v, const In& mask, const In& out,
           const In& lse, const Out& grad_q, const Out& grad_k, const Out& grad_v, const Out& grad_mask,
           std::optional<double> scale, bool is_causal, double dropout_p, uint64_t seed, uint64_t offset) {
          const fastdl_attention_options o = options_of(scale, is_causal, dropout_p, seed, offset);
          run([&] {
            return fastdl_attention_backward(nullptr, grad_out, q, k, v, mask, out, lse, grad_q, grad_k,
                                             grad_v, grad_mask, &o);
          });
        });
}

}  // namespace fastdl::bindings
