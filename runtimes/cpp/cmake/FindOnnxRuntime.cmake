# Finds the library of ONNX Runtime: in ONNXRUNTIME_ROOT (a variable of CMake or of the environment), which is a release
# or the folder of Python's package onnxruntime, or on the system. Sets OnnxRuntime_FOUND, ONNXRUNTIME_LIBRARY,
# ONNXRUNTIME_FILE (the same without links), ONNXRUNTIME_SONAME, and what came with it: ONNXRUNTIME_LICENSES, and
# ONNXRUNTIME_CUDA, the libraries that it looks for beside itself to run on GPUs.
file(GLOB packaged "${ONNXRUNTIME_ROOT}/capi/libonnxruntime.so.*" "$ENV{ONNXRUNTIME_ROOT}/capi/libonnxruntime.so.*")
if(packaged)
  list(GET packaged 0 packaged)
  set(ONNXRUNTIME_LIBRARY ${packaged} CACHE FILEPATH "ONNX Runtime")
endif()
find_library(ONNXRUNTIME_LIBRARY onnxruntime
  HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}" PATH_SUFFIXES lib lib64)
mark_as_advanced(ONNXRUNTIME_LIBRARY)
if(ONNXRUNTIME_LIBRARY)
  file(REAL_PATH ${ONNXRUNTIME_LIBRARY} ONNXRUNTIME_FILE)
  execute_process(COMMAND ${CMAKE_READELF} -d ${ONNXRUNTIME_FILE} OUTPUT_VARIABLE entries COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "SONAME[^\n]*\\[([^]\n]*)\\]" entry "${entries}")
  set(ONNXRUNTIME_SONAME ${CMAKE_MATCH_1})
  get_filename_component(folder ${ONNXRUNTIME_FILE} DIRECTORY)
  file(GLOB ONNXRUNTIME_CUDA ${folder}/libonnxruntime_providers_shared.so ${folder}/libonnxruntime_providers_cuda.so)
  file(GLOB ONNXRUNTIME_LICENSES ${folder}/../LICENSE* ${folder}/../ThirdPartyNotices*)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_SONAME
  REASON_FAILURE_MESSAGE "set ONNXRUNTIME_ROOT to a release of ONNX Runtime, which holds include/ and lib/")
