// The kernels of rope, append_paged_kv_cache, get_batch_indices_positions, get_seq_lens, merge_state and packbits, emulated: each op
// is called as on a GPU, what it would launch is written down, and the kernel runs that. The results are the CPU twin's, bit by bit
// but for the rounding of sums.
#include <flashinfer/attention/merge_state.hpp>
#include <flashinfer/page/append_paged_kv_cache.hpp>
#include <flashinfer/page/get_batch_indices_positions.hpp>
#include <flashinfer/page/get_seq_lens.hpp>
#include <flashinfer/quantization/packbits.hpp>
#include <flashinfer/rope/rope.hpp>

#include <gtest/gtest.h>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/attention/gpu/merge_state_kernel.cuh>
#include <flashinfer/page/gpu/append_paged_kv_cache_kernel.cuh>
#include <flashinfer/page/gpu/get_batch_indices_positions_kernel.cuh>
#include <flashinfer/page/gpu/get_seq_lens_kernel.cuh>
#include <flashinfer/quantization/gpu/packbits_kernel.cuh>
#include <flashinfer/rope/gpu/rope_kernel.cuh>

namespace flashinfer {
namespace {

constexpr Device kGpu{DeviceType::cuda, 0};

/// Calls op(device, context) to learn the launch, and runs the kernel as launched.
template <class Kernel, class Config, class Op>
void emulate(const Config& config, const Op& op) {
  RecordingKernels kernels(device_info_of({90, 'a'}));
  op(kGpu, Context{kGpu, nullptr, &kernels});
  ASSERT_EQ(kernels.launches.size(), 1u);
  const RecordingKernels::Launch& launch = kernels.launches[0];
  ASSERT_EQ(launch.text.kernel, std::string(Config::kKernel) + "<" + text_of(config) + ">");
  ASSERT_EQ(launch.shape.block.x, unsigned(Kernel::kThreads));
  typename Kernel::Params params;
  ASSERT_EQ(launch.params.size(), sizeof(params));
  std::memcpy(&params, launch.params.data(), sizeof(params));
  const Dim3 grid = launch.shape.grid;
  emulation::Block::run_grid(emulation::Index{grid.x, grid.y, grid.z}, launch.shape.block.x, 0, 1, [&] { Kernel::run(params); });
}

std::mt19937 generator(7);

template <class T>
std::vector<T> random_numbers(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<T> data(size_t(count) + 1);
  for (T& x : data) x = from_float<T>(normal(generator));
  return data;
}

template <class T>
TensorView view(Device device, const std::vector<T>& data, DType dtype, std::initializer_list<int64_t> shape) {
  return TensorView(const_cast<T*>(data.data()), dtype, shape, device);
}

/// Of the same bits, or off by at most a rounding.
template <class T>
void expect_near(const std::vector<T>& a, const std::vector<T>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) == 0) continue;
    const float x = to_float(a[i]), y = to_float(b[i]);
    ASSERT_LE(std::abs(x - y), (is_same_v<T, bf16>  ? 8e-3f
                                : is_same_v<T, f16> ? 1e-3f
                                                    : 1e-5f) *
                                   std::max(std::abs(x), 1e-2f))
        << "element " << i;
  }
}

template <RopeConfig kConfig, int64_t kTokens>
void expect_rope(bool in_place) {
  using T = number_t<kConfig.dtype>;
  constexpr int64_t kDim = kConfig.head_dim, kQHeads = 3, kKHeads = 2, kCacheLen = 50;
  std::vector<T> q = random_numbers<T>(kTokens * kQHeads * kDim), k = random_numbers<T>(kTokens * kKHeads * kDim);
  const std::vector<float> cache = random_numbers<float>(kCacheLen * kConfig.rotary_dim);
  std::vector<int64_t> numbers;  // positions, or indptr and offsets
  for (int64_t i = 0; i < kTokens; ++i)
    numbers.push_back(kConfig.angle == RopeAngle::cache ? int64_t(generator() % kCacheLen) : int64_t(generator() % 2000000) - 1000000);
  if (kConfig.angle == RopeAngle::offsets) numbers = {0, 2, 2, kTokens - 1, 1000, 3, 0};
  const std::vector<int32_t> narrow(numbers.begin(), numbers.end());
  const auto index = [&](Device device, int64_t from, int64_t count) {
    return kConfig.index == DType::i32 ? TensorView(const_cast<int32_t*>(narrow.data()) + from, DType::i32, {count}, device)
                                       : TensorView(const_cast<int64_t*>(numbers.data()) + from, DType::i64, {count}, device);
  };
  const auto call = [&](std::vector<T>& q, std::vector<T>& k, std::vector<T>& q_out, std::vector<T>& k_out, Device device,
                        const Context& context) {
    const TensorView q_in = view(device, q, kConfig.dtype, {kTokens, kQHeads, kDim}),
                     k_in = view(device, k, kConfig.dtype, {kTokens, kKHeads, kDim});
    const TensorView q_to = in_place ? q_in : view(device, q_out, kConfig.dtype, {kTokens, kQHeads, kDim});
    const TensorView k_to = in_place ? k_in : view(device, k_out, kConfig.dtype, {kTokens, kKHeads, kDim});
    RopeOptions options;
    options.rotary_dim = kConfig.rotary_dim, options.interleave = kConfig.interleave;
    if (kConfig.angle == RopeAngle::offsets)
      apply_rope(q_in, k_in, index(device, 0, 4), index(device, 4, 3), q_to, k_to, options, context);
    else if (kConfig.angle == RopeAngle::positions)
      apply_rope_pos_ids(q_in, k_in, index(device, 0, kTokens), q_to, k_to, options, context);
    else
      apply_rope_with_cos_sin_cache(index(device, 0, kTokens), q_in, k_in, view(device, cache, DType::f32, {kCacheLen, kConfig.rotary_dim}),
                                    q_to, k_to, kConfig.interleave, context);
  };
  std::vector<T> q_twin = q, k_twin = k, q_out(q.size(), from_float<T>(NAN)), k_out(k.size(), from_float<T>(NAN)), q_out_twin = q_out,
                 k_out_twin = k_out;
  emulate<RopeKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(q, k, q_out, k_out, device, context); });
  call(q_twin, k_twin, q_out_twin, k_out_twin, {}, {});
  expect_near(in_place ? q : q_out, in_place ? q_twin : q_out_twin);
  expect_near(in_place ? k : k_out, in_place ? k_twin : k_out_twin);
}

TEST(RopeKernel, MatchesItsTwin) {
  for (bool in_place : {false, true}) {
    expect_rope<RopeConfig{DType::bf16, 64, 64, 8, false, RopeAngle::offsets, DType::i32, DType::f32, 1}, 9>(in_place);
    expect_rope<RopeConfig{DType::f16, 64, 32, 8, true, RopeAngle::positions, DType::i64, DType::f32, 4}, 261>(in_place);
    expect_rope<RopeConfig{DType::bf16, 66, 64, 2, false, RopeAngle::cache, DType::i32, DType::f32, 1}, 11>(in_place);
    expect_rope<RopeConfig{DType::f32, 128, 128, 4, false, RopeAngle::positions, DType::i32, DType::f32, 1}, 5>(in_place);
    expect_rope<RopeConfig{DType::f32, 7, 6, 1, true, RopeAngle::offsets, DType::i64, DType::f32, 4}, 300>(in_place);
  }
}

template <int64_t kHeads, int64_t kDim, int64_t kDimVo, int kVecBytes>
void expect_append() {
  constexpr AppendPagedKvCacheConfig kConfig{int(kDim * 2), int(kDimVo * 2), kVecBytes};
  constexpr int64_t kTokens = 23, kPages = 8, kPageSize = 3;
  const std::vector<bf16> key = random_numbers<bf16>(kTokens * kHeads * kDim), value = random_numbers<bf16>(kTokens * kHeads * kDimVo);
  const std::vector<int32_t> indptr{0, 2, 2, 5, 6}, indices{5, 2, 0, 7, 1, 6}, last(4);
  std::vector<int32_t> batch_indices, positions;
  for (int32_t t = 0; t < kTokens; ++t)
    batch_indices.push_back(t % 7 - 1), positions.push_back(t / 7 * 4 + t % 3 - 1);  // also slots that do not exist
  std::vector<bf16> k(size_t(kPages * kPageSize * kHeads * kDim), bf16{0x7fc1}),
      v(size_t(kPages * kPageSize * kHeads * kDimVo), bf16{0x7fc1}), k_twin = k, v_twin = v;
  const auto call = [&](std::vector<bf16>& k, std::vector<bf16>& v, const std::vector<int32_t>& indices, Device device,
                        const Context& context) {
    append_paged_kv_cache(view(device, key, DType::bf16, {kTokens, kHeads, kDim}),
                          view(device, value, DType::bf16, {kTokens, kHeads, kDimVo}), view(device, batch_indices, DType::i32, {kTokens}),
                          view(device, positions, DType::i32, {kTokens}), view(device, k, DType::bf16, {kPages, kPageSize, kHeads, kDim}),
                          view(device, v, DType::bf16, {kPages, kPageSize, kHeads, kDimVo}), view(device, indices, DType::i32, {6}),
                          view(device, indptr, DType::i32, {5}), view(device, last, DType::i32, {4}), context);
  };
  emulate<AppendPagedKvCacheKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(k, v, indices, device, context); });
  call(k_twin, v_twin, indices, {}, {});
  EXPECT_EQ(std::memcmp(k.data(), k_twin.data(), k.size() * 2), 0);
  EXPECT_EQ(std::memcmp(v.data(), v_twin.data(), v.size() * 2), 0);
  EXPECT_NE(std::count_if(k.begin(), k.end(), [](bf16 x) { return x.bits != 0x7fc1; }), 0);
  // Page ids that the pool lacks: nothing is written.
  std::fill(k.begin(), k.end(), bf16{0x7fc1});
  const std::vector<int32_t> wrong{8, -1, 1 << 30, 8, 9, -5};
  emulate<AppendPagedKvCacheKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(k, v, wrong, device, context); });
  EXPECT_EQ(std::count_if(k.begin(), k.end(), [](bf16 x) { return x.bits != 0x7fc1; }), 0);
}

TEST(AppendPagedKvCacheKernel, MatchesItsTwin) {
  expect_append<9, 128, 64, 16>();
  expect_append<3, 20, 12, 8>();
  expect_append<1, 1, 3, 2>();
}

TEST(PageIndexKernels, MatchTheirTwins) {
  constexpr GetBatchIndicesPositionsConfig kPositions{DType::i32, DType::i64};
  const std::vector<int32_t> indptr{0, 0, 3, 3, 5, 6};
  const std::vector<int64_t> seq_lens{9, 3, 0, 100, 7};
  std::vector<int32_t> batch_indices(200, 9), positions(200, 9);
  emulate<GetBatchIndicesPositionsKernel<kPositions>>(kPositions, [&](Device device, const Context& context) {
    get_batch_indices_positions(view(device, indptr, DType::i32, {6}), view(device, seq_lens, DType::i64, {5}),
                                view(device, batch_indices, DType::i32, {200}), view(device, positions, DType::i32, {200}), context);
  });
  std::vector<int32_t> expected(200, -1), expected_positions(200, 0);
  const int32_t first[] = {1, 1, 1, 3, 3, 4}, first_positions[] = {0, 1, 2, 98, 99, 6};
  std::copy_n(first, 6, expected.begin());
  std::copy_n(first_positions, 6, expected_positions.begin());
  EXPECT_EQ(batch_indices, expected);
  EXPECT_EQ(positions, expected_positions);

  constexpr GetSeqLensConfig kLengths{DType::i32, DType::i64};
  const std::vector<int64_t> last_page_len{1, 2, 0, 4, 3};
  std::vector<int64_t> lens(6, 77);
  emulate<GetSeqLensKernel<kLengths>>(kLengths, [&](Device device, const Context& context) {
    get_seq_lens(view(device, indptr, DType::i32, {6}), view(device, last_page_len, DType::i64, {5}), 4,
                 view(device, lens, DType::i64, {5}), context);
  });
  EXPECT_EQ(lens, (std::vector<int64_t>{1, 10, 0, 8, 3, 77}));
}

template <MergeStateConfig kConfig, int64_t kStates>
void expect_merge() {
  using T = number_t<kConfig.dtype>;
  constexpr int64_t kTokens = 5, kHeads = 3, kDim = kConfig.head_dim;
  std::vector<T> v = random_numbers<T>(kTokens * kStates * kHeads * kDim);
  std::vector<float> s = random_numbers<float>(kTokens * kStates * kHeads);
  for (float& x : s) x = generator() % 4 ? 10 * x : -kInfinity;
  std::vector<T> v_out(size_t(kTokens * kHeads * kDim), from_float<T>(NAN)), v_twin = v_out;
  std::vector<float> s_out(size_t(kTokens * kHeads), NAN), s_twin = s_out;
  const auto call = [&](std::vector<T>& v_out, std::vector<float>& s_out, Device device, const Context& context) {
    merge_states(view(device, v, kConfig.dtype, {kTokens, kStates, kHeads, kDim}), view(device, s, DType::f32, {kTokens, kStates, kHeads}),
                 view(device, v_out, kConfig.dtype, {kTokens, kHeads, kDim}), view(device, s_out, DType::f32, {kTokens, kHeads}), context);
  };
  emulate<MergeStateKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(v_out, s_out, device, context); });
  call(v_twin, s_twin, {}, {});
  expect_near(v_out, v_twin);
  expect_near(s_out, s_twin);
}

TEST(MergeStateKernel, MatchesItsTwin) {
  expect_merge<MergeStateConfig{DType::bf16, 96, 8, true}, 2>();
  expect_merge<MergeStateConfig{DType::f16, 600, 8, false}, 5>();
  expect_merge<MergeStateConfig{DType::f32, 13, 1, true}, 2>();
  expect_merge<MergeStateConfig{DType::bf16, 64, 8, false}, 0>();
  expect_merge<MergeStateConfig{DType::bf16, 64, 8, false}, 1>();
}

TEST(MergeStateKernel, InPlaceEveryLaneReadsBeforeOneWrites) {
  constexpr MergeStateConfig kConfig{DType::f32, 48, 4, true};  // rows of 12 of 16 lanes
  constexpr int64_t kTokens = 9, kHeads = 5;
  std::vector<float> v = random_numbers<float>(kTokens * kHeads * 48), s = random_numbers<float>(kTokens * kHeads), v_twin = v, s_twin = s;
  const std::vector<float> other_v = random_numbers<float>(kTokens * kHeads * 48), other_s = random_numbers<float>(kTokens * kHeads);
  const std::vector<uint8_t> mask{1, 0, 1, 1, 0, 1, 1, 1, 0};
  const auto call = [&](std::vector<float>& v, std::vector<float>& s, Device device, const Context& context) {
    merge_state_in_place(view(device, v, DType::f32, {kTokens, kHeads, 48}), view(device, s, DType::f32, {kTokens, kHeads}),
                         view(device, other_v, DType::f32, {kTokens, kHeads, 48}), view(device, other_s, DType::f32, {kTokens, kHeads}),
                         view(device, mask, DType::u8, {kTokens}), context);
  };
  emulate<MergeStateKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(v, s, device, context); });
  call(v_twin, s_twin, {}, {});
  expect_near(v, v_twin);
  expect_near(s, s_twin);
}

TEST(PackbitsKernel, MatchesItsTwin) {
  constexpr PackbitsConfig kWhole{BitOrder::little, false, DType::i32}, kSegments{BitOrder::big, true, DType::i64};
  std::vector<uint8_t> x(5003), y(626, 7), y_twin(626, 7);
  for (uint8_t& b : x) b = generator() % 2 ? uint8_t(generator() % 255 + 1) : 0;
  emulate<PackbitsKernel<kWhole>>(kWhole, [&](Device device, const Context& context) {
    packbits(view(device, x, DType::u8, {5003}), view(device, y, DType::u8, {626}), BitOrder::little, context);
  });
  packbits(view({}, x, DType::u8, {5003}), view({}, y_twin, DType::u8, {626}), BitOrder::little);
  EXPECT_EQ(y, y_twin);

  const std::vector<int64_t> indptr{0, 0, 3, 1003, 1003, 4000, 5003};
  std::vector<uint8_t> packed(700, 9), packed_twin = packed;
  std::vector<int32_t> packed_indptr(7, 1), packed_indptr_twin(7, 2);
  const auto call = [&](std::vector<uint8_t>& y, std::vector<int32_t>& y_indptr, Device device, const Context& context) {
    segment_packbits(view(device, x, DType::u8, {5003}), view(device, indptr, DType::i64, {7}), view(device, y, DType::u8, {700}),
                     view(device, y_indptr, DType::i32, {7}), BitOrder::big, context);
  };
  emulate<PackbitsKernel<kSegments>>(kSegments,
                                     [&](Device device, const Context& context) { call(packed, packed_indptr, device, context); });
  call(packed_twin, packed_indptr_twin, {}, {});
  EXPECT_EQ(packed, packed_twin);
  EXPECT_EQ(packed_indptr, packed_indptr_twin);
}

TEST(PackbitsKernel, WritesNothingBehindItsOutput) {
  constexpr PackbitsConfig kConfig{BitOrder::big, true, DType::i32};
  const std::vector<uint8_t> x(64, 1);
  const std::vector<int32_t> wrong{0, 40, 1000, -5};  // leaves x, and needs more than there is room for
  std::vector<uint8_t> y(10, 9);
  std::vector<int32_t> packed_indptr(4);
  emulate<PackbitsKernel<kConfig>>(kConfig, [&](Device device, const Context& context) {
    segment_packbits(view(device, x, DType::u8, {64}), view(device, wrong, DType::i32, {4}), view(device, y, DType::u8, {6}),
                     view(device, packed_indptr, DType::i32, {4}), BitOrder::big, context);
  });
  EXPECT_EQ(y, (std::vector<uint8_t>{255, 255, 255, 255, 255, 255, 9, 9, 9, 9}));
}

}  // namespace
}  // namespace flashinfer
