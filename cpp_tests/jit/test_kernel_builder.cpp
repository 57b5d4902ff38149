// From a kernel's text to a cubin: the unit, its key, the cache, the precompiled folder, errors. NVRTC, no GPU.
#include <flashinfer/jit/kernel_builder.hpp>

#include <sys/wait.h>

#include <thread>

#include <gtest/gtest.h>

#include "scale_kernel.hpp"

namespace flashinfer::jit {
namespace {

using jit_test::headers_in;
using jit_test::read_file;
using jit_test::scale_text;
using jit_test::ScopedVariable;
using jit_test::settings_in;
using jit_test::TemporaryFolder;
using jit_test::write_file;
using jit_test::write_headers;

constexpr Arch kHopper = {90, 'a'};

template <class E, class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "no error of this type";
}
void expect_contains(const std::string& text, const std::string& part) { EXPECT_NE(text.find(part), std::string::npos) << text; }

TEST(Unit, IsOneIncludeAndOneWrapper) {
  EXPECT_EQ(unit_of(scale_text(64)),
            "#include <flashinfer/scale/gpu/scale_kernel.cuh>\n"
            "namespace flashinfer::gpu {\n"
            "using JitKernel = ScaleKernel<ScaleConfig{.block=64}>;\n"
            "extern \"C\" __global__ void __launch_bounds__(JitKernel::kThreads, JitKernel::kMinBlocks)\n"
            "flashinfer_kernel(const __grid_constant__ JitKernel::Params params) {\n"
            "  JitKernel::run(params);\n"
            "}\n"
            "}  // namespace flashinfer::gpu\n");
}

TEST(Unit, UserTextKeepsItsOwnLines) {
  KernelText text = scale_text();
  text.user_name = "my \"cap\"\n";
  text.user_text = "struct Cap {};";
  expect_contains(unit_of(text), "#line 1 \"variant:my cap\"\nstruct Cap {};\n#line 3 \"flashinfer_kernel.cu\"\nnamespace");
}

TEST(Settings, ComeFromTheEnvironment) {
  const ScopedVariable home("HOME", "/home/me"), xdg("XDG_CACHE_HOME", ""), dir("FLASHINFER_CACHE_DIR", ""),
      size("FLASHINFER_CACHE_SIZE", "");
  const ScopedVariable aot("FLASHINFER_AOT_PATH", "/a:/b/c"), off("FLASHINFER_JIT", "off"),
      options("FLASHINFER_JIT_OPTIONS", "-lineinfo  -G");
  Settings settings = Settings::from_environment();
  EXPECT_EQ(settings.cache_dir, "/home/me/.cache/flashinfer");
  EXPECT_EQ(settings.cache_capacity, 1ll << 30);
  EXPECT_EQ(settings.aot_dirs, (std::vector<std::string>{"/a", "/b/c"}));
  EXPECT_FALSE(settings.compile);
  EXPECT_EQ(settings.options, (std::vector<std::string>{"-lineinfo", "-G"}));
  const ScopedVariable xdg2("XDG_CACHE_HOME", "/xdg");
  EXPECT_EQ(Settings::from_environment().cache_dir, "/xdg/flashinfer");
  const ScopedVariable dir2("FLASHINFER_CACHE_DIR", "/mine"), size2("FLASHINFER_CACHE_SIZE", "2.5G");
  EXPECT_EQ(Settings::from_environment().cache_dir, "/mine");
  EXPECT_EQ(Settings::from_environment().cache_capacity, 5ll << 29);
}

TEST(Settings, SizesHaveUnits) {
  EXPECT_EQ(parse_bytes("0"), 0);
  EXPECT_EQ(parse_bytes("123456"), 123456);
  EXPECT_EQ(parse_bytes("64K"), 65536);
  EXPECT_EQ(parse_bytes("500M"), 500ll << 20);
  for (const char* bad : {"", "G", "-1", "1GB", "1 G", "nan", "many"}) EXPECT_THROW(parse_bytes(bad), InvalidArgument) << bad;
}

TEST(HeaderDigest, CoversWhatIsReachedAndNothingElse) {
  const TemporaryFolder folder;
  auto digest = [&] { return HeaderDigest(folder.path().string()).of("#include <flashinfer/a.cuh>\n"); };
  write_file(folder / "flashinfer/a.cuh", "#  include  <flashinfer/b.hpp>\n#include <cuda_fp16.h>\n");
  write_file(folder / "flashinfer/b.hpp", "#include \"flashinfer/c.hpp\"\n#include <flashinfer/a.cuh>\n");
  write_file(folder / "flashinfer/c.hpp", "int c;\n");
  write_file(folder / "flashinfer/d.hpp", "int d;\n");
  const std::string first = digest();
  write_file(folder / "flashinfer/d.hpp", "int other;\n");
  EXPECT_EQ(digest(), first);
  write_file(folder / "flashinfer/c.hpp", "int other;\n");
  const std::string second = digest();
  EXPECT_NE(second, first);
  std::filesystem::remove(folder / "flashinfer/c.hpp");
  EXPECT_NE(digest(), second);
  EXPECT_NE(digest(), first);
}

TEST(Toolchain, FollowsTheEnvironment) {
  const TemporaryFolder folder;
  write_file(folder / "cuda/lib64/libnvrtc.so.13", "");
  write_file(folder / "cuda/include/cuda_fp16.h", "");
  write_file(folder / "mine/lib/libnvrtc.so.13", "");
  write_file(folder / "mine/include/cuda_fp16.h", "");
  write_file(folder / "headers/flashinfer/core/std.hpp", "");
  {
    const ScopedVariable nvrtc("FLASHINFER_NVRTC", ""), home("CUDA_HOME", folder / "cuda");
    const Toolchain found = find_toolchain(nullptr);
    EXPECT_EQ(found.nvrtc, folder / "cuda/lib64/libnvrtc.so.13");
    EXPECT_EQ(found.cuda_includes, (std::vector<std::string>{folder / "cuda/include"}));
    EXPECT_TRUE(std::filesystem::exists(found.include_dir + "/flashinfer/jit/toolchain.hpp"));
    // A packager's knowledge goes before the search.
    EXPECT_EQ(find_toolchain([&](int) { return Toolchain{"/wheel/libnvrtc.so.13", {"/wheel"}, ""}; }).nvrtc, "/wheel/libnvrtc.so.13");
  }
  const ScopedVariable nvrtc("FLASHINFER_NVRTC", folder / "mine/lib/libnvrtc.so.13"), include("FLASHINFER_INCLUDE_DIR", folder / "headers");
  const Toolchain found = find_toolchain([&](int) { return Toolchain{"/wheel/libnvrtc.so.13", {}, ""}; });
  EXPECT_EQ(found.nvrtc, folder / "mine/lib/libnvrtc.so.13");
  EXPECT_EQ(found.cuda_includes, (std::vector<std::string>{folder / "mine/include"}));
  EXPECT_EQ(found.include_dir, folder / "headers");
  const ScopedVariable nowhere("FLASHINFER_INCLUDE_DIR", "/nowhere");
  EXPECT_THROW(find_toolchain(nullptr), CompileError);
}

class KernelBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    FLASHINFER_NEED_NVRTC();
    write_headers(folder / "include");
  }
  KernelBuilder builder() { return KernelBuilder(settings_in(folder), headers_in(folder / "include")); }

  TemporaryFolder folder;
};

TEST_F(KernelBuilderTest, CompilesOnceAndThenReadsTheDisk) {
  auto first = builder();
  const Built compiled = first.build(scale_text(), kHopper);
  EXPECT_EQ(compiled.origin, Origin::compiled);
  EXPECT_GT(compiled.seconds, 0);
  EXPECT_EQ(compiled.cubin.code.substr(0, 4),
            "\x7f"
            "ELF");
  expect_contains(compiled.cubin.log, "registers");
  expect_contains(compiled.cubin.log, "flashinfer_kernel");
  auto second = builder();
  const Built cached = second.build(scale_text(), kHopper);
  EXPECT_EQ(cached.origin, Origin::disk);
  EXPECT_EQ(cached.cubin.code, compiled.cubin.code);
  EXPECT_EQ(cached.cubin.log, compiled.cubin.log);
  EXPECT_EQ(second.stats.compiles, 0);
  EXPECT_EQ(second.stats.disk_hits, 1);
  EXPECT_EQ(second.build(scale_text(64), kHopper).origin, Origin::compiled);
  EXPECT_EQ(second.build(scale_text(), Arch{80}).origin, Origin::compiled);
}

TEST_F(KernelBuilderTest, TheKeyIsContentNotPlace) {
  builder().build(scale_text(), kHopper);
  std::filesystem::rename(folder / "include", folder / "moved");
  KernelBuilder moved(settings_in(folder), headers_in(folder / "moved"));
  EXPECT_EQ(moved.build(scale_text(), kHopper).origin, Origin::disk);
  write_file(folder / "moved/flashinfer/other/other.hpp", "#pragma once\nstruct Other {};\n");
  EXPECT_EQ(KernelBuilder(settings_in(folder), headers_in(folder / "moved")).build(scale_text(), kHopper).origin, Origin::disk);
  const std::string params = folder / "moved/flashinfer/scale/scale_params.hpp";
  write_file(params, read_file(params) + "// changed\n");
  EXPECT_EQ(KernelBuilder(settings_in(folder), headers_in(folder / "moved")).build(scale_text(), kHopper).origin, Origin::compiled);
  Settings with_lines = settings_in(folder);
  with_lines.options = {"-lineinfo"};
  EXPECT_EQ(KernelBuilder(with_lines, headers_in(folder / "moved")).build(scale_text(), kHopper).origin, Origin::compiled);
}

TEST_F(KernelBuilderTest, RebuildsACorruptEntry) {
  builder().build(scale_text(), kHopper);
  for (const auto& file : std::filesystem::directory_iterator(folder / "cache/kernels"))
    write_file(file.path(), read_file(file.path()).substr(0, 1000));
  auto second = builder();
  EXPECT_EQ(second.build(scale_text(), kHopper).origin, Origin::compiled);
  EXPECT_EQ(second.stats.corrupt_entries, 1);
  EXPECT_EQ(builder().build(scale_text(), kHopper).origin, Origin::disk);
}

TEST_F(KernelBuilderTest, WorksWithoutACacheFolder) {
  Settings settings = settings_in(folder);
  settings.cache_dir = "/proc/flashinfer";
  KernelBuilder no_folder(settings, headers_in(folder / "include"));
  EXPECT_EQ(no_folder.build(scale_text(), kHopper).origin, Origin::compiled);
  EXPECT_EQ(no_folder.build(scale_text(), kHopper).origin, Origin::compiled);
}

TEST_F(KernelBuilderTest, ErrorsPointAtTheUsersLine) {
  KernelText text = scale_text();
  text.kernel = "ScaleKernel<ScaleConfig{}, ::Cap>";
  text.user_name = "cap";
  text.user_text = "struct Cap {\n  static float transform(float x) {\n    return tanhf(y);\n  }\n};";
  const std::string error = error_of<CompileError>([&] { builder().build(text, kHopper); });
  expect_contains(error, "variant:cap(3): error");
  expect_contains(error, "\"y\" is undefined");
  expect_contains(error, "ScaleKernel<ScaleConfig{}, ::Cap> with variant cap");
  expect_contains(error, "for sm_90a");
  expect_contains(error, "--gpu-architecture=sm_90a");
  text.user_text = "#include <flashinfer/core/math.hpp>\nstruct Cap {\n  static float transform(float x) { return tanhf(x); }\n};";
  EXPECT_EQ(builder().build(text, kHopper).origin, Origin::compiled);
  text.user_text.insert(0, " ");
  EXPECT_EQ(builder().build(text, kHopper).origin, Origin::compiled);
  EXPECT_EQ(builder().build(text, kHopper).origin, Origin::disk);
}

TEST_F(KernelBuilderTest, UserTextIncludesOnlyWhatTheKeyKnows) {
  for (const char* include : {"#include \"mine.cuh\"", "#include <mine/a.cuh>", "#include\t\"/tmp/a.cuh\""}) {
    KernelText text = scale_text();
    text.user_name = "cap";
    text.user_text = std::string(include) + "\nstruct Cap {};";
    expect_contains(error_of<InvalidArgument>([&] { builder().build(text, kHopper); }), include);
  }
}

TEST_F(KernelBuilderTest, JitOffNamesTheConfig) {
  Settings off = settings_in(folder);
  off.compile = false;
  KernelBuilder builder_off(off, headers_in(folder / "include"));
  const std::string error = error_of<CompileError>([&] { builder_off.build(scale_text(96), kHopper); });
  expect_contains(error, "ScaleKernel<ScaleConfig{.block=96}>");
  expect_contains(error, "FLASHINFER_JIT=off");
  builder().build(scale_text(96), kHopper);
  EXPECT_EQ(builder_off.build(scale_text(96), kHopper).origin, Origin::disk);
}

TEST_F(KernelBuilderTest, PrecompiledKernelsNeedNoCompiler) {
  const Built built = builder().build(scale_text(), kHopper);
  std::filesystem::create_directories(folder / "aot");
  const Handle out(open((folder / "aot").c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_TRUE(write_entry(out.get(), entry_name(built.content_key), built.cubin));

  const ScopedVariable nvrtc("FLASHINFER_NVRTC", "/nowhere/libnvrtc.so.13");
  Settings settings;
  settings.aot_dirs = {"/nowhere", folder / "aot"};
  KernelBuilder aot(settings, headers_in(folder / "include"));
  const Built found = aot.build(scale_text(), kHopper);
  EXPECT_EQ(found.origin, Origin::aot);
  EXPECT_EQ(found.cubin.code, built.cubin.code);
  EXPECT_EQ(aot.stats.aot_hits, 1);
  expect_contains(error_of<CompileError>([&] { aot.build(scale_text(64), kHopper); }), "can not load NVRTC: /nowhere/libnvrtc.so.13");
}

TEST_F(KernelBuilderTest, TellsOfEachCompile) {
  auto one = builder();
  std::vector<std::string> compiled;
  one.hooks.on_compile = [&](const std::string& kernel, Arch arch, double seconds) {
    compiled.push_back(kernel + " " + to_string(arch));
    EXPECT_GT(seconds, 0);
  };
  one.build(scale_text(), kHopper);
  one.build(scale_text(), kHopper);
  EXPECT_EQ(compiled, (std::vector<std::string>{"ScaleKernel<ScaleConfig{.block=128}> sm_90a"}));
}

TEST_F(KernelBuilderTest, AGpuNewerThanNvrtcGetsPtx) {
  auto one = builder();
  const Built built = one.build(scale_text(), Arch{990, 'a'});
  expect_contains(built.cubin.code, ".target sm_");
  EXPECT_EQ(built.cubin.code.back(), '\0');  // the driver wants PTX to end
  EXPECT_EQ(built.cubin.code.find(".target sm_121a"), std::string::npos);
  EXPECT_THROW(one.build(scale_text(), Arch{35}), Unsupported);
}

TEST_F(KernelBuilderTest, EightProcessesCompileOnce) {
  std::vector<pid_t> children;
  for (int p = 0; p < 8; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      auto one = builder();
      const Built built = one.build(scale_text(), kHopper);
      _exit(built.origin == Origin::compiled ? 10 : built.origin == Origin::disk ? 20 : 30);
    }
    children.push_back(child);
  }
  int compiled = 0, read = 0;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    compiled += WIFEXITED(status) && WEXITSTATUS(status) == 10;
    read += WIFEXITED(status) && WEXITSTATUS(status) == 20;
  }
  EXPECT_EQ(compiled, 1);
  EXPECT_EQ(read, 7);
  for (const auto& file : std::filesystem::directory_iterator(folder / "cache/kernels")) EXPECT_EQ(file.path().extension(), ".cubin");
}

TEST_F(KernelBuilderTest, ThreadsBuildAtTheSameTime) {
  auto one = builder();
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] { good += one.build(scale_text(32 + 32 * (t % 3)), kHopper).cubin.code.size() > 1000; });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 6);
  EXPECT_EQ(one.stats.compiles, 3);
}

}  // namespace
}  // namespace flashinfer::jit
