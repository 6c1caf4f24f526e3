// An inference server without Python: an MLP whose weights are packed once, then requests line by line.
//
//   classifier WEIGHTS < requests       a line of numbers in, the number of its class out
//
// WEIGHTS: for each layer its weight (out, in) and bias (out, 1), each as two int64 extents and float32
// numbers.
#include <fastdl/fastdl.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Array {
  int64_t rows = 0, columns = 0;
  std::vector<float> data;
};

bool read(std::istream& in, Array& a) {
  int64_t shape[2];
  if (!in.read(reinterpret_cast<char*>(shape), sizeof shape)) return false;
  a.rows = shape[0];
  a.columns = shape[1];
  a.data.resize(static_cast<std::size_t>(a.rows * a.columns));
  const auto bytes = static_cast<std::streamsize>(a.data.size() * sizeof(float));
  if (!in.read(reinterpret_cast<char*>(a.data.data()), bytes))
    throw std::runtime_error("weights are cut short");
  return true;
}

class Linear {
 public:
  Linear(Array weight, Array bias, bool relu)
      : inputs_(weight.columns), outputs_(weight.rows), bias_(std::move(bias.data)) {
    // y = x W^T: the transposed view of the weights is what gets packed.
    const fastdl::Tensor transposed(weight.data.data(), {inputs_, outputs_}, {1, inputs_});
    int64_t size = 0;
    fastdl::matmul_packed_b_size(nullptr, transposed, &size);
    packed_.resize(static_cast<std::size_t>(size));
    fastdl::matmul_pack_b(nullptr, transposed, fastdl::Tensor(packed_.data(), {size}));
    if (relu) options_.activation.kind = FASTDL_ACT_RELU;
  }
  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }

  void operator()(const std::vector<float>& x, std::vector<float>& y) const {
    y.resize(static_cast<std::size_t>(outputs_));
    fastdl::matmul_packed(nullptr, fastdl::Tensor(x.data(), {inputs_}),
                          fastdl::Tensor(packed_.data(), {static_cast<int64_t>(packed_.size())}),
                          fastdl::Tensor(bias_.data(), {outputs_}), nullptr,
                          fastdl::Tensor(y.data(), {outputs_}), &options_);
  }

 private:
  int64_t inputs_, outputs_;
  std::vector<float> packed_, bias_;
  fastdl_matmul_options options_ = FASTDL_MATMUL_OPTIONS_INIT;
};

std::vector<Linear> load(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  std::vector<Linear> layers;
  Array weight, bias, next;
  for (bool more = read(file, weight); more; weight = std::move(next)) {
    if (!read(file, bias) || bias.rows != weight.rows) throw std::runtime_error("a layer has no bias");
    if (!layers.empty() && layers.back().outputs() != weight.columns)
      throw std::runtime_error("layers do not fit together");
    next = Array();
    more = read(file, next);
    layers.emplace_back(std::move(weight), std::move(bias), more);
  }
  if (layers.empty()) throw std::runtime_error("no layers");
  return layers;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw std::runtime_error("usage: classifier WEIGHTS < requests");
  const std::vector<Linear> layers = load(argv[1]);
  std::vector<float> x, y;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    x.assign(std::istream_iterator<float>(numbers), {});
    if (static_cast<int64_t>(x.size()) != layers.front().inputs()) {
      std::cout << "error: expected " << layers.front().inputs() << " numbers, got " << x.size() << std::endl;
      continue;
    }
    for (const Linear& layer : layers) {
      layer(x, y);
      x.swap(y);
    }
    std::cout << std::max_element(x.begin(), x.end()) - x.begin() << std::endl;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "classifier: %s\n", error.what());
  return 1;
}
