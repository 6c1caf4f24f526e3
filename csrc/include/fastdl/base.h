/* fastdl C ABI: types shared by every op family. C99 and C++17. See fastdl.h for the conventions. */
#ifndef FASTDL_BASE_H
#define FASTDL_BASE_H

#include <stddef.h>
#include <stdint.h>

#if defined(FASTDL_STATIC)
#define FASTDL_API
#elif defined(_WIN32)
#if defined(FASTDL_BUILDING)
#define FASTDL_API __declspec(dllexport)
#else
#define FASTDL_API __declspec(dllimport)
#endif
#else
#define FASTDL_API __attribute__((visibility("default")))
#endif

#define FASTDL_VERSION_MAJOR 0
#define FASTDL_VERSION_MINOR 1
#define FASTDL_VERSION_PATCH 0

/* Most dimensions a tensor may have. */
#define FASTDL_MAX_NDIM 16

#ifdef __cplusplus
extern "C" {
#endif

/* Every op returns one of these; fastdl_last_error() has the sentence that goes with it. */
typedef enum fastdl_status {
  FASTDL_OK = 0,
  FASTDL_ERROR_SHAPE = 1,   /* ranks, extents or strides that do not fit together */
  FASTDL_ERROR_VALUE = 2,   /* an option out of range */
  FASTDL_ERROR_DTYPE = 3,   /* an element type the op does not take */
  FASTDL_ERROR_INDEX = 4,   /* a label or index out of range */
  FASTDL_ERROR_MEMORY = 5,  /* the allocator returned NULL */
  FASTDL_ERROR_DEVICE = 6,  /* a tensor that is not on this library's device */
  FASTDL_ERROR_NO_CUDA = 7, /* built without CUDA */
  FASTDL_ERROR_INTERNAL = 8 /* a bug in fastdl */
} fastdl_status;

/* Element types and devices use DLPack's codes, so that a DLTensor can be passed as it is. */
enum { FASTDL_INT = 0, FASTDL_UINT = 1, FASTDL_FLOAT = 2, FASTDL_BFLOAT = 4, FASTDL_BOOL = 6 };
enum { FASTDL_CPU = 1, FASTDL_CUDA = 2 };

typedef struct fastdl_device {
  int32_t type; /* FASTDL_CPU */
  int32_t id;
} fastdl_device;

typedef struct fastdl_dtype {
  uint8_t code;   /* FASTDL_FLOAT, ...; bfloat16 is FASTDL_BFLOAT, float16 FASTDL_FLOAT of 16 bits */
  uint8_t bits;   /* 16, 32, 64, ... */
  uint16_t lanes; /* 1 */
} fastdl_dtype;

/* A view of caller-owned memory, laid out as DLPack's DLTensor. */
typedef struct fastdl_tensor {
  void* data;
  fastdl_device device;
  int32_t ndim;
  fastdl_dtype dtype;
  int64_t* shape;       /* [ndim] */
  int64_t* strides;     /* [ndim], in elements, may be negative or 0; NULL means C-contiguous */
  uint64_t byte_offset; /* added to data */
} fastdl_tensor;

/* How products of float32 matrices (matmul, convolution, recurrent layers, attention) may be computed. */
typedef enum fastdl_precision {
  FASTDL_PRECISION_HIGHEST = 0, /* as accurate as float32 multiply-adds; how is the kernel's business */
  FASTDL_PRECISION_HIGH = 1,    /* may keep 16 significant bits of each factor */
  FASTDL_PRECISION_MEDIUM = 2   /* may round each factor to bfloat16 (8 bits); sums stay float32 */
} fastdl_precision;

/* Threads, allocator and precision of a call. NULL stands for the default context everywhere. */
typedef struct fastdl_context fastdl_context;

typedef struct fastdl_context_options {
  size_t struct_size;
  int32_t num_threads; /* 0: follow fastdl_set_num_threads */
  /* Scratch memory, 64-byte aligned, asked for by several threads at once; both NULL: the library's own
     per-thread cache. */
  void* (*allocate)(size_t bytes, void* user);
  void (*deallocate)(void* p, size_t bytes, void* user);
  void* user;
  int32_t float32_precision; /* a fastdl_precision, or -1: follow fastdl_set_float32_precision */
} fastdl_context_options;
#define FASTDL_CONTEXT_OPTIONS_INIT {sizeof(fastdl_context_options), 0, NULL, NULL, NULL, -1}

FASTDL_API fastdl_status fastdl_context_create(const fastdl_context_options* options, fastdl_context** out);
FASTDL_API void fastdl_context_destroy(fastdl_context* context);

/* The message of this thread's last failed call; never NULL, valid until the thread's next failed call. */
FASTDL_API const char* fastdl_last_error(void);
/* "major.minor.patch" of the library at run time. */
FASTDL_API const char* fastdl_version(void);

/* Threads used by calls with the default context: FASTDL_NUM_THREADS, else the CPUs this process may use.
   Results never depend on it. set: 1 <= n <= 1024. */
FASTDL_API int32_t fastdl_get_num_threads(void);
FASTDL_API fastdl_status fastdl_set_num_threads(int32_t n);

/* The fastdl_precision of calls with the default context: FASTDL_PRECISION_HIGHEST unless set. A lower one
   allows faster kernels and asks for none: where there is none, results are those of HIGHEST. So far there
   are some for matrix products (matmul, linear) with "amx". float64 and 16-bit tensors are not touched by
   it. */
FASTDL_API int32_t fastdl_get_float32_precision(void);
FASTDL_API fastdl_status fastdl_set_float32_precision(int32_t precision);

/* Instruction sets: "generic"; on ARM64 "neon"; on x86-64 "avx2", "avx512", "avx512_bf16" (bfloat16 products),
   "amx" (the matrix unit) and "amx_emulated" (the same on an emulated unit, for tests: slow, never chosen by
   itself). The best one is chosen when the library is first used, unless FASTDL_CPU_ISA names another. For
   tests and measurements: to be set while no other thread computes. */
FASTDL_API const char* fastdl_get_cpu_isa(void);
FASTDL_API fastdl_status fastdl_set_cpu_isa(const char* name);
/* Comma-separated names of those this machine runs, best last. */
FASTDL_API const char* fastdl_available_cpu_isas(void);

#ifdef __cplusplus
}
#endif
#endif
