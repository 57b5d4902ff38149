// Selection among ranks and their sorting by a block, emulated: random ranks, ranks far apart, ranks of equal values.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/rank_select.cuh>

namespace flashinfer {
namespace {

using Smem = gpu::RankSelectSmem<256>;

enum class Kind { random, close, outlier, equal_values };

std::vector<uint64_t> make_ranks(Kind kind, int count, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::set<uint64_t> ranks;
  while (int(ranks.size()) < count) {
    const uint64_t x = random();
    switch (kind) {
      case Kind::random: ranks.insert(x); break;
      case Kind::close: ranks.insert((uint64_t(0xc0000000) << 32) + x % (4 * uint64_t(count) + 4)); break;
      case Kind::outlier: ranks.insert(ranks.empty() ? ~uint64_t(7) : uint64_t(0x80000000) << 32 | x >> 40); break;
      case Kind::equal_values: ranks.insert(uint64_t(0xc0000000 + x % 3) << 32 | uint32_t(~(x >> 40))); break;
    }
  }
  std::vector<uint64_t> shuffled(ranks.begin(), ranks.end());
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  return shuffled;
}

constexpr Kind kKinds[] = {Kind::random, Kind::close, Kind::outlier, Kind::equal_values};

TEST(RankSelect, SortsGreatestFirst) {
  for (Kind kind : kKinds)
    for (int count : {1, 2, 31, 64, 65, 300, 1000})
      for (int wanted : {count, count / 2, 2 * count, 1})
        for (int room : {count, count + count / 2 + 1, 2 * count}) {
          std::vector<uint64_t> expected = make_ranks(kind, count, uint32_t(count)), sorted = expected;
          std::sort(expected.begin(), expected.end(), std::greater<>());
          sorted.resize(size_t(room));
          sorted.push_back(7);
          emulation::Block::run_grid(1, 256, sizeof(Smem), 3, [&] {
            gpu::sort_ranks<256>(sorted.data(), count, wanted, room, *reinterpret_cast<Smem*>(gpu::dynamic_smem()));
          });
          ASSERT_EQ(sorted.back(), 7u);  // behind the room
          expected.resize(size_t(std::min(wanted, count)));
          sorted.resize(expected.size());
          ASSERT_EQ(sorted, expected) << "kind " << int(kind) << ", count " << count << ", wanted " << wanted << ", room " << room;
        }
}

TEST(RankSelect, FindsTheKth) {
  for (Kind kind : kKinds)
    for (int count : {1, 40, 1000})
      for (int k : {1, 7, 500, 1000, 1001})
        for (int slack : {0, 20}) {
          const std::vector<uint64_t> ranks = make_ranks(kind, count, uint32_t(count + k));
          std::vector<uint64_t> found(256);
          emulation::Block::run_grid(1, 256, sizeof(Smem), 3, [&] {
            found[threadIdx.x] = gpu::select_rank<256>(
                k, slack, 0,
                [&](const auto& f) {
                  for (int i = int(threadIdx.x); i < count; i += 256) f(ranks[size_t(i)]);
                },
                *reinterpret_cast<Smem*>(gpu::dynamic_smem()));
          });
          for (uint64_t bound : found) ASSERT_EQ(bound, found[0]);
          const auto reached = std::count_if(ranks.begin(), ranks.end(), [&](uint64_t rank) { return rank >= found[0]; });
          if (k > count) {
            ASSERT_EQ(found[0], 0u);
          } else {
            ASSERT_GE(reached, k) << "kind " << int(kind) << ", count " << count;
            ASSERT_LE(reached, k + slack) << "kind " << int(kind) << ", count " << count;
          }
        }
}

TEST(RankSelect, FindsTheKthByBins) {
  for (Kind kind : kKinds)
    for (int count : {1, 2, 40, 257, 1000, 3000})
      for (int k : {1, 7, 500, 1000, count}) {
        k = std::min(k, count);
        const std::vector<uint64_t> ranks = make_ranks(kind, count, uint32_t(count + k));
        std::vector<uint64_t> found(256);
        emulation::Block::run_grid(1, 256, sizeof(Smem), uint32_t(k), [&] {
          found[threadIdx.x] = gpu::kth_rank<256>(ranks.data(), count, k, *reinterpret_cast<Smem*>(gpu::dynamic_smem()));
        });
        for (uint64_t bound : found) ASSERT_EQ(bound, found[0]);
        ASSERT_EQ(std::count_if(ranks.begin(), ranks.end(), [&](uint64_t rank) { return rank >= found[0]; }), k)
            << "kind " << int(kind) << ", count " << count;
      }
}

/// A key of a thread. Where they come in no order, few more than wanted reach the one found.
TEST(RankSelect, FindsAboutTheKthKeyOfThreads) {
  using KeySmem = gpu::KthKeySmem<256>;
  for (Kind kind : kKinds)
    for (bool ordered : {false, true})
      for (int k = 1; k <= KeySmem::kMostWanted; ++k) {
        std::vector<uint64_t> ranks = make_ranks(kind, 256, uint32_t(k));
        if (ordered) std::sort(ranks.begin(), ranks.end());
        std::vector<uint32_t> keys(256), found(256);
        std::vector<int> reached(256);
        for (size_t i = 0; i < 256; ++i) keys[i] = uint32_t(ranks[i] >> (kind == Kind::close || kind == Kind::outlier ? 0 : 32));
        emulation::Block::run_grid(1, 256, sizeof(KeySmem), 4, [&] {
          found[threadIdx.x] =
              gpu::block_about_kth_key(keys[threadIdx.x], k, reached[threadIdx.x], *reinterpret_cast<KeySmem*>(gpu::dynamic_smem()));
        });
        const auto reach = std::count_if(keys.begin(), keys.end(), [&](uint32_t key) { return key >= found[0]; });
        for (size_t i = 0; i < 256; ++i) {
          ASSERT_EQ(found[i], found[0]);
          ASSERT_EQ(reached[i], reach);
        }
        ASSERT_GE(reach, k) << "kind " << int(kind) << ", ordered " << ordered;
        if (!ordered && kind != Kind::equal_values) {
          ASSERT_LE(reach, 2 * k + 8) << "kind " << int(kind);
        }
      }
}

TEST(RankSelect, SumsBeforeAThread) {
  std::vector<int> before(256), totals(256);
  emulation::Block::run_grid(1, 256, sizeof(Smem), 5, [&] {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
    int total = 0;
    before[threadIdx.x] = gpu::block_sum_before<256>(int(threadIdx.x * threadIdx.x % 17), total, smem.partial);
    totals[threadIdx.x] = total;
  });
  int sum = 0;
  for (unsigned i = 0; i < 256; ++i) {
    ASSERT_EQ(before[i], sum);
    sum += int(i * i % 17);
  }
  for (int total : totals) ASSERT_EQ(total, sum);
}

}  // namespace
}  // namespace flashinfer
