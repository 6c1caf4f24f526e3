// Which kernels a problem gets: functions of shapes and dtypes alone, so that they can be tested anywhere.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fastdl::cuda {

// Features the tensor cores' kernels are made for; a smaller number is filled up with zeros. The pieces of
// float32 operands with more than 128 features do not fit into shared memory beside each other: a block would
// hold so few rows that multiply-adds, which need no pieces, keep up.
inline int64_t feature_class(int64_t e, int64_t ev, int planes) {
  const int64_t most = std::max(e, ev);
  if (most <= 64) return 64;
  if (most <= 128) return 128;
  return most <= 256 && planes == 1 ? 256 : 0;  // 0: multiply-adds
}

// Features that Hopper's kernels (attention_sm90_*.cuh) are made for; 0: none.
inline int sm90_features(int64_t e, int64_t ev) {
  for (const int features : {64, 96, 128, 192, 256}) {
    if (std::max(e, ev) <= features) return features;
  }
  return 0;
}
// Whether they are the better ones: a block has rows for 128 or 192 queries. Fewer than 64 of them leave most
// of it idle, where a block of the portable kernels leaves half; until a GPU says.
inline bool sm90_suits(int64_t queries, int64_t keys) { return queries >= 64 && keys >= 64; }

// What its forward kernel does to scores: it scales them; or there are a boolean mask or dropout, too; or it
// scales them before it looks for the largest, and may add a mask.
enum class Sm90Scores { plain, bits, terms };
// The largest of products that a negative scale turns round is not that of the scores, and minus infinity
// times one that float32 has no room for is none. scale2: to base 2.
inline Sm90Scores sm90_scores(float scale2, bool boolean_mask, bool added_mask, bool drops) {
  if (!(scale2 > 0) || added_mask) return Sm90Scores::terms;
  return boolean_mask || drops ? Sm90Scores::bits : Sm90Scores::plain;
}

// Queries of a step of Hopper's blocks that own keys: as many as registers hold the scores of, and their
// gradients, beside the sums of dK and dV, and shared memory two stages of.
constexpr int sm90_backward_queries(int features) {
  return features <= 64 ? 96 : features <= 96 ? 80 : features <= 192 ? 64 : 32;
}

// The same of blocks that make dQ as well (attention_sm90_one_pass.cuh), whose rows they are in a product:
// registers do not hold twice as many.
constexpr int kOnePassQueries = 64;

// How many of `heads` (of queries, of all samples) blocks work on at a time: those whose keys and values, of
// `features` together, fit into 32 of the 50 MiB of L2 cache, of 16-bit elements.
inline int64_t heads_at_once(int64_t keys, int64_t features, int64_t group_size, int64_t heads) {
  const int64_t groups = (int64_t{32} << 20) / std::max<int64_t>(1, keys * features * 2);
  return std::min(heads, std::max<int64_t>(1, groups) * group_size);
}

// Whether all gradients in one pass are there sooner than in two, by clocks of wgmma and of waiting: five
// products instead of seven, but blocks of a head follow each other at a distance.
inline bool sm90_one_pass_suits(int64_t batch, int64_t heads, int64_t groups, int64_t queries, int64_t keys,
                                bool causal, int features, int multiprocessors) {
  // From one block's share of dQ to the next one's: to the L2 cache, its answer, a counter; 2 us, assumed.
  constexpr double kHandOver = 3500;
  const double rows = 128, head_queries = static_cast<double>(queries) * (causal ? 0.5 : 1),
               key_tiles = std::ceil(static_cast<double>(keys) / rows),
               key_blocks = key_tiles * static_cast<double>(batch * groups),
               query_blocks =
                   std::ceil(static_cast<double>(queries) / rows) * static_cast<double>(batch * heads),
               product = static_cast<double>(batch * heads) * head_queries * static_cast<double>(keys) *
                         features / 2048;
  // Of one head's blocks, those that run at the same time.
  const int64_t at_once = heads_at_once(queries * heads / groups, 4 * features, 1, batch * groups);
  const double chain = std::min(key_tiles, std::ceil(multiprocessors / static_cast<double>(at_once)));
  const double all = multiprocessors, by_keys = std::min(all, key_blocks),
               by_queries = std::min(all, query_blocks);
  return 5 * product / by_keys + chain * kHandOver < 4 * product / by_keys + 3 * product / by_queries;
}

// Few queries (see attention_decode.cuh): how the keys are cut up.
struct DecodePlan {
  bool fits;
  int team;  // lanes that share a key, 8 features each
  int64_t rows_each, row_groups;
  int64_t parts, keys_each;
};

// Up to two rounds of rows memory decides; beyond, the products do.
constexpr int64_t kMostDecodeRows = 8;

// `rows`: queries of all heads of a group; `pairs`: samples times groups; `keys` that are seen; `most_rows`
// of a block: what its registers hold.
inline DecodePlan decode_plan(int64_t rows, int64_t pairs, int64_t keys, int64_t e, int64_t ev,
                              int64_t most_rows, int multiprocessors) {
  constexpr int64_t kMostFeatures = 256;
  DecodePlan plan{};
  plan.fits = rows <= kMostDecodeRows && std::max(e, ev) <= kMostFeatures;
  if (!plan.fits) return plan;
  plan.team = 8;
  while (plan.team * 8 < std::max(e, ev)) plan.team *= 2;
  plan.rows_each = rows == 1 ? 1 : most_rows;
  plan.row_groups = (rows + plan.rows_each - 1) / plan.rows_each;
  // Four blocks for every multiprocessor keep enough loads under way, if parts are long enough that putting
  // them together costs little.
  constexpr int64_t kShortest = 128, kMostParts = 128;
  const int64_t blocks = std::max<int64_t>(1, pairs * plan.row_groups);
  const int64_t wanted =
      std::min({(4 * multiprocessors + blocks - 1) / blocks, keys / kShortest, kMostParts});
  plan.keys_each =
      std::max<int64_t>(1, (keys + std::max<int64_t>(1, wanted) - 1) / std::max<int64_t>(1, wanted));
  plan.parts = std::max<int64_t>(1, (keys + plan.keys_each - 1) / plan.keys_each);
  return plan;
}

// Few queries on Hopper (attention_sm90_decode.cuh): rows of a block, what a wgmma multiplies at least, and
// keys of a step, as many as registers have room for scores of beside the results, in two blocks.
constexpr int kSm90DecodeRows = 64, kSm90DecodeKeys = 64;
// Blocks of a multiprocessor: what registers and two rings leave room for.
constexpr int sm90_decode_blocks(int features) { return features <= 128 ? 2 : 1; }

// Whether that is the better kernel, `rows` and `keys` as below. From 64 queries on, the forward kernel reads
// keys less often. Multiply-adds of one row would be bound by memory, too, but have no more than 32 KiB of a
// multiprocessor under way, in registers, and none while they multiply, where 3.35 TB/s want 20 (of 0.8 us,
// assumed) and an H200's 4.8 want 29; they begin and end sooner, which counts while keys are few. Of four
// rows they take half of the clocks that memory leaves, of more all. (Counted, until a GPU says.)
inline bool sm90_decode_suits(int64_t queries, int64_t rows, int64_t keys) {
  return queries < kSm90DecodeRows && keys >= (rows > 1 ? 64 : 1024);
}
// Or whether more queries leave the forward kernel, which does not cut up keys, a third of the device at
// most: this one reads keys from the L2 cache for every 64 rows, so more than about 0.4 of the tensor cores'
// rate is not to be had, forward's expected 0.65 of a third less; and keys have to be long enough that
// writing and reading parts of all rows takes less than that saves. `heads`: of all samples.
inline bool sm90_forward_idles(int64_t queries, int64_t heads, int64_t keys, bool causal,
                               int multiprocessors) {
  return !causal && keys >= 2048 && (queries + 127) / 128 * heads * 3 <= multiprocessors;
}

// How it cuts the keys: whole tiles, so that no two parts bring the same one. Counted in tiles, a block takes
// one for its start and end, which no copies overlap, so a round over the multiprocessors takes as many as a
// part has and one; putting parts together takes a launch, about as long as one tile, and a sixteenth for
// each part to read. (Assumed, until a GPU says.)
inline DecodePlan sm90_decode_plan(int64_t rows, int64_t pairs, int64_t keys, int features,
                                   int multiprocessors) {
  constexpr int64_t kMostParts = 128, kMostRounds = 4;
  const auto pieces = [](int64_t n, int64_t each) { return (n + each - 1) / each; };
  const int64_t tiles = std::max<int64_t>(1, pieces(keys, kSm90DecodeKeys));
  DecodePlan plan{};
  plan.fits = true;
  plan.rows_each = kSm90DecodeRows;
  plan.row_groups = pieces(rows, plan.rows_each);
  const int64_t blocks = std::max<int64_t>(1, pairs * plan.row_groups),
                places = sm90_decode_blocks(features) * multiprocessors;
  int64_t least = 0;
  for (int64_t parts = 1; parts <= std::min({tiles, kMostParts, 1 + kMostRounds * places / blocks});
       ++parts) {
    const int64_t each = pieces(tiles, parts);
    if (pieces(tiles, each) < parts) continue;  // the cut of fewer
    const int64_t together = parts > 1 ? 16 + parts : 0,
                  cost = pieces(blocks * parts, places) * (each + 1) * 16 + together;
    if (parts > 1 && cost >= least) continue;
    least = cost;
    plan.parts = parts, plan.keys_each = each * kSm90DecodeKeys;
  }
  return plan;
}

}  // namespace fastdl::cuda
