// The top-k kernel, emulated, compared with a stable sort: rows whose candidates fit, rows that are selected by radix,
// and rows that are taken whole.
#include <gtest/gtest.h>

#include <cpp_tests/topk/reference.hpp>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/topk/gpu/topk_kernel.cuh>

namespace flashinfer {
namespace {

using namespace topk_test;

constexpr Device kGpu{DeviceType::cuda, 0};

template <TopkConfig kConfig, class Op>
void emulate(int capacity, bool sorted, const Op& op) {
  using Kernel = TopkKernel<kConfig>;
  RecordingKernels kernels({{80, 0}, 2, 163 << 10, 164 << 10, 40 << 20});
  op(Context{kGpu, nullptr, &kernels});
  ASSERT_EQ(kernels.launches.size(), 1u);
  typename Kernel::Params params;
  ASSERT_EQ(kernels.launches[0].params.size(), sizeof(params));
  std::memcpy(&params, kernels.launches[0].params.data(), sizeof(params));
  params.capacity = capacity;
  params.sorted = sorted;  // top_k() of few asks for that anyway, its transforms never do
  emulation::Block::run_grid(
      unsigned(params.num_rows) * kConfig.cluster, unsigned(Kernel::kThreads), size_t(kConfig.smem_bytes(capacity)), 1,
      [&] { Kernel::run(params); }, kConfig.cluster);
}

template <TopkConfig kConfig>
void expect_top_k(int capacity, Values kind, int64_t num_rows, int64_t width, int64_t k, bool sorted, TieBreak tie_break,
                  int64_t padding = 3) {
  using T = number_t<kConfig.input>;
  Rows<T> x(num_rows, width, kind, uint32_t(width + k), padding);
  std::vector<T> values(size_t(num_rows * k), from_float<T>(123));
  std::vector<int64_t> indices(size_t(num_rows * k), -7);
  emulate<kConfig>(capacity, sorted, [&](const Context& context) {
    top_k(x.view(kGpu), k, TensorView(values.data(), dtype_v<T>, {num_rows, k}, kGpu),
          TensorView(indices.data(), DType::i64, {num_rows, k}, kGpu), sorted, tie_break, context);
  });
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::vector<int64_t> expected = select(x.at(row), width, k, sorted, tie_break);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t index = indices[size_t(row * k + j)];
      ASSERT_EQ(index, j < int64_t(expected.size()) ? expected[size_t(j)] : -1)
          << "values " << int(kind) << ", width " << width << ", row " << row << ", place " << j << " of " << k
          << (sorted ? " sorted" : "");
      ASSERT_TRUE(same(values[size_t(row * k + j)], index < 0 ? from_float<T>(-INFINITY) : x.at(row)[index]))
          << "row " << row << ", place " << j;
    }
  }
}

template <TopkConfig kConfig>
void expect_all_kinds(int64_t width, int64_t k, int capacity = 256) {
  for (Values kind : {Values::normal, Values::few, Values::flat, Values::masked, Values::together, Values::ascending, Values::descending,
                      Values::special})
    for (TieBreak tie_break : {TieBreak::small, TieBreak::large})
      expect_top_k<kConfig>(capacity, kind, 2, width, k, tie_break == TieBreak::large, tie_break);
}

constexpr TopkConfig kSmall{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 1};

TEST(TopkKernel, RowsInRegisters) {
  expect_all_kinds<kSmall>(1501, 20);
  expect_all_kinds<TopkConfig{.input = DType::f16, .threads = 256, .vecs = 2, .stages = 0}>(2900, 64);
}

TEST(TopkKernel, RowsOfManyWaves) {
  expect_all_kinds<kSmall>(9001, 20);
  expect_all_kinds<TopkConfig{.input = DType::bf16, .threads = 512, .vecs = 4, .stages = 0}>(50001, 250, 1024);
  expect_all_kinds<TopkConfig{.input = DType::f32, .threads = 512, .vecs = 3, .stages = 0}>(20003, 250, 1024);
  expect_all_kinds<TopkConfig{.input = DType::f32, .threads = 256, .vecs = 3, .stages = 4}>(20005, 250, 1024);
  expect_all_kinds<TopkConfig{.input = DType::bf16, .threads = 256, .vecs = 2, .stages = 4, .cluster = 6}>(40003, 120, 1024);
  expect_all_kinds<TopkConfig{.input = DType::f16, .threads = 512, .vecs = 2, .stages = 4}>(30005, 250, 1024);
  expect_all_kinds<TopkConfig{.input = DType::bf16, .threads = 1024, .vecs = 2, .stages = 2}>(50001, 64, 1024);
}

/// Rings that hold all of a part, and that are begun anew where too many were collected.
TEST(TopkKernel, LongRings) {
  constexpr TopkConfig kLong{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 8, .cluster = 2};
  expect_all_kinds<kLong>(14003, 20);
  expect_all_kinds<kLong>(20001, 60);
  // As tuned for 16 rows: a sample of twice the vectors.
  constexpr TopkConfig kSampled{.input = DType::f32, .threads = 256, .vecs = 8, .stages = 8, .cluster = 8};
  for (Values kind : {Values::normal, Values::few, Values::flat, Values::ascending})
    for (bool sorted : {false, true}) expect_top_k<kSampled>(1024, kind, 1, 80003, 64, sorted, TieBreak::small);
}

TEST(TopkKernel, ManyOfARow) {
  expect_all_kinds<kSmall>(1501, 64);
  expect_all_kinds<kSmall>(240, 100);   // all are candidates
  expect_all_kinds<kSmall>(3000, 200);  // by radix, in shared memory
  expect_all_kinds<kSmall>(3000, 900);  // by radix, in global memory
  expect_all_kinds<kSmall>(1501, 64, 1024);
}

TEST(TopkKernel, Clusters) {
  constexpr TopkConfig kTwo{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 2};
  constexpr TopkConfig kFive{.input = DType::bf16, .threads = 256, .vecs = 4, .stages = 0, .cluster = 5};
  expect_all_kinds<kTwo>(3001, 20);
  expect_all_kinds<kTwo>(9001, 64);
  expect_all_kinds<kTwo>(9001, 100);
  expect_all_kinds<kTwo>(200, 250);
  expect_all_kinds<kFive>(70003, 100, 1024);
  expect_all_kinds<kFive>(130, 20);  // blocks without elements
}

/// More than have their places counted, by rising index: a map of the row, or a sort where it has no room.
TEST(TopkKernel, ManyByIndex) {
  constexpr TopkConfig kOne{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 4};
  constexpr TopkConfig kSixteen{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 16};
  for (Values kind : {Values::normal, Values::few, Values::flat, Values::ascending, Values::together, Values::special})
    for (TieBreak tie_break : {TieBreak::small, TieBreak::large}) {
      expect_top_k<kOne>(2048, kind, 2, 9001, 500, false, tie_break);
      expect_top_k<kOne>(2048, kind, 1, 140003, 400, false, tie_break);  // no room
      expect_top_k<kOne>(8192, kind, 1, 140003, 400, false, tie_break);  // more words than counts
      expect_top_k<kSixteen>(4096, kind, 1, 30001, 1000, false, tie_break);
      expect_top_k<kSixteen>(4096, kind, 1, 30001, 1000, true, tie_break);
    }
}

/// Some blocks have more candidates than they have room for in the first block: equal or rising elements, or many wanted.
TEST(TopkKernel, CandidatesThatAreFetched) {
  constexpr TopkConfig kEight{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 8};
  constexpr TopkConfig kSixteen{.input = DType::bf16, .threads = 256, .vecs = 2, .stages = 0, .cluster = 16};
  for (Values kind : {Values::normal, Values::few, Values::flat, Values::ascending}) {
    expect_top_k<kEight>(1024, kind, 1, 16003, 60, true, TieBreak::small);
    expect_top_k<kEight>(1024, kind, 1, 16003, 250, false, TieBreak::large);
  }
  for (Values kind : {Values::normal, Values::ascending}) expect_top_k<kSixteen>(1024, kind, 1, 40001, 40, false, TieBreak::small);
  expect_top_k<kSixteen>(1024, Values::few, 1, 900, 40, true, TieBreak::small);  // most blocks have nothing
  // The first block has nothing above the floor, and more of that than fits: it stays in its list.
  for (TieBreak tie_break : {TieBreak::small, TieBreak::large})
    expect_top_k<kSixteen>(1024, Values::together, 2, 40001, 100, true, tie_break);
}

TEST(TopkKernel, WholeRows) {
  for (int64_t width : {0, 1, 5, 200, 700})
    for (bool sorted : {false, true})
      for (Values kind : {Values::normal, Values::special}) expect_top_k<kSmall>(256, kind, 3, width, 700, sorted, TieBreak::small);
}

TEST(TopkKernel, RowsOfAnyAlignment) {
  for (int64_t padding : {0, 1, 2})
    for (int64_t width : {1021, 1022, 1023, 1024}) {
      expect_top_k<kSmall>(256, Values::ascending, 4, width, 30, true, TieBreak::small, padding);
      expect_top_k<kSmall>(256, Values::descending, 4, width, 30, false, TieBreak::small, padding);
    }
}

/// One row of the values that value(index, normal one) makes.
template <TopkConfig kConfig, class Value>
void expect_of_row(int64_t width, int64_t k, int capacity, const Value& value) {
  Rows<float> x(1, width, Values::normal, 9);
  for (int64_t i = 0; i < width; ++i) x.at(0)[i] = value(i, x.at(0)[i]);
  std::vector<int32_t> lengths{int32_t(width)}, offsets{1000}, out(size_t(k), -9);
  emulate<kConfig>(capacity, false, [&](const Context& context) {
    top_k_ragged_transform(x.view(kGpu), TensorView(offsets.data(), DType::i32, {1}, kGpu),
                           TensorView(lengths.data(), DType::i32, {1}, kGpu), k, TensorView(out.data(), DType::i32, {1, k}, kGpu), {},
                           TieBreak::small, context);
  });
  const std::vector<int64_t> expected = select(x.at(0), width, k, false, TieBreak::small);
  for (int64_t j = 0; j < k; ++j) ASSERT_EQ(out[size_t(j)], expected[size_t(j)] + 1000) << "place " << j;
}
/// One row whose elements differ by `offset` in every `period`-th chunk of 128 from the `first` on.
template <TopkConfig kConfig>
void expect_of_chunks(int64_t width, int64_t first, int64_t period, float offset, int64_t k = 60, int capacity = 1024) {
  expect_of_row<kConfig>(width, k, capacity, [&](int64_t i, float x) { return i / 128 % period == first ? x + offset : x; });
}

/// What a mask leaves is more than the first block has room for, but not more than any other.
TEST(TopkKernel, MasksThatLeaveMuch) {
  constexpr TopkConfig kEight{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 8};
  for (int64_t from : {0, 6000})
    for (int64_t k : {60, 250})
      expect_of_row<kEight>(16003, k, 1024, [&](int64_t i, float x) { return i >= from && i < from + 1500 ? x : -INFINITY; });
}

/// All that is sampled has zeros for its largest elements, but for a few, and less than is wanted; the rest of the row is below.
TEST(TopkKernel, FloorsThatAreNone) {
  expect_of_row<kSmall>(16 * 128 * 5, 1000, 4096, [](int64_t i, float x) {
    if (i < 40 && i % 4 == 0) return 1 + std::fabs(x);
    return i / 128 % 5 == 0 && i % 4 == 0 ? 0.0f : -10 - std::fabs(x);
  });
}

/// A sample that tells nothing of the rest: the elements between the sampled chunks are larger, or all smaller.
TEST(TopkKernel, MisleadingSamples) {
  constexpr TopkConfig kRing{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 4};
  for (float offset : {-100.0f, 100.0f, 1.5f}) {
    for (int capacity : {256, 1024}) expect_of_chunks<kSmall>(16 * 128 * 5, 0, 5, offset, 60, capacity);
    expect_of_chunks<kRing>(16 * 128 * 5, 0, 5, offset);
    expect_of_chunks<kRing>(16 * 128 * 5 - 3, 0, 5, offset);
  }
}

/// How the first k of a row were chosen. Among few: no block read the whole row once more.
template <TopkConfig kConfig>
auto chosen_of(Rows<float>& x, int k, int capacity) {
  using Selection = gpu::TopkSelection<kConfig, true, false>;
  auto chosen = Selection::Chosen::elsewhere;
  const TieBreak tie_break = TieBreak::small;
  emulation::Block::run_grid(
      unsigned(kConfig.cluster), unsigned(kConfig.threads), size_t(kConfig.smem_bytes(capacity)), 1,
      [&] {
        Selection::begin(k);
        Selection selection(x.at(0), int(x.width), k, capacity, tie_break, k);
        selection.collect();
        const auto own = selection.choose(true, [](int, uint64_t) {});
        if (Selection::Group::rank() == 0 && threadIdx.x == 0) chosen = own;
      },
      unsigned(kConfig.cluster));
  return chosen;
}

/// The largest lie together in one chunk, in order or not: more of that than its share of those wanted reach the bound.
TEST(TopkKernel, SortedRows) {
  const auto expect_few = [&]<TopkConfig kConfig>(int k) {
    for (Values kind : {Values::ascending, Values::descending}) {
      expect_top_k<kConfig>(2048, kind, 1, 128256, k, true, TieBreak::small);
      Rows<float> x(1, 128256, kind, 1);
      for (bool shuffled : {false, true}) {
        if (shuffled) std::shuffle(x.at(0), x.at(0) + 256, std::mt19937(5));
        const auto chosen = chosen_of<kConfig>(x, k, 2048);
        EXPECT_EQ(int(chosen), int(decltype(chosen)::among_few)) << "values " << int(kind) << (shuffled ? " shuffled" : "");
      }
    }
  };
  expect_few.operator()<TopkConfig{.input = DType::f32, .threads = 512, .vecs = 2, .stages = 4}>(64);
  expect_few.operator()<TopkConfig{.input = DType::f32, .threads = 1024, .vecs = 2, .stages = 4}>(64);
  expect_few.operator()<TopkConfig{.input = DType::f32, .threads = 512, .vecs = 2, .stages = 4, .cluster = 4}>(40);
  for (Values kind : {Values::ascending, Values::descending}) {  // more than have their places counted
    expect_top_k<TopkConfig{.input = DType::f32, .threads = 512, .vecs = 2, .stages = 4, .cluster = 6}>(2048, kind, 1, 128255, 64, true,
                                                                                                        TieBreak::large);
    expect_top_k<TopkConfig{.input = DType::f32, .threads = 512, .vecs = 4, .stages = 0, .cluster = 16}>(2048, kind, 1, 128256, 64, true,
                                                                                                         TieBreak::small);
  }
}

/// Of a cluster one block has all of the largest, whose bound is too high for the others then, or all but one have them.
TEST(TopkKernel, PartsThatDiffer) {
  constexpr TopkConfig kHeld{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 0, .cluster = 8};
  constexpr TopkConfig kRing{.input = DType::f32, .threads = 256, .vecs = 2, .stages = 8, .cluster = 8};
  for (float offset : {-100.0f, 100.0f, 1.5f}) {
    expect_of_chunks<kHeld>(30001, 3, 8, offset);
    expect_of_chunks<kRing>(30001, 0, 8, offset);
    expect_of_chunks<kRing>(60003, 0, 8, offset, 250);  // the first block's candidates stay in its list
    expect_of_chunks<kRing>(60003, 5, 8, offset, 250);
  }
  // A little too high: there are enough, but for those of the first block's list that do not reach it.
  for (float offset : {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f}) expect_of_chunks<kRing>(60003, 5, 8, offset, 250);
}

}  // namespace
}  // namespace flashinfer
