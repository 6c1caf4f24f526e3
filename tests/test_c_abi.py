"""The C ABI as an embedder meets it: headers that compile cleanly as C99 and C++17, DLPack's layout, no Python."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastdl

ROOT = Path(fastdl.__file__).parent
INCLUDE, LIB = ROOT / "include", ROOT / "lib"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

C_PROGRAM = r"""
#include <fastdl/fastdl.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  float x[6] = {-1, 2, -3, 4, -5, 6}, y[6];
  int64_t shape[2] = {2, 3}, wrong[2] = {3, 2};
  const fastdl_device cpu = {FASTDL_CPU, 0};
  const fastdl_dtype f32 = {FASTDL_FLOAT, 32, 1};
  fastdl_tensor in, out;
  fastdl_activation relu = {FASTDL_ACT_RELU, 0, 0};
  memset(&in, 0, sizeof in);
  in.data = x, in.device = cpu, in.ndim = 2, in.dtype = f32, in.shape = shape;
  out = in;
  out.data = y;
  if (fastdl_activation_forward(NULL, &in, &out, &relu) != FASTDL_OK) return 1;
  printf("%g %g %g %g %g %g\n", y[0], y[1], y[2], y[3], y[4], y[5]);
  out.shape = wrong;
  if (fastdl_activation_forward(NULL, &in, &out, &relu) != FASTDL_ERROR_SHAPE) return 2;
  printf("%s\n", fastdl_last_error());
  if (fastdl_activation_forward(NULL, NULL, &out, &relu) != FASTDL_ERROR_VALUE) return 3;
  return 0;
}
"""

HOSTILE_PROGRAM = r"""
#include <fastdl/fastdl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(call, status)                                                            \
  do {                                                                                  \
    const fastdl_status got = (call);                                                   \
    if (got != (status)) printf("line %d: %d: %s\n", __LINE__, got, fastdl_last_error()); \
  } while (0)

static void* take(size_t bytes, void* user) { ++*(int*)user; return malloc(bytes); }
static void give(void* p, size_t bytes, void* user) { (void)bytes, --*(int*)user; free(p); }

int main(void) {
  float data[6] = {3, -1, 2, 0.5f, 0, 1}, result[6] = {0}, scalar = 7;
  int64_t shape[2] = {2, 3}, negative[2] = {2, -3}, zero_stride[2] = {0, 1}, huge[2] = {0, 1};
  int64_t none[2] = {0, 3}, label[2] = {1, 2}, rows[1] = {2}, repeated[2] = {0, 0};
  fastdl_tensor x, y, t, labels, loss;
  fastdl_activation relu = {FASTDL_ACT_RELU, 0, 0};
  huge[0] = INT64_MAX, huge[1] = 1;
  memset(&x, 0, sizeof x);
  x.data = data, x.device.type = FASTDL_CPU, x.ndim = 2, x.shape = shape;
  x.dtype.code = FASTDL_FLOAT, x.dtype.bits = 32, x.dtype.lanes = 1;
  y = x, y.data = result;

  /* views */
#define BAD(field, status)                                               \
  do {                                                                   \
    t = x;                                                               \
    t.field;                                                             \
    EXPECT(fastdl_activation_forward(NULL, &t, &y, &relu), status);      \
  } while (0)
  BAD(data = NULL, FASTDL_ERROR_VALUE);
  BAD(shape = NULL, FASTDL_ERROR_VALUE);
  BAD(shape = negative, FASTDL_ERROR_SHAPE);
  BAD(strides = huge, FASTDL_ERROR_SHAPE);
  BAD(ndim = -1, FASTDL_ERROR_SHAPE);
  BAD(ndim = FASTDL_MAX_NDIM + 1, FASTDL_ERROR_SHAPE);
  BAD(device.type = FASTDL_CUDA, FASTDL_ERROR_DEVICE);
  BAD(dtype.lanes = 4, FASTDL_ERROR_DTYPE);
  BAD(dtype.bits = 16, FASTDL_ERROR_DTYPE);
  t = y, t.strides = zero_stride;
  EXPECT(fastdl_activation_forward(NULL, &x, &t, &relu), FASTDL_ERROR_SHAPE);
  {  /* a view of one element that claims 2^80 of them */
    int64_t many[2];
    many[0] = many[1] = (int64_t)1 << 40;
    t = x, t.shape = many, t.strides = repeated;
    EXPECT(fastdl_matmul(NULL, &t, &t, NULL, NULL, &y, NULL), FASTDL_ERROR_SHAPE);
  }
  t = x, t.shape = none, t.data = NULL;
  EXPECT(fastdl_activation_forward(NULL, &t, &t, &relu), FASTDL_OK);
  if (fastdl_activation_from_output(NULL)) return 1;

  /* options: an older caller's are shorter, a newer one's longer */
  labels = x, labels.data = label, labels.ndim = 1, labels.shape = rows;
  labels.dtype.code = FASTDL_INT, labels.dtype.bits = 64;
  loss = x, loss.data = &scalar, loss.ndim = 0;
  {
    struct { fastdl_cross_entropy_options known; double unknown[4]; } o = {FASTDL_CROSS_ENTROPY_OPTIONS_INIT, {0}};
    o.known.reduction = FASTDL_REDUCTION_SUM;
    o.known.label_smoothing = 77;  /* not in the older struct */
    o.known.struct_size = offsetof(fastdl_cross_entropy_options, label_smoothing);
    EXPECT(fastdl_cross_entropy(NULL, &x, &labels, NULL, &loss, NULL, &o.known), FASTDL_OK);
    printf("%.4f\n", scalar);
    o.known.label_smoothing = 0;
    o.known.struct_size = sizeof o;
    EXPECT(fastdl_cross_entropy(NULL, &x, &labels, NULL, &loss, NULL, &o.known), FASTDL_OK);
    printf("%.4f\n", scalar);
    o.known.struct_size = 0;
    EXPECT(fastdl_cross_entropy(NULL, &x, &labels, NULL, &loss, NULL, &o.known), FASTDL_ERROR_VALUE);
  }

  /* lists */
  {
    const fastdl_tensor *one = &y, *missing = NULL;
    const fastdl_sgd_options sgd = FASTDL_SGD_OPTIONS_INIT;
    double norm;
    EXPECT(fastdl_sgd_step(NULL, 1, NULL, &one, NULL, NULL, &sgd), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_sgd_step(NULL, 1, &one, NULL, NULL, NULL, &sgd), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_sgd_step(NULL, 1, &one, &missing, NULL, NULL, &sgd), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_sgd_step(NULL, -1, &one, &one, NULL, NULL, &sgd), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_adam_step(NULL, 1, &one, &one, NULL, NULL, NULL, NULL, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_adam_step(NULL, 1, &one, &one, &one, &one, NULL, NULL, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_adagrad_step(NULL, 1, &one, &one, NULL, NULL, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_rmsprop_step(NULL, 1, &one, &one, NULL, NULL, NULL, NULL, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_norm(NULL, 1, NULL, 2, &norm), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_norm(NULL, 1, &one, 2, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_scale(NULL, 1, NULL, 2), FASTDL_ERROR_VALUE);
  }

  /* bfloat16: 1, 2 and 3 are 0x3f80, 0x4000, 0x4040, -1 is 0xbf80 */
  {
    uint16_t narrow[6] = {0x4040, 0xbf80, 0x4000, 0x3f80, 0, 0x3f80}, got[6] = {9, 9, 9, 9, 9, 9};
    uint16_t product[4] = {9, 9, 9, 9};
    const uint16_t expected[6] = {0x4040, 0, 0x4000, 0x3f80, 0, 0x3f80};
    const uint16_t gram[4] = {0x4160, 0x40a0, 0x40a0, 0x4000}; /* 14, 5; 5, 2 */
    int64_t square[2] = {2, 2}, three[2] = {3, 2}, back[2] = {1, 3};
    fastdl_tensor b = x, z = x, bt, p;
    b.data = narrow, b.dtype.code = FASTDL_BFLOAT, b.dtype.bits = 16;
    z = b, z.data = got;
    EXPECT(fastdl_activation_forward(NULL, &b, &y, &relu), FASTDL_ERROR_DTYPE);
    EXPECT(fastdl_activation_forward(NULL, &x, &z, &relu), FASTDL_ERROR_DTYPE);
    t = z, t.dtype.code = FASTDL_FLOAT;
    EXPECT(fastdl_activation_forward(NULL, &b, &t, &relu), FASTDL_ERROR_DTYPE);
    t = z, t.strides = zero_stride;
    EXPECT(fastdl_activation_forward(NULL, &b, &t, &relu), FASTDL_ERROR_SHAPE);
    t = b, t.data = NULL;
    EXPECT(fastdl_activation_forward(NULL, &t, &z, &relu), FASTDL_ERROR_VALUE);
    t = b, t.dtype.bits = 8;
    EXPECT(fastdl_activation_forward(NULL, &t, &z, &relu), FASTDL_ERROR_DTYPE);
    if (got[0] != 9 || got[5] != 9) printf("a failed call has written\n");
    EXPECT(fastdl_activation_forward(NULL, &b, &z, &relu), FASTDL_OK);
    if (memcmp(got, expected, sizeof got)) printf("relu of bfloat16\n");
    bt = b, bt.shape = three, bt.strides = back;
    p = b, p.data = product, p.shape = square;
    EXPECT(fastdl_matmul(NULL, &b, &bt, NULL, NULL, &p, NULL), FASTDL_OK);
    if (memcmp(product, gram, sizeof product)) printf("product of bfloat16: %x\n", product[0]);
    EXPECT(fastdl_convert(NULL, &b, &y), FASTDL_OK);
    if (result[0] != 3 || result[1] != -1) printf("bfloat16 to float32\n");
  }

  /* contexts */
  {
    fastdl_context_options o = FASTDL_CONTEXT_OPTIONS_INIT;
    fastdl_context* context;
    int blocks = 0;
    o.allocate = take;
    EXPECT(fastdl_context_create(&o, &context), FASTDL_ERROR_VALUE);
    o.deallocate = give, o.user = &blocks, o.num_threads = -1;
    EXPECT(fastdl_context_create(&o, &context), FASTDL_ERROR_VALUE);
    o.num_threads = 100000;
    EXPECT(fastdl_context_create(&o, &context), FASTDL_ERROR_VALUE);
    o.num_threads = 2, o.float32_precision = 3;
    EXPECT(fastdl_context_create(&o, &context), FASTDL_ERROR_VALUE);
    o.float32_precision = FASTDL_PRECISION_HIGH;
    EXPECT(fastdl_context_create(&o, NULL), FASTDL_ERROR_VALUE);
    EXPECT(fastdl_context_create(&o, &context), FASTDL_OK);
    EXPECT(fastdl_cross_entropy(context, &x, &labels, NULL, &loss, NULL, NULL), FASTDL_OK);
    {
      uint16_t half[6] = {0x3c00, 0xc000, 0, 0x3c00, 0, 0};
      t = x, t.data = half, t.dtype.bits = 16;
      EXPECT(fastdl_activation_forward(context, &t, &t, &relu), FASTDL_OK);
      if (half[0] != 0x3c00 || half[1] != 0) printf("relu of float16\n");
    }
    fastdl_context_destroy(context);
    if (blocks != 0) printf("%d blocks were not given back\n", blocks);
  }
  return 0;
}
"""

CPP_PROGRAM = r"""
#include <fastdl/fastdl.hpp>
#include <cstdio>

int main() {
  const float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1};
  float c[4];
  const fastdl::Context two_threads(2);
  fastdl::matmul(two_threads, fastdl::Tensor(a, {2, 3}), fastdl::Tensor(b, {3, 2}), nullptr, nullptr,
                 fastdl::Tensor(c, {2, 2}), nullptr);
  std::printf("%g %g %g %g\n", c[0], c[1], c[2], c[3]);
  fastdl::matmul(nullptr, fastdl::Tensor(a, {2, 3}), fastdl::Tensor(b, {3, 2}, {1, 3}), nullptr, nullptr,
                 fastdl::Tensor(c, {2, 2}), nullptr);
  std::printf("%g %g %g %g\n", c[0], c[1], c[2], c[3]);
  fastdl::bfloat16 narrow[4];
  fastdl::float16 half[4];
  fastdl::convert(nullptr, fastdl::Tensor(c, {2, 2}), fastdl::Tensor(narrow, {2, 2}));
  fastdl::convert(nullptr, fastdl::Tensor(c, {2, 2}), fastdl::Tensor(half, {2, 2}));
  std::printf("%x %x\n", narrow[3].bits, half[3].bits);
  try {
    fastdl::matmul(nullptr, fastdl::Tensor(a, {2, 3}), fastdl::Tensor(b, {2, 3}), nullptr, nullptr,
                   fastdl::Tensor(c, {2, 2}), nullptr);
  } catch (const fastdl::Error& e) {
    return e.status() == FASTDL_ERROR_SHAPE ? 0 : 1;
  }
  return 2;
}
"""


def run_program(compiler, source, name, options, tmp_path):
    path = shutil.which(os.environ.get({"cc": "CC", "c++": "CXX"}[compiler], compiler))
    if path is None:
        pytest.skip(f"no {compiler} on this machine: the package was installed from a wheel")
    (tmp_path / name).write_text(source)
    program = tmp_path / "program"
    command = [path, *options, *WARNINGS, f"-I{INCLUDE}", str(tmp_path / name), "-o", str(program)]
    command += [f"-L{LIB}", "-lfastdl_cpu", f"-Wl,-rpath,{LIB}"]
    subprocess.run(command, check=True)
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(
        [program], check=True, capture_output=True, text=True, env=environment
    ).stdout.split("\n")


@pytest.fixture
def plain_library():
    """A library built with AddressSanitizer cannot be loaded into a program that was not."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the library is built with a sanitizer")


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers")
def test_c99_program(tmp_path, plain_library):
    out = run_program("cc", C_PROGRAM, "program.c", ["-std=c99"], tmp_path)
    assert out[0] == "0 2 0 4 0 6"
    assert out[1] == "activation: expected out to have the shape of x, (2, 3), got (3, 2)"


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers")
def test_hostile_c_program(tmp_path, plain_library):
    out = run_program("cc", HOSTILE_PROGRAM, "program.c", ["-std=c99"], tmp_path)
    assert out == ["5.0068", "5.0068", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of Unix compilers")
def test_cpp17_program(tmp_path, plain_library):
    out = run_program("c++", CPP_PROGRAM, "program.cpp", ["-std=c++17"], tmp_path)
    assert out[:3] == ["4 5 10 11", "1 6 4 15", "4170 4b80"]  # 15 in bfloat16 and float16


def test_tensor_has_the_layout_of_dltensor():
    """DLPack's DLTensor: void* data, {int32, int32}, int32, {uint8, uint8, uint16}, int64*, int64*, uint64."""

    class Device(ctypes.Structure):
        _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]

    class DataType(ctypes.Structure):
        _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]

    class DLTensor(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("device", Device),
            ("ndim", ctypes.c_int32),
            ("dtype", DataType),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)),
            ("byte_offset", ctypes.c_uint64),
        ]

    header = (INCLUDE / "fastdl" / "base.h").read_text()
    fields = re.search(r"typedef struct fastdl_tensor \{(.*?)\} fastdl_tensor;", header, re.S)[1]
    fields = re.sub(r"/\*.*?\*/", "", fields, flags=re.S)
    assert re.findall(r"(\w+);", fields) == [name for name, _ in DLTensor._fields_]
    # The library reads a DLTensor made here, byte offset included.
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    library = ctypes.CDLL(str(next(p for p in LIB.iterdir() if p.suffix == suffix and "cpu" in p.stem)))

    class Activation(ctypes.Structure):
        _fields_ = [("kind", ctypes.c_int32), ("alpha", ctypes.c_double), ("beta", ctypes.c_double)]

    x, y = (ctypes.c_double * 3)(9, -1, 5), (ctypes.c_double * 2)()
    shape = (ctypes.c_int64 * 1)(2)
    cpu, f64 = Device(1, 0), DataType(2, 64, 1)
    source = DLTensor(ctypes.addressof(x), cpu, 1, f64, shape, None, 8)
    target = DLTensor(ctypes.addressof(y), cpu, 1, f64, shape, None, 0)
    relu = Activation(1, 0, 0)
    status = library.fastdl_activation_forward(None, *(ctypes.byref(a) for a in (source, target, relu)))
    assert status == 0 and list(y) == [0.0, 5.0]


def test_every_function_is_wrapped_for_cpp():
    folder = INCLUDE / "fastdl"
    declared = {
        name
        for header in folder.glob("*.h")
        if header.name != "cuda.h"
        for name in re.findall(r"FASTDL_API fastdl_status\s+fastdl_(\w+)\(", header.read_text())
    }
    wrapped = set(re.findall(r"FASTDL_CHECKED\((\w+)\);", (folder / "fastdl.hpp").read_text()))
    assert declared - {"context_create"} == wrapped


def test_exported_symbols_are_those_listed():
    """A name that is gone breaks whoever links to the library; a new one belongs in the list."""
    if sys.platform != "linux" or shutil.which("nm") is None:
        pytest.skip("reads ELF symbols with nm")
    library = str(LIB / "libfastdl_cpu.so")
    out = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1] for line in out.splitlines() if line.split()[-2] in "TDBR"} - {"_init", "_fini"}
    assert names == set((Path(__file__).parent / "exported_symbols.txt").read_text().split())
