// Every declaration of jit/cuda_driver.hpp against the real cuda.h, where there is one to compile with.
#include <flashinfer/jit/cuda_driver.hpp>

#if __has_include(<cuda.h>)
#include <cuda.h>
#define FLASHINFER_HAS_CUDA_H
#elif __has_include("/usr/local/cuda/include/cuda.h")
#include "/usr/local/cuda/include/cuda.h"
#define FLASHINFER_HAS_CUDA_H
#endif

#include <gtest/gtest.h>

#ifndef FLASHINFER_HAS_CUDA_H
TEST(DriverAbi, AgreesWithCudaH) { GTEST_SKIP() << "no cuda.h when this was compiled"; }
#else

#include <cstddef>
#include <string_view>
#include <type_traits>

namespace flashinfer::cu {
namespace {

/// Passed in the same way: both pointers (and of what, where it is a number), or both numbers of one size.
template <class Ours, class Theirs>
constexpr bool same_argument() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using A = std::remove_cv_t<std::remove_pointer_t<Ours> >;
    using B = std::remove_cv_t<std::remove_pointer_t<Theirs> >;
    if constexpr (std::is_arithmetic_v<A> || std::is_enum_v<A> || std::is_pointer_v<A>)
      return std::is_const_v<std::remove_pointer_t<Ours> > == std::is_const_v<std::remove_pointer_t<Theirs> > && same_argument<A, B>();
    else
      return true;
  } else {
    return !std::is_pointer_v<Ours> && !std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs) && !std::is_floating_point_v<Ours>;
  }
}

template <class Ours, class Theirs>
struct SameFunction : std::false_type {};
template <class... Ours, class... Theirs>
struct SameFunction<Result (*)(Ours...), CUresult (*)(Theirs...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(Ours) == sizeof...(Theirs))
      return (same_argument<Ours, Theirs>() && ...);
    else
      return false;
  }();
};

// cuda.h renames functions by macros (cuCtxPushCurrent is cuCtxPushCurrent_v2): the exported name is what they expand to.
#define FLASHINFER_EXPANDED_(name) #name
#define FLASHINFER_EXPANDED(name) FLASHINFER_EXPANDED_(name)
#define FLASHINFER_SAME(ours, theirs)                                                      \
  static_assert(SameFunction<decltype(Driver::ours)::Function, decltype(&theirs)>::value); \
  static_assert(std::string_view(decltype(Driver::ours)::kName) == FLASHINFER_EXPANDED(theirs))

FLASHINFER_SAME(init, cuInit);
FLASHINFER_SAME(driver_get_version, cuDriverGetVersion);
FLASHINFER_SAME(get_error_name, cuGetErrorName);
FLASHINFER_SAME(get_error_string, cuGetErrorString);
FLASHINFER_SAME(device_get, cuDeviceGet);
FLASHINFER_SAME(device_get_count, cuDeviceGetCount);
FLASHINFER_SAME(device_get_attribute, cuDeviceGetAttribute);
FLASHINFER_SAME(device_primary_ctx_retain, cuDevicePrimaryCtxRetain);
FLASHINFER_SAME(ctx_get_current, cuCtxGetCurrent);
FLASHINFER_SAME(ctx_push_current, cuCtxPushCurrent);
FLASHINFER_SAME(ctx_pop_current, cuCtxPopCurrent);
FLASHINFER_SAME(library_load_data, cuLibraryLoadData);
FLASHINFER_SAME(library_get_kernel, cuLibraryGetKernel);
FLASHINFER_SAME(kernel_get_function, cuKernelGetFunction);
FLASHINFER_SAME(kernel_set_attribute, cuKernelSetAttribute);
FLASHINFER_SAME(launch_kernel_ex, cuLaunchKernelEx);
FLASHINFER_SAME(memcpy_htod_async, cuMemcpyHtoDAsync);
FLASHINFER_SAME(memcpy_dtoh_async, cuMemcpyDtoHAsync);
FLASHINFER_SAME(stream_synchronize, cuStreamSynchronize);
FLASHINFER_SAME(stream_wait_event, cuStreamWaitEvent);
FLASHINFER_SAME(mem_host_alloc, cuMemHostAlloc);
FLASHINFER_SAME(event_create, cuEventCreate);
FLASHINFER_SAME(event_record, cuEventRecord);
FLASHINFER_SAME(event_query, cuEventQuery);
FLASHINFER_SAME(stream_is_capturing, cuStreamIsCapturing);
FLASHINFER_SAME(thread_exchange_stream_capture_mode, cuThreadExchangeStreamCaptureMode);
FLASHINFER_SAME(func_load, cuFuncLoad);
FLASHINFER_SAME(kernel_get_param_info, cuKernelGetParamInfo);
FLASHINFER_SAME(tensor_map_encode_tiled, cuTensorMapEncodeTiled);

static_assert(sizeof(DevicePointer) == sizeof(CUdeviceptr) && sizeof(DeviceOrdinal) == sizeof(CUdevice));
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

static_assert(sizeof(LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(LaunchAttribute, id) == offsetof(CUlaunchAttribute, id));
static_assert(offsetof(LaunchAttribute, value) == offsetof(CUlaunchAttribute, value));
static_assert(offsetof(LaunchAttribute, value.cluster.z) == offsetof(CUlaunchAttribute, value.clusterDim.z));
static_assert(offsetof(LaunchAttribute, value.programmatic_stream_serialization_allowed) ==
              offsetof(CUlaunchAttribute, value.programmaticStreamSerializationAllowed));
static_assert(sizeof(LaunchAttribute::value) == sizeof(CUlaunchAttributeValue));

static_assert(sizeof(LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(LaunchConfig, grid.x) == offsetof(CUlaunchConfig, gridDimX));
static_assert(offsetof(LaunchConfig, grid.z) == offsetof(CUlaunchConfig, gridDimZ));
static_assert(offsetof(LaunchConfig, block.x) == offsetof(CUlaunchConfig, blockDimX));
static_assert(offsetof(LaunchConfig, block.z) == offsetof(CUlaunchConfig, blockDimZ));
static_assert(offsetof(LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(LaunchConfig, num_attributes) == offsetof(CUlaunchConfig, numAttrs));

static_assert(int(kMultiprocessorCount) == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(int(kL2CacheSize) == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
static_assert(int(kComputeCapabilityMajor) == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(int(kComputeCapabilityMinor) == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(int(kMaxSharedMemoryPerMultiprocessor) == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
static_assert(int(kMaxSharedMemoryPerBlockOptin) == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(int(kMaxDynamicSharedSizeBytes) == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(int(kNonPortableClusterSizeAllowed) == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED);
static_assert(int(kClusterDimension) == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
static_assert(int(kProgrammaticStreamSerialization) == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(unsigned(kEventDisableTiming) == CU_EVENT_DISABLE_TIMING);
static_assert(int(kCaptureModeRelaxed) == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(int(kCaptureStatusNone) == CU_STREAM_CAPTURE_STATUS_NONE);
static_assert(int(kJitErrorLogBuffer) == CU_JIT_ERROR_LOG_BUFFER);
static_assert(int(kJitErrorLogBufferSizeBytes) == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
static_assert(int(kTensorMapUint8) == CU_TENSOR_MAP_DATA_TYPE_UINT8);
static_assert(int(kTensorMapFloat16) == CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
static_assert(int(kTensorMapFloat32) == CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
static_assert(int(kTensorMapBfloat16) == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(int(kInterleaveNone) == CU_TENSOR_MAP_INTERLEAVE_NONE);
static_assert(int(kSwizzleNone) == CU_TENSOR_MAP_SWIZZLE_NONE);
static_assert(int(kSwizzle32B) == CU_TENSOR_MAP_SWIZZLE_32B);
static_assert(int(kSwizzle64B) == CU_TENSOR_MAP_SWIZZLE_64B);
static_assert(int(kSwizzle128B) == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(int(kL2PromotionNone) == CU_TENSOR_MAP_L2_PROMOTION_NONE);
static_assert(int(kL2Promotion64B) == CU_TENSOR_MAP_L2_PROMOTION_L2_64B);
static_assert(int(kL2Promotion128B) == CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
static_assert(int(kL2Promotion256B) == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(int(kOobFillNone) == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

// The checks above can fail.
static_assert(!SameFunction<Result (*)(int*), CUresult (*)(int)>::value);
static_assert(!SameFunction<Result (*)(int), CUresult (*)(size_t)>::value);
static_assert(!SameFunction<Result (*)(int*), CUresult (*)(size_t*)>::value);
static_assert(!SameFunction<Result (*)(int, int), CUresult (*)(int)>::value);

TEST(DriverAbi, AgreesWithCudaH) { SUCCEED() << "this file compiled"; }

}  // namespace
}  // namespace flashinfer::cu

#endif
