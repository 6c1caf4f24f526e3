"""Loops of launches that become graphs (csrc/cuda/launch_loop.h): alone, and as the steps of recurrent layers that no
single kernel takes. On the host executor, whose log has a line for every launch of a graph."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_cuda_abi import on_host_memory, run_program
from test_simt import COMPILER, ROOT, _compile, _names, run

CASES = _names("loops")


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """tests/simt/loops.cpp with the executor and the code of loops and contexts."""
    folder = tmp_path_factory.mktemp("loops")
    csrc = ROOT / "csrc"
    sources = [
        *sorted((csrc / "simt").glob("*.cpp")),
        csrc / "common/error.cpp",
        ROOT / "tests/simt/loops.cpp",
    ]
    sources += [csrc / f for f in ("common/version.cpp", "cuda/context.cu", "cuda/launch_loop.cu")]
    objects = [folder / f"{source.parent.name}_{source.stem}.o" for source in sources]
    flags = ["-O1", f"-I{csrc}/include", "-DFASTDL_BUILDING", "-c", "-x", "c++"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: _compile([pair[0]], pair[1], *flags), zip(sources, objects, strict=True)))
    return _compile(objects, folder / "loops")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not COMPILER or os.name != "posix", reason="needs a C++ compiler on a POSIX system")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="builds its own program")
def test_loops(loops):
    for case in CASES:
        assert run(loops, case).split() == [f"{case}:", "done"]


PROGRAM = r"""
#include <fastdl/cuda.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

using fastdl::cuda::Tensor;

// Every call gets the memory that the call before it had.
alignas(256) char arena[1 << 20];
size_t used = 0, blocks = 0;
void* take(size_t bytes, void*, void*) {
  void* const p = arena + used;
  std::memset(p, 0xFF, bytes);
  used += (bytes + 255) / 256 * 256, ++blocks;
  return p;
}
void give(void*, size_t, void*, void*) {
  if (--blocks == 0) used = 0;
}

int graphs() {
  int count = 0;
  char line[4096];
  if (FILE* const file = std::fopen(std::getenv("FASTDL_SIMT_LOG"), "r")) {
    while (std::fgets(line, sizeof line, file)) count += std::strncmp(line, "graph", 5) == 0;
    std::fclose(file);
  }
  return count;
}

struct Layer {
  static constexpr int64_t T = 9, B = 3, H = 5, P = 4;
  fastdl_rnn_options options = FASTDL_RNN_OPTIONS_INIT;
  int64_t state = H;
  std::vector<std::vector<double>> params, grads;
  std::vector<int64_t> shapes;
  std::vector<double> x, h0, c0, y, hn, cn, dx, reserve;

  Layer(int32_t kind, bool projection) {
    options.kind = kind, options.bidirectional = 1, options.has_bias = 0, options.has_projection = projection;
    if (projection) state = P;
    const int64_t gates = kind == FASTDL_RNN_LSTM ? 4 : kind == FASTDL_RNN_GRU ? 3 : 1;
    for (int d = 0; d < 2; ++d) {
      add(gates * H, 2);
      add(gates * H, state);
      if (projection) add(state, H);
    }
    x.resize(T * B * 2), dx.resize(T * B * 2), y.resize(T * B * 2 * state), hn.resize(2 * B * state);
    h0.assign(2 * B * state, 0.3), c0.assign(2 * B * H, -0.2), cn.resize(2 * B * H);
    int64_t n = 0;
    fastdl::cuda::rnn_reserve_size(&options, T * B, H, state, &n);
    reserve.resize(n);
  }
  void add(int64_t rows, int64_t columns) {
    params.emplace_back(rows * columns), grads.emplace_back(rows * columns);
    for (double& w : params.back()) w = std::rand() / double(RAND_MAX) - 0.5;
    shapes.push_back(rows), shapes.push_back(columns);
  }
  // Everything that forward and backward make of an x.
  std::vector<double> run(fastdl_context* context, double seed) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = 0.1 * double((i * 7) % 11) - seed;
    std::vector<Tensor> weights, gradients;
    for (size_t i = 0; i < params.size(); ++i) {
      weights.emplace_back(params[i].data(), std::initializer_list<int64_t>{shapes[2 * i], shapes[2 * i + 1]});
      gradients.emplace_back(grads[i].data(), std::initializer_list<int64_t>{shapes[2 * i], shapes[2 * i + 1]});
    }
    std::vector<const fastdl_tensor*> w, g;
    for (size_t i = 0; i < params.size(); ++i) w.push_back(weights[i]), g.push_back(gradients[i]);
    const bool lstm = options.kind == FASTDL_RNN_LSTM;
    const Tensor tx(x.data(), {T, B, 2}), th(h0.data(), {2, B, state}), tc(c0.data(), {2, B, H}),
        ty(y.data(), {T, B, 2 * state}), thn(hn.data(), {2, B, state}), tcn(cn.data(), {2, B, H}),
        tdx(dx.data(), {T, B, 2}), tr(reserve.data(), {int64_t(reserve.size())});
    const fastdl_tensor* const none = nullptr;
    fastdl::cuda::rnn_forward(context, tx, th, lstm ? static_cast<const fastdl_tensor*>(tc) : none, w.data(),
                              int32_t(w.size()), nullptr, ty, thn, lstm ? static_cast<const fastdl_tensor*>(tcn) : none,
                              tr, &options);
    fastdl::cuda::rnn_backward(context, ty, thn, nullptr, tx, th, lstm ? static_cast<const fastdl_tensor*>(tc) : none,
                               w.data(), int32_t(w.size()), nullptr, ty, tr, tdx, nullptr, nullptr, g.data(), &options);
    std::vector<double> all = y;
    for (const auto* part : {&hn, &dx}) all.insert(all.end(), part->begin(), part->end());
    for (const auto& part : grads) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
};

int main() {
  fastdl_cuda_context_options options = FASTDL_CUDA_CONTEXT_OPTIONS_INIT;
  options.allocate = take, options.deallocate = give;
  fastdl_context *context = nullptr, *plain = nullptr;
  fastdl_cuda_context_create(&options, &context);
  for (int kind : {int(FASTDL_RNN_TANH), int(FASTDL_RNN_GRU), int(FASTDL_RNN_LSTM), -1}) {
    Layer layer(kind < 0 ? FASTDL_RNN_LSTM : kind, kind < 0);
    for (int call = 0; call < 4; ++call) {
      fastdl_cuda_context_create(&options, &plain);
      const std::vector<double> expected = layer.run(plain, 0.1 * call);
      fastdl_cuda_context_destroy(plain);
      const int before = graphs();
      const std::vector<double> all = layer.run(context, 0.1 * call);
      const bool same = std::memcmp(all.data(), expected.data(), all.size() * sizeof(double)) == 0;
      std::printf("%d%s ", graphs() - before, same ? "" : " DIFFERENT");
    }
    std::printf("\n");
  }
  fastdl_cuda_context_destroy(context);
}
"""


class TestRecurrentLayers:
    pytestmark = on_host_memory

    def test_steps_become_graphs(self, tmp_path, monkeypatch):
        """Graphs that each of four calls launches, forward and backward; x differs from call to call."""
        monkeypatch.setenv("FASTDL_SIMT_LOG", str(tmp_path / "log"))
        out = run_program("c++", PROGRAM, "program.cpp", "-std=c++17", tmp_path)
        assert [line.split() for line in out] == [["0", "2", "2", "2"]] * 4
