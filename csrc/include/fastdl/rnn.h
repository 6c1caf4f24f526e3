/* Recurrent networks: tanh/ReLU RNN, GRU and LSTM over sequences, forward and backward through time.

   Shapes: T steps, B sequences, I input features, H hidden units, P the length of a state (H, or the
   projection's), L layers, D directions (1 or 2), G gates (RNN 1; GRU 3: reset, update, new; LSTM 4: input,
   forget, cell, output).

   Padded form: x [T, B, I], y [T, B, D*P]. `lengths` (int64 or int32 [B] in the host's memory on every
   device, may be NULL: all T) says how many steps of each sequence count; steps beyond are never read, y is 0
   there, and the states h_n, c_n are those of each sequence's last step. Any strides are accepted, so
   batch-first arrays are passed as transposed views. Packed form: x [N, I], y [N, D*P], N the sum of lengths,
   which must fall: the rows of step 0 of every sequence, then those of step 1 of every sequence longer than
   1, and so on.

   params: the weights of layer 0 forward, layer 0 backward (if bidirectional), layer 1 forward, ..., each
     weight_ih [G*H, I or D*P], weight_hh [G*H, P], then if has_bias: bias_ih [G*H], bias_hh [G*H],
     then if has_projection: weight_hr [P, H].
   h0, h_n: [L*D, B, P]; c0, c_n (LSTM): [L*D, B, H]. NULL initial states are zeros, which are not multiplied
   (so that an infinite weight_hh makes no NaN of them); NULL h_n, c_n are not wanted.

   One dtype, float32 or float64, any strides, no overlap; params are a list of num_params pointers, none
   NULL, read during the call only. options are required here. FASTDL_ERROR_VALUE for lengths outside 1 to T,
   packed ones that rise, a wrong number of params, c0 or c_n without LSTM. Scratch: the inputs' products W x
   of a block of steps (all steps in backward), packed recurrent weights, states. Cost: 2 rows G H (I + P)
   operations for each layer and direction forward, twice that backward; steps wait for one another. */
#ifndef FASTDL_RNN_H
#define FASTDL_RNN_H

#include "fastdl/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastdl_rnn_kind {
  FASTDL_RNN_TANH = 0,
  FASTDL_RNN_RELU = 1,
  FASTDL_RNN_GRU = 2, /* h' = (1-z) n + z h, n = tanh(W_in x + b_in + r (W_hn h + b_hn)) */
  FASTDL_RNN_LSTM = 3
} fastdl_rnn_kind;

typedef struct fastdl_rnn_options {
  size_t struct_size;
  int32_t kind;
  int32_t num_layers;
  int32_t bidirectional;
  int32_t has_bias;
  int32_t has_projection; /* LSTM only */
  double dropout;         /* on the outputs of every layer but the last; 0 for inference */
  uint64_t seed, offset;  /* of the dropout masks, see dropout.h */
} fastdl_rnn_options;
#define FASTDL_RNN_OPTIONS_INIT {sizeof(fastdl_rnn_options), FASTDL_RNN_TANH, 1, 0, 1, 0, 0.0, 0, 0}

/* Elements of the reserve: what forward keeps for backward. rows: T*B, or the sum of lengths. *elements is
   written on success; FASTDL_ERROR_SHAPE if there would be too many for 64 bits. Costs nothing. */
FASTDL_API fastdl_status fastdl_rnn_reserve_size(const fastdl_rnn_options* options, int64_t rows,
                                                 int64_t hidden_size, int64_t state_size, int64_t* elements);

/* Random numbers the dropout masks of one call take: what to advance `offset` by. Costs nothing. */
FASTDL_API fastdl_status fastdl_rnn_dropout_size(const fastdl_rnn_options* options, int64_t rows,
                                                 int64_t state_size, int64_t* numbers);

/* reserve: 1-d, contiguous, of x's dtype (float32 beside bfloat16 and float16) and the size above; NULL when
   there will be no backward (cheaper). */
FASTDL_API fastdl_status fastdl_rnn_forward(fastdl_context* context, const fastdl_tensor* x,
                                            const fastdl_tensor* h0, const fastdl_tensor* c0,
                                            const fastdl_tensor* const* params, int32_t num_params,
                                            const fastdl_tensor* lengths, const fastdl_tensor* y,
                                            const fastdl_tensor* h_n, const fastdl_tensor* c_n,
                                            const fastdl_tensor* reserve, const fastdl_rnn_options* options);

/* grad_y, grad_h_n, grad_c_n: NULL means zeros. y and reserve: as forward left them, both required. Every
   gradient that is not NULL is overwritten (grad_x, grad_h0, grad_c0: shapes of x, h0, c0); grad_params has
   num_params entries, any of which may be NULL, or is NULL itself. */
FASTDL_API fastdl_status
fastdl_rnn_backward(fastdl_context* context, const fastdl_tensor* grad_y, const fastdl_tensor* grad_h_n,
                    const fastdl_tensor* grad_c_n, const fastdl_tensor* x, const fastdl_tensor* h0,
                    const fastdl_tensor* c0, const fastdl_tensor* const* params, int32_t num_params,
                    const fastdl_tensor* lengths, const fastdl_tensor* y, const fastdl_tensor* reserve,
                    const fastdl_tensor* grad_x, const fastdl_tensor* grad_h0, const fastdl_tensor* grad_c0,
                    const fastdl_tensor* const* grad_params, const fastdl_rnn_options* options);

#ifdef __cplusplus
}
#endif
#endif
