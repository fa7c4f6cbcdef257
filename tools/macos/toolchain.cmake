# CMake toolchain: Linux to macOS on arm64. tools/macos/macos_tools.py names the folders in the environment.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_VERSION 23.0.0)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_C_COMPILER "$ENV{MLX_CONV3D_MACOS_COMPILERS}/cc")
set(CMAKE_CXX_COMPILER "$ENV{MLX_CONV3D_MACOS_COMPILERS}/c++")
set(CMAKE_OSX_SYSROOT "" CACHE STRING "")
set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING "")
set(CMAKE_OSX_ARCHITECTURES "" CACHE STRING "")
foreach(tool IN ITEMS AR RANLIB STRIP INSTALL_NAME_TOOL OTOOL NM)
  string(TOLOWER "${tool}" name)
  string(REPLACE "_" "-" name "${name}")
  set(CMAKE_${tool} "llvm-${name}-19" CACHE FILEPATH "")
endforeach()
# Programs cannot be linked: there is no crt for them here.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}") # FindPython.cmake
