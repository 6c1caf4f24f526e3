#include "cpu/error.h"

#include <cstdarg>
#include <cstdio>

namespace fastdl::cpu {
namespace {
std::string& last_error() {
  thread_local std::string message;
  return message;
}
}  // namespace

void fail(fastdl_status status, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Error{status, text};
}

void set_last_error(const std::string& message) noexcept {
  try {
    last_error() = message;
  } catch (...) {  // no memory for the message: the status still tells
  }
}

}  // namespace fastdl::cpu

extern "C" const char* fastdl_last_error(void) { return fastdl::cpu::last_error().c_str(); }
