// NVRTC by dlopen: CUDA C++ text in, cubin (or PTX) and ptxas's log out. No GPU and no driver needed. Host only.
#pragma once

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/arch.hpp>

namespace flashinfer::jit {

/// What compiling a kernel gives, and what a cache entry holds.
struct Cubin {
  std::string code;  // an ELF cubin, or NUL-terminated PTX
  std::string log;   // warnings, and what `ptxas -v` says of registers and spills
};

/// Runs `body` on a thread with 64 MB of stack: NVRTC recurses deeply on templates, and its own remedy is a
/// setrlimit for the whole process (--modify-stack-limit=false turns that off).
template <class Body>
void on_big_stack(Body&& body) {
  struct Work {
    Body& body;
    std::exception_ptr error;
  } work{body, nullptr};
  auto run = [](void* argument) -> void* {
    auto& work = *static_cast<Work*>(argument);
    try {
      work.body();
    } catch (...) {
      work.error = std::current_exception();
    }
    return nullptr;
  };
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, size_t(64) << 20);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, run, &work) == 0;
  pthread_attr_destroy(&attributes);
  if (started)
    pthread_join(thread, nullptr);
  else
    run(&work);  // out of threads or address space: the caller's stack may do
  if (work.error) std::rethrow_exception(work.error);
}

class Nvrtc {
 public:
  explicit Nvrtc(const std::string& path) : path_(path) {
    library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library_) throw CompileError("jit: can not load NVRTC: " + std::string(dlerror()));
    find(version_, "nvrtcVersion"), find(error_string_, "nvrtcGetErrorString");
    find(create_, "nvrtcCreateProgram"), find(destroy_, "nvrtcDestroyProgram"), find(compile_, "nvrtcCompileProgram");
    find(log_size_, "nvrtcGetProgramLogSize"), find(log_, "nvrtcGetProgramLog");
    find(cubin_size_, "nvrtcGetCUBINSize"), find(cubin_, "nvrtcGetCUBIN"), find(ptx_size_, "nvrtcGetPTXSize"), find(ptx_, "nvrtcGetPTX");
    find(num_archs_, "nvrtcGetNumSupportedArchs"), find(archs_, "nvrtcGetSupportedArchs");
    version_(&major_, &minor_);
    // NVRTC opens libnvrtc-builtins by its soname at the first compile, and the 13.0 wheel has no RUNPATH to find it
    // by: a library that is loaded already is found. Where this fails, the linker's own search may still succeed.
    const auto folder = std::filesystem::path(path).parent_path();
    dlopen((folder / ("libnvrtc-builtins.so." + version())).c_str(), RTLD_LAZY | RTLD_LOCAL);
    int count = 0;
    num_archs_(&count);
    supported_.resize(size_t(count));
    archs_(supported_.data());
    std::sort(supported_.begin(), supported_.end());
  }

  std::string version() const { return std::to_string(major_) + "." + std::to_string(minor_); }
  const std::string& path() const { return path_; }
  /// Leaves out declarations of the CUDA runtime and of textures, which none of our kernels reads: some 20 ms less, the same cubin.
  const char* minimal_option() const { return major_ * 100 + minor_ >= 1204 ? "--minimal" : nullptr; }

  /// "sm_90a" where NVRTC knows the architecture. For a GPU newer than NVRTC: "compute_121", PTX for the driver to
  /// finish, of the highest base architecture (never an 'a' one: those run on no other GPU). A virtual one is taken as it is.
  std::string target(Arch arch) const {
    if (std::find(supported_.begin(), supported_.end(), arch.number) != supported_.end()) return to_string(arch);
    const auto above = std::lower_bound(supported_.begin(), supported_.end(), arch.number);
    if (above == supported_.begin()) throw Unsupported("jit: NVRTC " + version() + " does not compile for " + to_string(arch) + any_arch());
    return "compute_" + std::to_string(*(above - 1));
  }

  /// Throws CompileError with the compiler's log. Threads may compile at the same time.
  Cubin compile(const std::string& source, const std::string& name, const std::string& target, std::vector<std::string> options) const {
    options.push_back("--gpu-architecture=" + target);
    options.push_back("--modify-stack-limit=false");
    options.push_back("--ptxas-options=-v");
    // NVRTC's own cache would initialise the driver inside nvrtcCompileProgram, and that is fatal to a later fork.
    if (major_ * 100 + minor_ >= 1209) options.push_back("--no-cache");
    Cubin result;
    on_big_stack([&] {
      Program program = nullptr;
      int status = create_(&program, source.c_str(), name.c_str(), 0, nullptr, nullptr);
      if (status != 0) throw CompileError(std::string("nvrtcCreateProgram: ") + error_string_(status));
      struct Destroy {
        const Nvrtc& nvrtc;
        Program& program;
        ~Destroy() { nvrtc.destroy_(&program); }
      } destroy{*this, program};
      std::vector<const char*> pointers;
      for (const std::string& option : options) pointers.push_back(option.c_str());
      status = compile_(program, int(pointers.size()), pointers.data());
      result.log = read(program, log_size_, log_);
      while (!result.log.empty() && result.log.back() == '\0') result.log.pop_back();
      if (status != 0) {
        std::string text = std::string(error_string_(status)) + " from NVRTC " + version() + "\noptions:";
        for (const std::string& option : options) text += " " + option;
        throw CompileError(text + "\n" + result.log);
      }
      const bool is_ptx = target.rfind("compute_", 0) == 0;
      result.code = is_ptx ? read(program, ptx_size_, ptx_) : read(program, cubin_size_, cubin_);
    });
    return result;
  }

  /// From 13.3 on NVRTC carries the CUDA headers and writes them to a folder of our choice (once; it locks by itself).
  /// False where it has none.
  bool install_headers(const std::string& folder) const {
    using Install = int (*)(const char*, unsigned, const char**);
    const auto install = reinterpret_cast<Install>(dlsym(library_, "nvrtcInstallBundledHeaders"));
    const char* why = nullptr;
    return install && install(folder.c_str(), 0, &why) == 0;
  }

 private:
  using Program = struct ProgramObject*;

  template <class F>
  void find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library_, name));
    if (!function) throw CompileError("jit: " + path_ + " lacks " + name + ": older than CUDA 12?");
  }
  static std::string read(Program program, int (*size)(Program, size_t*), int (*get)(Program, char*)) {
    size_t bytes = 0;
    if (size(program, &bytes) != 0) return {};
    std::string text(bytes, '\0');
    if (bytes > 0 && get(program, text.data()) != 0) return {};
    return text;
  }
  std::string any_arch() const { return supported_.empty() ? "" : " (it starts at sm_" + std::to_string(supported_.front()) + ")"; }

  std::string path_;
  void* library_ = nullptr;
  int major_ = 0, minor_ = 0;
  std::vector<int> supported_;  // ascending
  int (*version_)(int*, int*) = nullptr;
  const char* (*error_string_)(int) = nullptr;
  int (*create_)(Program*, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*destroy_)(Program*) = nullptr;
  int (*compile_)(Program, int, const char* const*) = nullptr;
  int (*log_size_)(Program, size_t*) = nullptr;
  int (*log_)(Program, char*) = nullptr;
  int (*cubin_size_)(Program, size_t*) = nullptr;
  int (*cubin_)(Program, char*) = nullptr;
  int (*ptx_size_)(Program, size_t*) = nullptr;
  int (*ptx_)(Program, char*) = nullptr;
  int (*num_archs_)(int*) = nullptr;
  int (*archs_)(int*) = nullptr;
};

}  // namespace flashinfer::jit
