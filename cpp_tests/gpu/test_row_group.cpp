// The blocks of a row tell each other sums and maxima (gpu/row_group.cuh), emulated: some of them are late, and what they send too.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/row_group.cuh>

namespace flashinfer::gpu {
namespace {

constexpr int kThreads = 64;

/// Three words, two of which come to a sum and to a maximum.
struct Message {
  uint64_t sum = 0, most = 0;
  float part = 0;
  __device__ Message of_warp() const { return {warp_sum(sum), warp_max(most), warp_sum(part)}; }
};

uint64_t value_of(uint32_t round, int thread) { return (uint64_t(round) * 1000003 + uint64_t(thread) + 1) * 0x9e3779b97f4a7c15u >> 20; }

/// Rounds of the group and of each block alone, in no order, between which some threads dawdle and then leave.
template <int kCluster, RowShare kShare>
void expect_all_told(uint32_t seed) {
  using Group = RowGroup<kThreads, kCluster, 3, kShare>;
  constexpr int kAll = kThreads * kCluster;
  const int rounds = 3 + int(seed % 20);
  emulation::Block::run_grid(
      kCluster, kThreads, sizeof(typename Group::Smem), seed,
      [&] {
        auto& smem = *reinterpret_cast<typename Group::Smem*>(gpu::dynamic_smem());
        Group group(smem);
        Group::begin(smem);
        std::mt19937 random(seed);
        for (int round = 0; round < rounds; ++round) {
          const int thread = Group::rank() * kThreads + int(threadIdx.x);
          const uint64_t own = value_of(uint32_t(round), thread);
          uint64_t sum = 0, most = 0, of_block = 0;
          for (int i = 0; i < kAll; ++i) {
            const uint64_t x = value_of(uint32_t(round), i);
            sum += x, most = std::max(most, x);
            if (i / kThreads == Group::rank()) of_block = std::max(of_block, x);
          }
          switch (random() % 5) {
            case 0: EXPECT_EQ(group.sum(own), sum); break;
            case 1: EXPECT_EQ(group.max(own), most); break;
            case 2: {
              const auto pair = group.sum(own, 1);
              EXPECT_EQ(pair.first, sum);
              EXPECT_EQ(pair.second, uint64_t(kAll));
              break;
            }
            case 3: EXPECT_EQ(group.max_of_block(own), of_block); break;
            default: {
              const Message all = group.all(Message{own, own, 1});
              EXPECT_EQ(all.sum, sum);
              EXPECT_EQ(all.most, most);
              EXPECT_EQ(all.part, float(kAll));
            }
          }
        }
      },
      kCluster);
}

TEST(RowGroup, TellsAll) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    expect_all_told<1, RowShare::memory>(seed);
    expect_all_told<2, RowShare::rounds>(seed);
    expect_all_told<3, RowShare::rounds>(seed);
    expect_all_told<4, RowShare::memory>(seed);
    expect_all_told<6, RowShare::memory>(seed);
    expect_all_told<8, RowShare::rounds>(seed);
  }
}

}  // namespace
}  // namespace flashinfer::gpu
