// AddressSanitizer has to hear about every stack we make and every gap we leave.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define FASTDL_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FASTDL_SIMT_ASAN 1
#endif
#endif
#ifndef FASTDL_SIMT_ASAN
#define FASTDL_SIMT_ASAN 0
#endif

#if FASTDL_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FASTDL_SIMT_POISON(address, size) ASAN_POISON_MEMORY_REGION(address, size)
#define FASTDL_SIMT_UNPOISON(address, size) ASAN_UNPOISON_MEMORY_REGION(address, size)
#else
#define FASTDL_SIMT_POISON(address, size) ((void)(address), (void)(size))
#define FASTDL_SIMT_UNPOISON(address, size) ((void)(address), (void)(size))
#endif
