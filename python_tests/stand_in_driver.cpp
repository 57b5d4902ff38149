// libcuda.so.1 for machines without a GPU: two devices of compute capability 9.0. Writes the calls that matter to the file
// STAND_IN_LOG; STAND_IN_FAIL names a function that fails.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <flashinfer/jit/cuda_driver.hpp>

using namespace flashinfer::cu;

namespace {

int note(const char* function, const char* format, ...) {
  const char* failing = std::getenv("STAND_IN_FAIL");
  if (failing && std::strcmp(failing, function) == 0) return 700;
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  const int n = std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  line[n] = '\n';
  if (FILE* log = std::fopen(std::getenv("STAND_IN_LOG"), "a")) {
    std::fwrite(line, 1, size_t(n) + 1, log);
    std::fclose(log);
  }
  return 0;
}

thread_local Context current = nullptr;

}  // namespace

extern "C" {
int cuInit(unsigned) { return note("cuInit", "init"); }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuGetErrorName(int, const char** name) { return *name = "CUDA_ERROR_STAND_IN", 0; }
int cuGetErrorString(int, const char** text) { return *text = "as the test asked", 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal < 2 ? 0 : 101; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == kComputeCapabilityMajor ? 9 : which == kComputeCapabilityMinor ? 0 : which == kMultiprocessorCount ? 132 : 200 << 10;
  return 0;
}
int cuDevicePrimaryCtxRetain(Context* context, int device) {
  *context = reinterpret_cast<Context>(uintptr_t(1000 + device));
  return note("cuDevicePrimaryCtxRetain", "retain %d", device);
}
int cuCtxGetCurrent(Context* context) { return *context = current, 0; }
int cuCtxPushCurrent_v2(Context context) { return current = context, 0; }
int cuCtxPopCurrent_v2(Context*) { return current = nullptr, 0; }
int cuLibraryLoadData(Library* library, const void*, int*, void**, unsigned, int*, void**, unsigned) {
  *library = reinterpret_cast<Library>(uintptr_t(1));
  return note("cuLibraryLoadData", "load");
}
int cuLibraryGetKernel(Kernel* kernel, Library library, const char*) { return *kernel = reinterpret_cast<Kernel>(library), 0; }
int cuKernelGetFunction(Function* function, Kernel kernel) { return *function = reinterpret_cast<Function>(kernel), 0; }
int cuKernelSetAttribute(int, int, Kernel, int) { return 0; }
int cuLaunchKernelEx(const LaunchConfig* config, Function, void**, void**) {
  bool pdl = false;
  for (unsigned i = 0; i < config->num_attributes; ++i) pdl |= config->attributes[i].id == kProgrammaticStreamSerialization;
  return note("cuLaunchKernelEx", "launch device=%zu stream=%zu pdl=%d", size_t(current) - 1000, size_t(config->stream), pdl);
}
int cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, Stream) {
  return std::memcpy(reinterpret_cast<void*>(uintptr_t(to)), from, bytes), note("cuMemcpyHtoDAsync", "copy to device");
}
int cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, Stream) {
  return std::memcpy(to, reinterpret_cast<void*>(uintptr_t(from)), bytes), note("cuMemcpyDtoHAsync", "copy to host");
}
int cuStreamSynchronize(Stream) { return note("cuStreamSynchronize", "synchronize"); }
int cuStreamWaitEvent(Stream stream, Event event, unsigned) {
  return note("cuStreamWaitEvent", "stream %zu waits for event %zu", size_t(stream), size_t(event));
}
int cuEventCreate(Event* event, unsigned) {
  static uintptr_t count = 0;
  *event = reinterpret_cast<Event>(++count);
  return note("cuEventCreate", "event %zu", size_t(count));
}
int cuEventRecord(Event event, Stream stream) { return note("cuEventRecord", "record %zu on stream %zu", size_t(event), size_t(stream)); }
int cuEventQuery(Event) { return std::getenv("STAND_IN_BUSY") ? 600 : 0; }
int cuStreamIsCapturing(Stream, int* status) { return *status = 0, 0; }
int cuThreadExchangeStreamCaptureMode(int*) { return 0; }
}
