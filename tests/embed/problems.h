// One call or two of every family, large enough for several threads: what the programs beside this file
// compare between contexts and run from several threads at once.
#pragma once

#include <fastdl/fastdl.hpp>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

using Bytes = std::vector<unsigned char>;
using Floats = std::vector<float>;

struct Problem {
  std::string name;
  std::function<Bytes(fastdl_context*)> run;  // the bytes of all results
};

// Numbers in [-1, 1), the same on every machine.
inline Floats numbers(int64_t count, uint32_t seed) {
  Floats x(static_cast<std::size_t>(count));
  uint32_t state = seed * 2654435761u + 1;
  for (float& v : x) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    v = static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
  }
  return x;
}

// Results begin as NaN, so that what is not written shows.
inline Floats room(int64_t count) { return Floats(static_cast<std::size_t>(count), std::nanf("")); }

template <class... Vectors>
Bytes bytes_of(const Vectors&... vectors) {
  Bytes all;
  const auto add = [&](const auto& v) {
    const auto* p = reinterpret_cast<const unsigned char*>(v.data());
    all.insert(all.end(), p, p + v.size() * sizeof v[0]);
  };
  (add(vectors), ...);
  return all;
}

inline Bytes matrix_products(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t m = 150, k = 130, n = 170;
  const Floats a = numbers(m * k, 1), b = numbers(k * n, 2), bias = numbers(n, 3), v = numbers(k, 4);
  Floats c = room(m * n), d = room(m * n), e = room(m), da = room(m * k), db = room(n * k), dbias = room(n);
  fastdl_matmul_options gelu = FASTDL_MATMUL_OPTIONS_INIT;
  gelu.activation.kind = FASTDL_ACT_GELU;
  const Tensor ta(a.data(), {m, k}), tb(b.data(), {k, n}), tbias(bias.data(), {n}), tc(c.data(), {m, n});
  fastdl::matmul(context, ta, tb, tbias, nullptr, tc, &gelu);
  int64_t size = 0;
  fastdl::matmul_packed_b_size(context, tb, &size);
  Floats packed = room(size);
  fastdl::matmul_pack_b(context, tb, Tensor(packed.data(), {size}));
  fastdl::matmul_packed(context, ta, Tensor(packed.data(), {size}), tbias, nullptr, Tensor(d.data(), {m, n}),
                        nullptr);
  fastdl::matmul(context, ta, Tensor(v.data(), {k}), nullptr, nullptr, Tensor(e.data(), {m}), nullptr);
  fastdl::linear_backward(context, tc, nullptr, ta, Tensor(b.data(), {n, k}, {1, n}),
                          Tensor(da.data(), {m, k}), Tensor(db.data(), {n, k}), Tensor(dbias.data(), {n}),
                          nullptr);
  std::vector<fastdl::bfloat16> na(a.size()), nb(b.size()), nc(c.size());
  const Tensor tna(na.data(), {m, k}), tnb(nb.data(), {k, n});
  fastdl::convert(context, ta, tna);
  fastdl::convert(context, tb, tnb);
  fastdl::matmul(context, tna, tnb, nullptr, nullptr, Tensor(nc.data(), {m, n}), nullptr);
  return bytes_of(c, d, e, da, db, dbias, nc);
}

inline Bytes convolutions(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t n = 3, c = 16, o = 24, s = 18;
  const Floats x = numbers(n * c * s * s, 5), w = numbers(o * c * 9, 6), bias = numbers(o, 7);
  Floats y = room(n * o * s * s), dx = room(n * c * s * s), dw = room(o * c * 9), db = room(o), deep = dx;
  fastdl_conv_options options = FASTDL_CONV_OPTIONS_INIT;
  for (int i = 0; i < 2; ++i) options.padding[i] = options.padding_end[i] = 1;
  const Tensor tx(x.data(), {n, c, s, s}), tw(w.data(), {o, c, 3, 3}), ty(y.data(), {n, o, s, s});
  fastdl::conv_forward(context, tx, tw, Tensor(bias.data(), {o}), nullptr, ty, &options);
  fastdl::conv_backward_data(context, ty, nullptr, tw, Tensor(dx.data(), {n, c, s, s}), &options);
  fastdl::conv_backward_weight(context, ty, nullptr, tx, Tensor(dw.data(), {o, c, 3, 3}),
                               Tensor(db.data(), {o}), &options);
  fastdl_conv_options depthwise = options;
  depthwise.groups = c;
  fastdl::conv_forward(context, tx, Tensor(w.data(), {c, 1, 3, 3}), nullptr, nullptr,
                       Tensor(deep.data(), {n, c, s, s}), &depthwise);
  Floats columns = room(n * c * 9 * s * s), image = room(n * c * s * s);
  const int64_t kernel[2] = {3, 3};
  const Tensor tcolumns(columns.data(), {n, c * 9, s * s});
  fastdl::unfold(context, tx, kernel, tcolumns, &options);
  fastdl::fold(context, tcolumns, kernel, Tensor(image.data(), {n, c, s, s}), &options);
  return bytes_of(y, dx, dw, db, deep, columns, image);
}

// One convolution of square images with its gradients, as float32 or bfloat16.
inline Bytes convolution(fastdl_context* context, int64_t n, int64_t c, int64_t o, int64_t s, int64_t kernel,
                         int64_t stride, int64_t groups, bool narrow, int32_t activation) {
  using fastdl::Tensor;
  const int64_t pad = kernel / 2, p = (s + 2 * pad - kernel) / stride + 1, taps = kernel * kernel;
  fastdl_conv_options options = FASTDL_CONV_OPTIONS_INIT;
  options.groups = groups;
  options.activation.kind = activation;
  for (int i = 0; i < 2; ++i) options.stride[i] = stride, options.padding[i] = options.padding_end[i] = pad;
  const int64_t sizes[] = {n * c * s * s, o * c / groups * taps, n * o * p * p};
  const Floats x = numbers(sizes[0], 40), w = numbers(sizes[1], 41);
  Floats y = room(sizes[2]), dx = room(sizes[0]), dw = room(sizes[1]), db = room(o);
  std::vector<fastdl::bfloat16> narrows[5], narrow_bias(db.size());
  for (int i = 0; i < 5; ++i) narrows[i].resize(static_cast<std::size_t>(narrow ? sizes[i % 3] : 0));
  const auto image = [&](auto& v) { return Tensor(v.data(), {n, c, s, s}); };
  const auto weight = [&](auto& v) { return Tensor(v.data(), {o, c / groups, kernel, kernel}); };
  const auto result = [&](auto& v) { return Tensor(v.data(), {n, o, p, p}); };
  const auto all = [&](const Tensor& tx, const Tensor& tw, const Tensor& ty, const Tensor& tdx,
                       const Tensor& tdb, const Tensor& tdw) {
    fastdl::conv_forward(context, tx, tw, nullptr, nullptr, ty, &options);
    const fastdl_tensor* const saved = activation ? static_cast<const fastdl_tensor*>(ty) : nullptr;
    fastdl::conv_backward_data(context, ty, saved, tw, tdx, &options);
    fastdl::conv_backward_weight(context, ty, saved, tx, tdw, tdb, &options);
  };
  if (!narrow) {
    all(image(x), weight(w), result(y), image(dx), Tensor(db.data(), {o}), weight(dw));
    return bytes_of(y, dx, dw, db);
  }
  fastdl::convert(context, image(x), image(narrows[0]));
  fastdl::convert(context, weight(w), weight(narrows[1]));
  all(image(narrows[0]), weight(narrows[1]), result(narrows[2]), image(narrows[3]),
      Tensor(narrow_bias.data(), {o}), weight(narrows[4]));
  return bytes_of(narrows[2], narrows[3], narrows[4], narrow_bias);
}

inline Bytes convolutions_of_all_kinds(fastdl_context* context) {
  using fastdl::Tensor;
  Bytes all;
  const auto add = [&](const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); };
  for (const bool narrow : {false, true}) {
    add(convolution(context, 2, 48, 48, 12, 3, 1, 1, narrow,
                    FASTDL_ACT_NONE));  // transformed, where that pays
    add(convolution(context, 2, 16, 24, 13, 3, 2, 1, narrow, FASTDL_ACT_RELU));
    add(convolution(context, 2, 24, 16, 12, 1, 1, 1, narrow, FASTDL_ACT_SIGMOID));
    add(convolution(context, 3, 16, 16, 12, 3, 1, 16, narrow, FASTDL_ACT_NONE));
    add(convolution(context, 2, 16, 32, 10, 3, 1, 4, narrow, FASTDL_ACT_NONE));
    add(convolution(context, 4, 1, 8, 20, 3, 1, 1, narrow, FASTDL_ACT_RELU));
    add(convolution(context, 2, 3, 16, 24, 7, 2, 1, narrow, FASTDL_ACT_NONE));
  }
  // The gradients of convolution, ReLU and pooling together.
  const int64_t n = 4, c = 8, o = 16, s = 12, half = s / 2;
  const Floats x = numbers(n * c * s * s, 42), w = numbers(o * c * 9, 43),
               g = numbers(n * o * half * half, 44);
  Floats y = room(n * o * s * s), pooled = room(n * o * half * half), dx = room(n * c * s * s),
         dw = room(o * c * 9), db = room(o);
  std::vector<int32_t> indices(pooled.size());
  fastdl_conv_options options = FASTDL_CONV_OPTIONS_INIT;
  fastdl_pool_options pool = FASTDL_POOL_OPTIONS_INIT;
  options.activation.kind = FASTDL_ACT_RELU;
  for (int i = 0; i < 2; ++i)
    options.padding[i] = options.padding_end[i] = 1, pool.kernel[i] = pool.stride[i] = 2;
  const Tensor tx(x.data(), {n, c, s, s}), tw(w.data(), {o, c, 3, 3}), ty(y.data(), {n, o, s, s});
  const Tensor tp(pooled.data(), {n, o, half, half}), ti(indices.data(), {n, o, half, half});
  fastdl::conv_forward(context, tx, tw, nullptr, nullptr, ty, &options);
  fastdl::max_pool_forward(context, ty, tp, ti, &pool);
  fastdl::conv_pool_backward(context, Tensor(g.data(), {n, o, half, half}), tp, ti, tx, tw,
                             Tensor(dx.data(), {n, c, s, s}), Tensor(dw.data(), {o, c, 3, 3}),
                             Tensor(db.data(), {o}), &options);
  add(bytes_of(y, pooled, dx, dw, db));
  return all;
}

inline Bytes recurrent_layers(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t t = 10, b = 12, i = 40, h = 48;
  fastdl_rnn_options options = FASTDL_RNN_OPTIONS_INIT;
  options.kind = FASTDL_RNN_LSTM;
  const Floats x = numbers(t * b * i, 8), wi = numbers(4 * h * i, 9), wh = numbers(4 * h * h, 10),
               bi = numbers(4 * h, 11), bh = numbers(4 * h, 12), gy = numbers(t * b * h, 13);
  const Tensor tx(x.data(), {t, b, i}), twi(wi.data(), {4 * h, i}), twh(wh.data(), {4 * h, h}),
      tbi(bi.data(), {4 * h}), tbh(bh.data(), {4 * h});
  const fastdl_tensor* params[] = {twi, twh, tbi, tbh};
  int64_t size = 0;
  fastdl::rnn_reserve_size(&options, t * b, h, h, &size);
  Floats y = room(t * b * h), hn = room(b * h), cn = room(b * h), kept = room(size), dx = room(t * b * i),
         dwi = room(4 * h * i), dwh = room(4 * h * h), dbi = room(4 * h), dbh = room(4 * h);
  const Tensor ty(y.data(), {t, b, h}), reserve(kept.data(), {size});
  fastdl::rnn_forward(context, tx, nullptr, nullptr, params, 4, nullptr, ty, Tensor(hn.data(), {1, b, h}),
                      Tensor(cn.data(), {1, b, h}), reserve, &options);
  const Tensor tdwi(dwi.data(), {4 * h, i}), tdwh(dwh.data(), {4 * h, h}), tdbi(dbi.data(), {4 * h}),
      tdbh(dbh.data(), {4 * h});
  const fastdl_tensor* gradients[] = {tdwi, tdwh, tdbi, tdbh};
  fastdl::rnn_backward(context, Tensor(gy.data(), {t, b, h}), nullptr, nullptr, tx, nullptr, nullptr, params,
                       4, nullptr, ty, reserve, Tensor(dx.data(), {t, b, i}), nullptr, nullptr, gradients,
                       &options);
  return bytes_of(y, hn, cn, dx, dwi, dwh, dbi, dbh);
}

inline Bytes attention(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t b = 2, h = 3, l = 90, e = 32, size = b * h * l * e;
  fastdl_attention_options options = FASTDL_ATTENTION_OPTIONS_INIT;
  options.is_causal = 1;
  const Floats q = numbers(size, 14), k = numbers(size, 15), v = numbers(size, 16), g = numbers(size, 17);
  Floats out = room(size), lse = room(b * h * l), dq = room(size), dk = room(size), dv = room(size);
  const auto view = [&](auto& x) { return Tensor(x.data(), {b, h, l, e}); };
  const Tensor tlse(lse.data(), {b, h, l});
  fastdl::attention_forward(context, view(q), view(k), view(v), nullptr, view(out), tlse, &options);
  fastdl::attention_backward(context, view(g), view(q), view(k), view(v), nullptr, view(out), tlse, view(dq),
                             view(dk), view(dv), nullptr, &options);
  return bytes_of(out, lse, dq, dk, dv);
}

inline Bytes norms(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t n = 6, c = 32, s = 24, rows = n * c, size = rows * s * s;
  const Floats x = numbers(size, 18), g = numbers(size, 19), w = numbers(s * s, 20), v = numbers(c, 21);
  Floats y = room(size), dx = room(size), dw = room(s * s), db = room(s * s), mean = room(rows),
         rstd = room(rows);
  const Tensor lx(x.data(), {rows, s * s}), lg(g.data(), {rows, s * s}), lw(w.data(), {s * s});
  const Tensor tmean(mean.data(), {rows}), trstd(rstd.data(), {rows});
  fastdl::layer_norm_forward(context, lx, lw, lw, Tensor(y.data(), {rows, s * s}), tmean, trstd, 1, 1e-5);
  fastdl::layer_norm_backward(context, lg, lx, lw, tmean, trstd, Tensor(dx.data(), {rows, s * s}),
                              Tensor(dw.data(), {s * s}), Tensor(db.data(), {s * s}), 1);
  Bytes all = bytes_of(y, dx, dw, db, mean, rstd);
  Floats cmean = room(c), crstd = room(c), dv = room(c), du = room(c);
  const Tensor bx(x.data(), {n, c, s, s}), by(y.data(), {n, c, s, s}), tv(v.data(), {c});
  const Tensor tcmean(cmean.data(), {c}), tcrstd(crstd.data(), {c});
  fastdl::batch_norm_forward(context, bx, tv, tv, nullptr, nullptr, by, tcmean, tcrstd, nullptr);
  fastdl::batch_norm_backward(context, Tensor(g.data(), {n, c, s, s}), bx, tv, tcmean, tcrstd,
                              Tensor(dx.data(), {n, c, s, s}), Tensor(dv.data(), {c}), Tensor(du.data(), {c}),
                              1);
  const Bytes more = bytes_of(y, dx, cmean, crstd, dv, du);
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

inline Bytes rows_and_losses(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t rows = 160, c = 400;
  const Floats x = numbers(rows * c, 22), g = numbers(rows * c, 23), weight = numbers(90 * c, 24);
  Floats y = room(rows * c), dy = room(rows * c), dx = room(rows * c), loss = room(1),
         looked_up = room(rows * c), dweight = room(90 * c);
  std::vector<int64_t> labels(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int64_t>(i * 7 % 90);
  const Tensor tx(x.data(), {rows, c}), ty(y.data(), {rows, c}), tg(g.data(), {rows, c});
  const Tensor tlabels(labels.data(), {rows});
  fastdl::softmax_forward(context, tx, ty, 1, FASTDL_SOFTMAX);
  fastdl::softmax_backward(context, tg, ty, Tensor(dy.data(), {rows, c}), 1, FASTDL_SOFTMAX);
  fastdl::cross_entropy(context, tx, tlabels, nullptr, Tensor(loss.data(), {}), Tensor(dx.data(), {rows, c}),
                        nullptr);
  fastdl::embedding_forward(context, Tensor(weight.data(), {90, c}), tlabels,
                            Tensor(looked_up.data(), {rows, c}));
  fastdl::embedding_backward(context, tg, tlabels, Tensor(dweight.data(), {90, c}), -1, 0);
  return bytes_of(y, dy, loss, dx, looked_up, dweight);
}

inline Bytes pools(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t n = 4, c = 24, s = 32, half = s / 2;
  const Floats x = numbers(n * c * s * s, 25);
  Floats y = room(n * c * half * half), z = y, dx = room(n * c * s * s), dz = dx;
  std::vector<int32_t> indices(y.size());
  fastdl_pool_options options = FASTDL_POOL_OPTIONS_INIT;
  for (int i = 0; i < 2; ++i) options.kernel[i] = options.stride[i] = 2;
  const Tensor tx(x.data(), {n, c, s, s}), ty(y.data(), {n, c, half, half});
  const Tensor tz(z.data(), {n, c, half, half}), ti(indices.data(), {n, c, half, half});
  fastdl::max_pool_forward(context, tx, ty, ti, &options);
  fastdl::max_pool_backward(context, ty, ti, Tensor(dx.data(), {n, c, s, s}), &options);
  fastdl::avg_pool_forward(context, tx, tz, &options);
  fastdl::avg_pool_backward(context, tz, Tensor(dz.data(), {n, c, s, s}), &options);
  return bytes_of(y, indices, dx, z, dz);
}

inline Bytes elementwise(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t n = 90000;
  const Floats x = numbers(n, 26), g = numbers(n, 27);
  Floats y = room(n), dx = room(n), kept = room(n), sum = room(n), e = room(n);
  const fastdl_activation silu = {FASTDL_ACT_SILU, 0, 0};
  const Tensor tx(x.data(), {n}), tg(g.data(), {n});
  fastdl::activation_forward(context, tx, Tensor(y.data(), {n}), &silu);
  fastdl::activation_backward(context, tg, tx, Tensor(dx.data(), {n}), &silu, 0);
  fastdl::dropout(context, tx, Tensor(kept.data(), {n}), 0.3, 5, 7);
  fastdl::arithmetic(context, tx, tg, 0, Tensor(sum.data(), {n}), FASTDL_DIV);
  fastdl::elementary(context, tx, Tensor(e.data(), {n}), FASTDL_EXP);
  return bytes_of(y, dx, kept, sum, e);
}

inline Bytes optimizer_steps(fastdl_context* context) {
  using fastdl::Tensor;
  const int64_t n = 60000, m = 300;
  Floats p = numbers(n, 28), q = numbers(m, 29), g = numbers(n, 30), h = numbers(m, 31);
  Floats p1(p.size()), p2(p.size()), q1(q.size()), q2(q.size()), step{0}, other{0};
  const Tensor tp(p.data(), {n}), tq(q.data(), {m}), tg(g.data(), {n}), th(h.data(), {m}),
      tp1(p1.data(), {n}), tp2(p2.data(), {n}), tq1(q1.data(), {m}), tq2(q2.data(), {m}), ts(step.data(), {}),
      to(other.data(), {});
  const fastdl_tensor *params[] = {tp, tq}, *grads[] = {tg, th}, *avgs[] = {tp1, tq1},
                      *squares[] = {tp2, tq2}, *steps[] = {ts, to};
  std::vector<double> norm{0};
  fastdl::norm(context, 2, grads, 2.0, norm.data());
  fastdl::clip_norm(context, 2, grads, norm[0] / 3, norm.data());
  for (int i = 0; i < 3; ++i)
    fastdl::adam_step(context, 2, params, grads, avgs, squares, nullptr, steps, nullptr);
  return bytes_of(norm, p, q, g, h, p1, q2, step);
}

inline std::vector<Problem> problems() {
  return {{"matrix products", matrix_products},
          {"convolutions", convolutions},
          {"convolutions of all kinds", convolutions_of_all_kinds},
          {"recurrent layers", recurrent_layers},
          {"attention", attention},
          {"norms", norms},
          {"rows and losses", rows_and_losses},
          {"pools", pools},
          {"elementwise", elementwise},
          {"optimizer steps", optimizer_steps}};
}
