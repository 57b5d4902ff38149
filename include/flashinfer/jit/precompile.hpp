// Builds many kernels ahead of time, on a machine that needs no GPU: into the cache, or into a folder to ship
// (FLASHINFER_AOT_PATH). Reports what ptxas said of each, which is also how tests find spills. Host only.
#pragma once

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <flashinfer/jit/kernel_builder.hpp>

namespace flashinfer::jit {

struct PrecompileJob {
  KernelText text;
  Arch arch;
};

struct Precompiled {
  std::string kernel;
  Arch arch;
  double seconds = 0;  // of compiling; 0 if it was there already
  int64_t code_bytes = 0;
  int registers = 0, spill_bytes = 0, stack_bytes = 0;  // the most of any function of the kernel, as ptxas counts
  bool wgmma_serialized = false;                        // ptxas had to wait after every wgmma: several times slower
  std::string log;
  std::string error;  // empty: it was built
};

/// The figures in a log of `ptxas -v`.
inline void read_ptxas_log(const std::string& log, Precompiled& result) {
  /// The largest of the numbers that stand before `words`.
  auto before = [&](const char* words) {
    int largest = 0;
    for (size_t at = log.find(words); at != std::string::npos; at = log.find(words, at + 1)) {
      size_t digits = at;
      while (digits > 0 && log[digits - 1] >= '0' && log[digits - 1] <= '9') --digits;
      if (digits < at) largest = std::max(largest, std::stoi(log.substr(digits, at - digits)));
    }
    return largest;
  };
  result.registers = before(" registers");
  result.spill_bytes = std::max(before(" bytes spill stores"), before(" bytes spill loads"));
  result.stack_bytes = before(" bytes stack frame");
  result.wgmma_serialized = log.find("wgmma") != std::string::npos && log.find("serializ") != std::string::npos;
}

/// Builds each job once, on `num_threads` threads (0: as many as the machine has). A kernel that fails is reported, and
/// the others are built all the same. With `out_dir`, which is made, each is also written there for FLASHINFER_AOT_PATH.
inline std::vector<Precompiled> precompile(KernelBuilder& builder, const std::vector<PrecompileJob>& jobs, int num_threads = 0,
                                           const std::string& out_dir = "") {
  Handle out;
  if (!out_dir.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(out_dir, ignored);
    out = Handle(open(out_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out) throw InvalidArgument("precompile", "out_dir", "a folder", "'" + out_dir + "': " + std::strerror(errno));
  }
  std::vector<const PrecompileJob*> unique;
  std::set<std::string> seen;
  for (const PrecompileJob& job : jobs)
    if (seen.insert(to_string(job.arch) + unit_of(job.text)).second) unique.push_back(&job);

  std::vector<Precompiled> results(unique.size());
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i = next++; i < unique.size(); i = next++) {
      Precompiled& result = results[i];
      result.kernel = unique[i]->text.kernel;
      result.arch = unique[i]->arch;
      try {
        const Built built = builder.build(unique[i]->text, unique[i]->arch);
        result.seconds = built.seconds;
        result.code_bytes = int64_t(built.cubin.code.size());
        result.log = built.cubin.log;
        read_ptxas_log(result.log, result);
        if (out && !write_entry(out.get(), entry_name(built.content_key), built.cubin, 0644)) result.error = "can not write to " + out_dir;
      } catch (const std::exception& error) {
        result.error = error.what();
      }
    }
  };
  if (num_threads <= 0) num_threads = int(std::max(1u, std::thread::hardware_concurrency()));
  num_threads = int(std::min(size_t(num_threads), unique.size()));
  std::vector<std::thread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return results;
}

/// Every kernel for every architecture.
inline std::vector<Precompiled> precompile(KernelBuilder& builder, const std::vector<KernelText>& texts, const std::vector<Arch>& archs,
                                           int num_threads = 0, const std::string& out_dir = "") {
  std::vector<PrecompileJob> jobs;
  for (const KernelText& text : texts)
    for (Arch arch : archs) jobs.push_back({text, arch});
  return precompile(builder, jobs, num_threads, out_dir);
}

}  // namespace flashinfer::jit
