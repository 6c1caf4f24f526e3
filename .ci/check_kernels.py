"""Usage: check_kernels.py LOG. Fails unless the host executor has entered every kernel: each __global__ function of
csrc/cuda has to stand in LOG, which executions with FASTDL_SIMT_LOG=LOG have written."""

import re
import sys
from pathlib import Path

root = Path(__file__).parent.parent / "csrc" / "cuda"
declared = {}
for file in sorted([*root.rglob("*.cu"), *root.rglob("*.cuh")]):
    text = re.sub(r"//[^\n]*", "", file.read_text())
    for name in re.findall(
        r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\(", text
    ):
        declared[name] = file.relative_to(root.parent.parent)
count = sum(text.count("__global__ void") for text in (f.read_text() for f in root.rglob("*.cu*")))
entered = {
    re.split(r"[<(]", line)[0].split("::")[-1].strip() for line in Path(sys.argv[1]).read_text().splitlines()
}
missing = sorted(set(declared) - entered)
for name in missing:
    print(f"never entered: {name} ({declared[name]})")
print(f"{len(declared) - len(missing)} of {len(declared)} kernels entered ({count} definitions)")
sys.exit(1 if missing or not declared or len(declared) != count else 0)
