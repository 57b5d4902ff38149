// Where the run-time compiler is: libnvrtc, the CUDA headers beside it, and this library's own headers. Host only.
// Asked on the first kernel that has to be built, never at import.
#pragma once

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <flashinfer/jit/cuda_driver.hpp>

namespace flashinfer::jit {

struct Toolchain {
  std::string nvrtc;                       // path of libnvrtc.so.<major>; empty: not found
  std::vector<std::string> cuda_includes;  // folders that hold cuda_fp16.h; may be empty from NVRTC 13.3 on, which brings them along
  std::string include_dir;                 // the folder that holds flashinfer/
};

/// Finds what a packager knows better than we do (the Python package: NVRTC and headers in wheels). Fields left empty
/// are looked for below. `cuda_major` is what the driver takes, 0 where there is no driver.
using Locator = std::function<Toolchain(int cuda_major)>;

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

inline bool has_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

/// The file behind a name that the dynamic linker resolves ("libnvrtc.so.13"), by loading it; empty if it can not.
inline std::string loaded_path(const std::string& soname) {
  void* library = dlopen(soname.c_str(), RTLD_LAZY | RTLD_LOCAL);
  void* symbol = library ? dlsym(library, "nvrtcVersion") : nullptr;
  Dl_info info;
  return symbol && dladdr(symbol, &info) && info.dli_fname ? info.dli_fname : "";
}

/// FLASHINFER_NVRTC, the locator, CUDA_HOME, CUDA_PATH, /usr/local/cuda*, then the dynamic linker: the first that has it.
/// A cubin of CUDA 13 needs a driver of CUDA 13: NVRTC's major is the driver's, not the newest that is installed.
inline Toolchain find_toolchain(const Locator& locator) {
  const int driver_major = cu::Driver::get().version() / 1000;
  Toolchain found;
  if (locator) found = locator(driver_major);
  if (const std::string path = environment("FLASHINFER_NVRTC"); !path.empty()) found.nvrtc = path;
  if (const std::string path = environment("FLASHINFER_INCLUDE_DIR"); !path.empty()) found.include_dir = path;

  std::vector<int> majors = {13, 12};
  if (driver_major != 0) majors = {driver_major};
  std::vector<std::filesystem::path> roots;
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
    if (const std::string root = environment(name); !root.empty()) roots.emplace_back(root);
  roots.emplace_back("/usr/local/cuda");
  for (int major : majors) roots.emplace_back("/usr/local/cuda-" + std::to_string(major));
  for (int major : majors)
    for (int minor = 9; minor >= 0; --minor) roots.emplace_back("/usr/local/cuda-" + std::to_string(major) + "." + std::to_string(minor));

  for (int major : majors) {
    const std::string soname = "libnvrtc.so." + std::to_string(major);
    for (const auto& root : roots)
      for (const char* folder : {"lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"})
        if (found.nvrtc.empty() && has_file(root / folder / soname)) found.nvrtc = root / folder / soname;
  }
  for (int major : majors)
    if (found.nvrtc.empty()) found.nvrtc = loaded_path("libnvrtc.so." + std::to_string(major));

  // The headers of the toolkit or the wheel that NVRTC came from fit it best: <root>/lib/libnvrtc.so -> <root>/include, in
  // a toolkit also <root>/targets/<machine>/lib, in wheels of CUDA 12 nvidia/cuda_nvrtc/lib -> nvidia/cuda_runtime/include.
  if (!found.nvrtc.empty()) {
    std::error_code ignored;
    const auto root = std::filesystem::weakly_canonical(found.nvrtc, ignored).parent_path().parent_path();
    roots.insert(roots.begin(), {root, root.parent_path().parent_path(), root.parent_path() / "cuda_runtime"});
  }
  roots.emplace_back("/usr");
  for (const auto& root : roots)
    if (found.cuda_includes.empty() && has_file(root / "include" / "cuda_fp16.h")) found.cuda_includes = {root / "include"};

  // This file is <include_dir>/flashinfer/jit/toolchain.hpp, wherever the compiler read it.
  if (found.include_dir.empty()) found.include_dir = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  if (!has_file(std::filesystem::path(found.include_dir) / "flashinfer" / "core" / "std.hpp"))
    throw CompileError("jit: the headers of this library are not in '" + found.include_dir +
                       "'; set FLASHINFER_INCLUDE_DIR to the folder that holds flashinfer/");
  return found;
}

/// The GNU build id of a shared object and its size, read from the file: names the exact NVRTC build without loading it.
inline std::string build_id(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return "absent";
  struct stat status{};
  fstat(file, &status);
  std::string id = std::to_string(static_cast<long long>(status.st_size)) + ":";
  Elf64_Ehdr elf;
  const bool is_elf = pread(file, &elf, sizeof(elf), 0) == ssize_t(sizeof(elf)) && std::memcmp(elf.e_ident, ELFMAG, SELFMAG) == 0;
  for (int i = 0; is_elf && i < elf.e_phnum; ++i) {
    Elf64_Phdr segment;
    if (pread(file, &segment, sizeof(segment), off_t(elf.e_phoff) + off_t(i) * elf.e_phentsize) != ssize_t(sizeof(segment))) break;
    if (segment.p_type != PT_NOTE) continue;
    std::string notes(std::min<size_t>(segment.p_filesz, 65536), '\0');
    if (pread(file, notes.data(), notes.size(), off_t(segment.p_offset)) != ssize_t(notes.size())) break;
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= notes.size();) {
      Elf64_Nhdr note;
      std::memcpy(&note, &notes[at], sizeof(note));
      const size_t name = at + sizeof(note), content = name + ((size_t(note.n_namesz) + 3) & ~size_t(3));
      if (content + note.n_descsz > notes.size()) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(&notes[name], "GNU", 4) == 0)
        for (size_t k = 0; k < note.n_descsz; ++k) {
          const auto byte = static_cast<unsigned char>(notes[content + k]);
          id += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
        }
      at = content + ((size_t(note.n_descsz) + 3) & ~size_t(3));
    }
  }
  close(file);
  return id;
}

}  // namespace flashinfer::jit
