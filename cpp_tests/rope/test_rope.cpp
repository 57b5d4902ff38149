// RoPE against a reference in double: every source of angles, layout, dtype and stride; and the shapes of its launches.
#include <gtest/gtest.h>

#include <cmath>
#include <flashinfer/core/number.hpp>
#include <flashinfer/rope/rope.hpp>
#include <limits>
#include <random>
#include <vector>

namespace flashinfer {
namespace {

/// cos and sin of a pair's angle.
using Angle = std::pair<double, double>;

double reference_frequency(const RopeOptions& o, int64_t rotary_dim, int64_t i) {
  const double frequency = std::pow(o.rope_theta, -2.0 * double(i) / double(rotary_dim));
  if (!o.llama31) return frequency / o.rope_scale;
  const double wavelength = 2 * M_PI / frequency;
  if (wavelength < o.old_context_len / o.high_freq_factor) return frequency;
  if (wavelength > o.old_context_len / o.low_freq_factor) return frequency / o.rope_scale;
  const double smooth = (o.old_context_len / wavelength - o.low_freq_factor) / (o.high_freq_factor - o.low_freq_factor);
  return (1 - smooth) * frequency / o.rope_scale + smooth * frequency;
}

Angle reference_angle(const RopeOptions& o, int64_t rotary_dim, int64_t i, int64_t position) {
  const double angle = double(position) * reference_frequency(o, rotary_dim, i);
  return {std::cos(angle), std::sin(angle)};
}

template <class T>
struct Heads {
  int64_t tokens, heads, dim, stride_token, stride_head;
  std::vector<T> data;
  Heads(int64_t tokens, int64_t heads, int64_t dim, int64_t pad_token, int64_t pad_head)
      : tokens(tokens),
        heads(heads),
        dim(dim),
        stride_token(heads * (dim + pad_head) + pad_token),
        stride_head(dim + pad_head),
        data(size_t(tokens * stride_token + 1), from_float<T>(std::numeric_limits<float>::quiet_NaN())) {}
  void randomise(std::mt19937& generator) {
    std::normal_distribution<float> normal;
    each([&](int64_t t, int64_t h, int64_t d) { at(t, h, d) = from_float<T>(normal(generator)); });
  }
  T& at(int64_t t, int64_t h, int64_t d) { return data[size_t(t * stride_token + h * stride_head + d)]; }
  template <class F>
  void each(const F& f) const {
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < dim; ++d) f(t, h, d);
  }
  TensorView view() {
    TensorView v(data.data(), dtype_v<T>, {tokens, heads, dim});
    v.strides[0] = stride_token, v.strides[1] = stride_head;
    return v;
  }
};

/// Relative error of `out` against `in` turned by angle(token, pair), which counts every element.
template <class T, class F>
double error_of(Heads<T>& in, Heads<T>& out, int64_t rotary_dim, bool interleave, const F& angle) {
  double squares = 0, norm = 0;
  in.each([&](int64_t t, int64_t h, int64_t d) {
    double expected = to_float(in.at(t, h, d));
    if (d < rotary_dim) {
      const int64_t half = rotary_dim / 2, pair = interleave ? d / 2 : d % half;
      const bool first = interleave ? d % 2 == 0 : d < half;
      const int64_t other = interleave ? d ^ 1 : (first ? d + half : d - half);
      const auto [cos, sin] = angle(t, pair);
      expected = expected * cos + (first ? -sin : sin) * to_float(in.at(t, h, other));
    }
    const double difference = to_float(out.at(t, h, d)) - expected;
    squares += difference * difference;
    norm += expected * expected;
  });
  EXPECT_FALSE(std::isnan(squares));
  return norm > 0 ? std::sqrt(squares / norm) : squares;
}

template <class T>
constexpr double kBound = is_same_v<T, bf16>  ? 2e-3
                          : is_same_v<T, f16> ? 3e-4
                                              : 2e-7;

template <class T>
void check_pos_ids(int64_t tokens, int64_t head_dim, RopeOptions options, int64_t farthest, bool in_place, int64_t pad) {
  std::mt19937 generator(uint32_t(tokens + head_dim * 131 + farthest));
  Heads<T> q(tokens, 3, head_dim, pad, pad), k(tokens, 2, head_dim, 2 * pad, 0), q_out(tokens, 3, head_dim, 0, 0),
      k_out(tokens, 2, head_dim, 0, pad);
  q.randomise(generator);
  k.randomise(generator);
  Heads<T> q_in = q, k_in = k;
  std::vector<int64_t> positions(size_t(tokens) + 1);
  for (int64_t& p : positions) p = int64_t(generator() % uint32_t(farthest + 1));
  if (tokens > 1) positions[1] = -positions[1];
  const TensorView pos_ids(positions.data(), DType::i64, {tokens});
  apply_rope_pos_ids(q.view(), k.view(), pos_ids, in_place ? q.view() : q_out.view(), in_place ? k.view() : k_out.view(), options);
  const int64_t rotary_dim = options.rotary_dim ? options.rotary_dim : head_dim;
  const auto angle = [&](int64_t t, int64_t pair) { return reference_angle(options, rotary_dim, pair, positions[size_t(t)]); };
  EXPECT_LT(error_of(q_in, in_place ? q : q_out, rotary_dim, options.interleave, angle), kBound<T>);
  EXPECT_LT(error_of(k_in, in_place ? k : k_out, rotary_dim, options.interleave, angle), kBound<T>);
}

template <class T>
class Rope : public testing::Test {};
using Dtypes = testing::Types<f16, bf16, float>;
TYPED_TEST_SUITE(Rope, Dtypes);

TYPED_TEST(Rope, PosIds) {
  for (bool interleave : {false, true})
    for (bool in_place : {false, true})
      for (auto [head_dim, rotary_dim] : {std::pair<int64_t, int64_t>{128, 0}, {64, 64}, {80, 0}, {128, 32}, {7, 6}, {2, 2}, {512, 512}}) {
        RopeOptions options;
        options.rotary_dim = rotary_dim, options.interleave = interleave, options.rope_scale = 1.5;
        check_pos_ids<TypeParam>(5, head_dim, options, 4000, in_place, rotary_dim % 3);
        check_pos_ids<TypeParam>(0, head_dim, options, 4000, in_place, 0);
        options = llama31_rope_options();
        options.rotary_dim = rotary_dim, options.interleave = interleave;
        check_pos_ids<TypeParam>(300, head_dim, options, 130000, in_place, 1);
      }
}

TYPED_TEST(Rope, FarPositionsAreAsAccurateAsNearOnes) {
  for (double theta : {1e4, 5e5, 1e7}) {
    RopeOptions options;
    options.rope_theta = theta;
    check_pos_ids<TypeParam>(200, 128, options, 1000000, false, 0);
    options.rope_scale = 0.05;  // more than a turn a position
    check_pos_ids<TypeParam>(200, 128, options, 1000000, false, 0);
  }
}

TYPED_TEST(Rope, FrequenciesFollowEveryOption) {
  // One after the other, since a thread keeps the last frequencies.
  RopeOptions options;
  for (int64_t head_dim : {64, 128, 64}) check_pos_ids<TypeParam>(5, head_dim, options, 4000, false, 0);
  options.rope_theta = 3e4;
  check_pos_ids<TypeParam>(5, 64, options, 4000, false, 0);
  options.rope_scale = 3;
  check_pos_ids<TypeParam>(5, 64, options, 4000, false, 0);
  options.llama31 = true;
  check_pos_ids<TypeParam>(5, 64, options, 4000, false, 0);
  options.low_freq_factor = 2;
  check_pos_ids<TypeParam>(5, 64, options, 4000, false, 0);
}

TYPED_TEST(Rope, Offsets) {
  const std::vector<int32_t> indptr{0, 3, 3, 10, 11}, offsets{100000, 5, 0, 7};
  const std::vector<int64_t> positions{100000, 100001, 100002, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0};  // two tokens of no request
  std::mt19937 generator(3);
  Heads<TypeParam> q(13, 2, 64, 0, 0), k(13, 1, 64, 0, 0), q_out(13, 2, 64, 0, 0), k_out(13, 1, 64, 0, 0);
  q.randomise(generator);
  k.randomise(generator);
  for (DType index : {DType::i32, DType::i64}) {
    std::vector<int64_t> wide_indptr(indptr.begin(), indptr.end()), wide_offsets(offsets.begin(), offsets.end());
    const bool wide = index == DType::i64;
    TensorView indptr_view(wide ? (void*)wide_indptr.data() : (void*)indptr.data(), index, {5});
    TensorView offsets_view(wide ? (void*)wide_offsets.data() : (void*)offsets.data(), index, {4});
    apply_rope(q.view(), k.view(), indptr_view, offsets_view, q_out.view(), k_out.view());
    const auto angle = [&](int64_t t, int64_t pair) { return reference_angle({}, 64, pair, positions[size_t(t)]); };
    EXPECT_LT(error_of(q, q_out, 64, false, angle), kBound<TypeParam>);
    EXPECT_LT(error_of(k, k_out, 64, false, angle), kBound<TypeParam>);
  }
}

template <class T, class Cache>
void check_cache(bool interleave) {
  constexpr int64_t kRows = 50, kRotary = 48;
  std::mt19937 generator(9);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<Cache> table(size_t(kRows * (kRotary + 8)));
  for (Cache& x : table) x = from_float<Cache>(uniform(generator));
  TensorView cache(table.data(), dtype_v<Cache>, {kRows, kRotary});
  cache.strides[0] = kRotary + 8;
  Heads<T> q(20, 3, 64, 0, 0), k(20, 1, 64, 0, 0), q_out(20, 3, 64, 0, 0), k_out(20, 1, 64, 0, 0);
  q.randomise(generator);
  k.randomise(generator);
  std::vector<int32_t> positions(20);
  for (int32_t& p : positions) p = int32_t(generator() % kRows);
  apply_rope_with_cos_sin_cache({positions.data(), DType::i32, {20}}, q.view(), k.view(), cache, q_out.view(), k_out.view(), interleave);
  const auto angle = [&](int64_t t, int64_t pair) {
    const Cache* row = table.data() + positions[size_t(t)] * (kRotary + 8) + pair;
    return Angle{to_float(row[0]), to_float(row[kRotary / 2])};
  };
  EXPECT_LT(error_of(q, q_out, kRotary, interleave, angle), kBound<T>);
  EXPECT_LT(error_of(k, k_out, kRotary, interleave, angle), kBound<T>);
}

TYPED_TEST(Rope, CosSinCache) {
  for (bool interleave : {false, true}) {
    check_cache<TypeParam, float>(interleave);
    check_cache<TypeParam, f16>(interleave);
    check_cache<TypeParam, bf16>(interleave);
  }
}

TEST(RopeAngles, AreExactToTheLastBits) {
  double worst = 0;
  std::mt19937_64 generator(1);
  for (int i = 0; i < 1000000; ++i) {
    const uint32_t turn = i < 64 ? uint32_t(i) * 0x04000000u : uint32_t(generator());
    const double angle = double(turn) * 0x1p-32 * 2 * M_PI;
    const CosSin got = cos_sin_of_turn(turn);
    worst = std::max({worst, std::abs(got.cos - std::cos(angle)), std::abs(got.sin - std::sin(angle))});
  }
  EXPECT_LT(worst, 1.3e-7);
  EXPECT_GT(worst, 0);
}

struct Call {
  std::vector<float> memory = std::vector<float>(4096);
  std::vector<int32_t> index = std::vector<int32_t>(16);
  TensorView q{memory.data(), DType::f32, {4, 2, 8}}, k{memory.data() + 512, DType::f32, {4, 1, 8}};
  TensorView pos_ids{index.data(), DType::i32, {4}};
  TensorView q_out{memory.data() + 1024, DType::f32, {4, 2, 8}}, k_out{memory.data() + 2048, DType::f32, {4, 1, 8}};
  RopeOptions options;
  void operator()() { apply_rope_pos_ids(q, k, pos_ids, q_out, k_out, options); }
};

TEST(RopeChecks, RefuseWhatTheyCanNotTake) {
  const auto refused = [](auto change) {
    Call call;
    EXPECT_NO_THROW(call());
    change(call);
    EXPECT_THROW(call(), InvalidArgument);
  };
  refused([](Call& c) { c.options.rotary_dim = 3; });
  refused([](Call& c) { c.options.rotary_dim = 10; });
  refused([](Call& c) { c.options.rotary_dim = -2; });
  refused([](Call& c) { c.options.rope_theta = 0; });
  refused([](Call& c) { c.options.rope_scale = -1; });
  refused([](Call& c) { c.options.llama31 = true, c.options.high_freq_factor = 1; });
  refused([](Call& c) { c.k.shape[2] = 4; });
  refused([](Call& c) { c.k.dtype = DType::f16; });
  refused([](Call& c) { c.q.dtype = DType::i32; });
  refused([](Call& c) { c.q.strides[2] = 2; });
  refused([](Call& c) { c.q_out.strides[1] = 0; });
  refused([](Call& c) { c.q_out.data = c.memory.data() + 4; });
  refused([](Call& c) { c.pos_ids.shape[0] = 3; });
  refused([](Call& c) { c.pos_ids.dtype = DType::f32; });
  refused([](Call& c) { c.q.device = {DeviceType::cuda, 0}; });
}

TEST(RopeChecks, PositionsLieInTheCache) {
  Call c;
  const auto call = [&] {
    apply_rope_with_cos_sin_cache(c.pos_ids, c.q, c.k, {c.memory.data() + 3072, DType::f32, {10, 8}}, c.q_out, c.k_out);
  };
  EXPECT_NO_THROW(call());
  c.index[2] = 10;
  EXPECT_THROW(call(), InvalidArgument);
  c.index[2] = -1;
  EXPECT_THROW(call(), InvalidArgument);
}

class RopeLaunch : public testing::Test {
 protected:
  RecordingKernels kernels{device_info_of({90, 'a'})};
  const Device gpu{DeviceType::cuda, 0};
  const Context context{gpu, nullptr, &kernels, true};
  TensorView at(int n, DType dtype, std::initializer_list<int64_t> shape) {
    return TensorView(reinterpret_cast<void*>(uintptr_t(n) << 40), dtype, shape, gpu);
  }
  const RecordingKernels::Launch& last() { return kernels.launches.back(); }
};

TEST_F(RopeLaunch, FewTokensGetABlockEach) {
  const TensorView q = at(1, DType::bf16, {4, 32, 128}), k = at(2, DType::bf16, {4, 8, 128});
  apply_rope_pos_ids(q, k, at(3, DType::i32, {4}), q, k, {}, context);
  EXPECT_EQ(last().shape.grid, (Dim3{4, 1, 1}));
  EXPECT_EQ(last().shape.block, (Dim3{256, 1, 1}));
  EXPECT_EQ(last().text.kernel,
            "RopeKernel<RopeConfig{.dtype=DType::bf16, .head_dim=128, .rotary_dim=128, .vec=8, .interleave=false, .angle=RopeAngle(1), "
            ".index=DType::i32, .cache=DType::f32, .tokens=1}>");
  EXPECT_EQ(last().params.size(), sizeof(RopeFrequencyParams));
}

TEST_F(RopeLaunch, ManyTokensShareBlocks) {
  const TensorView q = at(1, DType::f16, {4097, 32, 64}), k = at(2, DType::f16, {4097, 8, 64});
  apply_rope_with_cos_sin_cache(at(3, DType::i64, {4097}), q, k, at(4, DType::f32, {1000, 64}), q, k, false, context);
  EXPECT_EQ(last().shape.grid, (Dim3{1025, 1, 1}));
  EXPECT_EQ(last().params.size(), sizeof(RopeParams));
}

TEST_F(RopeLaunch, TheVectorFitsPointersAndStrides) {
  const auto vec_of = [&](int64_t head_dim, int64_t rotary_dim, int64_t stride, int64_t shift) {
    TensorView q = at(1, DType::bf16, {4, 2, head_dim}), k = at(2, DType::bf16, {4, 2, head_dim});
    q.strides[0] = stride;
    q.data = static_cast<char*>(q.data) + shift;
    RopeOptions options;
    options.rotary_dim = rotary_dim;
    apply_rope_pos_ids(q, k, at(3, DType::i32, {4}), q, k, options, context);
    const std::string text = last().text.kernel;
    return text.substr(text.find(".vec=") + 5, 1);
  };
  EXPECT_EQ(vec_of(128, 128, 768, 0), "8");
  EXPECT_EQ(vec_of(128, 128, 772, 0), "4");
  EXPECT_EQ(vec_of(128, 128, 768, 4), "2");
  EXPECT_EQ(vec_of(128, 128, 769, 0), "1");
  EXPECT_EQ(vec_of(128, 8, 768, 0), "4");
  EXPECT_EQ(vec_of(72, 64, 768, 0), "8");
  EXPECT_EQ(vec_of(66, 64, 768, 0), "2");
}

TEST_F(RopeLaunch, NothingToDoLaunchesNothing) {
  const TensorView q = at(1, DType::bf16, {0, 32, 128}), k = at(2, DType::bf16, {0, 8, 128});
  apply_rope_pos_ids(q, k, at(3, DType::i32, {0}), q, k, {}, context);
  const TensorView no_heads = at(1, DType::bf16, {4, 0, 128});
  apply_rope_pos_ids(no_heads, no_heads, at(3, DType::i32, {4}), no_heads, no_heads, {}, context);
  EXPECT_TRUE(kernels.launches.empty());
}

}  // namespace
}  // namespace flashinfer
