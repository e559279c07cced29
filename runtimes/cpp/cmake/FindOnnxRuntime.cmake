# Finds the library of ONNX Runtime: in ONNXRUNTIME_ROOT (a variable of CMake or of the environment), or on the system.
# Sets OnnxRuntime_FOUND and ONNXRUNTIME_LIBRARY.
find_library(ONNXRUNTIME_LIBRARY onnxruntime
  HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}" PATH_SUFFIXES lib lib64)
mark_as_advanced(ONNXRUNTIME_LIBRARY)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ONNXRUNTIME_LIBRARY
  REASON_FAILURE_MESSAGE "set ONNXRUNTIME_ROOT to a release of ONNX Runtime, which holds include/ and lib/")
