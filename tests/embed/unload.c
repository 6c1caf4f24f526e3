/* The library loaded, used with its threads and unloaded, time and again. (glibc keeps it mapped while
   threads live that have used it, its own included, and hands it out again.)

     unload LIBRARY */
#include <dirent.h>
#include <dlfcn.h>
#include <fastdl/fastdl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef fastdl_status (*softmax)(fastdl_context*, const fastdl_tensor*, const fastdl_tensor*, int32_t,
                                 int32_t);
typedef fastdl_status (*create)(const fastdl_context_options*, fastdl_context**);
typedef void (*destroy)(fastdl_context*);

static void* library;

static void* function(const char* name) {
  void* f = dlsym(library, name);
  if (!f) fprintf(stderr, "%s\n", dlerror()), exit(2);
  return f;
}

/* What a thread has used of the library is released when it ends: a thread of its own makes the calls. */
static void* compute(void* unused) {
  softmax call;
  create make;
  destroy end;
  fastdl_context_options options = FASTDL_CONTEXT_OPTIONS_INIT;
  fastdl_context* context;
  int64_t shape[2] = {300, 400};
  float* x = malloc(300 * 400 * sizeof *x);
  fastdl_tensor t = {NULL, {FASTDL_CPU, 0}, 2, {FASTDL_FLOAT, 32, 1}, NULL, NULL, 0};
  int i;
  *(void**)&call = function("fastdl_softmax_forward");
  *(void**)&make = function("fastdl_context_create");
  *(void**)&end = function("fastdl_context_destroy");
  for (i = 0; i < 300 * 400; ++i) x[i] = (float)(i % 7);
  t.data = x, t.shape = shape;
  options.num_threads = 4;
  if (make(&options, &context) != FASTDL_OK) exit(3);
  for (i = 0; i < 3; ++i) {
    if (call(context, &t, &t, 0, FASTDL_SOFTMAX) != FASTDL_OK) exit(4);
  }
  if (call(context, &t, &t, 7, FASTDL_SOFTMAX) != FASTDL_ERROR_INDEX) exit(5);
  end(context);
  free(x);
  return unused;
}

static int threads(void) {
  int count = 0;
  DIR* tasks = opendir("/proc/self/task");
  struct dirent* entry;
  if (!tasks) return 1;
  while ((entry = readdir(tasks)) != NULL) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

int main(int argc, char** argv) {
  int round, before = 0;
  if (argc != 2) return 1;
  for (round = 0; round < 5; ++round) {
    pthread_t thread;
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    if (pthread_create(&thread, NULL, compute, NULL) != 0 || pthread_join(thread, NULL) != 0) return 1;
    if (threads() < 2 && round == 0) printf("the library has started no threads\n");
    if (round > 0 && threads() > before) printf("%d threads, then %d\n", before, threads());
    before = threads();
    dlclose(library);
    if (threads() > before) printf("%d threads when unloaded, %d before\n", threads(), before);
  }
  printf("done\n");
  return 0;
}
