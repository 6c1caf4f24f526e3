// attention_forward<S> and attention_backward<S>: choose and launch. Each element type is instantiated in
// files of its own, so that they compile side by side.
#pragma once

#include <type_traits>

#include "cuda/attention_config.h"
#include "cuda/attention_decode.cuh"
#include "cuda/attention_fma_backward.cuh"
#include "cuda/attention_forward.cuh"
#include "cuda/attention_sm90.h"
#include "cuda/split.cuh"

namespace fastdl::cuda {

// The type a product of S is made in: pieces of float32 are bfloat16.
template <class S>
using product_t = std::conditional_t<sizeof(S) == 2, S, bfloat16>;

// Calls f(D) with the class of features; 0 where multiply-adds take over.
template <int Planes, class F>
void with_features(const AttentionProblem& p, F&& f) {
  switch (feature_class(p.e, p.ev, Planes)) {
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    case 256:
      if constexpr (Planes == 1) return f(std::integral_constant<int, 256>{});
      [[fallthrough]];
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

// Words that tell which groups of heads have values without a split, of float32 only.
template <class S>
class Unfit {
 public:
  Unfit(Context* context, const AttentionProblem& p)
      : space_(context, sizeof(S) == 4 ? bytes(p) : 0),
        word_(sizeof(S) == 4 ? space_.as<uint32_t>() : nullptr) {
    if (word_) check_cuda(cudaMemsetAsync(word_, 0, bytes(p), stream_of(context)), "attention");
  }
  uint32_t* word() const { return word_; }

 private:
  static size_t bytes(const AttentionProblem& p) {
    return static_cast<size_t>(p.batch * p.groups) * sizeof(uint32_t);
  }
  Workspace space_;
  uint32_t* word_;
};

template <class S, int Planes, int Features>
void forward_by_tensor_cores(Context* context, const AttentionProblem& p, compute_t<S>* lse) {
  using H = product_t<S>;
  using Operand = AttentionOperand<S, H, Planes>;
  const Unfit<S> unfit(context, p);
  const Operand q(context, p.q, p, unfit.word()), k(context, p.k, p, unfit.word()),
      v(context, p.v, p, unfit.word());
  const ForwardArguments<H> a{AttentionExtents(p),
                              AttentionMask<float>(p),
                              *q,
                              *k,
                              *v,
                              AttentionOut(p.out),
                              lse,
                              unfit.word(),
                              0,
                              {}};
  launch_attention_forward<H, Planes, Features>(context, a);
  if (unfit.word()) launch_attention_forward_fma<S>(context, p, lse, unfit.word());
}

template <class S>
void attention_forward(Context* context, const AttentionProblem& p, compute_t<S>* lse) {
  if constexpr (sizeof(S) == 2) {
    if (decode_by_sm90(p)) return attention_decode_sm90<S>(context, p, lse);
    if (forward_by_sm90(p)) return attention_forward_sm90<S>(context, p, lse);
  }
  const DecodePlan plan = decode_plan(p.group_size() * p.queries, p.batch * p.groups, p.key_end(p.queries),
                                      p.e, p.ev, kDecodeRows<S>, multiprocessors());
  if (plan.fits) return attention_decode_forward<S>(context, p, lse, plan);
  if constexpr (sizeof(S) == 8) {
    launch_attention_forward_fma<S>(context, p, lse, nullptr);
  } else {
    with_planes<S>(context, [&](auto planes) {
      constexpr int kPlanes = decltype(planes)::value;
      with_features<kPlanes>(p, [&](auto features) {
        constexpr int kFeatures = decltype(features)::value;
        if constexpr (kFeatures > 0) {
          if (has_shared_memory(sizeof(ForwardShared<product_t<S>, kPlanes, kFeatures>)))
            return forward_by_tensor_cores<S, kPlanes, kFeatures>(context, p, lse);
        }
        launch_attention_forward_fma<S>(context, p, lse, nullptr);
      });
    });
  }
}

// The backward pass by multiply-adds, of all groups of heads or of those that `only` names.
template <class S>
void backward_by_multiply_adds(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                               const compute_t<S>* terms, const uint32_t* only) {
  using T = compute_t<S>;
  using In = AttentionRows<const S>;
  using Out = AttentionRows<S>;
  const FmaBackwardArguments<S> a{AttentionExtents(p),
                                  AttentionMask<T>(p),
                                  In(p.q),
                                  In(p.k),
                                  In(p.v),
                                  In(g.dout),
                                  terms,
                                  Out(g.dq),
                                  Out(g.dk),
                                  Out(g.dv),
                                  static_cast<T>(p.scale),
                                  g.dmask.data,
                                  g.dmask.dtype == DType::kFloat32,
                                  only,
                                  0,
                                  0,
                                  0,
                                  {}};
  launch_attention_backward_fma<S, true>(context, a);
  launch_attention_backward_fma<S, false>(context, a);
}

template <class S, int Planes, int Features>
void backward_by_tensor_cores(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                              const float* terms) {
  using H = product_t<S>;
  using Operand = AttentionOperand<S, H, Planes>;
  const Unfit<S> unfit(context, p);
  const Operand q(context, p.q, p, unfit.word()), k(context, p.k, p, unfit.word()),
      v(context, p.v, p, unfit.word()), dout(context, g.dout, p, unfit.word());
  const BackwardArguments<H> a{AttentionExtents(p),
                               AttentionMask<float>(p),
                               *q,
                               *k,
                               *v,
                               *dout,
                               terms,
                               AttentionOut(g.dq),
                               AttentionOut(g.dk),
                               AttentionOut(g.dv),
                               g.dmask.data ? AttentionOut(g.dmask) : AttentionOut(),
                               unfit.word(),
                               static_cast<float>(p.scale),
                               0,
                               {}};
  launch_attention_backward<H, Planes, Features, true>(context, a);
  launch_attention_backward<H, Planes, Features, false>(context, a);
  if (unfit.word()) backward_by_multiply_adds<S>(context, p, g, terms, unfit.word());
}

template <class S>
void attention_backward(Context* context, const AttentionProblem& p, const AttentionGradients& g,
                        const compute_t<S>* lse) {
  using T = compute_t<S>;
  bool by_sm90 = false, one_pass = false;
  if constexpr (sizeof(S) == 2) {
    by_sm90 = backward_by_sm90(p, g);
    one_pass = by_sm90 && backward_in_one_pass(p);
  }
  const int features = sm90_features(p.e, p.ev);
  const int64_t each = one_pass  ? kOnePassQueries
                       : by_sm90 ? sm90_backward_queries(features)
                                 : 1,
                padded = (p.queries + each - 1) / each * each, rows = p.batch * p.heads * padded;
  const Workspace space(context, static_cast<size_t>(2 * rows) * sizeof(T));
  T* const terms = space.as<T>();
  if (rows > 0) {
    launch(context, FASTDL_KERNEL(attention_row_terms<S>),
           {blocks_for(rows, kPrepareThreads / kWarp), kPrepareThreads}, AttentionExtents(p),
           AttentionRows<const S>(g.dout), AttentionRows<const S>(p.out), lse, padded, by_sm90 ? 1 : 2,
           by_sm90 ? rows : 1, terms);  // TMA brings some of one kind, then of the other
  }
  if constexpr (sizeof(S) == 2) {
    if (one_pass) return attention_one_pass_sm90<S>(context, p, g, terms, padded);
    if (by_sm90) return attention_two_passes_sm90<S>(context, p, g, terms, padded);
  }
  // Keys that no query sees by causality are never looked at.
  if (g.dmask.data && p.causal && g.dmask.size() > 0) {
    check_cuda(cudaMemsetAsync(g.dmask.data, 0, static_cast<size_t>(g.dmask.nbytes()), stream_of(context)),
               "attention");
  }
  if constexpr (sizeof(S) == 8) {
    backward_by_multiply_adds<S>(context, p, g, terms, nullptr);
  } else {
    with_planes<S>(context, [&](auto planes) {
      constexpr int kPlanes = decltype(planes)::value;
      with_features<kPlanes>(p, [&](auto features) {
        constexpr int kFeatures = decltype(features)::value;
        if constexpr (kFeatures > 0) {
          if (has_shared_memory(sizeof(BackwardShared<product_t<S>, kPlanes, kFeatures, true>)) &&
              has_shared_memory(sizeof(BackwardShared<product_t<S>, kPlanes, kFeatures, false>)))
            return backward_by_tensor_cores<S, kPlanes, kFeatures>(context, p, g, terms);
        }
        backward_by_multiply_adds<S>(context, p, g, terms, nullptr);
      });
    });
  }
}

}  // namespace fastdl::cuda
