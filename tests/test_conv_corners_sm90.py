"""What Hopper's convolutions ask a device about tensor maps of im2col (csrc/cuda/im2col_sm90_probe.cu). The executor
can be told to answer as other drivers might: the kernels stay the same, and so do the results."""

import os
import subprocess
import sys
from pathlib import Path

import devices
import pytest

sim = devices.cuda_kernels()

SCRIPT = """
import sys
sys.path.insert(0, "tests")
import numpy as np
from conv_sm90 import BFLOAT16, check
rng = np.random.default_rng(3)
check(rng, (2, 64, 9, 11), (64, 64, 3, 2), BFLOAT16, padding=(1, 0))
check(rng, (1, 64, 4, 6, 5), (64, 64, 3, 1, 2), BFLOAT16, padding=(1, 0, 1))
check(rng, (2, 64, 9, 12), (64, 64, 3, 3), BFLOAT16, stride=2, padding=1)
check(rng, (2, 3, 13, 12), (64, 3, 5, 5), BFLOAT16, stride=2, padding=2)
"""


@pytest.mark.skipif(not sim.__name__.endswith("_cuda_sim"), reason="a GPU's driver has one answer")
@pytest.mark.parametrize("answer", ["", "reversed", "separate"])
def test_answers_of_drivers(answer, tmp_path):
    log = tmp_path / "kernels.txt"
    settings = {"FASTDL_CUDA_CONV": "sm90", "FASTDL_SIMT_IM2COL": answer, "FASTDL_SIMT_LOG": str(log)}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT],
        cwd=root,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    entered = log.read_text()
    assert "im2col_probe" in entered and "gemm_sm90" in entered
    assert "conv_gather_mma" not in entered and "conv_weight_mma" not in entered
