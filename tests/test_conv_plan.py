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
  if (n(1) == 2) {
    const int64_t kernel[3] = {1, n(3), n(4)}, stride[3] = {1, n(5), n(6)}, dilation[3] = {1, 1, n(7)};
    const auto m = fastdl::cuda::conv_merge(n(2), kernel, stride, dilation, n(8) == 0);
    // 32 square images with `size` positions on a line.
    const int64_t size = n(10), rows = 32 * size * size, taps = n(3) * n(4);
    const int planes = static_cast<int>(n(8));
    const double high = static_cast<double>((size - 1) * n(5) + (n(3) - 1) * n(7) + 1),
                 wide = static_cast<double>((size - 1) * n(6) + (n(4) - 1) * n(7) + 1);
    const double merged = 32.0 * (m.axes > 1 ? static_cast<double>(size) : high) *
                          (m.overlaps ? wide * static_cast<double>(m.places) : static_cast<double>(size * m.lanes));
    const int64_t chunk = planes ? 4 : 8;
    const double padded = n(2) % chunk ? 32 * high * wide * static_cast<double>((n(2) + chunk - 1) / chunk * chunk) : 0;
    std::printf("%d %d %lld %lld %lld %d %d\n", m.axes, m.overlaps, static_cast<long long>(m.places),
                static_cast<long long>(m.lanes), static_cast<long long>(m.taps),
                fastdl::cuda::conv_merge_pays(m, rows, n(9), n(2), taps, planes, merged, padded),
                fastdl::cuda::conv_merge_weight_pays(m, n(9), rows, n(2), taps, planes, merged, padded));
    return 0;
  }
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
    # Boxes of 32: for up to 64 columns, and for weight gradients.
    for channels, fits in ((3, 0), (19, 0), (20, 1), (32, 1), (40, 1), (64, 1), (72, 1), (80, 1), (200, 1)):
        assert gather(program, 10000, 64, channels, 9).fits == fits
        assert plan(program, True, 128, channels, 9, 10000).fits == fits
    assert not gather(program, 10000, 63, 64, 9).fits
    assert gather(program, 10000, 128, 32, 9, planes=3).fits  # steps of 32 channels
    found = gather(program, 10000, 64, 64, 9, planes=3)
    assert found.fits and found.columns == 64


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


def merge(program, channels, kernel, stride=(1, 1), dilation=1, columns=64, planes=0, size=112):
    """(axes, whether positions overlap, places of a tap, channels, taps), and whether it pays forward and backward."""
    sizes = (channels, *kernel, *stride, dilation, planes, columns, size)
    found = plan_program.numbers(program, 2, *sizes)
    return tuple(found[:5]), *map(bool, found[5:])


def test_first_layers_are_merged(program):
    resnet = merge(program, 3, (7, 7), (2, 2))
    assert resnet == ((1, 1, 4, 28, 7), True, True)  # pixels of 4 channels, so positions are 16 bytes apart
    vgg = merge(program, 3, (3, 3), size=224)
    assert vgg == ((1, 1, 8, 24, 3), True, False)  # half of a weight gradient's rows would be empty
    assert merge(program, 3, (11, 11), (4, 4), columns=96, size=55) == ((1, 1, 4, 44, 11), True, True)
    # No pixel is met twice.
    assert merge(program, 3, (16, 16), (16, 16), columns=768, size=14) == ((3, 0, 3, 768, 1), True, True)
    speech = merge(program, 1, (5, 20), (2, 2), columns=32)
    assert speech[:2] == ((1, 0, 1, 24, 5), True)  # 20 taps of one channel; overlapping, each would have four


def test_positions_that_cannot_overlap_are_copied(program):
    assert merge(program, 3, (3, 3), dilation=2)[0] == (1, 0, 3, 16, 3)
    assert merge(program, 3, (7, 7), (2, 2), planes=3)[0] == (1, 0, 3, 24, 7)
    assert merge(program, 3, (4, 4), (9, 1))[0] == (3, 0, 3, 48, 1)  # steps that no map has room for


def test_merging_has_to_spare_more_than_its_copy_costs(program):
    assert not merge(program, 3, (3, 3), columns=16)[1]
    assert not merge(program, 8, (3, 1))[1]  # nothing to merge: 8 of 32 channels count
    assert not merge(program, 64, (2, 3), (9, 1))[1]
    assert not merge(program, 3, (7, 7), (2, 2), planes=3)[1]  # 20 bytes for every element of the copy
