// References to shared memory that check every access, and arrays that check every index.
#pragma once

#include <utility>

#include "simt.h"

namespace fastdl::simt {

// What an element of a SharedArray is in the executor. It converts only where it is used at once: `auto x =
// a[i]` would read later than it says, so it can be initialised but not used; write the type.
template <class T>
class SharedRef {
 public:
  explicit SharedRef(T* address) : address_(address) {}
  SharedRef(const SharedRef&) = delete;

  operator T() && { return read(); }
  T operator=(T value) && { return write(value); }
  T operator=(const SharedRef& other) && { return write(other.read()); }
  template <class U>
  T operator+=(U&& value) && {
    return write(static_cast<T>(read() + std::forward<U>(value)));
  }
  template <class U>
  T operator-=(U&& value) && {
    return write(static_cast<T>(read() - std::forward<U>(value)));
  }
  template <class U>
  T operator*=(U&& value) && {
    return write(static_cast<T>(read() * std::forward<U>(value)));
  }
  // The address, for atomics: what goes through it is not checked.
  T* operator&() && { return address_; }

 private:
  T read() const {
    note_read(address_, sizeof(T));
    return *address_;
  }
  T write(T value) const {
    note_write(address_, sizeof(T));
    *address_ = value;
    return value;
  }
  T* address_;
};

[[noreturn]] void fail_index(long long index, long long count);

}  // namespace fastdl::simt
