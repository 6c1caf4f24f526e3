#include "common/version.h"

#include "common/error.h"

#define FASTDL_STRING_(x) #x
#define FASTDL_STRING(x) FASTDL_STRING_(x)

namespace fastdl {

const char* version() noexcept {
  return FASTDL_STRING(FASTDL_VERSION_MAJOR) "." FASTDL_STRING(FASTDL_VERSION_MINOR) "." FASTDL_STRING(
      FASTDL_VERSION_PATCH);
}

void check_version(int32_t header) {
  constexpr int kMinor = 1000, kMajor = 1000 * kMinor;
  FASTDL_CHECK(
      header >= 0 && header / kMajor == FASTDL_VERSION_MAJOR && header / kMinor <= FASTDL_VERSION / kMinor,
      FASTDL_ERROR_VALUE,
      "compiled against the header of fastdl %d.%d.%d, which the library of fastdl %s does not serve",
      header / kMajor, header / kMinor % 1000, header % kMinor, version());
}

}  // namespace fastdl
