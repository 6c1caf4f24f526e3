# fastdl_add_bindings(module library sources...): a Python module over one of the libraries, both installed into the
# package.
function(fastdl_add_bindings module library)
  pybind11_add_module(${module} NO_EXTRAS ${ARGN})
  target_link_libraries(${module} PRIVATE ${library} fastdl_flags)
  # Compiled several at a time, as most of what each takes by itself is pybind11's headers: their anonymous namespaces
  # are one.
  set_target_properties(${module} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  if(APPLE)
    set_target_properties(${module} PROPERTIES INSTALL_RPATH "@loader_path/lib")
  else()
    set_target_properties(${module} PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  endif()
  install(TARGETS ${module} LIBRARY DESTINATION .)
endfunction()

# The bindings of the families that have CUDA kernels, calling fastdl_cuda_<op> wherever the source says fastdl_<op>:
# the list of ops in fastdl/cuda.h becomes a header of macros that is read before each source.
function(fastdl_add_cuda_bindings module library)
  set(root ${PROJECT_SOURCE_DIR}/csrc)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${root}/include/fastdl/cuda.h)
  file(STRINGS ${root}/include/fastdl/cuda.h ops REGEX "^FASTDL_CUDA_OP\\(")
  set(names "#include \"fastdl/cuda.h\"\n")
  foreach(op IN LISTS ops)
    string(REGEX REPLACE "FASTDL_CUDA_OP\\(([a-z0-9_]+)\\);" "\\1" op "${op}")
    string(APPEND names "#define fastdl_${op} fastdl_cuda_${op}\n")
  endforeach()
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/cuda_names.h CONTENT "${names}")
  set(sources ${root}/bindings/common.cpp ${root}/bindings/module_cuda.cpp ${ARGN})
  foreach(family IN LISTS FASTDL_CUDA_FAMILIES)
    if(EXISTS ${root}/bindings/${family}.cpp)
      list(APPEND sources ${root}/bindings/${family}.cpp)
    endif()
  endforeach()
  fastdl_add_bindings(${module} ${library} ${sources})
  string(REPLACE ";" " " families "${FASTDL_CUDA_FAMILIES}")
  string(REGEX REPLACE "([a-z]+)" "FASTDL_FAMILY(\\1)" families "${families}")
  target_compile_options(${module} PRIVATE -include ${CMAKE_CURRENT_BINARY_DIR}/cuda_names.h)
  target_compile_definitions(${module} PRIVATE FASTDL_BINDING_CUDA FASTDL_MODULE=${module}
    "FASTDL_BOUND_FAMILIES=${families}")
endfunction()
