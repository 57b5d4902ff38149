// libcuda.so.1 by dlopen, with our own declarations of the two dozen functions that are used: no CUDA header is needed
// to build, no driver to import. cpp_tests/jit/test_driver_abi.cpp compares every line of them with the real cuda.h.
#pragma once

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <flashinfer/core/check.hpp>

namespace flashinfer::cu {

using Result = int;  // CUresult
using DeviceOrdinal = int;
using DevicePointer = unsigned long long;
using Context = struct ContextObject*;
using Stream = struct StreamObject*;
using Event = struct EventObject*;
using Library = struct LibraryObject*;
using Kernel = struct KernelObject*;
using Function = struct FunctionObject*;

/// Enumerators of cuda.h, by their own names without the CU_ prefix.
enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kL2CacheSize = 38,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedMemoryPerMultiprocessor = 81,
  kMaxSharedMemoryPerBlockOptin = 97,
};
enum FunctionAttribute : int { kMaxDynamicSharedSizeBytes = 8, kNonPortableClusterSizeAllowed = 14 };
enum LaunchAttributeId : int { kClusterDimension = 4, kProgrammaticStreamSerialization = 6 };
enum EventFlag : unsigned { kEventDisableTiming = 2 };
enum StreamCaptureMode : int { kCaptureModeRelaxed = 2 };
enum StreamCaptureStatus : int { kCaptureStatusNone = 0 };
enum JitOption : int { kJitErrorLogBuffer = 5, kJitErrorLogBufferSizeBytes = 6 };

enum TensorMapDataType : int { kTensorMapUint8 = 0, kTensorMapFloat16 = 6, kTensorMapFloat32 = 7, kTensorMapBfloat16 = 9 };
enum TensorMapInterleave : int { kInterleaveNone = 0 };
enum TensorMapSwizzle : int { kSwizzleNone = 0, kSwizzle32B = 1, kSwizzle64B = 2, kSwizzle128B = 3 };
enum TensorMapL2Promotion : int { kL2PromotionNone = 0, kL2Promotion64B = 1, kL2Promotion128B = 2, kL2Promotion256B = 3 };
enum TensorMapFloatOobFill : int { kOobFillNone = 0 };

/// CUtensorMap. cuda.h aligns it by 64 in CUDA 12 and by 128 in CUDA 13; 64 is what the driver asks for.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

struct Extent {
  unsigned x, y, z;
};

/// CUlaunchAttribute: an id, and a union of 64 bytes of which two members are used.
struct LaunchAttribute {
  LaunchAttributeId id;
  char pad[4];
  union {
    char raw[64];
    Extent cluster;
    int programmatic_stream_serialization_allowed;
  } value;
};

/// CUlaunchConfig.
struct LaunchConfig {
  Extent grid, block;
  unsigned shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned num_attributes;
};

/// A string literal as a template argument.
template <size_t kSize>
struct SymbolName {
  char text[kSize];
  constexpr SymbolName(const char (&literal)[kSize]) {
    for (size_t i = 0; i < kSize; ++i) text[i] = literal[i];
  }
};

/// Finds a function of the driver. A test may put a stand-in here, before the first call of Driver::get().
inline void* (*find_symbol)(const char* name) = [](const char* name) -> void* {
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return library ? dlsym(library, name) : nullptr;
};

/// One function of the driver: the exported name and the parameter types are part of the type, for the ABI test.
template <SymbolName kSymbol, class... Args>
struct Entry {
  static constexpr const char* kName = kSymbol.text;
  using Function = Result (*)(Args...);
  Function function = reinterpret_cast<Function>(find_symbol(kName));

  explicit operator bool() const { return function != nullptr; }
  Result operator()(Args... args) const { return function(args...); }
};

/// The loaded driver library. Loading it initialises nothing: initialise() does, at the first use of a GPU.
class Driver {
 public:
  Entry<"cuInit", unsigned> init;
  Entry<"cuDriverGetVersion", int*> driver_get_version;
  Entry<"cuGetErrorName", Result, const char**> get_error_name;
  Entry<"cuGetErrorString", Result, const char**> get_error_string;
  Entry<"cuDeviceGet", DeviceOrdinal*, int> device_get;
  Entry<"cuDeviceGetCount", int*> device_get_count;
  Entry<"cuDeviceGetAttribute", int*, DeviceAttribute, DeviceOrdinal> device_get_attribute;
  Entry<"cuDevicePrimaryCtxRetain", Context*, DeviceOrdinal> device_primary_ctx_retain;
  Entry<"cuCtxGetCurrent", Context*> ctx_get_current;
  Entry<"cuCtxPushCurrent_v2", Context> ctx_push_current;
  Entry<"cuCtxPopCurrent_v2", Context*> ctx_pop_current;
  Entry<"cuLibraryLoadData", Library*, const void*, JitOption*, void**, unsigned, int*, void**, unsigned> library_load_data;
  Entry<"cuLibraryGetKernel", Kernel*, Library, const char*> library_get_kernel;
  Entry<"cuKernelGetFunction", Function*, Kernel> kernel_get_function;
  Entry<"cuKernelSetAttribute", FunctionAttribute, int, Kernel, DeviceOrdinal> kernel_set_attribute;
  Entry<"cuLaunchKernelEx", const LaunchConfig*, Function, void**, void**> launch_kernel_ex;
  Entry<"cuMemcpyHtoDAsync_v2", DevicePointer, const void*, size_t, Stream> memcpy_htod_async;
  Entry<"cuMemcpyDtoHAsync_v2", void*, DevicePointer, size_t, Stream> memcpy_dtoh_async;
  Entry<"cuStreamSynchronize", Stream> stream_synchronize;
  Entry<"cuStreamIsCapturing", Stream, StreamCaptureStatus*> stream_is_capturing;
  Entry<"cuThreadExchangeStreamCaptureMode", StreamCaptureMode*> thread_exchange_stream_capture_mode;
  // Newer than CUDA 12.0, or not needed by every GPU or framework: may be absent.
  Entry<"cuMemHostAlloc", void**, size_t, unsigned> mem_host_alloc;
  Entry<"cuStreamWaitEvent", Stream, Event, unsigned> stream_wait_event;
  Entry<"cuEventCreate", Event*, unsigned> event_create;
  Entry<"cuEventRecord", Event, Stream> event_record;
  Entry<"cuEventQuery", Event> event_query;
  Entry<"cuFuncLoad", Function> func_load;
  Entry<"cuKernelGetParamInfo", Kernel, size_t, size_t*, size_t*> kernel_get_param_info;
  Entry<"cuTensorMapEncodeTiled", TensorMap*, TensorMapDataType, uint32_t, void*, const uint64_t*, const uint64_t*, const uint32_t*,
        const uint32_t*, TensorMapInterleave, TensorMapSwizzle, TensorMapL2Promotion, TensorMapFloatOobFill>
      tensor_map_encode_tiled;

  /// The driver of this process, loaded at the first call and never unloaded: static destructors may still launch.
  static Driver& get() {
    static Driver* driver = new Driver;
    return *driver;
  }

  /// CUDA version of the driver, 13000 for 13.0; 0 without a driver. Needs no initialisation, so it is safe before fork.
  int version() const {
    int version = 0;
    return driver_get_version && driver_get_version(&version) == 0 ? version : 0;
  }

  /// To be called before anything that touches a GPU. Throws CudaError where there is no usable driver, and in a
  /// child that was forked after its parent had initialised CUDA: such a child can not use the GPU, whatever it calls.
  void initialise() {
    if (forked_.load(std::memory_order_relaxed)) [[unlikely]]
      throw CudaError(
          "CUDA: this process was forked after its parent had used the GPU, and the driver does not survive a fork; "
          "start workers with the 'spawn' method, or fork before the first GPU call");
    if (!initialised_.load(std::memory_order_acquire)) [[unlikely]]
      first_initialise();
  }

 private:
  Driver() {
    if (!init) {
      dlerror();
      const char* reason = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) ? nullptr : dlerror();
      why_ = reason ? reason : "it lacks cuInit";
    }
    auto require = [this](const auto&... entries) {
      ((why_ = why_.empty() && !entries ? std::string("it lacks ") + entries.kName + ": older than CUDA 12.0" : why_), ...);
    };
    require(driver_get_version, get_error_name, get_error_string, device_get, device_get_count, device_get_attribute,
            device_primary_ctx_retain, ctx_get_current, ctx_push_current, ctx_pop_current, library_load_data, library_get_kernel,
            kernel_get_function, kernel_set_attribute, launch_kernel_ex, memcpy_htod_async, memcpy_dtoh_async, stream_synchronize,
            stream_is_capturing, thread_exchange_stream_capture_mode);
  }

  void first_initialise();

  std::string why_;  // why the driver can not be used; empty if it can
  std::atomic<bool> initialised_{false};
  inline static std::atomic<bool> forked_{false};
};

/// Throws CudaError with the driver's own words: "cuLibraryLoadData: CUDA_ERROR_INVALID_IMAGE (200): device kernel image is invalid".
[[noreturn]] inline void fail(Result result, const std::string& what) {
  const char *name = nullptr, *text = nullptr;
  Driver& driver = Driver::get();
  driver.get_error_name(result, &name);
  driver.get_error_string(result, &text);
  throw CudaError(what + ": " + (name ? name : "CUDA error") + " (" + std::to_string(result) + ")" +
                  (text ? std::string(": ") + text : ""));
}
inline void check(Result result, const char* what) {
  if (result != 0) [[unlikely]]
    fail(result, what);
}

inline void Driver::first_initialise() {
  if (!why_.empty()) throw CudaError("CUDA: can not use the driver library libcuda.so.1: " + why_);
  check(init(0), "cuInit");
  // A flag set in the child costs the launch path one load; getpid() would cost it a system call.
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked_.store(true, std::memory_order_relaxed); });
  static_cast<void>(registered);
  initialised_.store(true, std::memory_order_release);
}

/// Makes `context` current for a scope, if another one is. It must be: stream 0 means "of the current context".
class CurrentContext {
 public:
  explicit CurrentContext(Context context) {
    Context current = nullptr;
    check(Driver::get().ctx_get_current(&current), "cuCtxGetCurrent");
    if (current == context) [[likely]]
      return;
    check(Driver::get().ctx_push_current(context), "cuCtxPushCurrent");
    pushed_ = true;
  }
  ~CurrentContext() {
    Context popped;
    if (pushed_) Driver::get().ctx_pop_current(&popped);
  }
  CurrentContext(const CurrentContext&) = delete;

 private:
  bool pushed_ = false;
};

/// Loading a module is refused while this thread captures a graph, unless its capture mode is relaxed.
class RelaxedCapture {
 public:
  RelaxedCapture() { Driver::get().thread_exchange_stream_capture_mode(&mode_); }
  ~RelaxedCapture() { Driver::get().thread_exchange_stream_capture_mode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;

 private:
  StreamCaptureMode mode_ = kCaptureModeRelaxed;  // while we live: the mode to go back to
};

}  // namespace flashinfer::cu
