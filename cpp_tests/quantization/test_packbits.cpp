// packbits and segment_packbits against bit-by-bit loops, and the shapes of their launches.
#include <gtest/gtest.h>

#include <flashinfer/quantization/packbits.hpp>
#include <random>
#include <vector>

namespace flashinfer {
namespace {

std::vector<uint8_t> random_booleans(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<uint8_t> x(size_t(count) + 1);  // one more, so that data() is never null
  for (uint8_t& b : x) b = generator() % 2 ? uint8_t(generator() % 255 + 1) : 0;
  return x;
}

bool bit_of(const uint8_t* packed, int64_t i, BitOrder order) {
  return (packed[i / 8] >> (order == BitOrder::little ? i % 8 : 7 - i % 8)) & 1;
}

TEST(Packbits, MatchesBitByBit) {
  for (BitOrder order : {BitOrder::big, BitOrder::little})
    for (int64_t n : {0, 1, 7, 8, 9, 63, 64, 1000, 200001}) {
      std::vector<uint8_t> x = random_booleans(n, uint32_t(n)), y(size_t(packed_size(n)) + 1, 0xa5);
      packbits({x.data(), DType::boolean, {n}}, {y.data(), DType::u8, {packed_size(n)}}, order);
      for (int64_t i = 0; i < 8 * packed_size(n); ++i) ASSERT_EQ(bit_of(y.data(), i, order), i < n && x[size_t(i)] != 0) << n << " " << i;
      EXPECT_EQ(y[size_t(packed_size(n))], 0xa5);
    }
}

template <class Index>
void check_segments(const std::vector<int64_t>& lengths, BitOrder order) {
  std::vector<Index> indptr{0};
  for (int64_t length : lengths) indptr.push_back(Index(indptr.back() + length));
  const int64_t n = indptr.back();
  int64_t size = 0;
  for (int64_t length : lengths) size += packed_size(length);
  std::vector<uint8_t> x = random_booleans(n, uint32_t(n + 17)), y(size_t(size) + 1, 0xa5);
  std::vector<int32_t> packed_indptr(indptr.size(), -1);
  const int64_t count = int64_t(indptr.size());
  segment_packbits({x.data(), DType::u8, {n}}, {indptr.data(), sizeof(Index) == 8 ? DType::i64 : DType::i32, {count}},
                   {y.data(), DType::u8, {size}}, {packed_indptr.data(), DType::i32, {count}}, order);
  EXPECT_EQ(packed_indptr[0], 0);
  for (size_t s = 0; s < lengths.size(); ++s) {
    ASSERT_EQ(packed_indptr[s + 1] - packed_indptr[s], packed_size(lengths[s]));
    for (int64_t i = 0; i < 8 * packed_size(lengths[s]); ++i)
      ASSERT_EQ(bit_of(y.data() + packed_indptr[s], i, order), i < lengths[s] && x[size_t(indptr[s] + i)] != 0) << s << " " << i;
  }
  EXPECT_EQ(y[size_t(size)], 0xa5);
}

TEST(SegmentPackbits, MatchesBitByBit) {
  for (BitOrder order : {BitOrder::big, BitOrder::little})
    for (const std::vector<int64_t>& lengths :
         {std::vector<int64_t>{}, {0}, {5}, {8, 8}, {0, 3, 0, 0, 17, 0}, {1, 1, 1, 1}, {100000, 3, 150001, 0, 7}}) {
      check_segments<int32_t>(lengths, order);
      check_segments<int64_t>(lengths, order);
    }
}

TEST(SegmentPackbits, RefusesWhatItWouldReadOrWriteBeyond) {
  std::vector<uint8_t> x(16, 1), y(2);
  std::vector<int32_t> indptr{0, 4, 16}, packed(3);
  const auto call = [&](int64_t y_size) {
    segment_packbits({x.data(), DType::boolean, {16}}, {indptr.data(), DType::i32, {3}}, {y.data(), DType::u8, {y_size}},
                     {packed.data(), DType::i32, {3}});
  };
  EXPECT_THROW(call(2), InvalidArgument);  // 1 + 2 bytes
  indptr = {0, 4, 17};
  EXPECT_THROW(call(2), InvalidArgument);
  indptr = {0, 4, 2};
  EXPECT_THROW(call(2), InvalidArgument);
  indptr = {1, 4, 8};
  EXPECT_THROW(call(2), InvalidArgument);
  indptr = {0, 4, 8};
  EXPECT_NO_THROW(call(2));
}

TEST(Packbits, LaunchShapesCoverTheInput) {
  RecordingKernels kernels(device_info_of({90, 'a'}));
  const Device gpu{DeviceType::cuda, 0};
  const Context context{gpu, nullptr, &kernels, true};
  auto* const somewhere = reinterpret_cast<void*>(uintptr_t(1) << 40);
  auto* const elsewhere = reinterpret_cast<void*>(uintptr_t(1) << 44);
  packbits({somewhere, DType::boolean, {100001}, gpu}, {elsewhere, DType::u8, {12501}, gpu}, BitOrder::little, context);
  ASSERT_EQ(kernels.launches.size(), 1u);
  EXPECT_EQ(kernels.launches[0].shape.grid, (Dim3{13, 1, 1}));
  EXPECT_EQ(kernels.launches[0].text.kernel, "PackbitsKernel<PackbitsConfig{.order=BitOrder(1), .segments=false, .indptr=DType::i32}>");
  EXPECT_TRUE(kernels.launches[0].shape.pdl);

  packbits({somewhere, DType::boolean, {0}, gpu}, {elsewhere, DType::u8, {0}, gpu}, BitOrder::little, context);
  EXPECT_EQ(kernels.launches.size(), 1u);

  auto* const indptr = reinterpret_cast<void*>(uintptr_t(1) << 45);
  auto* const packed = reinterpret_cast<void*>(uintptr_t(1) << 46);
  segment_packbits({somewhere, DType::boolean, {1 << 20}, gpu}, {indptr, DType::i64, {5}, gpu},
                   {elsewhere, DType::u8, {(1 << 17) + 4}, gpu}, {packed, DType::i32, {5}, gpu}, BitOrder::little, context);
  ASSERT_EQ(kernels.launches.size(), 2u);
  EXPECT_EQ(kernels.launches[1].shape.grid, (Dim3{4, 32, 1}));
}

}  // namespace
}  // namespace flashinfer
