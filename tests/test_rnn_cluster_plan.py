"""How layers are cut up for Hopper's clusters (csrc/cuda/rnn_config.h): functions of shapes, compiled by themselves."""

from typing import NamedTuple

import plan_program
import pytest
from plan_program import H100

pytestmark = plan_program.marks

SOURCE = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/rnn_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoll(a[i]); };
  const auto p = fastdl::cuda::rnn_cluster_plan(n(1), n(2), n(3), n(4), n(5), static_cast<int>(n(6)));
  std::printf("%d %d %d %d %d %lld\n", p.fits, p.suits, p.blocks, p.units_each, p.sequences_each,
              static_cast<long long>(p.groups));
}
"""


class Plan(NamedTuple):
    fits: int
    suits: int
    blocks: int
    units_each: int
    sequences_each: int
    groups: int


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("plan"), SOURCE)
    return lambda gates, hidden, batch, steps=100, directions=1, processors=H100: Plan(
        *plan_program.numbers(program, gates, hidden, steps, batch, directions, processors)
    )


def test_the_layer_everybody_quotes(plan):
    """Eight clusters of 8 blocks: 64 of 132 multiprocessors."""
    assert plan(4, 256, 16) == (1, 1, 8, 32, 2, 8)
    assert plan(4, 128, 16) == (1, 1, 4, 32, 1, 16)
    assert plan(4, 512, 16) == (1, 1, 16, 32, 4, 4)


@pytest.mark.parametrize("gates, most", [(1, 1024), (3, 512), (4, 512)])
def test_sizes(plan, gates, most):
    for hidden in (1, 2, 31, most // 4, most // 4 + 1, most // 2, most // 2 + 1, most - 1, most):
        found = plan(gates, hidden, 8)
        assert found.fits and found.units_each % 2 == 0
        assert found.blocks * found.units_each >= hidden
        assert found.units_each <= (64 if gates == 1 else 32)
    assert not plan(gates, most + 1, 8).fits
    assert not plan(gates, 32, 8, steps=1).fits
    assert not plan(gates, 32, 0).fits


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("hidden", [128, 256])
def test_groups_hold_all_sequences(plan, hidden, directions):
    for batch in (1, 7, 16, 33, 96, 97, 200, 5000):
        found = plan(4, hidden, batch, directions=directions)
        assert (found.groups - 1) * found.sequences_each < batch <= found.groups * found.sequences_each
        clusters = found.groups * directions
        assert found.suits == (clusters * found.blocks <= 1.5 * H100)
        # Fewer sequences a cluster would not all run at once.
        if found.sequences_each > 1:
            fewer = -(-batch // (found.sequences_each // 2)) * directions
            assert fewer * found.blocks > 0.75 * H100 - found.blocks


def test_small_devices(plan):
    assert plan(4, 256, 16, processors=4).groups == 2
