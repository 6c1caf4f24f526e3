#!/usr/bin/env bash
# run.sh [--device cuda-sim] [OUT]: everything that wants a GPU, in one command of less than ten minutes that needs no
# network: build, golden outputs, tests, compute-sanitizer, ceilings, benchmarks. Writes OUT/results.json (default
# OUT: build/gpu) and tests/golden/<device>.npz; ends with a status other than 0 when anything failed. docs/gpu.md has
# more. With --device cuda-sim: the same stages, small, on the host executor and the package that is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" bench/gpu/run.py "$@"
