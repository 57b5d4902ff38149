// Building ahead of time without a GPU: every architecture, what ptxas says, a folder to ship.
#include <flashinfer/jit/precompile.hpp>

#include <gtest/gtest.h>

#include "scale_kernel.hpp"

namespace flashinfer::jit {
namespace {

using jit_test::headers_in;
using jit_test::scale_text;
using jit_test::settings_in;
using jit_test::TemporaryFolder;
using jit_test::write_headers;

TEST(PtxasLog, IsRead) {
  Precompiled result;
  read_ptxas_log(
      "ptxas info    : Function properties for f\n"
      "ptxas         .     16 bytes stack frame, 8 bytes spill stores, 24 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size\n"
      "ptxas         .     72 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 64 registers, used 0 barriers\n",
      result);
  EXPECT_EQ(result.registers, 168);
  EXPECT_EQ(result.spill_bytes, 24);
  EXPECT_EQ(result.stack_bytes, 72);
  EXPECT_FALSE(result.wgmma_serialized);
  read_ptxas_log("ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...", result);
  EXPECT_TRUE(result.wgmma_serialized);
  EXPECT_EQ(result.registers, 0);
}

class Precompile : public ::testing::Test {
 protected:
  void SetUp() override {
    FLASHINFER_NEED_NVRTC();
    write_headers(folder / "include");
  }
  TemporaryFolder folder;
};

TEST_F(Precompile, EveryArchitectureWithoutAGpu) {
  std::vector<Arch> archs;
  for (const char* name : {"75", "80", "86", "87", "89", "90a", "100a", "103a", "110a", "120a", "121a"}) archs.push_back(parse_arch(name));
  KernelBuilder builder(settings_in(folder), headers_in(folder / "include"));
  const auto results = precompile(builder, {scale_text(), scale_text()}, archs, 2, folder / "aot");
  ASSERT_EQ(results.size(), archs.size());  // the second text is the first: built once
  for (size_t i = 0; i < archs.size(); ++i) {
    EXPECT_EQ(results[i].arch, archs[i]);
    EXPECT_EQ(results[i].error, "") << to_string(archs[i]);
    EXPECT_GT(results[i].code_bytes, 1000) << to_string(archs[i]);
    EXPECT_GT(results[i].registers, 0) << to_string(archs[i]);
    EXPECT_EQ(results[i].spill_bytes, 0) << to_string(archs[i]);
    EXPECT_GT(results[i].seconds, 0) << to_string(archs[i]);
  }
  EXPECT_EQ(builder.stats.compiles, int64_t(archs.size()));

  // The folder serves another machine: no cache, no compiling.
  Settings shipped;
  shipped.aot_dirs = {folder / "aot"};
  shipped.compile = false;
  KernelBuilder other(shipped, headers_in(folder / "include"));
  for (Arch arch : archs) EXPECT_EQ(other.build(scale_text(), arch).origin, Origin::aot);

  // Once built, the figures come from the cache.
  const auto again = precompile(builder, {scale_text()}, archs, 1);
  for (const Precompiled& result : again) {
    EXPECT_EQ(result.seconds, 0);
    EXPECT_GT(result.registers, 0);
  }
}

TEST_F(Precompile, ReportsFailuresAndSpills) {
  KernelBuilder builder(settings_in(folder), headers_in(folder / "include"));
  KernelText broken = scale_text(), spilling = scale_text();
  broken.kernel = "ScaleKernel<ScaleConfig{.bloc=1}>";
  spilling.kernel = "SpillKernel<ScaleConfig{}>";
  const auto results = precompile(builder, {broken, spilling, scale_text()}, {Arch{90, 'a'}}, 3);
  ASSERT_EQ(results.size(), 3u);
  EXPECT_NE(results[0].error.find("bloc"), std::string::npos) << results[0].error;
  EXPECT_EQ(results[1].error, "");
  EXPECT_GT(results[1].spill_bytes, 0);
  EXPECT_LE(results[1].registers, 32);
  EXPECT_EQ(results[2].error, "");
  EXPECT_EQ(results[2].spill_bytes, 0);
}

TEST_F(Precompile, NeedsAFolderItCanMake) {
  KernelBuilder builder(settings_in(folder), headers_in(folder / "include"));
  EXPECT_THROW(precompile(builder, {scale_text()}, {Arch{80}}, 1, "/proc/flashinfer"), InvalidArgument);
}

}  // namespace
}  // namespace flashinfer::jit
