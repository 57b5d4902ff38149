// The one seam to the hardware. Host code above it needs no CUDA header; below it a kernel comes from nvcc
// (runtime/compiled_kernels.cuh), from NVRTC (jit/jit_kernels.hpp), or is only written down (RecordingKernels).
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include <flashinfer/core/fields.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer {

/// What the JIT needs to write a kernel's translation unit.
struct KernelText {
  std::string header;     // "norm/gpu/rmsnorm_kernel.cuh"
  std::string kernel;     // "RmsnormKernel<RmsnormConfig{.input=DType::bf16}>"
  std::string user_name;  // of a user's functor; error messages point at its own lines
  std::string user_text;  // its C++ source, compiled in front of the kernel
};

/// Names a kernel without allocating: the hash is the key on the hot path, the text is made on a miss only.
struct KernelId {
  uint64_t hash = 0;
  const void* config = nullptr;
  KernelText (*text)(const void* config) = nullptr;
};

/// Config has: kKernel and kName (its own and the kernel struct's name), kHeader, for_each_field.
template <class Config>
KernelId kernel_id(const Config& config) {
  constexpr uint64_t kSeed = hash_text(Config::kKernel);
  return {mix(kSeed, hash_fields(config)), &config, [](const void* c) -> KernelText {
            return {Config::kHeader, std::string(Config::kKernel) + "<" + text_of(*static_cast<const Config*>(c)) + ">", {}, {}};
          }};
}

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  friend constexpr bool operator==(Dim3, Dim3) = default;
};

struct LaunchShape {
  Dim3 grid = {}, block = {};
  int32_t smem_bytes = 0;  // dynamic shared memory
  Dim3 cluster = {};
  bool pdl = false;  // programmatic dependent launch: only for kernels that wait (griddepcontrol) before their first dependent read
};

struct Context;

class KernelSource {
 public:
  virtual ~KernelSource() = default;
  virtual const DeviceInfo& device_info(int device) = 0;
  /// Enqueues the kernel on context.stream. `params` is the kernel's single by-value argument. Never synchronises.
  virtual void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t params_bytes, const Context& context) = 0;
  /// A launch will soon ask for this kernel: it may be built meanwhile. What fails there, the launch tells.
  virtual void prefetch(const KernelId&, const Context&) {}
  /// Enqueues a copy on context.stream; `host` may be reused on return. Not for use inside a stream capture.
  virtual void copy_to_device(void* device, const void* host, size_t bytes, const Context& context) = 0;
  /// Waits for context.stream, then reads. Only for checking device arrays under FLASHINFER_VALIDATE=1.
  virtual void copy_to_host(void* host, const void* device, size_t bytes, const Context& context) = 0;
};

/// Where and how a call runs. The default runs on the CPU.
struct Context {
  Device device = {};
  void* stream = nullptr;           // CUstream
  KernelSource* kernels = nullptr;  // required for CUDA tensors
  bool pdl = false;                 // let kernels overlap the tail of their predecessor (SM90 up)
  bool validate = false;            // read device index arrays back and check them: synchronises, for debugging
};

template <class Config, class Params>
void launch(const Config& config, const LaunchShape& shape, const Params& params, const Context& context) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  context.kernels->launch(kernel_id(config), shape, &params, sizeof(Params), context);
}

template <class Config>
void prefetch(const Config& config, const Context& context) {
  context.kernels->prefetch(kernel_id(config), context);
}

/// Writes launches down instead of running them: tuning and launch shapes are tested on any machine.
class RecordingKernels : public KernelSource {
 public:
  struct Launch {
    uint64_t hash;
    KernelText text;
    LaunchShape shape;
    std::vector<unsigned char> params;
  };
  std::vector<Launch> launches;

  explicit RecordingKernels(DeviceInfo info) : info_(info) {}
  const DeviceInfo& device_info(int) override { return info_; }
  void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t bytes, const Context&) override {
    const auto* p = static_cast<const unsigned char*>(params);
    launches.push_back({id.hash, id.text(id.config), shape, {p, p + bytes}});
  }
  void copy_to_device(void* device, const void* host, size_t bytes, const Context&) override { std::memcpy(device, host, bytes); }
  void copy_to_host(void* host, const void* device, size_t bytes, const Context&) override { std::memcpy(host, device, bytes); }

 private:
  DeviceInfo info_;
};

}  // namespace flashinfer
