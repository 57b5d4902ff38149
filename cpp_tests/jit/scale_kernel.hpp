// What the tests of the JIT share: a folder that goes away, and in it a tiny kernel of their own with a host-side config.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <flashinfer/jit/kernel_builder.hpp>
#include <flashinfer/version.hpp>

namespace flashinfer::jit_test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "flashinfer-test-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw Error("mkdtemp " + pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Sets a variable of the environment for a scope.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value)
      : name_(name), had_(std::getenv(name) != nullptr), old_(jit::environment(name)) {
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (had_)
      setenv(name_, old_.c_str(), 1);
    else
      unsetenv(name_);
  }
  ScopedVariable(const ScopedVariable&) = delete;

 private:
  const char* name_;
  bool had_;
  std::string old_;
};

/// The kernel's host side.
struct ScaleParams {
  float* data;
  float factor;
  int32_t count;
};

struct ScaleConfig {
  int32_t block = 128;
  static constexpr const char* kName = "ScaleConfig";
  static constexpr const char* kKernel = "ScaleKernel";
  static constexpr const char* kHeader = "scale/gpu/scale_kernel.cuh";
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("block", block);
  }
};

/// Writes <root>/flashinfer with core/ of the library and the kernel's device side. ScaleKernel<config, Variant> scales,
/// and gives each element to the variant; SpillKernel keeps more in registers than there are.
inline void write_headers(const std::filesystem::path& root) {
  const auto library = std::filesystem::path(jit::Toolchain{jit::find_toolchain(nullptr)}.include_dir) / "flashinfer";
  std::filesystem::create_directories(root / "flashinfer");
  std::filesystem::copy(library / "core", root / "flashinfer" / "core");
  write_file(root / "flashinfer" / "scale" / "scale_params.hpp", R"(#pragma once
#include <flashinfer/core/std.hpp>
namespace flashinfer {
struct ScaleConfig {
  int32_t block = 128;
};
struct ScaleParams {
  float* data;
  float factor;
  int32_t count;
};
}  // namespace flashinfer
)");
  write_file(root / "flashinfer" / "scale" / "gpu" / "scale_kernel.cuh", R"(#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <flashinfer/scale/scale_params.hpp>
namespace flashinfer {
struct Plain {
  static float transform(float x) { return x; }
};
template <ScaleConfig kConfig, class Variant = Plain>
struct ScaleKernel {
  using Params = ScaleParams;
  static constexpr int kThreads = kConfig.block, kMinBlocks = 1;
  static __device__ void run(const Params& p) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    if (i < p.count) p.data[i] = Variant::transform(p.data[i] * p.factor);
  }
};
template <ScaleConfig kConfig>
struct SpillKernel {
  using Params = ScaleParams;
  static constexpr int kThreads = 1024, kMinBlocks = 2;  // leaves 32 registers a thread
  static __device__ void run(const Params& p) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = p.data[i * threadIdx.x];
    for (int n = 0; n < p.count; ++n)
      for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i + 7) % 64] + p.data[n];
    float sum = 0;
    for (int i = 0; i < 64; ++i) sum += a[i] * i;
    p.data[threadIdx.x] = sum;
  }
};
}  // namespace flashinfer
)");
  write_file(root / "flashinfer" / "other" / "other.hpp", "#pragma once\n");
}

inline KernelText scale_text(int block = 128) {
  const ScaleConfig config{block};
  return kernel_id(config).text(&config);
}

inline jit::Settings settings_in(const TemporaryFolder& folder) {
  jit::Settings settings;
  settings.cache_dir = folder / "cache";
  return settings;
}

/// The folder of headers; NVRTC is found as usual.
inline jit::Hooks headers_in(const std::string& root) {
  jit::Hooks hooks;
  hooks.locate = [root](int) { return jit::Toolchain{"", {}, root}; };
  return hooks;
}

/// For GTEST_SKIP: NVRTC is not part of every machine that builds us.
inline bool has_nvrtc() {
  static const bool found = !jit::find_toolchain(nullptr).nvrtc.empty();
  return found;
}
#define FLASHINFER_NEED_NVRTC() \
  if (!jit_test::has_nvrtc()) GTEST_SKIP() << "libnvrtc not found; set FLASHINFER_NVRTC"

}  // namespace flashinfer::jit_test
