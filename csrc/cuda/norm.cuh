// What the norms share: two sums down every column of a matrix of rows, in two stages.
#pragma once

#include "cuda/columns.cuh"
#include "cuda/map.cuh"

namespace fastdl::cuda {

// Memory as `samples` blocks of `rows` rows of c channels, cut into chunks of rows: enough for a device, at
// most 256 to a sample so that adding them up stays short.
struct ColumnShape {
  int64_t samples, rows, c;
  int64_t chunk_rows() const {
    constexpr int64_t kLeast = 64, kMost = 256;
    const int64_t most = (rows + kMost - 1) / kMost;
    return most > kLeast ? most : kLeast;
  }
  int64_t chunks() const { return (rows + chunk_rows() - 1) / chunk_rows(); }
  int64_t size() const { return samples * rows * c; }
};

// A block has 32 packs of columns, and rows side by side.
constexpr int kColumnLanes = 32, kColumnRows = 8;

template <class T, int Width>
struct ColumnSumsShared {
  SharedArray<T, 2 * Width * kColumnLanes * kColumnRows> sums;
  // Value v (0 or 1) of element j of a pack.
  __device__ static int at(int v, int j, int row, int lane) {
    return ((v * Width + j) * kColumnRows + row) * kColumnLanes + lane;
  }
};

// A place for `task` of a grid-stride loop over packs of columns, chunks and samples.
struct ColumnTask {
  int64_t first, sample, number, begin, end;  // number: of the chunk, among those of all samples
  __device__ ColumnTask(const ColumnShape& s, int64_t task, int64_t groups, int64_t chunks,
                        int64_t chunk_rows, int width, int lane)
      : first((task % groups * kColumnLanes + lane) * width),
        sample(task / groups / chunks),
        number(task / groups) {
    begin = number % chunks * chunk_rows;
    end = begin + chunk_rows < s.rows ? begin + chunk_rows : s.rows;
  }
};

// Of each column of a chunk two values, in two steps: add(task, part, first, second) makes those of every
// eighth row, finish(task, part, shared) those of all from the eight in shared memory. Both are left out past
// the last column.
template <int Width, class T, class Add, class Finish>
__device__ __forceinline__ void for_column_tasks(const ColumnShape& s, int64_t chunk_rows, Add&& add,
                                                 Finish&& finish) {
  using Shared = ColumnSumsShared<T, Width>;
  auto& shared = shared_memory<Shared>();
  const int lane = static_cast<int>(threadIdx.x), part = static_cast<int>(threadIdx.y);
  const int64_t groups = (s.c + kColumnLanes * Width - 1) / (kColumnLanes * Width);
  const int64_t chunks = (s.rows + chunk_rows - 1) / chunk_rows;
  for (int64_t task = blockIdx.x; task < groups * chunks * s.samples; task += gridDim.x) {
    const ColumnTask t(s, task, groups, chunks, chunk_rows, Width, lane);
    T first[Width] = {}, second[Width] = {};
    if (t.first < s.c) add(t, part, first, second);
#pragma unroll
    for (int j = 0; j < Width; ++j) {
      shared.sums[Shared::at(0, j, part, lane)] = first[j];
      shared.sums[Shared::at(1, j, part, lane)] = second[j];
    }
    __syncthreads();
    if (t.first < s.c)
      finish(t, part, [&](int v, int j, int row) -> T { return shared.sums[Shared::at(v, j, row, lane)]; });
    __syncthreads();
  }
}

// partial[sample][chunk][2][c]: term(sample, row, column, dy, x, s1, s2) adds to both sums.
template <int Width, class S, class Term>
__global__ void __launch_bounds__(kColumnLanes* kColumnRows)
    column_sums(ColumnShape s, int64_t chunk_rows, Term term, const S* dy, const S* x,
                compute_t<S>* partial) {
  using T = compute_t<S>;
  using P = Pack<S, Width>;
  for_column_tasks<Width, T>(
      s, chunk_rows,
      [&](const ColumnTask& t, int part, T(&s1)[Width], T(&s2)[Width]) {
        for (int64_t row = t.begin + part; row < t.end; row += kColumnRows) {
          const int64_t at = (t.sample * s.rows + row) * s.c + t.first;
          const P g = *reinterpret_cast<const P*>(dy + at), v = *reinterpret_cast<const P*>(x + at);
#pragma unroll
          for (int j = 0; j < Width; ++j) {
            term(t.sample, row, t.first + j, widen(g.at[j]), widen(v.at[j]), s1[j], s2[j]);
          }
        }
      },
      [&](const ColumnTask& t, int part, auto&& sum) {
        if (part >= 2) return;
        T* const to = partial + (t.number * 2 + part) * s.c + t.first;
        for (int j = 0; j < Width; ++j) {
          T total = sum(part, j, 0);
          for (int k = 1; k < kColumnRows; ++k) total += sum(part, j, k);
          to[j] = total;
        }
      });
}

inline unsigned column_blocks(const ColumnShape& s, int width) {
  const int64_t groups = (s.c + kColumnLanes * width - 1) / (kColumnLanes * width);
  return blocks_for(groups * s.chunks() * s.samples, 1);
}

template <class S, class Term>
void add_columns(Context* context, const ColumnShape& s, const Term& term, const S* dy, const S* x,
                 compute_t<S>* partial) {
  if (s.size() == 0) return;
  with_pack_width<S>(
      s.c,
      [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        const Launch shape{column_blocks(s, kWidth),
                           {kColumnLanes, kColumnRows},
                           sizeof(ColumnSumsShared<compute_t<S>, kWidth>)};
        launch(context, FASTDL_KERNEL(column_sums<kWidth, S, Term>), shape, s, s.chunk_rows(), term, dy, x,
               partial);
      },
      dy, x);
}

}  // namespace fastdl::cuda
