// The KernelSource of everyone without nvcc: a kernel is built at its first launch (kernel_builder.hpp), loaded through
// the driver, and from then on found by its hash. Host only, no CUDA header.
//
//   a launch     hash -> loaded kernel -> cuLaunchKernelEx: no lock, no allocation, no string
//   a miss       one thread builds and loads, outside every lock; others that want the same kernel wait for it
//   devices      one library per architecture; per device its function, loaded, with its shared memory allowed
//   graphs       launches and cold kernels are capture-safe; copies are not, and say so
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <flashinfer/jit/cuda_driver.hpp>
#include <flashinfer/jit/kernel_builder.hpp>
#include <flashinfer/jit/staging.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

namespace jit {

/// A GPU in use. Its primary context, the one that torch, JAX and CuPy use, is retained for good.
struct Gpu {
  int index = 0;
  cu::DeviceOrdinal ordinal = 0;
  cu::Context context = nullptr;
  DeviceInfo info;
};

/// One kernel of one architecture. Never unloaded from the driver: graphs may hold it.
struct LoadedKernel {
  uint64_t key = 0;
  cu::Kernel kernel = nullptr;
  size_t params_bytes = 0;  // 0: this driver does not tell

  struct OnDevice {
    std::atomic<cu::Function> function{nullptr};  // set last
    std::atomic<int32_t> smem_limit{0};           // the dynamic shared memory that launches may ask for
    std::atomic<bool> large_clusters{false};      // of more than the 8 blocks that every GPU with clusters has
  };
  OnDevice on[kMaxDevices];
  std::mutex mutex;  // of preparing it for a device
};

/// Key -> kernel, open addressing. Readers take no lock: slots go from null to a kernel once, and slots that have become
/// too few are replaced but kept, since a reader may still be in them.
class KernelTable {
 public:
  KernelTable() { grow_to(256); }

  LoadedKernel* find(uint64_t key) const {
    const Slots& slots = *slots_.load(std::memory_order_acquire);
    for (uint64_t at = key & slots.mask;; at = (at + 1) & slots.mask) {
      LoadedKernel* kernel = slots.kernels[at].load(std::memory_order_acquire);
      if (!kernel || kernel->key == key) return kernel;
    }
  }

  /// The caller holds the writers' lock, and the key is not in the table.
  void insert(std::unique_ptr<LoadedKernel> kernel) {
    const uint64_t size = generations_.back()->mask + 1;
    if (2 * (kernels_.size() + 1) > size) grow_to(2 * size);
    generations_.back()->put(kernel.get());
    kernels_.push_back(std::move(kernel));
  }

 private:
  struct Slots {
    uint64_t mask;
    std::unique_ptr<std::atomic<LoadedKernel*>[]> kernels;
    explicit Slots(uint64_t size) : mask(size - 1), kernels(new std::atomic<LoadedKernel*>[size]()) {}
    void put(LoadedKernel* kernel) {
      uint64_t at = kernel->key & mask;
      while (kernels[at].load(std::memory_order_relaxed)) at = (at + 1) & mask;
      kernels[at].store(kernel, std::memory_order_release);
    }
  };

  void grow_to(uint64_t size) {
    auto slots = std::make_unique<Slots>(size);
    for (const auto& kernel : kernels_) slots->put(kernel.get());
    slots_.store(slots.get(), std::memory_order_release);
    generations_.push_back(std::move(slots));
  }

  std::atomic<const Slots*> slots_{nullptr};
  std::vector<std::unique_ptr<Slots>> generations_;  // the last one is in use
  std::vector<std::unique_ptr<LoadedKernel>> kernels_;
};

}  // namespace jit

class JitKernels : public KernelSource {
 public:
  JitKernels() = default;
  explicit JitKernels(jit::Settings settings, jit::Hooks hooks = {}) : builder_(std::move(settings), std::move(hooks)) {}
  ~JitKernels() override { wait(); }

  /// The one of the process. Never destroyed: the driver may be gone before static destructors run.
  static JitKernels& global() {
    static JitKernels* kernels = new JitKernels;
    return *kernels;
  }

  jit::KernelBuilder& builder() { return builder_; }

  int device_count() {
    cu::Driver& driver = cu::Driver::get();
    driver.initialise();
    int count = 0;
    cu::check(driver.device_get_count(&count), "cuDeviceGetCount");
    return count;
  }

  const DeviceInfo& device_info(int device) override { return gpu(device).info; }
  /// The primary context, for those who call the driver themselves.
  cu::Context context_of(int device) { return gpu(device).context; }

  void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t params_bytes, const Context& context) override {
    const jit::Gpu& gpu = this->gpu(context.device.index);
    const cu::CurrentContext current(gpu.context);

    const uint64_t key = mix(id.hash, uint64_t(gpu.info.arch.number));
    jit::LoadedKernel* kernel = table_.find(key);
    if (!kernel) [[unlikely]]
      kernel = load(id, key, gpu.info.arch);
    if (kernel->params_bytes != params_bytes && kernel->params_bytes != 0) [[unlikely]]
      throw CudaError("jit: " + id.text(id.config).kernel + ": Params have " + std::to_string(params_bytes) + " bytes on the host and " +
                      std::to_string(kernel->params_bytes) + " on the device; a field's type differs between the two compilers");

    jit::LoadedKernel::OnDevice& on_device = kernel->on[gpu.index];
    const uint32_t cluster_size = shape.cluster.x * shape.cluster.y * shape.cluster.z;
    cu::Function function = on_device.function.load(std::memory_order_acquire);
    if (!function || shape.smem_bytes > on_device.smem_limit.load(std::memory_order_relaxed) ||
        (cluster_size > 8 && !on_device.large_clusters.load(std::memory_order_relaxed))) [[unlikely]]
      function = prepare(*kernel, gpu, shape.smem_bytes, cluster_size > 8);

    cu::LaunchAttribute attributes[2];
    cu::LaunchConfig config{extent_of(shape.grid), extent_of(shape.block), unsigned(shape.smem_bytes), stream_of(context), attributes, 0};
    if (cluster_size > 1) {
      cu::LaunchAttribute& attribute = attributes[config.num_attributes++];
      attribute.id = cu::kClusterDimension;
      attribute.value.cluster = extent_of(shape.cluster);
    }
    if (shape.pdl && gpu.info.arch.number >= 90) {
      cu::LaunchAttribute& attribute = attributes[config.num_attributes++];
      attribute.id = cu::kProgrammaticStreamSerialization;
      attribute.value.programmatic_stream_serialization_allowed = 1;
    }
    void* arguments[] = {const_cast<void*>(params)};
    const cu::Result result = cu::Driver::get().launch_kernel_ex(&config, function, arguments, nullptr);
    if (result != 0) [[unlikely]]
      cu::fail(result, "launch of " + id.text(id.config).kernel + " " + describe(shape));
  }

  /// On a thread of its own. A process that may exit before the launch calls wait() first: compilers do not survive exit().
  void prefetch(const KernelId& id, const Context& context) override {
    const jit::Gpu& gpu = this->gpu(context.device.index);
    const uint64_t key = mix(id.hash, uint64_t(gpu.info.arch.number));
    if (table_.find(key)) [[likely]]
      return;
    const std::lock_guard lock(mutex_);
    if (table_.find(key) || loading_.count(key)) return;
    std::promise<jit::LoadedKernel*> promise;
    loading_[key] = promise.get_future().share();
    try {
      std::erase_if(builders_, [](const std::future<void>& b) { return b.wait_for(std::chrono::seconds(0)) == std::future_status::ready; });
      builders_.push_back(
          std::async(std::launch::async, [this, &gpu, key, text = id.text(id.config), promise = std::move(promise)]() mutable {
            load_for_all(promise, key, [&] {
              const cu::CurrentContext current(gpu.context);
              return build_and_load(text, key, gpu.info.arch);
            });
          }));
      builders_process_ = getpid();
    } catch (const std::system_error&) {  // no thread to be had: the launch builds
      loading_.erase(key);
    }
  }

  /// For all that prefetch() has begun.
  void wait() {
    std::vector<std::future<void>> builders;
    {
      const std::lock_guard lock(mutex_);
      builders.swap(builders_);
    }
    if (builders.empty()) return;
    if (builders_process_ != getpid()) {  // threads did not come along into this fork: nobody would ever answer
      new std::vector<std::future<void>>(std::move(builders));
      return;
    }
    for (std::future<void>& builder : builders) builder.wait();
  }

  void copy_to_device(void* device, const void* host, size_t bytes, const Context& context) override {
    if (bytes == 0) return;
    const cu::CurrentContext current(gpu(context.device.index).context);
    refuse_capture(context, "a copy from host memory; plan before the capture");
    const auto to = cu::DevicePointer(uintptr_t(device));
    if (bytes > jit::Staging::kDriverBytes) {
      jit::Staging& staging = jit::Staging::of_thread(context.device.index);
      if (void* piece = staging.piece(bytes)) {
        std::memcpy(piece, host, bytes);
        cu::check(cu::Driver::get().memcpy_htod_async(to, piece, bytes, stream_of(context)), "cuMemcpyHtoDAsync");
        cu::check(staging.sent(stream_of(context)), "cuEventRecord");
        return;
      }
    }
    // The driver copies pageable memory aside before it returns, but reads pinned memory later, when the caller may have
    // written the next plan there. Our own buffer is always pageable.
    thread_local std::vector<unsigned char> pageable;
    pageable.resize(bytes);
    std::memcpy(pageable.data(), host, bytes);
    cu::check(cu::Driver::get().memcpy_htod_async(to, pageable.data(), bytes, stream_of(context)), "cuMemcpyHtoDAsync");
  }

  void copy_to_host(void* host, const void* device, size_t bytes, const Context& context) override {
    const cu::CurrentContext current(gpu(context.device.index).context);
    refuse_capture(context, "reading device memory back; unset FLASHINFER_VALIDATE");
    const cu::Stream stream = stream_of(context);
    if (bytes > 0)
      cu::check(cu::Driver::get().memcpy_dtoh_async(host, cu::DevicePointer(uintptr_t(device)), bytes, stream), "cuMemcpyDtoHAsync");
    cu::check(cu::Driver::get().stream_synchronize(stream), "cuStreamSynchronize");
  }

 private:
  static cu::Extent extent_of(Dim3 d) { return {d.x, d.y, d.z}; }
  static cu::Stream stream_of(const Context& context) { return static_cast<cu::Stream>(context.stream); }

  const jit::Gpu& gpu(int index) {
    cu::Driver::get().initialise();
    if (index < 0 || index >= jit::kMaxDevices)
      throw InvalidArgument("jit", "device", "a CUDA device index below " + std::to_string(jit::kMaxDevices), std::to_string(index));
    const jit::Gpu* gpu = gpus_[index].load(std::memory_order_acquire);
    return gpu ? *gpu : retain(index);
  }

  const jit::Gpu& retain(int index) {
    const std::lock_guard lock(mutex_);
    if (const jit::Gpu* gpu = gpus_[index].load(std::memory_order_acquire)) return *gpu;
    const cu::RelaxedCapture relaxed;
    cu::Driver& driver = cu::Driver::get();
    auto gpu = std::make_unique<jit::Gpu>();
    gpu->index = index;
    cu::check(driver.device_get(&gpu->ordinal, index), "cuDeviceGet");
    auto attribute = [&](cu::DeviceAttribute which) {
      int value = 0;
      cu::check(driver.device_get_attribute(&value, which, gpu->ordinal), "cuDeviceGetAttribute");
      return value;
    };
    gpu->info.arch = arch_of(attribute(cu::kComputeCapabilityMajor), attribute(cu::kComputeCapabilityMinor));
    gpu->info.num_sms = attribute(cu::kMultiprocessorCount);
    gpu->info.smem_per_block = attribute(cu::kMaxSharedMemoryPerBlockOptin);
    gpu->info.smem_per_sm = attribute(cu::kMaxSharedMemoryPerMultiprocessor);
    gpu->info.l2_bytes = attribute(cu::kL2CacheSize);
    if (const char* older = std::getenv("FLASHINFER_TEST_ARCH")) act_as(gpu->info, parse_arch(older));
    cu::check(driver.device_primary_ctx_retain(&gpu->context, gpu->ordinal), "cuDevicePrimaryCtxRetain");
    gpus_[index].store(gpu.get(), std::memory_order_release);
    retained_.push_back(std::move(gpu));
    return *retained_.back();
  }

  /// Tests of the paths of older GPUs, on the GPU at hand: "compute_80" gives the tuner an sm_80 with this GPU's SMs, and the kernels
  /// are that architecture's PTX, which the driver finishes.
  static void act_as(DeviceInfo& info, Arch arch) {
    const DeviceInfo older = device_info_of(arch);
    info.arch = arch;
    info.smem_per_block = std::min(info.smem_per_block, older.smem_per_block);
    info.smem_per_sm = std::min(info.smem_per_sm, older.smem_per_sm);
  }

  /// The miss: builds and loads, or waits for the thread that does. If it fails, so do all that waited; the next launch
  /// tries again.
  jit::LoadedKernel* load(const KernelId& id, uint64_t key, Arch arch) {
    const std::shared_ptr<void> token = builder_.hooks.before_compile ? builder_.hooks.before_compile() : nullptr;
    std::promise<jit::LoadedKernel*> promise;
    std::shared_future<jit::LoadedKernel*> loaded;
    bool mine = false;
    {
      const std::lock_guard lock(mutex_);
      if (jit::LoadedKernel* kernel = table_.find(key)) return kernel;
      const auto [place, is_new] = loading_.try_emplace(key);
      if (is_new) place->second = promise.get_future().share();
      loaded = place->second, mine = is_new;
    }
    if (mine) load_for_all(promise, key, [&] { return build_and_load(id.text(id.config), key, arch); });
    return loaded.get();
  }

  /// By the thread that has put the promise into loading_.
  template <class Load>
  void load_for_all(std::promise<jit::LoadedKernel*>& promise, uint64_t key, const Load& load) {
    try {
      std::unique_ptr<jit::LoadedKernel> loaded = load();
      jit::LoadedKernel* kernel = loaded.get();
      {
        const std::lock_guard lock(mutex_);
        table_.insert(std::move(loaded));
        loading_.erase(key);
      }
      promise.set_value(kernel);
    } catch (...) {
      {
        const std::lock_guard lock(mutex_);
        loading_.erase(key);
      }
      promise.set_exception(std::current_exception());
    }
  }

  std::unique_ptr<jit::LoadedKernel> build_and_load(const KernelText& text, uint64_t key, Arch arch) {
    const jit::Built built = builder_.build(text, arch);
    cu::Driver& driver = cu::Driver::get();
    const cu::RelaxedCapture relaxed;
    cu::Library library = nullptr;
    char log[4096] = "";
    cu::JitOption options[] = {cu::kJitErrorLogBuffer, cu::kJitErrorLogBufferSizeBytes};
    void* values[] = {log, reinterpret_cast<void*>(uintptr_t(sizeof(log)))};
    const cu::Result loaded = driver.library_load_data(&library, built.cubin.code.data(), options, values, 2, nullptr, nullptr, 0);
    if (loaded != 0)
      cu::fail(loaded, "jit: loading " + text.kernel + " for " + to_string(arch) + " into a driver of CUDA " +
                           std::to_string(driver.version() / 1000) + "." + std::to_string(driver.version() % 1000 / 10) +
                           (log[0] ? std::string(" (") + log + ")" : "") + ", built by " + builder_.toolchain().nvrtc);
    auto kernel = std::make_unique<jit::LoadedKernel>();
    kernel->key = key;
    cu::check(driver.library_get_kernel(&kernel->kernel, library, jit::kEntryPoint), "cuLibraryGetKernel");
    size_t offset = 0, bytes = 0;
    if (driver.kernel_get_param_info && driver.kernel_get_param_info(kernel->kernel, 0, &offset, &bytes) == 0) kernel->params_bytes = bytes;
    return kernel;
  }

  /// Allows the shared memory (the most that any launch has asked for) and loads the function, so that a capture does not.
  static cu::Function prepare(jit::LoadedKernel& kernel, const jit::Gpu& gpu, int32_t smem_bytes, bool large_cluster) {
    const std::lock_guard lock(kernel.mutex);
    const cu::RelaxedCapture relaxed;
    cu::Driver& driver = cu::Driver::get();
    jit::LoadedKernel::OnDevice& on_device = kernel.on[gpu.index];
    if (smem_bytes > on_device.smem_limit.load(std::memory_order_relaxed)) {
      if (smem_bytes > gpu.info.smem_per_block)
        throw Unsupported("jit: a launch asks for " + std::to_string(smem_bytes) + " bytes of shared memory, " + to_string(gpu.info.arch) +
                          " has " + std::to_string(gpu.info.smem_per_block));
      cu::check(driver.kernel_set_attribute(cu::kMaxDynamicSharedSizeBytes, smem_bytes, kernel.kernel, gpu.ordinal),
                "cuKernelSetAttribute");
      on_device.smem_limit.store(smem_bytes, std::memory_order_relaxed);
    }
    if (large_cluster && !on_device.large_clusters.load(std::memory_order_relaxed)) {
      cu::check(driver.kernel_set_attribute(cu::kNonPortableClusterSizeAllowed, 1, kernel.kernel, gpu.ordinal), "cuKernelSetAttribute");
      on_device.large_clusters.store(true, std::memory_order_relaxed);
    }
    cu::Function function = on_device.function.load(std::memory_order_relaxed);
    if (!function) {
      cu::check(driver.kernel_get_function(&function, kernel.kernel), "cuKernelGetFunction");
      if (driver.func_load) cu::check(driver.func_load(function), "cuFuncLoad");
      on_device.function.store(function, std::memory_order_release);
    }
    return function;
  }

  static void refuse_capture(const Context& context, const char* what) {
    cu::StreamCaptureStatus status = cu::kCaptureStatusNone;
    cu::check(cu::Driver::get().stream_is_capturing(stream_of(context), &status), "cuStreamIsCapturing");
    if (status != cu::kCaptureStatusNone)
      throw CudaError(std::string("the stream is being captured into a CUDA graph, which can not hold ") + what);
  }

  static std::string describe(const LaunchShape& s) {
    auto dim = [](Dim3 d) { return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z); };
    return "(grid " + dim(s.grid) + ", block " + dim(s.block) + ", " + std::to_string(s.smem_bytes) + " bytes of shared memory, cluster " +
           dim(s.cluster) + ")";
  }

  jit::KernelBuilder builder_;
  jit::KernelTable table_;
  std::atomic<const jit::Gpu*> gpus_[jit::kMaxDevices] = {};
  std::mutex mutex_;  // of the members below, and of writing those above
  std::vector<std::unique_ptr<jit::Gpu>> retained_;
  std::vector<std::future<void>> builders_;  // of prefetch()
  pid_t builders_process_ = 0;               // whose threads they are
  std::map<uint64_t, std::shared_future<jit::LoadedKernel*>> loading_;
};

}  // namespace flashinfer
