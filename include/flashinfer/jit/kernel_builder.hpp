// From a kernel's text to its machine code: precompiled folder, disk cache, else NVRTC. Needs no GPU and no driver, so
// it is also what precompiles. Host only; threads may build at the same time.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <flashinfer/jit/disk_cache.hpp>
#include <flashinfer/jit/header_digest.hpp>
#include <flashinfer/jit/nvrtc.hpp>
#include <flashinfer/jit/toolchain.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::jit {

struct Settings {
  std::string cache_dir;               // empty: no disk cache
  int64_t cache_capacity = 1ll << 30;  // bytes
  std::vector<std::string> aot_dirs;   // read-only folders of precompiled kernels, looked up first
  bool compile = true;                 // false: a kernel that is in none of them is an error
  std::vector<std::string> options;    // more NVRTC options, for profiling and debugging; part of the key

  /// FLASHINFER_CACHE_DIR (else XDG_CACHE_HOME/flashinfer, ~/.cache/flashinfer), FLASHINFER_CACHE_SIZE ("2G", "500M", 0 for none),
  /// FLASHINFER_AOT_PATH (colon-separated), FLASHINFER_JIT=off, FLASHINFER_JIT_OPTIONS (space-separated, such as -lineinfo).
  static Settings from_environment();
};

/// What the embedding program may want to know or do. Set before the first launch. Each may be called from any thread.
struct Hooks {
  Locator locate;  // see toolchain.hpp
  /// Called when a launch has to stop for a kernel to be built and loaded; what it returns is kept until that is done.
  /// Python gives its lock away here: another thread may need it to finish the same kernel.
  std::function<std::shared_ptr<void>()> before_compile;
  /// Called after each compile, for progress: 0.3 seconds a kernel are noticed when there are fifty.
  std::function<void(const std::string& kernel, Arch arch, double seconds)> on_compile;
};

struct Stats {
  std::atomic<int64_t> aot_hits{0}, disk_hits{0}, compiles{0}, corrupt_entries{0};
};

enum class Origin { aot, disk, compiled };

struct Built {
  Cubin cubin;
  std::string content_key;  // its file name in an AOT folder
  Origin origin;
  double seconds = 0;  // of compiling
};

/// The name of the one function of every unit.
inline constexpr const char* kEntryPoint = "flashinfer_kernel";

/// The unit: the kernel's header, the user's functor under its own line numbers, and the wrapper. An extern "C" name
/// needs no demangling and nothing stored beside the cubin.
inline std::string unit_of(const KernelText& text) {
  std::string unit = "#include <flashinfer/" + text.header + ">\n";
  if (!text.user_text.empty()) {
    std::string name;
    for (char c : text.user_name)
      if (c != '"' && c != '\\' && c != '\n') name += c;
    unit += "#line 1 \"variant:" + name + "\"\n" + text.user_text + "\n#line 3 \"flashinfer_kernel.cu\"\n";
  }
  return unit + "namespace flashinfer::gpu {\nusing JitKernel = " + text.kernel +
         ";\n"
         "extern \"C\" __global__ void __launch_bounds__(JitKernel::kThreads, JitKernel::kMinBlocks)\n" +
         kEntryPoint +
         "(const __grid_constant__ JitKernel::Params params) {\n"
         "  JitKernel::run(params);\n"
         "}\n"
         "}  // namespace flashinfer::gpu\n";
}

class KernelBuilder {
 public:
  explicit KernelBuilder(Settings settings = Settings::from_environment(), Hooks hooks = {})
      : hooks(std::move(hooks)), settings_(std::move(settings)), cache_(kernels_folder(settings_), settings_.cache_capacity) {}

  Hooks hooks;
  Stats stats;

  const Settings& settings() const { return settings_; }
  const DiskCache& cache() const { return cache_; }

  /// Looked for at the first call; throws CompileError if this library's headers are not found.
  const Toolchain& toolchain() {
    std::call_once(toolchain_once_, [&] {
      toolchain_ = find_toolchain(hooks.locate);
      digest_ = std::make_unique<HeaderDigest>(toolchain_.include_dir);
      // The exact compiler and its headers, by content and not by place.
      Sha256 compiler;
      compiler.field(build_id(toolchain_.nvrtc));
      for (const std::string& folder : toolchain_.cuda_includes)
        for (const char* name : {"cuda_fp16.hpp", "cuda_bf16.hpp", "cuda_fp8.hpp"}) {
          std::error_code absent;
          compiler.field(std::to_string(std::filesystem::file_size(std::filesystem::path(folder) / name, absent)));
        }
      compiler_id_ = compiler.hex();
    });
    return toolchain_;
  }

  /// Throws CompileError: with NVRTC's log, or with what is missing.
  Built build(const KernelText& text, Arch arch) {
    check_user_text(text);
    toolchain();
    const std::string unit = unit_of(text);
    Built built;
    built.content_key = content_key(unit, arch);
    const std::string key = Sha256().field(built.content_key).field(compiler_id_).hex();

    for (const std::string& path : settings_.aot_dirs) {
      const Handle folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      const Found found = folder ? read_entry(folder.get(), entry_name(built.content_key), built.cubin) : Found::no;
      if (found == Found::corrupt) ++stats.corrupt_entries;
      if (found == Found::yes) {
        ++stats.aot_hits;
        built.origin = Origin::aot;
        return built;
      }
    }
    auto cached = [&] {
      const Found found = cache_.load(key, built.cubin);
      if (found == Found::corrupt) ++stats.corrupt_entries;
      if (found != Found::yes) return false;
      ++stats.disk_hits;
      built.origin = Origin::disk;
      return true;
    };
    if (cached()) return built;
    if (!settings_.compile)
      throw CompileError(describe(text, arch) + " is neither precompiled nor in the cache, and FLASHINFER_JIT=off forbids compiling it");
    if (toolchain_.nvrtc.empty())
      throw CompileError(describe(text, arch) +
                         " has to be compiled, but libnvrtc was not found: install the [cuda] extra, or set CUDA_HOME or FLASHINFER_NVRTC");

    const DiskCache::Turn turn(cache_, key, kLongestWait);
    if (cached()) return built;
    const auto start = std::chrono::steady_clock::now();
    try {
      std::vector<std::string> options = options_with_paths();
      if (const char* minimal = nvrtc().minimal_option(); minimal && text.user_text.empty()) options.push_back(minimal);
      built.cubin = nvrtc().compile(unit, "flashinfer_kernel.cu", nvrtc().target(arch), std::move(options));
    } catch (const CompileError& error) {
      throw CompileError(describe(text, arch) + ": " + error.what());
    }
    built.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    built.origin = Origin::compiled;
    ++stats.compiles;
    cache_.store(key, built.cubin);
    if (hooks.on_compile) hooks.on_compile(text.kernel, arch, built.seconds);
    return built;
  }

  /// Loaded at the first call: 90 MB that a process which finds its kernels in the cache never maps.
  const Nvrtc& nvrtc() {
    std::call_once(nvrtc_once_, [&] {
      nvrtc_ = std::make_unique<Nvrtc>(toolchain().nvrtc);
      if (toolchain_.cuda_includes.empty() && cache_.problem().empty()) {
        const std::string folder = settings_.cache_dir + "/nvrtc-headers-" + nvrtc_->version();
        if (nvrtc_->install_headers(folder)) bundled_headers_ = folder;
      }
    });
    return *nvrtc_;
  }

 private:
  /// As long as the slowest kernel takes on a busy machine, many times over.
  static constexpr std::chrono::seconds kLongestWait{30};
  /// Changed when the same inputs have to give another entry.
  static constexpr const char* kSchema = "flashinfer-kernel-1";

  static std::string kernels_folder(const Settings& settings) { return settings.cache_dir.empty() ? "" : settings.cache_dir + "/kernels"; }

  static std::string describe(const KernelText& text, Arch arch) {
    return "jit: kernel " + text.kernel + (text.user_name.empty() ? "" : " with variant " + text.user_name) + " of <flashinfer/" +
           text.header + "> for " + to_string(arch);
  }

  /// Files that the key does not know of would leave stale kernels.
  static void check_user_text(const KernelText& text) {
    for (size_t at = text.user_text.find("#include"); at != std::string::npos; at = text.user_text.find("#include", at + 1)) {
      const size_t name = text.user_text.find_first_not_of(" \t", at + 8);
      if (name != std::string::npos &&
          (text.user_text.compare(name, 12, "<flashinfer/") == 0 || text.user_text.compare(name, 6, "<cuda_") == 0))
        continue;
      throw InvalidArgument("jit", "variant " + text.user_name, "only includes of <flashinfer/...> and <cuda_*.h>",
                            text.user_text.substr(at, text.user_text.find('\n', at) - at));
    }
  }

  /// The options that decide what code comes out.
  std::vector<std::string> options() const {
    std::vector<std::string> options = {"-std=c++20", "--device-as-default-execution-space"};
    options.insert(options.end(), settings_.options.begin(), settings_.options.end());
    return options;
  }
  std::vector<std::string> options_with_paths() const {
    std::vector<std::string> with_paths = options();
    with_paths.push_back("-I" + toolchain_.include_dir);
    for (const std::string& folder : toolchain_.cuda_includes) with_paths.push_back("-I" + folder);
    if (!bundled_headers_.empty()) with_paths.push_back("-I" + bundled_headers_);
    return with_paths;
  }

  /// Of everything that makes the kernel but the compiler: the same on the machine that precompiles and the one that runs.
  std::string content_key(const std::string& unit, Arch arch) {
    Sha256 key;
    key.field(kSchema).field(to_string(arch)).field(unit).field(digest_->of(unit));
    for (const std::string& option : options()) key.field(option);
    return key.hex();
  }

  Settings settings_;
  DiskCache cache_;
  std::once_flag toolchain_once_, nvrtc_once_;
  Toolchain toolchain_;
  std::string compiler_id_;
  std::unique_ptr<HeaderDigest> digest_;
  std::unique_ptr<Nvrtc> nvrtc_;
  std::string bundled_headers_;
};

/// "2G", "500M", "64K" or bytes.
inline int64_t parse_bytes(const std::string& text) {
  size_t used = 0;
  double value = -1;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  std::string unit = text.substr(std::min(used, text.size()));
  const size_t power = unit.empty() ? 0 : std::string("KMGT").find(unit[0]) + 1;
  if (!(value >= 0 && value < 1e15) || (!unit.empty() && (power == 0 || unit.size() > 1)))
    throw InvalidArgument("jit", "FLASHINFER_CACHE_SIZE", "a size such as 2G, 500M or 0", "'" + text + "'");
  return int64_t(value * double(int64_t(1) << (10 * power)));
}

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

inline Settings Settings::from_environment() {
  Settings settings;
  if (const std::string path = environment("FLASHINFER_CACHE_DIR"); !path.empty())
    settings.cache_dir = path;
  else if (const std::string xdg = environment("XDG_CACHE_HOME"); !xdg.empty())
    settings.cache_dir = xdg + "/flashinfer";
  else if (const std::string home = environment("HOME"); !home.empty())
    settings.cache_dir = home + "/.cache/flashinfer";
  if (const std::string size = environment("FLASHINFER_CACHE_SIZE"); !size.empty()) settings.cache_capacity = parse_bytes(size);
  settings.aot_dirs = split(environment("FLASHINFER_AOT_PATH"), ':');
  settings.compile = environment("FLASHINFER_JIT") != "off";
  settings.options = split(environment("FLASHINFER_JIT_OPTIONS"), ' ');
  return settings;
}

}  // namespace flashinfer::jit
