# The operators' CUDA kernels, in the same library with a static CUDA runtime: it loads without a GPU or a driver.
# ON: always. AUTO: where there is nvcc and a GPU. OFF: never.
set(LOWBIT_CUDA AUTO CACHE STRING "Build the CUDA kernels: ON, OFF or AUTO")
# sm_80 code also runs on 8.6 and 8.9, and as PTX on what comes after Hopper. Hopper's own kernels are always for 90a.
set(LOWBIT_CUDA_ARCHS "80;90a-real" CACHE STRING "Architectures of the kernels that run everywhere")

if(DEFINED ENV{LOWBIT_CUDA})
  set(LOWBIT_CUDA $ENV{LOWBIT_CUDA})
endif()
set(LOWBIT_BUILD_CUDA ${LOWBIT_CUDA})
if(LOWBIT_CUDA STREQUAL "AUTO")
  set(LOWBIT_BUILD_CUDA OFF)
  find_program(LOWBIT_NVCC nvcc)
  if(LOWBIT_NVCC AND EXISTS /dev/nvidiactl)
    set(LOWBIT_BUILD_CUDA ON)
  endif()
endif()

if(NOT LOWBIT_BUILD_CUDA)
  message(STATUS "ort-lowbit: CPU only; npm run build:native -- --CDLOWBIT_CUDA=ON adds the CUDA kernels")
  target_compile_definitions(ort_lowbit PRIVATE LOWBIT_CUDA=0 LOWBIT_CUDA_ARCHS="")
  return()
endif()

enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
file(GLOB LOWBIT_CUDA_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/ops/*/cuda/*.cu)
file(GLOB LOWBIT_CUDA_HOST CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/ops/*/cuda/*.cc)
set(LOWBIT_HOPPER_KERNELS ${LOWBIT_CUDA_KERNELS})
list(FILTER LOWBIT_HOPPER_KERNELS INCLUDE REGEX "_sm90\\.cu$")
list(FILTER LOWBIT_CUDA_KERNELS EXCLUDE REGEX "_sm90\\.cu$")

add_library(lowbit_cuda_any OBJECT ${LOWBIT_CUDA_KERNELS})
set_target_properties(lowbit_cuda_any PROPERTIES CUDA_ARCHITECTURES "${LOWBIT_CUDA_ARCHS}")
add_library(lowbit_cuda_sm90 OBJECT ${LOWBIT_HOPPER_KERNELS})
set_target_properties(lowbit_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES "90a-real")
# A fifth of the size. The drivers that run what this nvcc makes can all unpack it; of those before, only some.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(LOWBIT_CUDA_COMPRESSION --compress-mode=size)
endif()
foreach(target lowbit_cuda_any lowbit_cuda_sm90)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${LOWBIT_CUDA_COMPRESSION} --expt-relaxed-constexpr -Werror=cross-execution-space-call
    -Xcompiler=-Wall,-fvisibility=hidden)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static)
endforeach()

string(REPLACE ";" "," LOWBIT_ARCH_NAMES "${LOWBIT_CUDA_ARCHS}")
target_sources(ort_lowbit PRIVATE ${LOWBIT_CUDA_HOST} $<TARGET_OBJECTS:lowbit_cuda_any> $<TARGET_OBJECTS:lowbit_cuda_sm90>)
target_compile_definitions(ort_lowbit PRIVATE LOWBIT_CUDA=1 LOWBIT_CUDA_ARCHS="${LOWBIT_ARCH_NAMES}")
target_link_libraries(ort_lowbit PRIVATE CUDA::cudart_static)
add_subdirectory(${CMAKE_SOURCE_DIR}/test/gpu ${CMAKE_BINARY_DIR}/test/gpu)
