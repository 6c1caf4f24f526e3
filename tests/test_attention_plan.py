"""How the keys of few queries are cut up for Hopper's kernel, and whether gradients are made in one pass
(csrc/cuda/attention_config.h): functions of shapes, compiled by themselves."""

import plan_program
import pytest
from plan_program import H100

pytestmark = plan_program.marks

SOURCE = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/attention_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoll(a[i]); };
  const auto p = fastdl::cuda::sm90_decode_plan(n(1), n(2), n(3), static_cast<int>(n(4)), static_cast<int>(n(5)));
  std::printf("%lld %lld %lld %d\n", static_cast<long long>(p.row_groups), static_cast<long long>(p.parts),
              static_cast<long long>(p.keys_each),
              fastdl::cuda::sm90_decode_suits(n(6), n(1), n(3)) ||
                  fastdl::cuda::sm90_forward_idles(n(6), n(1) / n(6) * n(2), n(3), n(7) != 0, static_cast<int>(n(5))));
}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("plan"), SOURCE)

    def numbers(rows, pairs, keys, features=128, queries=1, causal=0):
        return tuple(plan_program.numbers(program, rows, pairs, keys, features, H100, queries, causal))

    return numbers


@pytest.mark.parametrize("rows", [1, 8, 64, 65, 300])
@pytest.mark.parametrize("pairs", [1, 8, 100, 256, 1000])
@pytest.mark.parametrize("keys", [0, 1, 64, 65, 4096, 65536, 1_000_001])
def test_parts_are_whole_tiles_and_cover_the_keys(plan, rows, pairs, keys):
    groups, parts, each, _ = plan(rows, pairs, keys)
    assert groups == -(-rows // 64)
    assert each % 64 == 0 and 1 <= parts <= 128
    assert (parts - 1) * each < max(1, keys) <= parts * each


@pytest.mark.parametrize("features, blocks", [(64, 2), (128, 2), (256, 1)])
@pytest.mark.parametrize("pairs", [8, 64, 128])
def test_long_keys_fill_the_device_in_one_round(plan, pairs, features, blocks):
    _, parts, *_ = plan(8, pairs, 65536, features)
    assert 0.9 * blocks * H100 <= parts * pairs <= blocks * H100 or parts * pairs > 1.5 * blocks * H100


def test_keys_are_whole_where_pairs_fill_the_device(plan):
    assert plan(8, 256, 4096)[1] == 1
    assert plan(8, 20000, 4096)[1] == 1
    assert plan(8, 1, 128)[1] == 1  # too short to cut


def test_a_round_and_a_bit_is_cut_into_more(plan):
    """270 blocks are two rounds on 264 places, the second one nearly empty."""
    parts = plan(8, 270, 16384)[1]
    assert parts > 1 and -(-270 * parts // 264) * 264 < 1.25 * 270 * parts


def test_who_gets_the_kernel(plan):
    """Few queries and more than a tile of keys; of one row, where multiply-adds begin sooner, many keys."""
    assert plan(8, 8, 64)[3] and not plan(8, 8, 63)[3]
    assert plan(1, 8, 4096)[3] and not plan(1, 8, 512)[3]
    assert plan(63, 64, 4096, queries=63)[3] and not plan(64, 64, 4096, queries=64)[3]


def test_more_queries_where_keys_in_one_piece_would_leave_the_device_idle(plan):
    assert plan(512, 8, 65536, queries=128)[3]  # 32 heads, 32 blocks
    assert not plan(2048, 8, 65536, queries=512)[3]  # 128 blocks
    assert not plan(512, 8, 65536, queries=128, causal=1)[3]
    assert not plan(512, 8, 1024, queries=128)[3]


BACKWARD = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/attention_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoll(a[i]); };
  std::printf("%d\n", fastdl::cuda::sm90_one_pass_suits(n(1), n(2), n(3), n(4), n(5), n(6) != 0,
                                                        static_cast<int>(n(7)), static_cast<int>(n(8))));
}
"""


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("backward"), BACKWARD)

    def suits(batch, heads, groups, queries, keys, causal=0, features=128):
        return plan_program.numbers(program, batch, heads, groups, queries, keys, causal, features, H100) == [
            1
        ]

    return suits


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("features", [64, 96, 128])
@pytest.mark.parametrize(
    "batch, heads, groups, length",
    [(4, 16, 16, 2048), (2, 16, 16, 4096), (1, 16, 16, 8192), (1, 32, 8, 8192)],
)
def test_long_sequences_get_their_gradients_in_one_pass(
    one_pass, batch, heads, groups, length, causal, features
):
    assert one_pass(batch, heads, groups, length, length, causal, features)


def test_blocks_that_would_mostly_wait_make_two_passes(one_pass):
    assert not one_pass(1, 1, 1, 1024, 1024)  # all of a head at once
    assert not one_pass(1, 16, 16, 1024, 1024, 1)
    assert not one_pass(1, 32, 1, 8192, 256)  # two blocks, where queries make many


def test_more_heads_never_make_one_pass_worse(one_pass):
    for length in (512, 1024, 4096):
        found = [one_pass(batch, 16, 16, length, length) for batch in (1, 2, 4, 8, 16, 32)]
        assert found == sorted(found)


SCORES = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/attention_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoi(a[i]) != 0; };
  std::printf("%d\n", static_cast<int>(fastdl::cuda::sm90_scores(std::strtof(a[1], nullptr), n(2), n(3), n(4))));
}
"""


def test_what_forward_does_to_scores(tmp_path):
    """Scaled in the softmax (0), there masked or dropped by bits (1), or scaled before it, and a mask added (2)."""
    program = plan_program.build(tmp_path, SCORES)

    def kind(scale, boolean=0, added=0, drops=0):
        return plan_program.numbers(program, scale, boolean, added, drops)[0]

    assert kind(0.125) == 0
    assert kind(0.125, boolean=1) == kind(0.125, drops=1) == kind(0.125, boolean=1, drops=1) == 1
    assert kind(0.125, added=1) == kind(0.125, added=1, drops=1) == 2
    assert kind(0) == kind(-0.1) == kind(-0.1, boolean=1) == kind("nan") == 2
