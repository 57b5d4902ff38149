// The JIT as Python sees it: where the compiler is, building kernels ahead of time, the cache.
#include <atomic>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <bindings/module.hpp>
#include <flashinfer/jit/jit_kernels.hpp>
#include <flashinfer/jit/precompile.hpp>

namespace flashinfer::bindings {
namespace {

/// flashinfer._toolchain knows the layouts of NVIDIA's wheels. Called without the GIL, on the first kernel that is built.
jit::Toolchain locate(int cuda_major) {
  const nb::gil_scoped_acquire acquire;
  const nb::object found = nb::module_::import_("flashinfer._toolchain").attr("locate")(cuda_major);
  jit::Toolchain toolchain;
  toolchain.nvrtc = nb::cast<std::string>(found[0]);
  toolchain.cuda_includes = nb::cast<std::vector<std::string>>(found[1]);
  toolchain.include_dir = nb::cast<std::string>(found[2]);
  return toolchain;
}

std::atomic<bool> in_use{false};

JitKernels& kernels() {
  static JitKernels& global = [&]() -> JitKernels& {
    in_use = true;
    JitKernels::global().builder().hooks.locate = locate;
    return JitKernels::global();
  }();
  return global;
}

std::vector<std::string> tuned_ops() {
  std::vector<std::string> names;
  for (const Tuned* tuned = Tuned::first(); tuned; tuned = tuned->next) names.emplace_back(tuned->op);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::vector<jit::PrecompileJob> jobs_of(const std::vector<std::string>& ops, const std::vector<std::string>& archs,
                                        const std::string& match, const std::string& without) {
  std::vector<jit::PrecompileJob> jobs;
  for (const std::string& op : ops) {
    bool known = false;
    for (const Tuned* tuned = Tuned::first(); tuned; tuned = tuned->next) {
      if (op != tuned->op) continue;
      known = true;
      for (const std::string& name : archs) {
        const Arch arch = parse_arch(name);
        std::vector<KernelText> texts;
        tuned->list(arch, Tuned::Add(texts));
        for (KernelText& text : texts)
          if (text.kernel.find(match) != std::string::npos && (without.empty() || text.kernel.find(without) == std::string::npos))
            jobs.push_back({std::move(text), arch});
      }
    }
    if (!known) throw InvalidArgument("precompile", "ops", "names of ops with kernels", "'" + op + "'");
  }
  return jobs;
}

std::vector<std::pair<std::string, std::string>> tuned_kernels(const std::vector<std::string>& ops, const std::vector<std::string>& archs,
                                                               const std::string& match, const std::string& without) {
  std::vector<std::pair<std::string, std::string>> kernels;
  for (const jit::PrecompileJob& job : jobs_of(ops, archs, match, without)) kernels.emplace_back(to_string(job.arch), job.text.kernel);
  std::sort(kernels.begin(), kernels.end());
  kernels.erase(std::unique(kernels.begin(), kernels.end()), kernels.end());
  return kernels;
}

nb::list precompile(const std::vector<std::string>& ops, const std::vector<std::string>& archs, const std::string& match,
                    const std::string& without, const std::string& out, int num_threads, nb::handle progress) {
  const std::vector<jit::PrecompileJob> jobs = jobs_of(ops, archs, match, without);
  jit::Hooks hooks;
  hooks.locate = locate;
  hooks.on_compile = [&](const std::string& kernel, Arch arch, double seconds) {
    const nb::gil_scoped_acquire acquire;
    if (!progress.is_none()) progress(kernel, to_string(arch), seconds);
  };
  std::vector<jit::Precompiled> results;
  {
    const nb::gil_scoped_release release;
    jit::KernelBuilder builder(jit::Settings::from_environment(), hooks);
    results = jit::precompile(builder, jobs, num_threads, out);
  }
  nb::list list;
  for (const jit::Precompiled& result : results) {
    nb::dict d;
    d["kernel"] = result.kernel;
    d["arch"] = to_string(result.arch);
    d["seconds"] = result.seconds;
    d["code_bytes"] = result.code_bytes;
    d["registers"] = result.registers;
    d["spill_bytes"] = result.spill_bytes;
    d["stack_bytes"] = result.stack_bytes;
    d["wgmma_serialized"] = result.wgmma_serialized;
    d["error"] = result.error;
    list.append(d);
  }
  return list;
}

nb::dict cache(bool clear) {
  const jit::KernelBuilder builder;
  if (clear) builder.cache().clear();
  const auto usage = builder.cache().usage();
  nb::dict d;
  d["path"] = builder.cache().path();
  d["entries"] = usage.entries;
  d["bytes"] = usage.bytes;
  d["capacity"] = builder.settings().cache_capacity;
  d["problem"] = builder.cache().problem();
  return d;
}

nb::dict config() {
  std::string problem;
  jit::Toolchain toolchain;
  std::vector<std::string> devices;
  int driver_version = 0;
  {
    const nb::gil_scoped_release release;
    try {
      toolchain = jit::find_toolchain(locate);
    } catch (const Error& error) {
      problem = error.what();
    }
    try {
      driver_version = cu::Driver::get().version();
      for (int i = 0; driver_version != 0 && i < kernels().device_count(); ++i) {
        const DeviceInfo& info = kernels().device_info(i);
        devices.push_back(to_string(info.arch) + ", " + std::to_string(info.num_sms) + " SMs");
      }
    } catch (const Error& error) {
      problem += (problem.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  const jit::Settings settings = jit::Settings::from_environment();
  nb::dict d;
  d["nvrtc"] = toolchain.nvrtc;
  d["cuda_includes"] = toolchain.cuda_includes;
  d["include_dir"] = toolchain.include_dir;
  d["driver_cuda"] = driver_version == 0 ? "" : std::to_string(driver_version / 1000) + "." + std::to_string(driver_version % 1000 / 10);
  d["devices"] = devices;
  d["compile"] = settings.compile;
  d["aot_dirs"] = settings.aot_dirs;
  d["problem"] = problem;
  return d;
}

/// Compilers that still run do not survive the end of the process, nor what they ask of Python.
void finish() {
  const nb::gil_scoped_release release;
  if (in_use) kernels().wait();
}

const Family family{[](nb::module_& m) {
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(finish));
  nb::module_ jit = m.def_submodule("_jit", "Building kernels.");
  jit.def("tuned_ops", &tuned_ops, "Names of the ops that precompile knows.");
  jit.def("tuned_kernels", &tuned_kernels, "ops"_a, "archs"_a, "match"_a = "", "without"_a = "",
          "The kernels that precompile would build, with their architecture.");
  jit.def("precompile", &precompile, "ops"_a, "archs"_a, "match"_a = "", "without"_a = "", "out"_a = "", "num_threads"_a = 0,
          "progress"_a = nb::none(),
          "Builds the kernels of these ops whose text has `match` in it, and not `without`; needs no GPU. Into the cache, and into the "
          "folder `out` for FLASHINFER_AOT_PATH. progress(kernel, arch, seconds) is called after each compile.");
  jit.def("cache", &cache, "clear"_a = false, "Where compiled kernels are kept, how many, and why not.");
  jit.def("config", &config, "The compiler, the driver and the GPUs that would be used.");
}};

}  // namespace

KernelSource& jit_kernels() { return kernels(); }

}  // namespace flashinfer::bindings
