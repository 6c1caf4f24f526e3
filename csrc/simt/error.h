// What a kernel did wrong, or a launch that no device would accept.
#pragma once

#include <stdexcept>

namespace fastdl::simt {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace fastdl::simt
