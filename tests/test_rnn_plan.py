"""Which recurrent layers one kernel takes through all steps, and how it is cut into blocks (csrc/cuda/rnn_config.h)."""

import subprocess

import numpy as np
import plan_program
import pytest

pytestmark = plan_program.marks
GATES = {"rnn_tanh": 1, "gru": 3, "lstm": 4}
PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda/rnn_config.h"
int main(int, char** a) {
  const auto n = [&](int i) { return std::atoll(a[i]); };
  const auto p = fastdl::cuda::rnn_resident_plan(n(1), n(2), n(3), n(4), n(5), n(6), n(7), n(8), n(9), 227 * 1024,
                                                 static_cast<int>(n(10)));
  std::printf("%d %d %d %d %d %d %zu\n", p.possible, p.tall, int(p.units), int(p.unit_blocks),
              int(p.row_blocks), p.buffers, p.shared_bytes);
  const auto q = fastdl::cuda::rnn_parts_plan(n(1), n(2), n(3), n(5), n(7), p, 227 * 1024, static_cast<int>(n(10)));
  std::printf("%d %d %d %d %d %d %d %zu\n", q.possible, q.suits, int(q.groups), q.parts, q.finished, int(q.k_each),
              int(q.row_blocks), q.shared_bytes);
}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    program = plan_program.build(tmp_path_factory.mktemp("rnn"), PROGRAM)

    def call(
        hidden,
        backward=False,
        batch=16,
        kind="lstm",
        directions=1,
        item=2,
        steps=1024,
        processors=132,
        parts=0,
    ):
        gates = GATES[kind]
        rows, k = (1, gates * hidden) if backward else (gates, hidden)
        least = 1 if rows == 1 else 2
        most = least + (1 if item == 4 or rows == 1 else 2)
        numbers = steps, batch, hidden, rows, k, item, directions, least, most, processors
        done = subprocess.run([program, *map(str, numbers)], check=True, capture_output=True, text=True)
        return tuple(map(int, done.stdout.splitlines()[parts].split()))

    return call


def test_the_rows_to_win(plan):
    """LSTM, 16 sequences, 16 bits, on an H100: fits, units of a block, blocks."""
    assert [plan(h)[:4] for h in (256, 768, 1056, 1057, 1536, 2048)] == [
        (1, 2, 8, 32), (1, 2, 8, 96), (1, 2, 8, 132), (1, 3, 12, 89), (1, 3, 12, 128), (1, 4, 16, 128)]  # fmt: skip
    assert [plan(h, True)[:4] for h in (256, 768, 1536, 2048)] == [
        (1, 1, 16, 16), (1, 1, 16, 48), (1, 1, 16, 96), (1, 1, 16, 128)]  # fmt: skip
    assert not plan(2049)[0] and not plan(2560, True)[0]
    assert plan(768, directions=2)[:4] == (1, 3, 12, 64) and plan(1024, directions=2)[:4] == (1, 4, 16, 64)
    assert plan(768, item=4)[0] and plan(768, True, item=4)[0]


def test_what_is_left_to_launches(plan):
    assert not plan(768, steps=1)[0]
    assert not plan(768, batch=0)[0]
    assert plan(768, batch=256)[0] and not plan(768, batch=257)[0]
    assert plan(1536, batch=128)[0] and not plan(1536, batch=129)[0]


def test_many_sequences_share_the_device(plan):
    """Taller blocks, so that several groups of 16 sequences go side by side: fits, height, units, blocks, groups."""
    assert plan(512, batch=64)[:5] == (1, 4, 16, 32, 4)
    assert plan(768, batch=32)[:5] == (1, 3, 12, 64, 2)
    assert plan(1024, batch=64)[:5] == (1, 4, 16, 64, 2)


def test_every_block_has_a_multiprocessor_and_memory(plan):
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(150):
        hidden, batch = int(rng.integers(1, 4300)), int(rng.integers(1, 300))
        kind, directions = str(rng.choice(list(GATES))), int(rng.integers(1, 3))
        backward, item = bool(rng.integers(0, 2)), int(rng.choice([2, 4]))
        processors = int(rng.choice([108, 114, 132]))
        fits, tall, units, unit_blocks, row_blocks, _, shared = plan(
            hidden, backward, batch, kind, directions, item, 2, processors
        )
        seen.add((fits, tall))
        if not fits:
            continue
        rows = 1 if backward else GATES[kind]
        assert units * rows <= 16 * tall and units * unit_blocks >= hidden > units * (unit_blocks - 1)
        assert unit_blocks * row_blocks * directions <= processors and shared <= 227 * 1024
        assert 1 <= row_blocks <= -(-batch // 16) <= 8 * row_blocks
    assert seen >= {(0, 0), (1, 1), (1, 2), (1, 3), (1, 4)}


def test_backward_in_parts_of_k(plan):
    """LSTM, 16 sequences: possible, suits, groups of 64 units, blocks of each, units that a block finishes, its k."""
    assert [plan(h, True, parts=1)[:6] for h in (256, 1024, 1536, 2048)] == [
        (1, 0, 4, 8, 8, 128), (1, 1, 16, 8, 8, 512), (1, 1, 24, 5, 13, 1248), (1, 1, 32, 4, 16, 2048)]  # fmt: skip
    assert not plan(1536, True, parts=1, kind="rnn_tanh")[1]  # blocks read as little without
    assert not plan(2200, True, parts=1)[0] and not plan(1536, True, parts=1, steps=1)[0]
    assert plan(768, True, parts=1, directions=2)[:4] == (1, 1, 12, 5)
    rng = np.random.default_rng(3)
    for _ in range(100):
        hidden, batch = int(rng.integers(1, 2300)), int(rng.integers(1, 300))
        kind, directions = str(rng.choice(list(GATES))), int(rng.integers(1, 3))
        possible, _, groups, parts, finished, k_each, row_blocks, shared = plan(
            hidden, True, batch, kind, directions, parts=1
        )
        if possible:
            k = GATES[kind] * hidden
            assert 4 <= parts <= 8 and parts * finished >= 64 and finished <= 16
            assert k_each % 32 == 0 and k_each * (parts - 1) < k <= k_each * parts
            assert groups * parts * row_blocks * directions <= 132 and shared <= 227 * 1024
