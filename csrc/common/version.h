// The library's version, the same for every backend.
#pragma once

#include <cstdint>

namespace fastdl {

const char* version() noexcept;      // "major.minor.patch"
void check_version(int32_t header);  // see fastdl_version_check

}  // namespace fastdl
