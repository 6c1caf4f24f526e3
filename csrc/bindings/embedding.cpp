#include "bindings/common.h"

namespace fastdl::bindings {

void bind_embedding(py::module_& m) {
  m.def("embedding_forward", [](const In& weight, const In& indices, const Out& out) {
    run([&] { return fastdl_embedding_forward(nullptr, weight, indices, out); });
  });
  m.def("embedding_backward", [](const In& grad_out, const In& indices, const Out& grad_weight,
                                 int64_t padding_idx, bool scale_grad_by_freq) {
    run([&] {
      return fastdl_embedding_backward(nullptr, grad_out, indices, grad_weight, padding_idx,
                                       scale_grad_by_freq);
    });
  });
  m.def("embedding_renorm", [](const Out& weight, const In& indices, double max_norm, double norm_type) {
    run([&] { return fastdl_embedding_renorm(nullptr, weight, indices, max_norm, norm_type); });
  });
  m.def("embedding_bag_forward",
        [](const In& weight, const In& indices, const In& offsets, const In& per_sample_weights,
           const Out& out, const Out& max_indices, int mode, bool include_last_offset, int64_t padding_idx) {
          const fastdl_embedding_bag_options o{sizeof o, mode, include_last_offset, 0, padding_idx};
          run([&] {
            return fastdl_embedding_bag_forward(nullptr, weight, indices, offsets, per_sample_weights, out,
                                                max_indices, &o);
          });
        });
  m.def("embedding_bag_backward", [](const In& grad_out, const In& weight, const In& indices,
                                     const In& offsets, const In& per_sample_weights, const In& max_indices,
                                     const Out& grad_weight, const Out& grad_per_sample_weights, int mode,
                                     bool include_last_offset, bool scale_grad_by_freq, int64_t padding_idx) {
    const fastdl_embedding_bag_options o{sizeof o, mode, include_last_offset, scale_grad_by_freq,
                                         padding_idx};
    run([&] {
      return fastdl_embedding_bag_backward(nullptr, grad_out, weight, indices, offsets, per_sample_weights,
                                           max_indices, grad_weight, grad_per_sample_weights, &o);
    });
  });
}

}  // namespace fastdl::bindings
