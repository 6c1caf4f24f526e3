"""How products are cut up for Hopper's kernel (csrc/cuda/gemm_sm90_config.h): functions of shapes, compiled by
themselves."""

import plan_program
import pytest
from plan_program import H100

pytestmark = plan_program.marks

SOURCE = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/gemm_sm90_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoll(a[i]); };
  const auto p = fastdl::cuda::sm90_plan(n(1), n(2), n(3), n(4), static_cast<int>(n(5)), static_cast<int>(n(6)));
  std::printf("%d %d %d %lld %lld\n", p.fits, p.columns, p.cluster, static_cast<long long>(p.parts),
              static_cast<long long>(p.k_each));
}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("plan"), SOURCE)
    return lambda m, n, k, batch=1, planes=0: plan_program.run(program, m, n, k, batch, H100, planes)


def test_large_squares_get_the_large_tile(plan):
    for n in (4096, 8192):
        assert plan(n, n, n) == (1, 256, 2, 1, n)
    assert plan(4096, 4096, 4096, planes=3).columns == 128  # its sums take the registers of the large one


def test_small_products_are_left_to_the_portable_kernel(plan):
    for shape in ((63, 512, 512), (512, 63, 512), (512, 512, 63)):
        assert not plan(*shape).fits
    assert plan(64, 64, 64).fits


def test_one_row_of_tiles_is_no_cluster(plan):
    assert plan(128, 4096, 4096).cluster == 1
    assert plan(129, 4096, 4096).cluster == 2


@pytest.mark.parametrize("m, n", [(128, 128), (256, 512), (512, 512)])
@pytest.mark.parametrize("k", [1024, 5000, 65536])
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
