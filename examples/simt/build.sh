#!/usr/bin/env bash
# build.sh PROGRAM.cu [flags]: compiles a CUDA program for the host executor, into ./PROGRAM.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
source=$1
shift
"${CXX:-g++}" -std=c++17 -g -O0 -pthread -Wno-unknown-pragmas -DFASTDL_SIMT -I"$root/csrc" -I"$root/csrc/simt/include" "$@" \
  -x c++ "$source" "$root"/csrc/simt/*.cpp -o "$(basename "${source%.cu}")"
