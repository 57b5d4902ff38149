// The KernelSource of those who have nvcc: the kernels that were registered, compiled into the binary.
//
//   flashinfer::CompiledKernels kernels;
//   kernels.add<RmsnormConfig{.input = DType::bf16}, RmsnormKernel>();
//   kernels.add_all<kRmsnormConfigs, RmsnormKernel>();  // constexpr std::array<RmsnormConfig, N> kRmsnormConfigs
//   flashinfer::Context context{.device = {DeviceType::cuda, 0}, .stream = stream, .kernels = &kernels};
//
// Register everything before the first launch: launches look kernels up without a lock.
#pragma once

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include <flashinfer/core/check.hpp>
#include <flashinfer/gpu/entry.cuh>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

class CompiledKernels : public KernelSource {
 public:
  /// Registers Kernel<kConfig>.
  template <auto kConfig, template <std::remove_cvref_t<decltype(kConfig)>> class Kernel>
  void add() {
    add<Kernel<kConfig>>(kernel_id(kConfig).hash);
  }

  /// Registers Kernel<config> for every config of a constexpr array.
  template <const auto& kConfigs, template <std::remove_cvref_t<decltype(kConfigs[0])>> class Kernel>
  void add_all() {
    [this]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      (add<kConfigs[kIndex], Kernel>(), ...);
    }(std::make_index_sequence<std::size(kConfigs)>());
  }

  /// Registers a kernel of more parameters than its config, such as a variant of the user's, under the hash that its
  /// launches ask for: kernel_id(...).hash.
  template <class Kernel>
  void add(uint64_t hash) {
    kernels_.try_emplace(hash, reinterpret_cast<const void*>(&gpu::entry<Kernel>), sizeof(typename Kernel::Params));
  }

  size_t size() const { return kernels_.size(); }

  const DeviceInfo& device_info(int device) override {
    const std::lock_guard lock(mutex_);
    if (const auto known = devices_.find(device); known != devices_.end()) return known->second;
    auto attribute = [&](cudaDeviceAttr which) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
      return value;
    };
    DeviceInfo info;
    info.arch = arch_of(attribute(cudaDevAttrComputeCapabilityMajor), attribute(cudaDevAttrComputeCapabilityMinor));
    info.num_sms = attribute(cudaDevAttrMultiProcessorCount);
    info.smem_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    info.smem_per_sm = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    info.l2_bytes = attribute(cudaDevAttrL2CacheSize);
    return devices_[device] = info;
  }

  void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t params_bytes, const Context& context) override {
    const auto found = kernels_.find(id.hash);
    if (found == kernels_.end())
      throw Unsupported("CompiledKernels: " + id.text(id.config).kernel + " of <flashinfer/" + id.text(id.config).header +
                        "> was not registered; add it with kernels.add<...>(), or use the JIT");
    Kernel& kernel = found->second;
    if (kernel.params_bytes != params_bytes)
      throw CudaError("CompiledKernels: " + id.text(id.config).kernel + ": Params have " + std::to_string(params_bytes) +
                      " bytes where it is launched and " + std::to_string(kernel.params_bytes) + " where it was compiled");
    const CurrentDevice current(context.device.index);
    const unsigned cluster_size = shape.cluster.x * shape.cluster.y * shape.cluster.z;
    prepare(kernel, context.device.index, shape.smem_bytes, cluster_size > 8);

    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};
    config.gridDim = {shape.grid.x, shape.grid.y, shape.grid.z};
    config.blockDim = {shape.block.x, shape.block.y, shape.block.z};
    config.dynamicSmemBytes = size_t(shape.smem_bytes);
    config.stream = static_cast<cudaStream_t>(context.stream);
    config.attrs = attributes;
    if (cluster_size > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
    }
    if (shape.pdl) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    void* arguments[] = {const_cast<void*>(params)};
    if (const cudaError_t error = cudaLaunchKernelExC(&config, kernel.entry, arguments); error != cudaSuccess)
      check(error, "launch of " + id.text(id.config).kernel);
  }

  void copy_to_device(void* device, const void* host, size_t bytes, const Context& context) override {
    if (bytes == 0) return;
    const CurrentDevice current(context.device.index);
    refuse_capture(context, "a copy from host memory; plan before the capture");
    // Pageable memory is copied aside before the call returns; pinned memory would be read later, after the caller has
    // reused it.
    thread_local std::vector<unsigned char> pageable;
    pageable.resize(bytes);
    std::memcpy(pageable.data(), host, bytes);
    check(cudaMemcpyAsync(device, pageable.data(), bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(context.stream)),
          "cudaMemcpyAsync");
  }

  void copy_to_host(void* host, const void* device, size_t bytes, const Context& context) override {
    const CurrentDevice current(context.device.index);
    refuse_capture(context, "reading device memory back; unset FLASHINFER_VALIDATE");
    const auto stream = static_cast<cudaStream_t>(context.stream);
    if (bytes > 0) check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

 private:
  static constexpr int kMaxDevices = 64;

  struct Kernel {
    const void* entry;
    size_t params_bytes;
    std::atomic<int32_t> smem_limit[kMaxDevices] = {};   // the dynamic shared memory that launches may ask for
    std::atomic<bool> large_clusters[kMaxDevices] = {};  // of more than the 8 blocks that every GPU with clusters has
    Kernel(const void* entry, size_t params_bytes) : entry(entry), params_bytes(params_bytes) {}
  };

  class CurrentDevice {
   public:
    explicit CurrentDevice(int device) {
      if (device < 0 || device >= kMaxDevices)
        throw InvalidArgument("CompiledKernels", "device", "a CUDA device index below " + std::to_string(kMaxDevices),
                              std::to_string(device));
      check(cudaGetDevice(&previous_), "cudaGetDevice");
      if (previous_ == device)
        previous_ = -1;
      else
        check(cudaSetDevice(device), "cudaSetDevice");
    }
    ~CurrentDevice() {
      if (previous_ >= 0) cudaSetDevice(previous_);
    }
    CurrentDevice(const CurrentDevice&) = delete;

   private:
    int previous_ = -1;
  };

  /// Two threads may set a limit at the same time, so that the smaller one is set last: hence the lock.
  void prepare(Kernel& kernel, int device, int32_t smem_bytes, bool large_cluster) {
    auto ready = [&] {
      return smem_bytes <= kernel.smem_limit[device].load(std::memory_order_acquire) &&
             (!large_cluster || kernel.large_clusters[device].load(std::memory_order_acquire));
    };
    if (ready()) [[likely]]
      return;
    const std::lock_guard lock(mutex_);
    if (ready()) return;
    if (smem_bytes > kernel.smem_limit[device].load(std::memory_order_relaxed)) {
      check(cudaFuncSetAttribute(kernel.entry, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes), "cudaFuncSetAttribute");
      kernel.smem_limit[device].store(smem_bytes, std::memory_order_release);
    }
    if (large_cluster) {
      check(cudaFuncSetAttribute(kernel.entry, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cudaFuncSetAttribute");
      kernel.large_clusters[device].store(true, std::memory_order_release);
    }
  }

  template <class What>
  static void check(cudaError_t error, const What& what) {
    if (error == cudaSuccess) [[likely]]
      return;
    cudaGetLastError();  // ours to report: the user's next check must not find it
    throw CudaError(std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
  }

  static void refuse_capture(const Context& context, const std::string& what) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(static_cast<cudaStream_t>(context.stream), &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone)
      throw CudaError("the stream is being captured into a CUDA graph, which can not hold " + what);
  }

  std::unordered_map<uint64_t, Kernel> kernels_;
  std::map<int, DeviceInfo> devices_;
  std::mutex mutex_;  // of devices_, and of raising limits
};

}  // namespace flashinfer
