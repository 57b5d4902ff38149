#include <flashinfer/cpu/parallel_for.hpp>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <stdexcept>
#include <vector>

namespace flashinfer::cpu {
namespace {

std::vector<int> visits(int64_t n, int64_t grain) {
  std::vector<int> count(n, 0);
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++count[i];
  });
  return count;
}

TEST(ParallelFor, VisitsEveryIndexOnce) {
  for (int64_t n : {0, 1, 2, 7, 64, 1000, 12345})
    for (int64_t grain : {0, 1, 3, 100, 100000}) EXPECT_EQ(visits(n, grain), std::vector<int>(n, 1)) << n << " " << grain;
}

TEST(ParallelFor, RangesAreAtLeastGrainLong) {
  parallel_for(1003, 10, [&](int64_t begin, int64_t end) { EXPECT_TRUE(end - begin >= 10 || end == 1003) << begin << " " << end; });
}

TEST(ParallelFor, NestedCallsRunInline) {
  std::atomic<int64_t> sum{0};
  parallel_for(100, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto self = std::this_thread::get_id();
      parallel_for(50, 1, [&](int64_t b, int64_t e) {
        EXPECT_EQ(std::this_thread::get_id(), self);
        sum += e - b;
      });
    }
  });
  EXPECT_EQ(sum, 5000);
}

TEST(ParallelFor, RethrowsAndStaysUsable) {
  for (int i = 0; i < 50; ++i) {
    EXPECT_THROW(parallel_for(1000, 1,
                              [](int64_t begin, int64_t end) {
                                if (begin <= 500 && 500 < end) throw std::runtime_error("row 500");
                              }),
                 std::runtime_error);
    EXPECT_EQ(visits(100, 1), std::vector<int>(100, 1));
  }
}

TEST(ParallelFor, ManyCallersAtOnce) {
  std::vector<std::thread> callers;
  for (int t = 0; t < 6; ++t)
    callers.emplace_back([] {
      for (int i = 0; i < 300; ++i) EXPECT_EQ(visits(257, 1), std::vector<int>(257, 1));
    });
  for (auto& caller : callers) caller.join();
}

TEST(ParallelFor, WorksInAForkedChild) {
  ASSERT_EQ(visits(1000, 1), std::vector<int>(1000, 1));
  const pid_t child = fork();
  if (child == 0) _exit(visits(1000, 1) == std::vector<int>(1000, 1) ? 0 : 1);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace flashinfer::cpu
