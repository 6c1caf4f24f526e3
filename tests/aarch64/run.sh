#!/usr/bin/env bash
# The kernels on 64-bit ARM, on a machine that is none: cross-compiled with Debian's g++-aarch64-linux-gnu, and their
# tests run by an ARM Python under qemu-user, on the generic instruction set and on NEON.
#   tests/aarch64/run.sh [-C directory] [what pytest is to run; the kernels' tests, one in FASTDL_EVERY, 5 unless set]
# The directory, build/aarch64 unless given, keeps Python and the build for the next time.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/aarch64
if [ "${1:-}" = -C ]; then
  work=$2
  shift 2
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)
every=${FASTDL_EVERY:-5}
begun=$SECONDS
say() { printf -- '--- %s (%d s so far)\n' "$1" $((SECONDS - begun)); }

say "tools"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
for package in qemu-user g++-aarch64-linux-gnu; do
  dpkg -s "$package" > /dev/null 2>&1 ||
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" > /dev/null
done
for tool in cmake ninja; do
  command -v "$tool" > /dev/null || { echo "$tool is missing" >&2; exit 1; }
done

# Debian's Python for ARM, unpacked beside the machine's own system: apt with lists of its own.
say "an ARM Python"
system=$work/system
if [ ! -e "$work/python" ]; then
  apt=$work/apt
  mkdir -p "$apt"/state/lists/partial "$apt"/cache/archives/partial "$apt/debs" "$system"
  of_arm=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt/state"
    -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=)
  apt-get "${of_arm[@]}" update -qq
  version=$(apt-cache "${of_arm[@]}" show python3-minimal | sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p' | head -1)
  packages=(python"$version"-minimal libpython"$version"-{minimal,stdlib,dev} libc6 libgcc-s1 libstdc++6 zlib1g libexpat1
    libbz2-1.0 liblzma5 libffi8 libssl3 libcrypt1 libsqlite3-0 libuuid1)
  (cd "$apt/debs" && apt-get "${of_arm[@]}" download -qq "${packages[@]}")
  for package in "$apt"/debs/*.deb; do dpkg -x "$package" "$system"; done
  cp "$system/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" "$system/usr/include/python$version"
  rm -rf "$apt"
  # NumPy and pytest as they are on PyPI for ARM; pip runs on this machine.
  python3 -m pip install -q --target "$work/site" --python-version "$version" --implementation cp \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --only-binary=:all: numpy ml_dtypes safetensors tqdm pytest pytest-timeout hypothesis
  # What the tests start as sys.executable is to be emulated, too.
  printf 'import sys\n\nsys.executable = "%s"\n' "$work/python" > "$work/site/sitecustomize.py"
  printf '#!/bin/sh\nexec qemu-aarch64 -L %q %q "$@"\n' "$system" "$system/usr/bin/python$version" > "$work/python.new"
  chmod +x "$work/python.new"
  mv "$work/python.new" "$work/python"
fi
version=$(basename "$system"/usr/bin/python3.*)
# Not fastdl's sources, wherever this runs.
python() { PYTHONSAFEPATH=1 PYTHONPATH=$work/package:$work/site "$work/python" "$@"; }

say "build"
python3 -c 'import pybind11' 2> /dev/null || { echo "pybind11 is missing: pip install pybind11" >&2; exit 1; }
cmake -S "$root" -B "$work/build" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DFASTDL_WERROR=ON -DFASTDL_CUDA=OFF \
  -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" \
  -DPython_EXECUTABLE="$work/python" -DPython_INCLUDE_DIR="$system/usr/include/$version" > "$work/cmake.log"
cmake --build "$work/build" > "$work/build.log" 2>&1 || { tail -50 "$work/build.log"; exit 1; }
mkdir -p "$work/package"
rm -rf "$work/package/fastdl"
(cd "$root" && find fastdl -name '*.py' -o -name '*.html' -o -name '*.json' -o -name py.typed) |
  tar -C "$root" -cT - | tar -C "$work/package" -x
cmake --install "$work/build" --prefix "$work/package/fastdl" > /dev/null

say "python -m fastdl --selftest"
python -c 'import platform, fastdl; from fastdl import _core; print(platform.machine(), _core.available_isas())'
python -m fastdl --selftest

say "kernel tests"
tests=("$@")
if [ ${#tests[@]} = 0 ]; then
  for name in activation arithmetic attention bfloat16 conv conv_pointwise conv_pool conv_winograd convert dropout \
    embedding gemm_split linear loss matmul narrow norm optim pool rnn rnn_bf16 rnn_layers softmax threads; do
    tests+=("tests/test_$name.py")
  done
  # Attention over sequences of many thousands takes minutes here, and qemu-user does not survive a fork among threads.
  tests+=(--every "$every" -k "not memory_does_not_grow and not fork")
fi
cd "$root"
python -m pytest -p no:cacheprovider --timeout 900 "${tests[@]}"
say "done"
