// A driver for machines without a GPU: takes the calls that JitKernels makes, and writes them down. Where there is a real
// driver it is not installed.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <flashinfer/jit/cuda_driver.hpp>

namespace flashinfer::jit_test {

struct StandInDriver {
  std::mutex mutex;
  std::vector<std::string> calls;
  // What it pretends to be.
  std::atomic<int> compute_capability[2] = {90, 90};
  std::atomic<size_t> params_bytes{0};  // 0: unknown to cuKernelGetParamInfo
  std::atomic<int> load_result{0}, launch_result{0};
  std::atomic<bool> capturing{false};
  std::atomic<bool> busy{false};  // no event has passed
  std::atomic<int> events{0};
  std::atomic<int> loads{0};
  std::vector<unsigned char> last_params;  // what the last launch got, params_to_read bytes of it
  std::atomic<size_t> params_to_read{0};
  const void* copied_from = nullptr;
  std::atomic<bool> write_down{true};
  inline static thread_local cu::Context current = nullptr;
  inline static thread_local int capture_mode = 0;

  static StandInDriver& get() {
    static StandInDriver driver;
    return driver;
  }

  void note(const std::string& call) {
    if (!write_down) return;
    const std::lock_guard lock(mutex);
    calls.push_back(call);
  }
  /// The calls since the last time.
  std::vector<std::string> take() {
    const std::lock_guard lock(mutex);
    return std::exchange(calls, {});
  }

  static bool installed() {
    static const bool stands_in = [] {
      if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) return false;
      cu::find_symbol = [](const char* name) -> void* {
        const auto found = symbols().find(name);
        return found == symbols().end() ? nullptr : found->second;
      };
      return true;
    }();
    return stands_in;
  }

 private:
  using Result = cu::Result;
  static std::string number(const void* handle) { return std::to_string(reinterpret_cast<uintptr_t>(handle)); }

  static const std::map<std::string, void*>& symbols() {
    static const std::map<std::string, void*> table = {
        {"cuInit", (void*)+[](unsigned) -> Result { return get().note("init"), 0; }},
        {"cuDriverGetVersion", (void*)+[](int* version) -> Result { return *version = 13000, 0; }},
        {"cuGetErrorName", (void*)+[](Result, const char** name) -> Result { return *name = "CUDA_ERROR_STAND_IN", 0; }},
        {"cuGetErrorString", (void*)+[](Result, const char** text) -> Result { return *text = "as the test asked", 0; }},
        {"cuDeviceGet", (void*)+[](int* device, int ordinal) -> Result { return *device = ordinal, ordinal < 2 ? 0 : 101; }},
        {"cuDeviceGetCount", (void*)+[](int* count) -> Result { return *count = 2, 0; }},
        {"cuDeviceGetAttribute",
         (void*)+[](int* value, int which, int device) -> Result {
           const int cc = get().compute_capability[device];
           *value = which == 75   ? cc / 10
                    : which == 76 ? cc % 10
                    : which == 16 ? 132
                    : which == 97 ? 232448
                    : which == 81 ? 233472
                                  : 50 << 20;
           return 0;
         }},
        {"cuDevicePrimaryCtxRetain",
         (void*)+[](cu::Context* context, int device) -> Result {
           *context = reinterpret_cast<cu::Context>(uintptr_t(1000 + device));
           return get().note("retain " + std::to_string(device)), 0;
         }},
        {"cuCtxGetCurrent", (void*)+[](cu::Context* context) -> Result { return *context = current, 0; }},
        {"cuCtxPushCurrent_v2",
         (void*)+[](cu::Context context) -> Result { return current = context, get().note("push " + number(context)), 0; }},
        {"cuCtxPopCurrent_v2", (void*)+[](cu::Context*) -> Result { return current = nullptr, get().note("pop"), 0; }},
        {"cuLibraryLoadData",
         (void*)+[](cu::Library* library, const void* code, int*, void** values, unsigned, int*, void**, unsigned) -> Result {
           if (get().load_result) return std::strcpy(static_cast<char*>(values[0]), "bad image"), get().load_result.load();
           if (std::memcmp(code,
                           "\x7f"
                           "ELF",
                           4) != 0)
             return 200;
           *library = reinterpret_cast<cu::Library>(uintptr_t(2000 + ++get().loads));
           return get().note("load mode=" + std::to_string(capture_mode)), 0;
         }},
        {"cuLibraryGetKernel",
         (void*)+[](cu::Kernel* kernel, cu::Library library, const char* name) -> Result {
           *kernel = reinterpret_cast<cu::Kernel>(library);
           return get().note(std::string("get ") + name), 0;
         }},
        {"cuKernelGetFunction",
         (void*)+[](cu::Function* function, cu::Kernel kernel) -> Result {
           *function = reinterpret_cast<cu::Function>(kernel);
           return get().note("function in " + number(current)), 0;
         }},
        {"cuKernelSetAttribute",
         (void*)+[](int which, int value, cu::Kernel, int device) -> Result {
           return get().note("set " + std::to_string(which) + "=" + std::to_string(value) + " on " + std::to_string(device)), 0;
         }},
        {"cuFuncLoad", (void*)+[](cu::Function) -> Result { return get().note("load function"), 0; }},
        {"cuKernelGetParamInfo",
         (void*)+[](cu::Kernel, size_t, size_t* offset, size_t* bytes) -> Result {
           return *offset = 0, *bytes = get().params_bytes, get().params_bytes ? 0 : 1;
         }},
        {"cuLaunchKernelEx",
         (void*)+[](const cu::LaunchConfig* c, cu::Function, void** arguments, void**) -> Result {
           if (get().launch_result) return get().launch_result;
           if (!get().write_down) return 0;
           std::string call = "launch " + std::to_string(c->grid.x) + "," + std::to_string(c->grid.y) + "," + std::to_string(c->grid.z) +
                              " of " + std::to_string(c->block.x) + " smem " + std::to_string(c->shared_bytes) + " stream " +
                              number(c->stream) + " in " + number(current);
           for (unsigned i = 0; i < c->num_attributes; ++i) {
             const cu::LaunchAttribute& a = c->attributes[i];
             if (a.id == cu::kClusterDimension)
               call += " cluster " + std::to_string(a.value.cluster.x) + "," + std::to_string(a.value.cluster.y);
             if (a.id == cu::kProgrammaticStreamSerialization) call += " pdl";
           }
           const auto* bytes = static_cast<const unsigned char*>(arguments[0]);
           get().note(call);
           const std::lock_guard lock(get().mutex);
           get().last_params.assign(bytes, bytes + get().params_to_read);
           return 0;
         }},
        {"cuMemcpyHtoDAsync_v2",
         (void*)+[](cu::DevicePointer to, const void* from, size_t bytes, cu::Stream) -> Result {
           get().copied_from = from;
           return std::memcpy(reinterpret_cast<void*>(uintptr_t(to)), from, bytes), get().note("copy to device"), 0;
         }},
        {"cuMemHostAlloc",
         (void*)+[](void** memory, size_t bytes, unsigned) -> Result {
           return *memory = std::calloc(bytes, 1), get().note("pinned memory mode=" + std::to_string(capture_mode)), 0;
         }},
        {"cuEventCreate",
         (void*)+[](cu::Event* event, unsigned) -> Result {
           return *event = reinterpret_cast<cu::Event>(uintptr_t(3000 + get().events++)), 0;
         }},
        {"cuEventRecord",
         (void*)+[](cu::Event event, cu::Stream stream) -> Result {
           if (get().write_down) get().note("record " + number(event) + " on " + number(stream));
           return 0;
         }},
        {"cuEventQuery", (void*)+[](cu::Event) -> Result { return get().busy ? 600 : 0; }},
        {"cuMemcpyDtoHAsync_v2",
         (void*)+[](void* to, cu::DevicePointer from, size_t bytes, cu::Stream) -> Result {
           return std::memcpy(to, reinterpret_cast<void*>(uintptr_t(from)), bytes), get().note("copy to host"), 0;
         }},
        {"cuStreamSynchronize", (void*)+[](cu::Stream) -> Result { return get().note("synchronize"), 0; }},
        {"cuStreamIsCapturing", (void*)+[](cu::Stream, int* status) -> Result { return *status = get().capturing, 0; }},
        {"cuThreadExchangeStreamCaptureMode", (void*)+[](int* mode) -> Result { return std::swap(*mode, capture_mode), 0; }},
    };
    return table;
  }
};

}  // namespace flashinfer::jit_test
