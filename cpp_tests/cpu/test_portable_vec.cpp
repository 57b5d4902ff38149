// Vectors give the bits of core/portable_math.hpp and core/philox.hpp, on every ISA of this machine.
#include <flashinfer/cpu/philox_vec.hpp>
#include <flashinfer/cpu/portable_vec.hpp>

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace flashinfer::cpu {
namespace {

const IsaLevel kLevels[] = {IsaLevel::baseline, IsaLevel::avx2, IsaLevel::avx512};

TEST(PortableVec, Exp2IsTheScalarOne) {
  std::vector<float> x, y;
  std::mt19937 random(3);
  for (int i = 0; i < 1 << 20; ++i)
    x.push_back(std::uniform_real_distribution<float>(i % 2 ? -130.0f : -2.0f, i % 3 ? 0.0f : 126.0f)(random));
  for (float special :
       {-125.0f, -125.00001f, -kInfinity, 0.0f, -0.0f, 0.5f, -0.5f, 1.5f, -1e30f, bit_cast<float>(0x7fc00000), bit_cast<float>(0xffc00001)})
    x.push_back(special);
  x.resize(round_up(x.size(), size_t(16)));
  y.resize(x.size());
  for (IsaLevel level : kLevels) {
    if (level > best_isa()) continue;
    dispatch_isa(level, [&]<class Isa>(Isa) FLASHINFER_INLINE {
      // A product goes in, as a logit's exponent does: it must not be contracted with the sums inside.
      for (size_t i = 0; i < x.size(); i += Isa::kLanes)
        Isa::store(&y[i], portable_exp2<Isa>((Isa::load(&x[i]) - Isa::set(0.0f)) * Isa::set(1.1f)));
    });
    for (size_t i = 0; i < x.size(); ++i) {
      const float product = x[i] * 1.1f;
      if (product > 126) continue;
      ASSERT_EQ(bit_cast<uint32_t>(y[i]), bit_cast<uint32_t>(flashinfer::portable_exp2(product))) << name_of(level) << " " << x[i];
    }
  }
}

TEST(PhiloxVec, BitsInTheOrderOfCounters) {
  for (IsaLevel level : kLevels) {
    if (level > best_isa()) continue;
    dispatch_isa(level, [&]<class Isa>(Isa) FLASHINFER_INLINE {
      constexpr int kParts = 4 * PhiloxVec<Isa>::kCounters;
      float first[kParts], last[kParts];
      for (uint32_t i = 0; i < 100; ++i) {
        const Philox counter{{i * 77 | i << 25, ~i, i * i, 5 * i}};
        const uint64_t key = 0x123456789abcdef0ull * i;
        PhiloxVec<Isa>::run(counter, key, first, last);
        for (int j = 0; j < kParts; ++j) {
          Philox one = counter;
          one.word[0] += uint32_t(j / 4);
          const Philox random = philox(one, key);
          EXPECT_EQ(first[j], float(random.word[j % 4 / 2] >> (j % 2 * 16) & 0xffff)) << name_of(level) << " part " << j;
          EXPECT_EQ(last[j], float(random.word[2 + j % 4 / 2] >> (j % 2 * 16) & 0xffff)) << name_of(level) << " part " << j;
        }
      }
    });
  }
}

TEST(Vec, BitsOfAMask) {
  for (IsaLevel level : kLevels) {
    if (level > best_isa()) continue;
    dispatch_isa(level, [&]<class Isa>(Isa) FLASHINFER_INLINE {
      for (int i = 0; i <= Isa::kLanes; ++i) EXPECT_EQ(Isa::bits(Isa::first(i)), (1u << i) - 1) << name_of(level);
      EXPECT_EQ(Isa::bits(Isa::less(Isa::set(1.5f), Isa::iota())), ((1u << Isa::kLanes) - 1) & ~3u);
    });
  }
}

}  // namespace
}  // namespace flashinfer::cpu
