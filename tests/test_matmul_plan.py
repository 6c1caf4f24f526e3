"""How products are cut up for Hopper's kernels (csrc/cuda/gemm_sm90_config.h): functions of shapes, compiled by
themselves."""

import math
import subprocess
from typing import NamedTuple

import plan_program
import pytest
from plan_program import H100, Plan

from fastdl.bench.workloads import deepbench

pytestmark = plan_program.marks

SOURCE = r"""
#include <cstdio>
#include "cuda/gemm_sm90_config.h"
using namespace fastdl::cuda;
template <class P>
void print(const P& p, int columns) {
  std::printf("%d %d %d %lld %lld %.0f ", p.fits, columns, p.cluster, static_cast<long long>(p.parts),
              static_cast<long long>(p.k_each), p.clocks);
}
int main() {
  long long m, n, k, batch;
  int processors, planes;
  while (std::scanf("%lld %lld %lld %lld %d %d", &m, &n, &k, &batch, &processors, &planes) == 6) {
    const Sm90Choice c = sm90_choice(m, n, k, batch, processors, planes);
    print(c.tiles, c.tiles.columns), print(c.few, c.few.few);
    std::printf("%d\n", static_cast<int>(c.way));
  }
}
"""


WAYS = ("portable", "tiles", "few")


class Choice(NamedTuple):
    """Both plans and their clocks, and which is taken."""

    tiles: Plan
    tiles_clocks: float
    few: Plan
    few_clocks: float
    way: str


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("plan"), SOURCE)

    def run(shapes, planes=0):
        lines = "".join(f"{m} {n} {k} {batch} {H100} {planes}\n" for m, n, k, batch in shapes)
        done = subprocess.run([program], input=lines, check=True, capture_output=True, text=True)
        found = [list(map(int, line.split())) for line in done.stdout.splitlines()]
        return [Choice(Plan(*x[:5]), x[5], Plan(*x[6:11]), x[11], WAYS[x[12]]) for x in found]

    return run


@pytest.fixture
def choice(choices):
    return lambda m, n, k, batch=1: choices([(m, n, k, batch)])[0]


@pytest.fixture
def plan(choices):
    return lambda m, n, k, batch=1, planes=0: choices([(m, n, k, batch)], planes)[0].tiles


def test_large_squares_get_the_large_tile(plan):
    for n in (4096, 8192):
        assert plan(n, n, n) == (1, 256, 2, 1, n)
    assert plan(4096, 4096, 4096, planes=3).columns == 128  # its sums take the registers of the large one


def test_products_with_little_of_everything_are_left_to_the_portable_kernel(choice):
    for shape in ((63, 512, 512), (512, 63, 512), (512, 512, 63)):
        assert not choice(*shape).tiles.fits
    assert choice(64, 64, 64).tiles.fits
    assert not choice(512, 63, 63).few.fits and not choice(63, 1, 512).few.fits
    assert not choice(129, 129, 4096).few.fits


def test_long_dot_products_are_spread_over_the_device(choice):
    for shape in ((1, 1, 1 << 20), (5, 3, 1 << 20), (63, 63, 1 << 20)):
        found = choice(*shape)
        assert found.way == "few" and found.few.cluster * found.few.parts > H100 // 2
    assert not choice(63, 63, 1023).few.fits


def test_one_row_of_tiles_is_no_cluster(plan):
    assert plan(128, 4096, 4096).cluster == 1
    assert plan(129, 4096, 4096).cluster == 2


@pytest.mark.parametrize("m, n", [(128, 128), (256, 512), (512, 512)])
@pytest.mark.parametrize("k", [2048, 5000, 65536])
def test_parts_cover_k_and_fit_the_device(plan, m, n, k):
    found = plan(m, n, k)
    tiles = -(-m // 128) * -(-n // found.columns)
    assert found.parts > 1
    assert found.parts * tiles <= H100
    assert found.k_each % 64 == 0 and found.k_each >= 512
    assert (found.parts - 1) * found.k_each < k <= found.parts * found.k_each


def test_k_is_whole_where_tiles_fill_the_device(plan):
    assert plan(2048, 2048, 65536).parts == 1
    assert plan(128, 128, 65536, batch=128).parts == 1
    assert plan(128, 128, 1000).parts == 1  # too short to cut


@pytest.mark.parametrize("length", [130, 1760, 4096, 128000])
@pytest.mark.parametrize("few", [1, 16, 17, 64, 65, 128])
@pytest.mark.parametrize("k", [64, 1760, 500000])
def test_plans_for_few_cover_k(choice, length, few, k):
    found = choice(length, few, k).few
    assert found.fits and few <= found.columns and (few > found.columns // 2 or found.columns == 16)
    assert found.cluster in (1, 2, 4, 8) and found.k_each % 64 == 0
    each = found.cluster * found.k_each
    assert (found.parts - 1) * each < k <= found.parts * each
    tiles, blocks = (-(-length // 256), 1) if few > 64 else (-(-length // 128), 2)
    assert tiles * found.cluster * found.parts <= max(blocks * H100, tiles)
    assert choice(few, length, k).few == found


def test_float32_is_split_beforehand_where_that_is_made_up_for(choices):
    """Not where launches are most of the time, nor where the large operand is read more often than it is multiplied:
    that is split in registers."""
    large = [(1024, 24000, 2816, 1), (2048, 2048, 2048, 1), (4096, 4096, 4096, 1)]
    small = [(64, 64, 64, 1), (256, 256, 256, 1), (512, 512, 512, 1)]
    few = [shape for n in (1, 16, 64, 128) for shape in ((7680, n, 2560, 1), (n, 7680, 2560, 1))]
    for planes in (2, 3):
        assert {c.way for c in choices(large, planes)} == {"tiles"}
        assert {c.way for c in choices(small, planes)} == {"portable"}
        assert {c.way for c in choices(few, planes)} == {"few" if planes == 3 else "portable"}


def floor(m, n, k):
    """Clocks that a product of 16 bits cannot take less of: the tensor cores' and the memory's."""
    return max(m * n * k / 2048 / H100, 2 * (m * k + k * n + m * n) / 1900)


def test_deepbench(choices):
    """Products of few columns go to their kernel, the others to tiles, and what is expected is no worse than it was."""
    shapes = [row[:3] for row in deepbench("gemm")]
    fractions = []
    for (m, n, k), found in zip(shapes, choices([(*s, 1) for s in shapes]), strict=True):
        few = min(m, n)
        assert found.way == ("few" if few <= 128 else "tiles")
        clocks = found.few_clocks if found.way == "few" else found.tiles_clocks
        assert clocks > floor(m, n, k)
        fractions.append(floor(m, n, k) / clocks)
        if found.way == "few" and few <= 64 and k < 5000:
            assert found.few.parts == 1  # one launch
    geomean = math.exp(sum(map(math.log, fractions)) / len(fractions))
    print(
        *(f"{s}: {f:.2f}" for s, f in zip(shapes, fractions, strict=True)), f"geomean {geomean:.3f}", sep="\n"
    )
    assert geomean > 0.6
