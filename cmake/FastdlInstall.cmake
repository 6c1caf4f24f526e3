# What embedders find: headers, libraries, find_package(fastdl), pkg-config.
include(CMakePackageConfigHelpers)

install(TARGETS fastdl_cpu EXPORT fastdl-targets
  LIBRARY DESTINATION lib ARCHIVE DESTINATION lib RUNTIME DESTINATION lib)
install(DIRECTORY csrc/include/fastdl DESTINATION include)
install(EXPORT fastdl-targets NAMESPACE fastdl:: DESTINATION share/cmake/fastdl)

set(config ${CMAKE_CURRENT_BINARY_DIR}/fastdl-config.cmake)
set(version ${CMAKE_CURRENT_BINARY_DIR}/fastdl-config-version.cmake)
configure_package_config_file(cmake/fastdl-config.cmake.in ${config} INSTALL_DESTINATION share/cmake/fastdl)
# Before 1.0 a minor version may change what there is; from then on a major one.
write_basic_package_version_file(${version} COMPATIBILITY SameMinorVersion)
install(FILES ${config} ${version} DESTINATION share/cmake/fastdl)

if(FASTDL_STATIC)
  set(FASTDL_PC_CFLAGS -DFASTDL_STATIC)
  set(FASTDL_PC_LIBS "-lstdc++ -lm -pthread")
endif()
configure_file(cmake/fastdl.pc.in fastdl.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fastdl.pc DESTINATION lib/pkgconfig)
