"""The CUDA ABI as an embedder meets it: C99 and C++17 programs against the library alone, without Python: the host
executor's, whose device memory is the host's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import DEVICE, needs_gpu

import fastdl

ROOT = Path(fastdl.__file__).parent
INCLUDE, LIB = ROOT / "include", ROOT / "lib"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

C_PROGRAM = r"""
#include <fastdl/cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(call, status)                                                                 \
  do {                                                                                       \
    const fastdl_status got = (call);                                                        \
    if (got != (status)) printf("line %d: %d: %s\n", __LINE__, got, fastdl_cuda_last_error()); \
  } while (0)

static void* take(size_t bytes, void* stream, void* user) { (void)stream, ++*(int*)user; return malloc(bytes); }
static void give(void* p, size_t bytes, void* stream, void* user) { (void)bytes, (void)stream, --*(int*)user; free(p); }
static void* refuse(size_t bytes, void* stream, void* user) { (void)bytes, (void)stream, (void)user; return NULL; }

int main(void) {
  float x[6] = {-1, 2, -3, 4, -5, 6}, y[6], strided[12];
  int64_t shape[2] = {2, 3}, strides[2] = {6, 2}, labels[2] = {1, 7}, rows[1] = {2};
  fastdl_tensor in, out, loss, target, view;
  fastdl_activation relu = {FASTDL_ACT_RELU, 0, 0};
  fastdl_cuda_context_options options = FASTDL_CUDA_CONTEXT_OPTIONS_INIT;
  fastdl_context* context;
  int blocks = 0, count = 0;
  float scalar = 5;
  char name[64];
  EXPECT(fastdl_cuda_device_count(&count), FASTDL_OK);
  EXPECT(fastdl_cuda_device_name(name, sizeof name), FASTDL_OK);
  printf("%d %s\n", count, name);
  memset(&in, 0, sizeof in);
  in.data = x, in.device.type = FASTDL_CUDA, in.ndim = 2, in.shape = shape;
  in.dtype.code = FASTDL_FLOAT, in.dtype.bits = 32, in.dtype.lanes = 1;
  out = in, out.data = y;
  EXPECT(fastdl_cuda_activation_forward(NULL, &in, &out, &relu), FASTDL_OK);
  EXPECT(fastdl_cuda_check(NULL), FASTDL_OK);
  printf("%g %g %g %g %g %g\n", y[0], y[1], y[2], y[3], y[4], y[5]);

  in.device.type = FASTDL_CPU;
  EXPECT(fastdl_cuda_activation_forward(NULL, &in, &out, &relu), FASTDL_ERROR_DEVICE);
  in.device.type = FASTDL_CUDA;

  /* a context with an allocator: scratch memory is given back, and its absence is an error of the call alone */
  options.allocate = take;
  EXPECT(fastdl_cuda_context_create(&options, &context), FASTDL_ERROR_VALUE);
  options.deallocate = give, options.user = &blocks;
  EXPECT(fastdl_cuda_context_create(&options, &context), FASTDL_OK);
  memset(strided, 0, sizeof strided);
  view = in, view.data = strided, view.strides = strides;
  EXPECT(fastdl_cuda_softmax_forward(context, &view, &out, 1, 0), FASTDL_OK);
  printf("%.4f, %d blocks\n", y[5], blocks);
  fastdl_cuda_context_destroy(context);
  options.allocate = refuse;
  EXPECT(fastdl_cuda_context_create(&options, &context), FASTDL_OK);
  EXPECT(fastdl_cuda_softmax_forward(context, &view, &out, 1, 0), FASTDL_ERROR_MEMORY);
  EXPECT(fastdl_cuda_softmax_forward(context, &in, &out, 1, 0), FASTDL_OK);
  fastdl_cuda_context_destroy(context);

  /* a label out of range shows at the check, once */
  loss = in, loss.data = &scalar, loss.ndim = 0;
  target = in, target.data = labels, target.ndim = 1, target.shape = rows;
  target.dtype.code = FASTDL_INT, target.dtype.bits = 64;
  EXPECT(fastdl_cuda_cross_entropy(NULL, &in, &target, NULL, &loss, NULL, NULL), FASTDL_OK);
  EXPECT(fastdl_cuda_check(NULL), FASTDL_ERROR_INDEX);
  EXPECT(fastdl_cuda_check(NULL), FASTDL_OK);
  if (scalar == scalar) printf("a loss of %g\n", scalar);
  return 0;
}
"""

CPP_PROGRAM = r"""
#include <fastdl/cuda.hpp>
#include <cstdio>

int main() {
  const float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1};
  float c[4];
  const fastdl::cuda::Context context(nullptr);
  using fastdl::cuda::Tensor;
  fastdl::cuda::matmul(context, Tensor(a, {2, 3}), Tensor(b, {3, 2}, {1, 3}), nullptr, nullptr, Tensor(c, {2, 2}),
                       nullptr);
  fastdl::cuda::check(context);
  std::printf("%g %g %g %g\n", c[0], c[1], c[2], c[3]);
  fastdl::bfloat16 narrow[4];
  fastdl::cuda::convert(nullptr, Tensor(c, {2, 2}), Tensor(narrow, {2, 2}));
  std::printf("%x\n", narrow[3].bits);
  const Tensor gradient(c, {2, 2});
  const fastdl_tensor* gradients[] = {gradient};
  double norm = 0;
  fastdl::cuda::norm(nullptr, 1, gradients, 1.0, &norm);
  fastdl::cuda::clip_norm(nullptr, 1, gradients, norm / 2, &norm);
  std::printf("%g %.4f\n", norm, c[3]);
  int failures = 0;
  try {
    fastdl::cuda::matmul(nullptr, Tensor(a, {2, 3}), Tensor(b, {2, 3}), nullptr, nullptr, Tensor(c, {2, 2}), nullptr);
  } catch (const fastdl::Error& e) {
    failures += e.status() == FASTDL_ERROR_SHAPE;
  }
  try {
    fastdl::cuda::convert(nullptr, Tensor(c, {2, 2}, {}, 3), Tensor(narrow, {2, 2}));
  } catch (const fastdl::Error& e) {
    failures += e.status() == FASTDL_ERROR_DEVICE;
  }
  return failures == 2 ? 0 : 1;
}
"""

on_host_memory = [
    needs_gpu,
    pytest.mark.skipif(DEVICE == "cuda", reason="the programs hand over memory of the host"),
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers"),
    pytest.mark.skipif(
        "libasan" in os.environ.get("LD_PRELOAD", ""), reason="the library is built with a sanitizer"
    ),
]


def run_program(compiler, source, name, standard, tmp_path):
    """Compiles a program against the executor's library, and runs it."""
    path = shutil.which(os.environ.get({"cc": "CC", "c++": "CXX"}[compiler], compiler))
    if path is None:
        pytest.skip(f"no {compiler} on this machine: the package was installed from a wheel")
    (tmp_path / name).write_text(source)
    program = tmp_path / "program"
    command = [path, standard, *WARNINGS, f"-I{INCLUDE}", str(tmp_path / name), "-o", str(program)]
    subprocess.run([*command, f"-L{LIB}", "-lfastdl_cuda_sim", f"-Wl,-rpath,{LIB}"], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


class TestPrograms:
    pytestmark = on_host_memory

    def test_c99(self, tmp_path):
        out = run_program("cc", C_PROGRAM, "program.c", "-std=c99", tmp_path)
        assert out == ["1 fastdl host executor", "0 2 0 4 0 6", "0.3333, 0 blocks"]

    def test_cpp17(self, tmp_path):
        out = run_program("c++", CPP_PROGRAM, "program.cpp", "-std=c++17", tmp_path)
        assert out == ["1 6 4 15", "4170", "26 7.5000"]


def test_every_function_is_wrapped_for_cpp():
    folder = INCLUDE / "fastdl"
    header = (folder / "cuda.h").read_text()
    declared = set(re.findall(r"FASTDL_API fastdl_status\s+fastdl_cuda_(\w+)\(", header))
    declared |= set(re.findall(r"^FASTDL_CUDA_OP\((\w+)\);", header, re.MULTILINE))
    wrapped = set(re.findall(r"FASTDL_CUDA_CHECKED\((\w+)\);", (folder / "cuda.hpp").read_text()))
    no_status = {"last_error", "get_float32_precision", "activation_from_output", "context_create"}
    assert declared - no_status == wrapped


def test_cuda_has_no_functions_of_its_own():
    """Every op of cuda.h is one of fastdl.h, whose declaration it takes over."""
    folder = INCLUDE / "fastdl"
    names = re.findall(r"^FASTDL_CUDA_OP\((\w+)\);", (folder / "cuda.h").read_text(), re.MULTILINE)
    text = "".join(h.read_text() for h in folder.glob("*.h"))
    assert names and all(re.search(rf"\bfastdl_{name}\(", text) for name in names)
    assert len(names) == len(set(names))


@needs_gpu
def test_only_the_abi_is_exported():
    name = "libfastdl_cuda_sim.so" if DEVICE == "cuda-sim" else "libfastdl_cuda.so"
    if sys.platform != "linux" or shutil.which("nm") is None:
        pytest.skip("reads ELF symbols with nm")
    command = ["nm", "-D", "--defined-only", str(LIB / name)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in out.splitlines() if line.split()[-2] in "TDBR"}
    assert names and all(n.startswith("fastdl_") for n in names - {"_init", "_fini"})
