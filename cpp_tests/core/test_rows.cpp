// Where rows begin, how wide they may be read, and which tensors share memory: against a walk over every element.
#include <flashinfer/core/rows_of.hpp>

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>

namespace flashinfer {
namespace {

TensorView strided(uintptr_t address, DType dtype, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  TensorView t;
  t.data = reinterpret_cast<void*>(address);
  t.dtype = dtype;
  t.ndim = int32_t(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape);
  std::copy(strides.begin(), strides.end(), t.strides);
  return t;
}

void each_offset(const TensorView& t, const std::function<void(int64_t)>& f) {
  std::function<void(int, int64_t)> walk = [&](int dim, int64_t offset) {
    if (dim == t.ndim) return f(offset);
    for (int64_t i = 0; i < t.shape[dim]; ++i) walk(dim + 1, offset + i * t.strides[dim]);
  };
  walk(0, 0);
}

std::set<int64_t> bytes_of(const TensorView& t) {
  std::set<int64_t> bytes;
  each_offset(t, [&](int64_t offset) {
    for (int b = 0; b < size_of(t.dtype); ++b) bytes.insert(int64_t(uintptr_t(t.data)) + offset * size_of(t.dtype) + b);
  });
  return bytes;
}

TEST(Rows, BeginWhereTheLeadingDimensionsSay) {
  const Check check("test");
  for (const TensorView& t :
       {strided(0, DType::f32, {8}, {1}), strided(0, DType::f32, {5, 8}, {11, 1}), strided(0, DType::f32, {5, 3, 8}, {100, 9, 1}),
        strided(0, DType::f32, {5, 3, 8}, {24, 8, 1}), strided(0, DType::f32, {2, 5, 3, 8}, {500, 24, 8, 1}),
        strided(0, DType::f32, {2, 5, 1, 3, 8}, {500, 100, 7, 20, 1}), strided(0, DType::f32, {3, 4, 8}, {8, 24, 1})}) {
    const Rows rows = rows_of(check, "t", t);
    TensorView leading = t;
    --leading.ndim;
    int64_t row = 0;
    each_offset(leading, [&](int64_t offset) { EXPECT_EQ(rows.offset(row++), offset) << shape_of(t) << strides_of(t); });
    EXPECT_EQ(row, num_rows_of(t));
  }
  EXPECT_THROW(rows_of(check, "t", strided(0, DType::f32, {2, 3, 4, 8}, {7, 1000, 90, 1})), InvalidArgument);
}

TEST(Rows, OffsetsPast32Bits) {
  const Rows far{3, int64_t(1) << 33, int64_t(1) << 31};
  EXPECT_EQ(far.offset(7), 2 * (int64_t(1) << 33) + (int64_t(1) << 31));
  const Rows many{3, 1000, 10};
  EXPECT_EQ(many.offset(INT32_MAX), int64_t(INT32_MAX) / 3 * 1000 + INT32_MAX % 3 * 10);
  EXPECT_THROW(rows_of(Check("test"), "t", strided(0, DType::f32, {int64_t(1) << 31, 8}, {8, 1})), InvalidArgument);
}

TEST(AlignedWidth, IsWhatAddressShapeAndStridesAllow) {
  EXPECT_EQ(aligned_width(8, strided(64, DType::bf16, {4, 64}, {64, 1})), 8);
  EXPECT_EQ(aligned_width(8, strided(72, DType::bf16, {4, 64}, {64, 1})), 4);
  EXPECT_EQ(aligned_width(8, strided(64, DType::bf16, {4, 64}, {66, 1})), 2);
  EXPECT_EQ(aligned_width(8, strided(64, DType::bf16, {1, 64}, {66, 1})), 8);
  EXPECT_EQ(aligned_width(8, strided(64, DType::bf16, {4, 63}, {64, 1})), 1);
  EXPECT_EQ(aligned_width(8, strided(64, DType::f32, {4, 64}, {64, 1})), 8);  // two loads of 16 bytes
  EXPECT_EQ(aligned_width(8, strided(68, DType::f32, {4, 64}, {64, 1})), 1);
}

TEST(Overlap, IsExactForSlicesAndNeverMissesAByte) {
  std::mt19937 random(1);
  auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  int apart = 0;
  for (int i = 0; i < 4000; ++i) {
    auto any = [&] {
      const int64_t width = pick(1, 6), stride = pick(1, 12);
      return strided(uintptr_t(1000 + pick(0, 40)), pick(0, 1) ? DType::f16 : DType::e4m3, {pick(1, 4), pick(1, 3), width},
                     {stride * pick(1, 3), stride, 1});
    };
    const TensorView a = any(), b = any();
    const std::set<int64_t> x = bytes_of(a), y = bytes_of(b);
    const bool share = std::any_of(x.begin(), x.end(), [&](int64_t byte) { return y.count(byte); });
    if (share)
      EXPECT_TRUE(overlap(a, b)) << shape_of(a) << strides_of(a) << shape_of(b) << strides_of(b);
    else
      apart += !overlap(a, b);
  }
  EXPECT_GT(apart, 500);
  const TensorView q = strided(1000, DType::bf16, {10, 4, 64}, {12 * 64, 64, 1}),
                   k = strided(1000 + 2 * 4 * 64, DType::bf16, {10, 2, 64}, {12 * 64, 64, 1});
  EXPECT_TRUE(overlap(q, q));
  EXPECT_FALSE(overlap(q, k));
  const TensorView left = strided(1000, DType::bf16, {10, 64}, {128, 1}), right = strided(1128, DType::bf16, {10, 64}, {128, 1});
  EXPECT_FALSE(overlap(left, right));
}

TEST(Writable, RefusesElementsThatOverlap) {
  const Check check("test");
  std::mt19937 random(2);
  auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  int accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    const TensorView t = strided(0, DType::u8, {pick(1, 4), pick(1, 4), pick(1, 4)}, {pick(0, 20), pick(0, 8), pick(0, 2)});
    bool refused = false;
    try {
      check.writable("t", t);
    } catch (const InvalidArgument&) {
      refused = true;
    }
    if (int64_t(bytes_of(t).size()) < t.numel())
      EXPECT_TRUE(refused) << shape_of(t) << strides_of(t);
    else
      accepted += !refused;
  }
  EXPECT_GT(accepted, 500);
  EXPECT_NO_THROW(check.writable("t", strided(0, DType::u8, {4, 64}, {64, 1})));
  EXPECT_NO_THROW(check.writable("t", strided(0, DType::u8, {64, 4}, {1, 64})));
}

}  // namespace
}  // namespace flashinfer
