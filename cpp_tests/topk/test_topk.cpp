// Top-k selection on the CPU against a stable sort, its transforms, its checks, and what the GPU path would launch.
#include <flashinfer/topk/topk.hpp>

#include <gtest/gtest.h>

#include <set>

#include <cpp_tests/topk/reference.hpp>

namespace flashinfer {
namespace {

using namespace topk_test;

constexpr TieBreak kTieBreaks[] = {TieBreak::small, TieBreak::large};

template <class T>
void expect_top_k(Rows<T>& x, int64_t k, bool sorted, TieBreak tie_break) {
  std::vector<T> values(size_t(x.num_rows * k), from_float<T>(123));
  std::vector<int64_t> indices(size_t(x.num_rows * k), -7);
  top_k(x.view(), k, TensorView(values.data(), dtype_v<T>, {x.num_rows, k}), TensorView(indices.data(), DType::i64, {x.num_rows, k}),
        sorted, tie_break);
  for (int64_t row = 0; row < x.num_rows; ++row) {
    const std::vector<int64_t> expected = select(x.at(row), x.width, k, sorted || sorts_anyway(k, tie_break), tie_break);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t index = indices[size_t(row * k + j)];
      ASSERT_EQ(index, j < int64_t(expected.size()) ? expected[size_t(j)] : -1) << "row " << row << ", place " << j << " of " << k;
      ASSERT_TRUE(same(values[size_t(row * k + j)], index < 0 ? from_float<T>(-INFINITY) : x.at(row)[index]))
          << "row " << row << ", place " << j;
    }
  }
}

template <class T>
class TopK : public testing::Test {};
using Types = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(TopK, Types);

TYPED_TEST(TopK, MatchesAStableSort) {
  uint32_t seed = 1;
  for (Values values : {Values::normal, Values::few, Values::flat, Values::masked, Values::together, Values::ascending, Values::descending,
                        Values::special})
    for (int64_t width : {1, 63, 1000, 5003})
      for (int64_t k : {1, 2, 64, 999, 6000}) {
        Rows<TypeParam> x(3, width, values, ++seed, 5);
        for (TieBreak tie_break : kTieBreaks)
          for (bool sorted : {false, true}) expect_top_k(x, k, sorted, tie_break);
        if (this->HasFatalFailure()) FAIL() << "values " << int(values) << ", width " << width << ", k " << k;
      }
}

TYPED_TEST(TopK, PiecesOfOneRow) {
  for (Values values : {Values::normal, Values::few, Values::flat, Values::ascending, Values::special}) {
    Rows<TypeParam> x(1, 100003, values, 7);
    for (TieBreak tie_break : kTieBreaks)
      for (int64_t k : {1, 50, 2048, 60000}) expect_top_k(x, k, k == 50, tie_break);
  }
}

TEST(TopKTransforms, WindowsPagesAndOffsets) {
  const int64_t num_rows = 5, width = 700, k = 40, page_size = 8, pages = 150;
  Rows<float> x(num_rows, width, Values::few, 3, 3);
  std::vector<int32_t> lengths{700, 30, 0, 400, 5000}, starts{0, 11, 300, 600, 650}, page_starts{3, 50, 0, 20, 49}, batches{2, 0, 1, 1, 0},
      offsets{5, 0, 100, -3, 7};
  std::vector<int32_t> table(size_t(3 * pages));
  for (size_t i = 0; i < table.size(); ++i) table[i] = int32_t(i * 7 % 1000);
  auto array = [](std::vector<int32_t>& v) { return TensorView(v.data(), DType::i32, {int64_t(v.size())}); };
  auto matrix = [&](std::vector<int32_t>& v) {
    v.assign(size_t(num_rows * k), -9);
    return TensorView(v.data(), DType::i32, {num_rows, k});
  };
  std::vector<int32_t> out, raw, ragged;
  for (TieBreak tie_break : kTieBreaks) {
    const TensorView out_view = matrix(out), raw_view = matrix(raw), ragged_view = matrix(ragged);
    top_k_page_table_transform(x.view(), TensorView(table.data(), DType::i32, {3, pages}), array(lengths), k, out_view,
                               {array(batches), array(starts), array(page_starts), page_size, raw_view}, tie_break);
    top_k_ragged_transform(x.view(), array(offsets), array(lengths), k, ragged_view, array(starts), tie_break);
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t length = std::min<int64_t>(lengths[size_t(row)], width - starts[size_t(row)]);
      const std::vector<int64_t> expected = select(x.at(row) + starts[size_t(row)], length, k, false, tie_break);
      for (int64_t j = 0; j < k; ++j) {
        const size_t at = size_t(row * k + j);
        if (j >= int64_t(expected.size())) {
          EXPECT_EQ(out[at], -1);
          EXPECT_EQ(raw[at], -1);
          EXPECT_EQ(ragged[at], -1);
          continue;
        }
        const int64_t i = expected[size_t(j)];
        EXPECT_EQ(raw[at], i);
        EXPECT_EQ(ragged[at], i + offsets[size_t(row)]);
        EXPECT_EQ(out[at],
                  table[size_t(batches[size_t(row)] * pages + page_starts[size_t(row)] + i / page_size)] * page_size + i % page_size);
      }
    }
  }
}

TEST(TopKVarlen, LengthsOfSpeculativeRows) {
  const int64_t requests = 3, next_n = 2, compress_ratio = 4, width = 100, k = 8, num_rows = requests * next_n;
  Rows<bf16> x(num_rows, width, Values::normal, 5);
  std::vector<int32_t> lengths{400, 21, 1}, indices(size_t(num_rows * k), -9);
  std::vector<bf16> values(size_t(num_rows * k), from_float<bf16>(9));
  top_k_varlen(x.view(), TensorView(lengths.data(), DType::i32, {requests}), k, TensorView(indices.data(), DType::i32, {num_rows, k}),
               TensorView(values.data(), DType::bf16, {num_rows, k}), next_n, compress_ratio);
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t length = std::max<int64_t>(0, (lengths[size_t(row / next_n)] - next_n + row % next_n + 1) / compress_ratio);
    const std::vector<int64_t> expected = select(x.at(row), length, k, false, TieBreak::small);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t index = indices[size_t(row * k + j)];
      EXPECT_EQ(index, j < int64_t(expected.size()) ? expected[size_t(j)] : -1);
      EXPECT_TRUE(same(values[size_t(row * k + j)], index < 0 ? bf16{0} : x.at(row)[index]));
    }
  }
}

TEST(TopKChecks, NameTheArgument) {
  Rows<float> x(4, 64, Values::normal, 1);
  std::vector<float> values(4 * 8);
  std::vector<int64_t> indices(4 * 8);
  const TensorView v(values.data(), DType::f32, {4, 8}), i(indices.data(), DType::i64, {4, 8});
  auto refused = [](const char* argument, auto&& call) {
    try {
      call();
      ADD_FAILURE() << "not refused: " << argument;
    } catch (const InvalidArgument& e) {
      EXPECT_EQ(e.argument, argument) << e.what();
    }
  };
  refused("k", [&] { top_k(x.view(), 0, v, i); });
  refused("values", [&] { top_k(x.view(), 7, v, i); });
  refused("indices", [&] { top_k(x.view(), 8, v, v); });
  refused("values", [&] { top_k(x.view(), 8, TensorView(x.data.data(), DType::f32, {4, 8}), i); });
  TensorView transposed = x.view();
  std::swap(transposed.strides[0], transposed.strides[1]);
  refused("input", [&] { top_k(transposed, 8, v, i); });
  std::vector<int32_t> table(4 * 64), lengths(4, 64), batches{0, 1, 4, 2}, out(4 * 8);
  const TensorView t(table.data(), DType::i32, {4, 64}), l(lengths.data(), DType::i32, {4}), o(out.data(), DType::i32, {4, 8});
  refused("page_size", [&] { top_k_page_table_transform(x.view(), t, l, 8, o, {.page_size = 3}); });
  refused("row_to_batch",
          [&] { top_k_page_table_transform(x.view(), t, l, 8, o, {.row_to_batch = TensorView(batches.data(), DType::i32, {4})}); });
  refused("page_table_row_starts", [&] { top_k_page_table_transform(x.view(), t, l, 8, o, {.row_starts = l, .page_size = 2}); });
  refused("logits", [&] { top_k_varlen(x.view(), l, 8, o, {}, 3); });
}

// ---- the GPU path, without a GPU -------------------------------------------------------------------------------------

TEST(TopKLaunch, AClusterARow) {
  auto launched = [](Arch arch, int64_t num_rows, int64_t width, int64_t k) {
    RecordingKernels kernels(device_info_of(arch));
    const Device gpu{DeviceType::cuda, 0};
    auto at = [&](int place, DType dtype, std::initializer_list<int64_t> shape) {
      return TensorView(reinterpret_cast<void*>(uintptr_t(place) << 40), dtype, shape, gpu);
    };
    top_k(at(1, DType::f32, {num_rows, width}), k, at(2, DType::f32, {num_rows, k}), at(3, DType::i64, {num_rows, k}), false,
          TieBreak::small, {gpu, nullptr, &kernels});
    EXPECT_EQ(kernels.launches.size(), num_rows ? 1u : 0u);
    return num_rows ? kernels.launches[0].shape : LaunchShape{};
  };
  const LaunchShape one = launched({90, 'a'}, 1, 128256, 64);
  EXPECT_EQ(one.cluster.x, 16u);
  EXPECT_EQ(one.grid.x, 16u);
  EXPECT_EQ(one.block.x, 512u);
  EXPECT_EQ(launched({90, 'a'}, 8, 128256, 64).cluster.x, 8u);      // as many of 16 do not fit at once
  const LaunchShape sixteen = launched({90, 'a'}, 16, 128256, 65);  // two blocks an SM, each with a ring of four stages
  EXPECT_EQ(sixteen.cluster.x, 6u);
  EXPECT_GT(sixteen.smem_bytes, 4 * 512 * 16);
  EXPECT_LE(2 * (sixteen.smem_bytes + 1024), device_info_of({90, 'a'}).smem_per_sm);
  EXPECT_EQ(sixteen.block.x, 512u);
  const LaunchShape thirty = launched({90, 'a'}, 30, 128256, 65), sixty = launched({90, 'a'}, 60, 128256, 65);
  EXPECT_EQ(thirty.cluster.x, 4u);
  EXPECT_GT(thirty.smem_bytes, 8 * 512 * 16);
  EXPECT_EQ(launched({90, 'a'}, 19, 128256, 65).cluster.x, 4u);
  EXPECT_EQ(launched({90, 'a'}, 32, 128256, 65).cluster.x, 6u);
  EXPECT_EQ(sixty.cluster.x, 4u);  // as many as run at the same time
  EXPECT_EQ(sixty.block.x, 512u);
  EXPECT_EQ(launched({90, 'a'}, 63, 128256, 65).cluster.x, 2u);
  EXPECT_EQ(launched({120, 'a'}, 1, 128256, 64).cluster.x, 8u);
  EXPECT_EQ(launched({90, 'a'}, 1, 4096, 64).cluster.x, 1u);
  EXPECT_EQ(launched({80, 0}, 1, 128256, 64).cluster.x, 1u);
  const LaunchShape many = launched({90, 'a'}, 512, 128256, 64);
  EXPECT_EQ(many.cluster.x, 1u);
  EXPECT_EQ(many.grid.x, 512u);
  EXPECT_EQ(many.block.x, 512u);
  launched({90, 'a'}, 0, 128256, 64);
}

TEST(TopKTuning, EveryConfigFits) {
  for (int number : {75, 80, 86, 90, 100, 110, 120})
    for (DType dtype : {DType::f32, DType::bf16})
      for (int64_t num_rows : {1, 8, 16, 20, 32, 60, 132, 100000})
        for (int32_t width : {0, 1, 5000, 128256, 1 << 20})
          for (int32_t k : {1, 64, 257, 2048, 100000}) {
            const DeviceInfo device = device_info_of({int16_t(number), 0});
            const TopkConfig c = gpu::tune(gpu::TopkProblem{dtype, num_rows, width, k}, device);
            const int capacity = gpu::topk_capacity(gpu::TopkProblem{dtype, num_rows, width, k}, device);
            EXPECT_TRUE(is_power_of_two(capacity));
            EXPECT_LE(c.smem_bytes(capacity), device.smem_per_block);
            EXPECT_LE(c.cluster, number < 90 ? 1 : number < 110 ? 16 : 8);
            if (k <= 1024) {
              EXPECT_LE(4 * k, capacity);
            }
          }
}

TEST(TopKTuning, PrecompiledListHasNoSurprises) {
  std::set<std::string> texts;
  gpu::for_each_tuned_topk({90, 'a'}, [&](const TopkConfig& config) { texts.insert(text_of(config)); });
  EXPECT_GE(texts.size(), 9u);
  EXPECT_LE(texts.size(), 24u);  // eight ways to spread rows of three types
  EXPECT_TRUE(texts.count(text_of(TopkConfig{}))) << "the default config is not among them: " << text_of(TopkConfig{});
}

}  // namespace
}  // namespace flashinfer
