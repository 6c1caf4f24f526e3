// What the callers of recurrent cells hand in, checked.
#pragma once

#include <string>
#include <vector>

#include "cpu/rnn_layout.h"

namespace fastdl::cpu {

// The operands forward and backward share.
struct RnnProblem {
  const char* op;
  RnnShape shape;
  RnnRows rows;
  View x, y, reserve, h0, c0;  // ndim 0: not given
  std::vector<View> params;

  // Optional states (L * D, B, columns), and required sequences (T, B, columns) or packed (rows, columns).
  View states(const fastdl_tensor* t, int64_t columns, const char* name) const;
  View sequences(const fastdl_tensor* t, int64_t columns, const char* name) const;
};

RnnShape rnn_shape_of(const fastdl_rnn_options* given, const char* op);

// The name of parameter i as torch calls it.
std::string rnn_param_name(const RnnShape& s, int64_t i);

// The reserve of so many rows can be counted in 64 bits.
void check_rnn_size(const RnnShape& s, int64_t rows, const char* op);

RnnProblem check_rnn_problem(const char* op, const fastdl_tensor* x, const fastdl_tensor* h0,
                             const fastdl_tensor* c0, const fastdl_tensor* const* params, int32_t num_params,
                             const fastdl_tensor* lengths, const fastdl_tensor* y,
                             const fastdl_tensor* reserve, const fastdl_rnn_options* options);

}  // namespace fastdl::cpu
