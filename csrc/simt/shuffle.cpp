// Shuffles and votes.
#include "device/warp.h"

namespace fastdl::simt {
namespace {

template <class T>
struct Input {
  T value;
  unsigned lane;
};

// The lane that `lane` reads from, or itself where the source falls out of its segment.
template <Shuffle kind>
unsigned source_lane(unsigned width, unsigned lane, unsigned argument) {
  const unsigned segment = lane & ~(width - 1);
  const unsigned inside = lane - segment;
  switch (kind) {
    case Shuffle::index:
      return segment + (argument & (width - 1));
    case Shuffle::up:
      return argument > inside ? lane : lane - argument;
    case Shuffle::down:
      return argument > width - 1 - inside ? lane : lane + argument;
    default: {
      // May reach a lower segment, never a higher one.
      const unsigned source = lane ^ (argument & 31);
      return source > segment + width - 1 ? lane : source;
    }
  }
}

template <class T, Shuffle kind>
void compute(void* context, const void* const (&in)[32], void* const (&out)[32]) {
  const unsigned width = *static_cast<const unsigned*>(context);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!in[lane]) continue;
    const auto* mine = static_cast<const Input<T>*>(in[lane]);
    const void* from = in[source_lane<kind>(width, lane, mine->lane)];
    // From a lane that does not take part: undefined on the device, ones (a NaN) here.
    *static_cast<T*>(out[lane]) = from ? static_cast<const Input<T>*>(from)->value : static_cast<T>(~T{0});
  }
}

template <class T>
Compute compute_of(Shuffle kind) {
  switch (kind) {
    case Shuffle::index:
      return compute<T, Shuffle::index>;
    case Shuffle::up:
      return compute<T, Shuffle::up>;
    case Shuffle::down:
      return compute<T, Shuffle::down>;
    default:
      return compute<T, Shuffle::exclusive_or>;
  }
}

template <class T>
T shuffle_bits(const char* operation, Shuffle kind, unsigned mask, T value, unsigned lane, int width) {
  if (width < 1 || width > 32 || (width & (width - 1))) {
    fail(std::string(operation) + ": a width of " + std::to_string(width) +
         ", which is not 1, 2, 4, 8, 16 or 32");
  }
  const Input<T> input{value, lane};
  unsigned segment = static_cast<unsigned>(width);
  T result;
  collective(operation, mask, &input, &result, compute_of<T>(kind), &segment);
  return result;
}

}  // namespace

uint32_t shuffle(const char* operation, Shuffle kind, unsigned mask, uint32_t value, unsigned lane,
                 int width) {
  return shuffle_bits(operation, kind, mask, value, lane, width);
}
uint64_t shuffle(const char* operation, Shuffle kind, unsigned mask, uint64_t value, unsigned lane,
                 int width) {
  return shuffle_bits(operation, kind, mask, value, lane, width);
}

unsigned ballot(const char* operation, unsigned mask, bool predicate) {
  unsigned result;
  collective(
      operation, mask, &predicate, &result,
      [](void*, const void* const(&in)[32], void* const(&out)[32]) {
        unsigned votes = 0;
        for (unsigned l = 0; l < 32; ++l) votes |= in[l] && *static_cast<const bool*>(in[l]) ? 1u << l : 0;
        for (void* o : out) {
          if (o) *static_cast<unsigned*>(o) = votes;
        }
      },
      nullptr);
  return result;
}

unsigned match_any(unsigned mask, uint64_t value) {
  return warp_collective<uint64_t, unsigned>("__match_any_sync", mask, value,
                                             [mask](const uint64_t (&in)[32], unsigned (&out)[32]) {
                                               for (unsigned i = 0; i < 32; ++i) {
                                                 out[i] = 0;
                                                 for (unsigned j = 0; j < 32; ++j) {
                                                   if (mask >> j & 1 && in[i] == in[j]) out[i] |= 1u << j;
                                                 }
                                               }
                                             });
}

}  // namespace fastdl::simt
