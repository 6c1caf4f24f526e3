// wgmma.mma_async: operands in shared memory are read, and sums written, at the wait; until then the sums are
// NaN.
#include <cstring>

#include "cluster.h"

namespace fastdl::simt {
namespace {

struct Product {
  Wgmma what;
  float* sums;
  uint32_t left[4];  // what the registers of A held when it was issued
};
// Registers that a product under way will write.
struct InFlight {
  float* sums;
  std::vector<float> values;
};

}  // namespace

struct WgmmaState {
  bool fenced = false;
  std::vector<Product> products;
  std::vector<size_t> groups;  // ends
  std::vector<InFlight> in_flight;
};
void FreeWgmma::operator()(WgmmaState* state) const { delete state; }
bool has_products(const Thread& thread) { return thread.products && !thread.products->products.empty(); }

namespace {

constexpr int kRows = 16, kDepthBytes = 32;  // of a warp, of an instruction
constexpr uint32_t kPoison = 0xFFFFFFFFu;

WgmmaState& state_of(Thread& thread) {
  if (!thread.products) thread.products.reset(new WgmmaState);
  return *thread.products;
}

// A matrix in shared memory, in chunks of 16 bytes: along k, or along rows / columns where it is transposed.
struct Operand {
  uint32_t start, leading, stride;
  Swizzle swizzle;
  bool transposed;

  Operand(uint64_t descriptor, bool transposed_) : transposed(transposed_) {
    start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
    leading = static_cast<uint32_t>(descriptor >> 16 & 0x3FFF) << 4;
    stride = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
    constexpr Swizzle kinds[] = {Swizzle::none, Swizzle::bytes_128, Swizzle::bytes_64, Swizzle::bytes_32};
    swizzle = kinds[descriptor >> 62];
    if (descriptor >> 49 & 7) fail("wgmma: a base offset, which is not modelled");
  }
  // Chunk `chunk` of row `row`, counted along k, or of k = `row` along the transposed dim.
  uint32_t address(int row, int chunk) const {
    const auto r = static_cast<uint32_t>(row), c = static_cast<uint32_t>(chunk);
    const uint32_t span = swizzle == Swizzle::none ? 16 : 16u << static_cast<unsigned>(swizzle);
    uint32_t offset;
    if (swizzle == Swizzle::none) {
      offset =
          transposed ? r / 8 * leading + r % 8 * 16 + c * stride : r / 8 * stride + r % 8 * 16 + c * leading;
    } else if (transposed) {
      offset = r / 8 * stride + r % 8 * span + c / (span / 16) * leading + c % (span / 16) * 16;
    } else {
      offset = r / 8 * stride + r % 8 * span + c * 16;
    }
    return swizzled(swizzle, start + offset);
  }
};

// float16's bits as float32's.
uint32_t widened_half(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FFu;
  if (exponent == 31) return sign | 0x7F800000u | fraction << 13;
  if (exponent != 0) return sign | (exponent + 112) << 23 | fraction << 13;
  const float value = static_cast<float>(fraction) * 0x1p-24f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return sign | bits;
}

float item(const unsigned char* chunk, int i, WgmmaType type) {
  if (type == WgmmaType::tfloat32) {
    uint32_t bits;
    std::memcpy(&bits, chunk + 4 * i, 4);
    bits &= 0xFFFFE000u;  // the lower bits are not looked at
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, chunk + 2 * i, 2);
  const uint32_t word = type == WgmmaType::bfloat16 ? uint32_t{bits} << 16 : widened_half(bits);
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

// to[k * count + i] of rows / columns first to first + count - 1.
void read_operand(Block& block, const Operand& operand, WgmmaType type, int first, int count, float* to) {
  const int per_chunk = type == WgmmaType::tfloat32 ? 4 : 8, depth = 2 * per_chunk;
  const auto chunk_at = [&](int row, int chunk) {
    const uint32_t address = operand.address(row, chunk);
    if (address + 16 > block.shared_bytes) {
      fail("wgmma: its descriptor leads to offset " + std::to_string(address) + " of " +
           std::to_string(block.shared_bytes) + " bytes of shared memory");
    }
    note_async_read(block, address, 16, "wgmma");
    return block.shared + address;
  };
  if (operand.transposed) {
    for (int k = 0; k < depth; ++k) {
      for (int i = 0; i < count; i += per_chunk) {
        const unsigned char* const chunk = chunk_at(k, (first + i) / per_chunk);
        for (int e = 0; e < per_chunk; ++e) to[k * count + i + e] = item(chunk, e, type);
      }
    }
    return;
  }
  for (int i = 0; i < count; ++i) {
    for (int c = 0; c < kDepthBytes / 16; ++c) {
      const unsigned char* const chunk = chunk_at(first + i, c);
      for (int e = 0; e < per_chunk; ++e) to[(c * per_chunk + e) * count + i] = item(chunk, e, type);
    }
  }
}

// Tensor cores add exact products and cut off what does not fit float32: the sum is exact to double, then
// rounded towards zero.
float towards_zero(double x) {
  float y = static_cast<float>(x);
  const double back = y;
  if ((back > 0 ? back > x : back < x) && back - back == 0) {
    uint32_t bits;
    std::memcpy(&bits, &y, 4);
    --bits;
    std::memcpy(&y, &bits, 4);
  }
  return y;
}

InFlight* find(WgmmaState& state, const float* sums) {
  for (InFlight& f : state.in_flight) {
    if (f.sums == sums) return &f;
  }
  return nullptr;
}

// to[k * 16 + row] of a factor in registers.
void read_registers(Thread* lanes, size_t index, float* to) {
  for (int l = 0; l < 32; ++l) {
    const Product& product = lanes[l].products->products[index];
    if (std::memcmp(product.left, product.what.left, sizeof product.left) != 0) {
      fail("wgmma: the registers of its left factor were written before the wait for it");
    }
    unsigned char items[16];
    std::memcpy(items, product.left, sizeof items);
    for (int i = 0; i < 8; ++i) {
      const int row = l / 4 + i / 2 % 2 * 8, k = l % 4 * 2 + i % 2 + i / 4 * 8;
      to[k * kRows + row] = item(items, i, product.what.type);
    }
  }
}

// This warp's 16 rows of one product.
void multiply(Block& block, Thread* lanes, size_t index) {
  const Wgmma& what = lanes[0].products->products[index].what;
  const int n = what.columns, depth = what.type == WgmmaType::tfloat32 ? 8 : 16;
  const int first = static_cast<int>(lanes[0].warp() % 4) * kRows;
  float a[16 * kRows], b[16 * 256];
  if (what.left) read_registers(lanes, index, a);
  else read_operand(block, Operand(what.a, what.transposed_a), what.type, first, kRows, a);
  read_operand(block, Operand(what.b, what.transposed_b), what.type, 0, n, b);
  float* values[32];
  for (int l = 0; l < 32; ++l) {
    WgmmaState& state = *lanes[l].products;
    values[l] = find(state, state.products[index].sums)->values.data();
  }
  double row[256];
  for (int m = 0; m < kRows; ++m) {
    // Row m lies in the four lanes of its group: columns 8j + 2t, 8j + 2t + 1.
    const int group = m % 8 * 4, half = m / 8 * 2;
    for (int j = 0; j < n; ++j) {
      row[j] = what.accumulate ? values[group + j % 8 / 2][j / 8 * 4 + half + j % 2] : 0.0;
    }
    for (int k = 0; k < depth; ++k) {
      const double factor = a[k * kRows + m];
      for (int j = 0; j < n; ++j) row[j] += factor * b[k * n + j];
    }
    for (int j = 0; j < n; ++j) values[group + j % 8 / 2][j / 8 * 4 + half + j % 2] = towards_zero(row[j]);
  }
}

bool same(const Wgmma& x, const Wgmma& y) {
  return x.type == y.type && x.columns == y.columns && x.accumulate == y.accumulate && x.a == y.a &&
         x.b == y.b && x.transposed_a == y.transposed_a && x.transposed_b == y.transposed_b &&
         !x.left == !y.left;
}

// Gives registers their sums, unless a later product writes them too.
void hand_over(WgmmaState& state) {
  for (size_t i = 0; i < state.in_flight.size();) {
    InFlight& f = state.in_flight[i];
    bool later = false;
    for (const Product& p : state.products) later = later || p.sums == f.sums;
    if (later) {
      ++i;
      continue;
    }
    for (size_t j = 0; j < f.values.size(); ++j) {
      uint32_t bits;
      std::memcpy(&bits, f.sums + j, 4);
      if (bits != kPoison) fail("wgmma: its sums were written before the wait for them");
      f.sums[j] = f.values[j];
    }
    state.in_flight.erase(state.in_flight.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void finish(Thread& last, int pending) {
  Block& block = last.owner();
  Thread* const lanes = &block.threads[last.warp() * 32];
  WgmmaState& state = state_of(lanes[0]);
  for (int l = 1; l < 32; ++l) {
    const WgmmaState& other = state_of(lanes[l]);
    bool agree = other.groups == state.groups && other.products.size() == state.products.size();
    for (size_t i = 0; agree && i < state.products.size(); ++i) {
      agree = same(state.products[i].what, other.products[i].what);
    }
    if (!agree) fail("wgmma: the threads of a warp disagree on their products");
  }
  if (state.groups.size() <= static_cast<size_t>(pending)) return;
  const size_t done = state.groups.size() - static_cast<size_t>(pending), count = state.groups[done - 1];
  for (size_t i = 0; i < count; ++i) multiply(block, lanes, i);
  for (int l = 0; l < 32; ++l) {
    WgmmaState& s = *lanes[l].products;
    s.products.erase(s.products.begin(), s.products.begin() + static_cast<std::ptrdiff_t>(count));
    s.groups.erase(s.groups.begin(), s.groups.begin() + static_cast<std::ptrdiff_t>(done));
    for (size_t& end : s.groups) end -= count;
    hand_over(s);
    if (s.products.empty()) s.fenced = false;
  }
}

}  // namespace

void wgmma_fence() { state_of(running()).fenced = true; }

void wgmma(float* sums, const Wgmma& what) {
  Thread& me = running();
  WgmmaState& state = state_of(me);
  if ((me.thread / 128 + 1) * 128 > me.owner().thread_count)
    fail("wgmma: by fewer than the 128 threads of a warpgroup");
  if (!state.fenced) fail("wgmma.mma_async without wgmma.fence before it");
  if (what.type == WgmmaType::tfloat32 && (what.transposed_a || what.transposed_b)) {
    fail("wgmma: only 16-bit operands can be transposed");
  }
  const auto count = static_cast<size_t>(what.columns / 2);
  if (!find(state, sums)) {
    state.in_flight.push_back({sums, std::vector<float>(sums, sums + count)});
    std::memset(sums, 0xFF, count * sizeof(float));
  }
  Product product{what, sums, {}};
  if (what.left) std::memcpy(product.left, what.left, sizeof product.left);
  state.products.push_back(product);
}

void wgmma_commit() {
  WgmmaState& state = state_of(running());
  state.groups.push_back(state.products.size());
}

void wgmma_wait(int pending) {
  collective(
      "wgmma.wait_group", 0xFFFFFFFFu, &pending, nullptr,
      [](void* context, const void* const(&)[32], void* const(&)[32]) {
        finish(running(), *static_cast<const int*>(context));
      },
      &pending);
}

}  // namespace fastdl::simt
