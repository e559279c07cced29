include("${CMAKE_CURRENT_LIST_DIR}/sigeTargets.cmake")
