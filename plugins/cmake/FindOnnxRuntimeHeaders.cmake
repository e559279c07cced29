# Finds the C and C++ headers of ONNX Runtime: in ONNXRUNTIME_ROOT (a variable of CMake or of the environment), where
# onnxruntime/fetch_headers put them (the build folder, or the checkout's build/native), or on the system. Sets
# OnnxRuntimeHeaders_FOUND and ONNXRUNTIME_INCLUDE_DIR.
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}" "${CMAKE_BINARY_DIR}/onnxruntime_headers"
    "${CMAKE_CURRENT_SOURCE_DIR}/../build/native/onnxruntime_headers"
  PATH_SUFFIXES include/onnxruntime include include/onnxruntime/core/session usr/include/onnxruntime)
mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR)
if(ONNXRUNTIME_INCLUDE_DIR)
  file(STRINGS ${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h api_line REGEX "#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE ".* " "" OnnxRuntimeHeaders_VERSION "${api_line}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS ONNXRUNTIME_INCLUDE_DIR VERSION_VAR OnnxRuntimeHeaders_VERSION)
