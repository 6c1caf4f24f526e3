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
/* One number that grows with the version, for #if and for fastdl_version_check. */
#define FASTDL_VERSION (FASTDL_VERSION_MAJOR * 1000000 + FASTDL_VERSION_MINOR * 1000 + FASTDL_VERSION_PATCH)

/* Most dimensions a tensor may have. */
#define FASTDL_MAX_NDIM 16

#ifdef __cplusplus
extern "C" {
#endif

/* Every op returns one of these; fastdl_last_error() has the sentence that goes with it. A newer library may
   have more of them: take whatever is not FASTDL_OK for an error. */
typedef enum fastdl_status {
  FASTDL_OK = 0,
  FASTDL_ERROR_SHAPE = 1,   /* ranks, extents or strides that do not fit together */
  FASTDL_ERROR_VALUE = 2,   /* an option out of range */
  FASTDL_ERROR_DTYPE = 3,   /* an element type the op does not take */
  FASTDL_ERROR_INDEX = 4,   /* a label or index out of range */
  FASTDL_ERROR_MEMORY = 5,  /* the allocator returned NULL */
  FASTDL_ERROR_DEVICE = 6,  /* a tensor that is not on this library's device */
  FASTDL_ERROR_NO_CUDA = 7, /* built without CUDA */
  FASTDL_ERROR_INTERNAL = 8 /* a bug in fastdl, or in a callback: outputs may be half written */
} fastdl_status;

/* Element types and devices use DLPack's codes, so that a DLTensor can be passed as it is. */
enum { FASTDL_INT = 0, FASTDL_UINT = 1, FASTDL_FLOAT = 2, FASTDL_BFLOAT = 4, FASTDL_BOOL = 6 };
enum { FASTDL_CPU = 1, FASTDL_CUDA = 2 };

typedef struct fastdl_device {
  int32_t type; /* FASTDL_CPU; FASTDL_CUDA for the functions of cuda.h */
  int32_t id;   /* not read for FASTDL_CPU */
} fastdl_device;

typedef struct fastdl_dtype {
  uint8_t code;   /* FASTDL_FLOAT, ...; bfloat16 is FASTDL_BFLOAT, float16 FASTDL_FLOAT of 16 bits */
  uint8_t bits;   /* 16, 32, 64, ... */
  uint16_t lanes; /* 1 */
} fastdl_dtype;

/* A view of caller-owned memory, laid out as DLPack's DLTensor. The library reads the struct and its two
   arrays during the call only; it writes to data of outputs only, though inputs have no const pointer of
   their own. Alignment: any, elements that lie across their natural boundaries too (on a GPU: that of an
   element). Overlap: elements of an input may share memory (strides of 0), and so may inputs; an output's may
   not. */
typedef struct fastdl_tensor {
  void* data; /* NULL only if there are no elements */
  fastdl_device device;
  int32_t ndim; /* 0 (a scalar) to FASTDL_MAX_NDIM */
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

/* Threads, allocator and precision of a call. NULL stands for the default context everywhere. It is never
   written after its creation: any number of threads may use one at the same time. */
typedef struct fastdl_context fastdl_context;

/* A part of an op's work, for the host's thread pool: what a chunk does is fastdl's business. It neither
   throws nor calls back into the host but for the context's allocator. */
typedef void (*fastdl_chunk)(void* argument, int32_t index);

/* The host's own thread pool: calls chunk(argument, index) for every index in [0, chunks), each exactly once,
   in any order, on any threads, several at a time or one after the other, and returns when all have returned.
   - 2 <= chunks <= the context's num_threads. Chunks help each other: one that starts late, when the others
     have done all the work, returns at once. None waits for one that has not started.
   - It is called by the thread that called the op, without any lock, and for each of an op's stages anew:
   some tens of microseconds of work or more, less is done without it. Several threads may be in it at once.
   It is never called from within a chunk, but an op that the host calls while it waits (on the same thread,
   or in a chunk of another library's) may call it again.
   - The bits of every result are the same whatever it does, and the same as those of fastdl's own threads.
   - It must not throw. If it returns and a chunk has not run, the op fails with FASTDL_ERROR_INTERNAL; a
   chunk that begins after the return reads memory that is gone. */
typedef void (*fastdl_parallel_for)(int32_t chunks, fastdl_chunk chunk, void* argument, void* user);

/* New fields are added at the end, at or behind sizeof of the struct as it was. */
typedef struct fastdl_context_options {
  size_t struct_size;
  /* Most threads an op uses, 1 to 1024; 0: follow fastdl_set_num_threads. With parallel_for the number of
     threads in the host's pool, its caller's own included. */
  int32_t num_threads;
  /* Scratch memory, 64-byte aligned, asked for and given back by several threads at once, those that run
     chunks; a block is given back by the thread that asked for it, before the op returns. allocate may return
     NULL: the op then fails with FASTDL_ERROR_MEMORY. Both NULL: the library's own per-thread cache. Neither
     may throw. */
  void* (*allocate)(size_t bytes, void* user);
  void (*deallocate)(void* p, size_t bytes, void* user);
  void* user;                       /* handed to allocate and deallocate */
  int32_t float32_precision;        /* a fastdl_precision, or -1: follow fastdl_set_float32_precision */
  fastdl_parallel_for parallel_for; /* NULL: the library's own threads */
  void* parallel_user;              /* handed to parallel_for */
} fastdl_context_options;
#define FASTDL_CONTEXT_OPTIONS_INIT {sizeof(fastdl_context_options), 0, NULL, NULL, NULL, -1, NULL, NULL}

/* *out: a context with these options (NULL: the defaults), the caller's to destroy. FASTDL_ERROR_VALUE if out
   is NULL or an option is out of range; *out is written only on success. Cheap: starts no thread. */
FASTDL_API fastdl_status fastdl_context_create(const fastdl_context_options* options, fastdl_context** out);
/* NULL: nothing happens. No call that uses the context may be running. */
FASTDL_API void fastdl_context_destroy(fastdl_context* context);

/* The message of this thread's last failed call; never NULL, valid until the thread's next failed call. Not
   cleared by a call that succeeds. */
FASTDL_API const char* fastdl_last_error(void);
/* "major.minor.patch" of the library at run time; valid forever. */
FASTDL_API const char* fastdl_version(void);
/* FASTDL_OK if a program compiled against the header of version `header` (pass FASTDL_VERSION) may use this
   library: of the same major version, which only ever gains functions and fields, and no older by its minor
   one (it would not know what the header offers). Else FASTDL_ERROR_VALUE with a message that names both. */
FASTDL_API fastdl_status fastdl_version_check(int32_t header);

/* The settings below belong to the process. Reading or changing one is thread-safe; calls that run meanwhile
   have the one or the other. */

/* Threads used by calls with the default context: FASTDL_NUM_THREADS, else the CPUs this process may use.
   Results never depend on it. set: 1 <= n <= 1024, else FASTDL_ERROR_VALUE. */
FASTDL_API int32_t fastdl_get_num_threads(void);
FASTDL_API fastdl_status fastdl_set_num_threads(int32_t n);

/* The fastdl_precision of calls with the default context: FASTDL_PRECISION_HIGHEST unless set. A lower one
   allows faster kernels and asks for none: where there is none, results are those of HIGHEST. So far there
   are some for matrix products, and what is made of them (linear, recurrent layers, convolutions), with
   "amx". float64 and 16-bit tensors are not touched by it. */
FASTDL_API int32_t fastdl_get_float32_precision(void);
FASTDL_API fastdl_status fastdl_set_float32_precision(int32_t precision);

/* Instruction sets: "generic"; on ARM64 "neon"; on x86-64 "avx2", "avx512", "avx512_bf16" (its products of
   bfloat16), "amx" (the matrix unit), "amx_emulated" (an emulated unit, for tests: slow, never chosen by
   itself). The best one is chosen when the library is first used, unless FASTDL_CPU_ISA names another.
   For tests and measurements: to be set while no other thread computes. */
FASTDL_API const char* fastdl_get_cpu_isa(void);
FASTDL_API fastdl_status fastdl_set_cpu_isa(const char* name);
/* Comma-separated names of those this machine runs, best last. */
FASTDL_API const char* fastdl_available_cpu_isas(void);

#ifdef __cplusplus
}
#endif
#endif
