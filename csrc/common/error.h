// Errors inside the library are C++ exceptions; guarded() turns them into a status at the ABI boundary.
#pragma once

#include <new>
#include <string>

#include "fastdl/base.h"

namespace fastdl {

struct Error {
  fastdl_status status;
  std::string message;
};

#if defined(__GNUC__)
#define FASTDL_PRINTF_LIKE __attribute__((format(printf, 2, 3)))
#else
#define FASTDL_PRINTF_LIKE
#endif
[[noreturn]] FASTDL_PRINTF_LIKE void fail(fastdl_status status, const char* format, ...);

// printf-style check; the arguments are evaluated only when the condition is false.
#define FASTDL_CHECK(condition, status, ...)               \
  do {                                                     \
    if (!(condition)) ::fastdl::fail(status, __VA_ARGS__); \
  } while (0)

// The message of this thread's last failed call.
void set_last_error(const std::string& message) noexcept;
const char* last_error() noexcept;

template <class F>
fastdl_status guarded(F&& body) noexcept {
  try {
    body();
    return FASTDL_OK;
  } catch (const Error& e) {
    set_last_error(e.message);
    return e.status;
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return FASTDL_ERROR_MEMORY;
  } catch (...) {
    set_last_error("internal error");
    return FASTDL_ERROR_INTERNAL;
  }
}

}  // namespace fastdl
