"""How convolutions are cut up for Hopper's kernel (csrc/cuda/conv_config.h): functions of shapes, compiled by
themselves."""

import plan_program
import pytest
from plan_program import H100

pytestmark = plan_program.marks

SOURCE = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/conv_config.h"
int main(int, char** a) {
  constexpr int H100 = 132;  // multiprocessors
  const auto n = [&](int i) { return std::atoll(a[i]); };
  const auto p = n(1) ? fastdl::cuda::conv_sm90_weight_plan(n(2), n(3), n(4), n(5), H100, static_cast<int>(n(6)), false)
                      : fastdl::cuda::conv_sm90_plan(n(2), n(3), n(4), n(5), H100, static_cast<int>(n(6)), false);
  std::printf("%d %d %d %lld %lld\n", p.fits, p.columns, p.cluster, static_cast<long long>(p.parts),
              static_cast<long long>(p.k_each));
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return plan_program.build(tmp_path_factory.mktemp("plan"), SOURCE)


def plan(program, weight, *sizes, planes=0):
    return plan_program.run(program, int(weight), *sizes, planes)


def gather(program, rows, columns, channels, taps, planes=0):
    return plan(program, False, rows, columns, channels, taps, planes=planes)


def test_tiles_are_as_wide_as_there_are_columns(program):
    pixels = 32 * 56 * 56
    assert [gather(program, pixels, k, 64, 9).columns for k in (64, 128, 1024)] == [64, 128, 256]


def test_channels_that_fill_few_steps_are_left_to_the_portable_kernel(program):
    for channels, fits in ((3, 0), (32, 0), (40, 1), (64, 1), (72, 0), (80, 1), (200, 1)):
        assert gather(program, 10000, 128, channels, 9).fits == fits
        assert plan(program, True, 128, channels, 9, 10000).fits == fits
    assert not gather(program, 10000, 63, 64, 9).fits
    assert gather(program, 10000, 128, 32, 9, planes=3).fits  # steps of 32 channels
    assert not gather(program, 10000, 64, 64, 9, planes=3).fits  # half of every tile


def test_parts_are_whole_steps_and_cover_k(program):
    found = gather(program, 32 * 7 * 7, 512, 512, 9)
    assert found.parts > 1 and found.k_each % 64 == 0
    assert (found.parts - 1) * found.k_each < 9 * 512 <= found.parts * found.k_each


@pytest.mark.parametrize(
    "rows, channels, taps, positions", [(64, 64, 9, 100352), (512, 512, 9, 1568), (2048, 512, 1, 196)]
)
def test_weight_gradients_fill_the_device_once(program, rows, channels, taps, positions):
    found = plan(program, True, rows, channels, taps, positions)
    across = -(-taps * channels // found.columns)
    blocks = -(-rows // (128 * found.cluster)) * found.cluster * across * found.parts
    assert found.parts == 1 or blocks <= H100
    assert (
        found.k_each % 64 == 0 and (found.parts - 1) * found.k_each < positions <= found.parts * found.k_each
    )
