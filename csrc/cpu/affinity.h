// Where a thread wakes up. Linux likes to wake a thread on the CPU of the one who wakes it, even if others
// are idle, and takes milliseconds to notice that both have work.
#pragma once

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace fastdl::cpu {

// Number of CPUs this thread may use, 0 if unknown.
inline int allowed_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return 0;
}

#if defined(__linux__)

// Of one thread, which calls before_sleep and after_sleep; the one who wakes it calls wake_elsewhere in
// between.
class SleepingPlace {
 public:
  void before_sleep() {
    asleep_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0;
    restricted_ = false;
  }

  // Lets it wake up on any of its CPUs but that of the calling thread.
  void wake_elsewhere(pthread_t thread) {
    const int here = sched_getcpu();
    if (!asleep_ || here < 0) return;
    cpu_set_t others = allowed_;
    CPU_CLR(here, &others);
    restricted_ = CPU_COUNT(&others) > 0 && pthread_setaffinity_np(thread, sizeof others, &others) == 0;
  }

  void after_sleep() {
    if (restricted_) sched_setaffinity(0, sizeof allowed_, &allowed_);
    asleep_ = false;
  }

 private:
  cpu_set_t allowed_;
  bool asleep_ = false, restricted_ = false;
};

#else

class SleepingPlace {
 public:
  void before_sleep() {}
  template <class Thread>
  void wake_elsewhere(Thread) {}
  void after_sleep() {}
};

#endif

}  // namespace fastdl::cpu
