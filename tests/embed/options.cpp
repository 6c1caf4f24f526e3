// Options structs of other versions: a caller's may end after any field, the rest being whatever lies there,
// or go on with fields that the library does not know.
#include <cstdio>
#include <cstring>

#include "problems.h"

namespace {

using fastdl::Tensor;
int failures = 0;

// call(options) returns what the op computed from them.
template <class Options, class Call>
void check(const char* name, const Options& defaults, Call&& call) {
  const Bytes expected = call(&defaults);
  struct Longer {
    Options known;
    unsigned char unknown[40];
  } longer;
  for (std::size_t size = sizeof(std::size_t); size <= sizeof longer; size += 4) {
    std::memset(static_cast<void*>(&longer), 0xa5, sizeof longer);
    std::memcpy(static_cast<void*>(&longer), &defaults, size < sizeof defaults ? size : sizeof defaults);
    longer.known.struct_size = size;
    try {
      if (call(&longer.known) == expected) continue;
      std::printf("%s of %zu bytes: other results\n", name, size);
    } catch (const fastdl::Error& e) {
      std::printf("%s of %zu bytes: %s\n", name, size, e.what());
    }
    ++failures;
  }
  longer.known = defaults;
  longer.known.struct_size = sizeof(std::size_t) - 1;
  try {
    call(&longer.known);
    std::printf("%s without a size were taken\n", name), ++failures;
  } catch (const fastdl::Error& e) {
    if (e.status() != FASTDL_ERROR_VALUE) std::printf("%s: %s\n", name, e.what()), ++failures;
  }
}

}  // namespace

int main() {
  const Floats x = numbers(96, 1), w = numbers(96, 2);
  Floats y = room(96);
  const auto results = [&] { return bytes_of(y); };

  check("context", fastdl_context_options FASTDL_CONTEXT_OPTIONS_INIT, [&](const auto* o) {
    const fastdl::Context context(*o);
    fastdl::softmax_forward(context, Tensor(x.data(), {8, 12}), Tensor(y.data(), {8, 12}), 1, FASTDL_SOFTMAX);
    return results();
  });
  check("matmul", fastdl_matmul_options FASTDL_MATMUL_OPTIONS_INIT, [&](const auto* o) {
    fastdl::matmul(nullptr, Tensor(x.data(), {8, 12}), Tensor(w.data(), {12, 8}), nullptr, nullptr,
                   Tensor(y.data(), {8, 8}), o);
    return results();
  });
  check("conv", fastdl_conv_options FASTDL_CONV_OPTIONS_INIT, [&](const auto* o) {
    fastdl::conv_forward(nullptr, Tensor(x.data(), {1, 2, 6, 8}), Tensor(w.data(), {2, 2, 3, 3}), nullptr,
                         nullptr, Tensor(y.data(), {1, 2, 4, 6}), o);
    return results();
  });
  check("pool", fastdl_pool_options FASTDL_POOL_OPTIONS_INIT, [&](const auto* o) {
    fastdl::avg_pool_forward(nullptr, Tensor(x.data(), {1, 2, 6, 8}), Tensor(y.data(), {1, 2, 6, 8}), o);
    return results();
  });
  check("attention", fastdl_attention_options FASTDL_ATTENTION_OPTIONS_INIT, [&](const auto* o) {
    const Tensor q(x.data(), {1, 2, 6, 8}), k(w.data(), {1, 2, 6, 8});
    fastdl::attention_forward(nullptr, q, k, k, nullptr, Tensor(y.data(), {1, 2, 6, 8}), nullptr, o);
    return results();
  });
  check("rnn", fastdl_rnn_options FASTDL_RNN_OPTIONS_INIT, [&](const auto* o) {
    const Tensor wi(w.data(), {4, 3}), wh(w.data(), {4, 4}), b(w.data(), {4});
    const fastdl_tensor* params[] = {wi, wh, b, b};
    fastdl::rnn_forward(nullptr, Tensor(x.data(), {6, 4, 3}), nullptr, nullptr, params, 4, nullptr,
                        Tensor(y.data(), {6, 4, 4}), nullptr, nullptr, nullptr, o);
    return results();
  });
  check("batch norm", fastdl_batch_norm_options FASTDL_BATCH_NORM_OPTIONS_INIT, [&](const auto* o) {
    Floats mean = room(12), rstd = room(12);
    fastdl::batch_norm_forward(nullptr, Tensor(x.data(), {8, 12}), nullptr, nullptr, nullptr, nullptr,
                               Tensor(y.data(), {8, 12}), Tensor(mean.data(), {12}),
                               Tensor(rstd.data(), {12}), o);
    return results();
  });
  check("embedding bag", fastdl_embedding_bag_options FASTDL_EMBEDDING_BAG_OPTIONS_INIT, [&](const auto* o) {
    const int64_t indices[] = {3, 1, 4, 1, 5, 2}, offsets[] = {0, 2, 2};
    fastdl::embedding_bag_forward(nullptr, Tensor(w.data(), {8, 12}), Tensor(indices, {6}),
                                  Tensor(offsets, {3}), nullptr, Tensor(y.data(), {3, 12}), nullptr, o);
    return results();
  });
  check("cross entropy", fastdl_cross_entropy_options FASTDL_CROSS_ENTROPY_OPTIONS_INIT, [&](const auto* o) {
    const int64_t labels[] = {3, 1, 4, 1, 5, 9, 2, 6};
    fastdl::cross_entropy(nullptr, Tensor(x.data(), {8, 12}), Tensor(labels, {8}), nullptr,
                          Tensor(y.data(), {}), nullptr, o);
    return results();
  });
  check("loss", fastdl_loss_options FASTDL_LOSS_OPTIONS_INIT, [&](const auto* o) {
    fastdl::loss(nullptr, Tensor(x.data(), {96}), Tensor(w.data(), {96}), nullptr, nullptr,
                 Tensor(y.data(), {}), nullptr, o);
    return results();
  });

  // Optimizers change what they are given.
  Floats p, first, second, step;
  const Tensor g(x.data(), {96});
  const fastdl_tensor* grads[] = {g};
  const auto stepping = [&](auto&& take) {
    p = w, first = second = Floats(96), step = {0};
    const Tensor tp(p.data(), {96}), t1(first.data(), {96}), t2(second.data(), {96}), ts(step.data(), {});
    const fastdl_tensor *params[] = {tp}, *firsts[] = {t1}, *seconds[] = {t2}, *steps[] = {ts};
    take(params, firsts, seconds, steps);
    return bytes_of(p, first, second);
  };
  check("sgd", fastdl_sgd_options FASTDL_SGD_OPTIONS_INIT, [&](const auto* o) {
    return stepping([&](auto& params, auto& firsts, auto&, auto&) {
      fastdl::sgd_step(nullptr, 1, params, grads, firsts, nullptr, o);
    });
  });
  check("adam", fastdl_adam_options FASTDL_ADAM_OPTIONS_INIT, [&](const auto* o) {
    return stepping([&](auto& params, auto& firsts, auto& seconds, auto& steps) {
      fastdl::adam_step(nullptr, 1, params, grads, firsts, seconds, nullptr, steps, o);
    });
  });
  check("adagrad", fastdl_adagrad_options FASTDL_ADAGRAD_OPTIONS_INIT, [&](const auto* o) {
    return stepping([&](auto& params, auto& firsts, auto&, auto& steps) {
      fastdl::adagrad_step(nullptr, 1, params, grads, firsts, steps, o);
    });
  });
  check("rmsprop", fastdl_rmsprop_options FASTDL_RMSPROP_OPTIONS_INIT, [&](const auto* o) {
    return stepping([&](auto& params, auto& firsts, auto&, auto& steps) {
      fastdl::rmsprop_step(nullptr, 1, params, grads, firsts, nullptr, nullptr, steps, o);
    });
  });

  // Which headers the library serves.
  const auto served = [](int32_t header) { return fastdl_version_check(header) == FASTDL_OK; };
  if (!served(FASTDL_VERSION) || !served(FASTDL_VERSION_MAJOR * 1000000) || !served(FASTDL_VERSION + 1) ||
      served(FASTDL_VERSION + 1000) || served(FASTDL_VERSION + 1000000) || served(-1)) {
    std::printf("fastdl_version_check\n"), ++failures;
  }
  fastdl_version_check((FASTDL_VERSION_MAJOR + 3) * 1000000 + 2001);
  std::printf("%s\n", fastdl_last_error());
  return failures ? 1 : 0;
}
