// The launch path: with a stand-in for the driver where there is none, on the GPU where there is one.
#include <flashinfer/jit/jit_kernels.hpp>

#include <sys/wait.h>

#include <cstdlib>
#include <new>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "scale_kernel.hpp"
#include "stand_in_driver.hpp"

namespace {
thread_local long allocations = 0;
}
// Not inline, or g++ sees malloc in one place, operator delete in another, and warns.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace flashinfer {
namespace {

using jit_test::headers_in;
using jit_test::ScaleConfig;
using jit_test::ScaleParams;
using jit_test::settings_in;
using jit_test::StandInDriver;
using jit_test::TemporaryFolder;
using jit_test::write_headers;
using Calls = std::vector<std::string>;

// Before any test can ask for the driver.
const bool kStandIn = StandInDriver::installed();

TEST(KernelTable, FindsEveryKernelWhileItGrows) {
  jit::KernelTable table;
  constexpr uint64_t kCount = 5000;
  // Keys that collide: many share their low bits.
  auto key = [](uint64_t i) { return i << 6 | 5; };
  std::atomic<uint64_t> inserted{0};
  std::atomic<bool> wrong{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t)
    readers.emplace_back([&] {
      while (inserted < kCount) {
        const uint64_t known = inserted;
        for (uint64_t i = known > 50 ? known - 50 : 0; i < known; ++i)
          if (const auto* kernel = table.find(key(i)); !kernel || kernel->key != key(i)) wrong = true;
        if (table.find(key(kCount + 1))) wrong = true;
      }
    });
  for (uint64_t i = 0; i < kCount; ++i) {
    auto kernel = std::make_unique<jit::LoadedKernel>();
    kernel->key = key(i);
    table.insert(std::move(kernel));
    inserted = i + 1;
  }
  for (auto& reader : readers) reader.join();
  EXPECT_FALSE(wrong);
  for (uint64_t i = 0; i < kCount; ++i) ASSERT_EQ(table.find(key(i))->key, key(i));
}

class StandIn : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kStandIn) GTEST_SKIP() << "there is a real driver";
    FLASHINFER_NEED_NVRTC();
    write_headers(folder / "include");
    driver.params_bytes = 0, driver.load_result = 0, driver.launch_result = 0, driver.capturing = false, driver.write_down = true;
    driver.params_to_read = 0, driver.compute_capability[0] = 90, driver.compute_capability[1] = 90;
    StandInDriver::current = nullptr;
    cu::Driver::get().initialise();
    driver.take();
  }
  void TearDown() override { driver.write_down = true; }

  Context context(KernelSource& kernels, int device = 0) {
    return {.device = {DeviceType::cuda, device}, .stream = (void*)7, .kernels = &kernels};
  }

  StandInDriver& driver = StandInDriver::get();
  TemporaryFolder folder;
  const ScaleParams params{(float*)0x1234, 2.5f, 77};
};

TEST_F(StandIn, FirstLaunchLoadsAndTheNextOnlyLaunches) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  driver.params_bytes = sizeof(params), driver.params_to_read = sizeof(params);
  const LaunchShape shape{.grid = {3, 4, 5}, .block = {128}, .smem_bytes = 70000};
  launch(ScaleConfig{}, shape, params, context(kernels));
  EXPECT_EQ(driver.take(), (Calls{"retain 0", "push 1000", "load mode=2", "get flashinfer_kernel", "set 8=70000 on 0", "function in 1000",
                                  "load function", "launch 3,4,5 of 128 smem 70000 stream 7 in 1000", "pop"}));
  EXPECT_EQ(std::memcmp(driver.last_params.data(), &params, sizeof(params)), 0);
  EXPECT_EQ(StandInDriver::capture_mode, 0);

  StandInDriver::current = (cu::Context)uintptr_t(1000);  // as torch leaves it: nothing to push
  launch(ScaleConfig{}, shape, params, context(kernels));
  EXPECT_EQ(driver.take(), (Calls{"launch 3,4,5 of 128 smem 70000 stream 7 in 1000"}));
  launch(ScaleConfig{}, LaunchShape{.grid = {0, 4, 5}, .block = {128}}, params, context(kernels));
  EXPECT_EQ(driver.take(), Calls{});
}

TEST_F(StandIn, AHitAllocatesNothing) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const Context here = context(kernels);
  const LaunchShape shape{.grid = {3}, .block = {128}, .smem_bytes = 1000, .cluster = {2}, .pdl = true};
  launch(ScaleConfig{}, shape, params, here);
  StandInDriver::current = (cu::Context)uintptr_t(1000);
  driver.write_down = false;
  const long before = allocations;
  for (int i = 0; i < 100; ++i) launch(ScaleConfig{}, shape, params, here);
  EXPECT_EQ(allocations, before);
}

TEST_F(StandIn, EachDeviceGetsItsFunctionAndOnlyOneLibrary) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const LaunchShape shape{.grid = {1}, .block = {128}, .smem_bytes = 100};
  launch(ScaleConfig{}, shape, params, context(kernels, 0));
  driver.take();
  StandInDriver::current = (cu::Context)uintptr_t(1000);
  launch(ScaleConfig{}, shape, params, context(kernels, 1));
  EXPECT_EQ(driver.take(), (Calls{"retain 1", "push 1001", "set 8=100 on 1", "function in 1001", "load function",
                                  "launch 1,1,1 of 128 smem 100 stream 7 in 1001", "pop"}));
}

TEST_F(StandIn, DevicesOfTwoArchitecturesGetTheirOwnCode) {
  driver.compute_capability[1] = 80;
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const LaunchShape shape{.grid = {1}, .block = {128}};
  launch(ScaleConfig{}, shape, params, context(kernels, 0));
  launch(ScaleConfig{}, shape, params, context(kernels, 1));
  EXPECT_EQ(kernels.builder().stats.compiles, 2);
  EXPECT_EQ(kernels.device_info(0).arch, (Arch{90, 'a'}));
  EXPECT_EQ(kernels.device_info(1).arch, Arch{80});
  EXPECT_EQ(kernels.device_info(1).num_sms, 132);
  EXPECT_EQ(kernels.device_info(1).smem_per_block, 232448);
  EXPECT_EQ(kernels.device_info(1).smem_per_sm, 233472);
  EXPECT_EQ(kernels.device_info(1).l2_bytes, 50 << 20);
  EXPECT_EQ(kernels.device_count(), 2);
  EXPECT_THROW(kernels.device_info(2), CudaError);
  EXPECT_THROW(kernels.device_info(-1), InvalidArgument);
  EXPECT_THROW(kernels.device_info(64), InvalidArgument);
}

TEST_F(StandIn, SharedMemoryIsAllowedOnceForTheMostAsked) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  StandInDriver::current = (cu::Context)uintptr_t(1000);
  Calls set;
  for (int bytes : {0, 4000, 2000, 100000, 100000, 5}) {
    launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {128}, .smem_bytes = bytes}, params, context(kernels));
    for (const std::string& call : driver.take())
      if (call.rfind("set", 0) == 0) set.push_back(call);
  }
  EXPECT_EQ(set, (Calls{"set 8=4000 on 0", "set 8=100000 on 0"}));
  EXPECT_THROW(launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {128}, .smem_bytes = 300000}, params, context(kernels)),
               Unsupported);
}

TEST_F(StandIn, ClustersAndOverlapAreLaunchAttributes) {
  driver.compute_capability[1] = 80;
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  auto last = [&] {
    const Calls calls = driver.take();
    std::string text;
    for (const std::string& call : calls)
      if (call.rfind("launch", 0) == 0 || call.rfind("set", 0) == 0) text += call + "; ";
    return text;
  };
  launch(ScaleConfig{}, LaunchShape{.grid = {8}, .block = {128}, .cluster = {2, 4}, .pdl = true}, params, context(kernels));
  EXPECT_EQ(last(), "launch 8,1,1 of 128 smem 0 stream 7 in 1000 cluster 2,4 pdl; ");
  launch(ScaleConfig{}, LaunchShape{.grid = {16}, .block = {128}, .cluster = {16}}, params, context(kernels));
  EXPECT_EQ(last(), "set 14=1 on 0; launch 16,1,1 of 128 smem 0 stream 7 in 1000 cluster 16,1; ");
  launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {128}, .pdl = true}, params, context(kernels, 1));
  EXPECT_EQ(last(), "launch 1,1,1 of 128 smem 0 stream 7 in 1001; ");  // SM80 has no such attribute
}

TEST_F(StandIn, ThreadsShareOneBuild) {
  jit::Hooks hooks = headers_in(folder / "include");
  std::atomic<int> waiting{0}, most{0}, compiled{0};
  hooks.before_compile = [&]() -> std::shared_ptr<void> {
    const int now = ++waiting;
    if (now > most) most = now;
    return std::shared_ptr<void>(static_cast<void*>(&waiting), [](void* count) { --*static_cast<std::atomic<int>*>(count); });
  };
  hooks.on_compile = [&](const std::string&, Arch, double) {
    EXPECT_GT(waiting, 0);
    ++compiled;
  };
  JitKernels kernels(settings_in(folder), hooks);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i)
        launch(ScaleConfig{32 * (1 + i % 2)}, LaunchShape{.grid = {1}, .block = {32}}, params, context(kernels, t % 2));
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(compiled, 2);
  EXPECT_EQ(waiting, 0);
  EXPECT_GT(most, 0);
  int launches = 0, loads = 0;
  for (const std::string& call : driver.take()) {
    launches += call.rfind("launch", 0) == 0;
    loads += call.rfind("load mode", 0) == 0;
  }
  EXPECT_EQ(launches, 400);
  EXPECT_EQ(loads, 2);
}

TEST_F(StandIn, APrefetchedKernelIsBuiltOnce) {
  jit::Hooks hooks = headers_in(folder / "include");
  std::atomic<int> compiled{0};
  hooks.on_compile = [&](const std::string&, Arch, double) { ++compiled; };
  JitKernels kernels(settings_in(folder), hooks);
  const LaunchShape shape{.grid = {1}, .block = {32}};
  for (int i = 0; i < 3; ++i) prefetch(ScaleConfig{}, context(kernels));
  launch(ScaleConfig{}, shape, params, context(kernels));
  prefetch(ScaleConfig{}, context(kernels));
  EXPECT_EQ(compiled, 1);
  prefetch(ScaleConfig{64}, context(kernels));
  kernels.wait();
  EXPECT_EQ(compiled, 2);
  launch(ScaleConfig{64}, shape, params, context(kernels));
  EXPECT_EQ(compiled, 2);

  jit::Settings off = settings_in(folder);
  off.compile = false;
  JitKernels refusing(off, headers_in(folder / "include"));
  prefetch(ScaleConfig{96}, context(refusing));
  EXPECT_THROW(launch(ScaleConfig{96}, shape, params, context(refusing)), CompileError);
}

TEST_F(StandIn, AFailedBuildFailsForAllAndIsTriedAgain) {
  jit::Settings off = settings_in(folder);
  off.compile = false;
  JitKernels kernels(off, headers_in(folder / "include"));
  std::atomic<int> errors{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      try {
        launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {32}}, params, context(kernels));
      } catch (const CompileError&) {
        ++errors;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(errors, 4);
  const ScaleConfig config;
  jit::KernelBuilder(settings_in(folder), headers_in(folder / "include")).build(kernel_id(config).text(&config), Arch{90, 'a'});
  EXPECT_NO_THROW(launch(config, LaunchShape{.grid = {1}, .block = {32}}, params, context(kernels)));
}

template <class E, class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "no error of this type";
}

TEST_F(StandIn, ErrorsSayWhichKernelAndWhatTheDriverSaid) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const LaunchShape shape{.grid = {3}, .block = {32}};
  auto go = [&] { launch(ScaleConfig{}, shape, params, context(kernels)); };
  auto contains = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; };
  driver.load_result = 218;
  std::string error = error_of<CudaError>(go);
  EXPECT_TRUE(contains(error, "ScaleKernel<ScaleConfig{.block=128}> for sm_90a")) << error;
  EXPECT_TRUE(contains(error, "driver of CUDA 13.0")) << error;
  EXPECT_TRUE(contains(error, "bad image")) << error;
  EXPECT_TRUE(contains(error, "CUDA_ERROR_STAND_IN (218): as the test asked")) << error;
  driver.load_result = 0, driver.launch_result = 1;
  error = error_of<CudaError>(go);
  EXPECT_TRUE(contains(error, "launch of ScaleKernel<ScaleConfig{.block=128}> (grid 3x1x1, block 32x1x1")) << error;
  EXPECT_EQ(StandInDriver::current, nullptr);  // popped, whatever happened
  EXPECT_EQ(StandInDriver::capture_mode, 0);
}

TEST_F(StandIn, HostAndDeviceAgreeOnParams) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  driver.params_bytes = sizeof(params) + 8;
  const std::string error =
      error_of<CudaError>([&] { launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {32}}, params, context(kernels)); });
  EXPECT_NE(error.find("Params have 16 bytes on the host and 24 on the device"), std::string::npos) << error;
}

TEST_F(StandIn, CopiesAreOrderedAndNotForCaptures) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const Context here = context(kernels);
  int host[3] = {1, 2, 3}, device[3] = {}, back[3] = {};
  kernels.copy_to_device(device, host, sizeof(host), here);
  EXPECT_NE(driver.copied_from, host);  // host may be pinned: the driver would read it later
  kernels.copy_to_host(back, device, sizeof(back), here);
  EXPECT_EQ(std::memcmp(host, back, sizeof(host)), 0);
  EXPECT_EQ(driver.take(), (Calls{"retain 0", "push 1000", "copy to device", "pop", "push 1000", "copy to host", "synchronize", "pop"}));
  driver.capturing = true;
  EXPECT_NE(error_of<CudaError>([&] { kernels.copy_to_device(device, host, sizeof(host), here); }).find("CUDA graph"), std::string::npos);
  EXPECT_THROW(kernels.copy_to_host(back, device, sizeof(back), here), CudaError);
  EXPECT_NO_THROW(launch(ScaleConfig{}, LaunchShape{.grid = {1}, .block = {32}}, params, here));
}

TEST_F(StandIn, CopiesInFlightKeepTheirMemory) {
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  const Context here = context(kernels, 1);
  constexpr size_t kSmall = jit::Staging::kDriverBytes, kLarge = jit::Staging::kPieceBytes;
  std::vector<char> host(2 * kLarge), device(host.size());
  const auto copy = [&](size_t bytes) { return kernels.copy_to_device(device.data(), host.data(), bytes, here), driver.copied_from; };
  driver.busy = true;
  std::set<const void*> places;
  for (int i = 0; i < jit::Staging::kPieces; ++i) {
    EXPECT_TRUE(places.insert(copy(kLarge)).second);
    const Calls calls = driver.take();
    const std::string first = std::to_string(3000 + driver.events - jit::Staging::kPieces + i);
    if (i == 0)
      EXPECT_EQ(calls, (Calls{"retain 1", "push 1001", "pinned memory mode=2", "copy to device", "record " + first + " on 7", "pop"}));
    else
      EXPECT_EQ(calls, (Calls{"push 1001", "copy to device", "record " + first + " on 7", "pop"}));
  }
  EXPECT_FALSE(places.contains(copy(kLarge)));  // nobody waits: the driver is given pageable memory
  EXPECT_EQ(driver.take(), (Calls{"push 1001", "copy to device", "pop"}));
  driver.busy = false;
  EXPECT_TRUE(places.contains(copy(kSmall + 1)));
  EXPECT_FALSE(places.contains(copy(kSmall)));
  EXPECT_FALSE(places.contains(copy(host.size())));
  driver.write_down = false;
  const long before = allocations;
  for (int i = 0; i < 100; ++i) copy(kSmall + i % 2);
  EXPECT_EQ(allocations, before);
}

TEST_F(StandIn, AForkedChildIsToldSo) {
  const pid_t child = fork();
  if (child == 0) {
    JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
    const std::string error = error_of<CudaError>([&] { kernels.device_info(0); });
    _exit(error.find("forked") != std::string::npos ? 7 : 8);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

TEST(OnTheGpu, BuildsLoadsAndRuns) {
  if (kStandIn) GTEST_SKIP() << "no CUDA driver";
  FLASHINFER_NEED_NVRTC();
  TemporaryFolder folder;
  write_headers(folder / "include");
  JitKernels kernels(settings_in(folder), headers_in(folder / "include"));
  if (kernels.device_count() == 0) GTEST_SKIP() << "no GPU";
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels};
  EXPECT_GT(kernels.device_info(0).num_sms, 0);

  cu::Driver& driver = cu::Driver::get();
  cu::Context primary = nullptr;
  cu::check(driver.device_primary_ctx_retain(&primary, 0), "cuDevicePrimaryCtxRetain");
  cu::DevicePointer device = 0;
  {
    const cu::CurrentContext current(primary);
    const auto allocate = reinterpret_cast<cu::Result (*)(cu::DevicePointer*, size_t)>(cu::find_symbol("cuMemAlloc_v2"));
    cu::check(allocate(&device, 4096), "cuMemAlloc");
  }
  std::vector<float> host(1000), result(1000);
  for (size_t i = 0; i < host.size(); ++i) host[i] = float(i) - 500.5f;
  void* data = reinterpret_cast<void*>(uintptr_t(device));
  kernels.copy_to_device(data, host.data(), 4000, context);
  for (int round = 0; round < 2; ++round)
    launch(ScaleConfig{64}, LaunchShape{.grid = {16}, .block = {64}, .smem_bytes = 60 * 1024, .pdl = round == 1},
           ScaleParams{static_cast<float*>(data), -3.0f, 999}, context);
  kernels.copy_to_host(result.data(), data, 4000, context);
  for (size_t i = 0; i < host.size(); ++i) ASSERT_EQ(result[i], i < 999 ? host[i] * 9.0f : host[i]) << i;
}

}  // namespace
}  // namespace flashinfer
