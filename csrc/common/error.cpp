#include "common/error.h"

#include <cstdarg>
#include <cstdio>

namespace fastdl {
namespace {
std::string& message_of_thread() {
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
    message_of_thread() = message;
  } catch (...) {  // no memory for the message: the status still tells
  }
}

const char* last_error() noexcept { return message_of_thread().c_str(); }

}  // namespace fastdl
