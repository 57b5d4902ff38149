// merge_state, merge_state_in_place and merge_states against sums in double, and the shapes of their launches.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <flashinfer/attention/merge_state.hpp>
#include <limits>
#include <random>
#include <vector>

namespace flashinfer {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// [num_tokens, num_states, num_heads, head_dim] and [num_tokens, num_states, num_heads], with gaps of NaN.
template <class T>
struct StateArray {
  int64_t tokens, states, heads, dim, gap;
  std::vector<T> v;
  std::vector<float> s;
  StateArray(int64_t tokens, int64_t states, int64_t heads, int64_t dim, int64_t gap = 0)
      : tokens(tokens),
        states(states),
        heads(heads),
        dim(dim),
        gap(gap),
        v(size_t(tokens * states * heads * (dim + gap) + 1), from_float<T>(kNan)),
        s(size_t(tokens * states * heads * (1 + gap) + 1), kNan) {}
  T& v_at(int64_t t, int64_t i, int64_t h, int64_t d) { return v[size_t(((t * states + i) * heads + h) * (dim + gap) + d)]; }
  float& s_at(int64_t t, int64_t i, int64_t h) { return s[size_t(((t * states + i) * heads + h) * (1 + gap))]; }
  void randomise(std::mt19937& generator) {
    std::normal_distribution<float> normal;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < states; ++i)
        for (int64_t h = 0; h < heads; ++h) {
          const bool empty = generator() % 4 == 0;
          s_at(t, i, h) = empty ? -kInfinity : 30 * normal(generator);
          for (int64_t d = 0; d < dim; ++d) v_at(t, i, h, d) = from_float<T>(empty ? kNan : normal(generator));
        }
  }
  TensorView v_all() {
    TensorView x(v.data(), dtype_v<T>, {tokens, states, heads, dim});
    x.strides[2] = dim + gap, x.strides[1] = heads * x.strides[2], x.strides[0] = states * x.strides[1];
    return x;
  }
  TensorView s_all() {
    TensorView x(s.data(), DType::f32, {tokens, states, heads});
    x.strides[2] = 1 + gap, x.strides[1] = heads * x.strides[2], x.strides[0] = states * x.strides[1];
    return x;
  }
  /// State i alone.
  TensorView v_of(int64_t i) {
    const TensorView all = v_all();
    TensorView x(v.data() + i * all.strides[1], dtype_v<T>, {tokens, heads, dim});
    x.strides[0] = all.strides[0], x.strides[1] = all.strides[2];
    return x;
  }
  TensorView s_of(int64_t i) {
    const TensorView all = s_all();
    TensorView x(s.data() + i * all.strides[1], DType::f32, {tokens, heads});
    x.strides[0] = all.strides[0], x.strides[1] = all.strides[2];
    return x;
  }
};

/// `out`, one state, against all states of `in`; tokens that `merged` refuses must be as state 0 of `in`.
template <class T, class F>
void expect_merged(StateArray<T>& in, StateArray<T>& out, double bound, const F& merged) {
  double squares = 0, norm = 0;
  for (int64_t t = 0; t < in.tokens; ++t)
    for (int64_t h = 0; h < in.heads; ++h) {
      const int64_t count = merged(t) ? in.states : 1;
      double largest = -kInfinity, total = 0;
      for (int64_t i = 0; i < count; ++i) largest = std::max(largest, double(in.s_at(t, i, h)));
      for (int64_t i = 0; i < count; ++i) total += largest == -kInfinity ? 0 : std::exp2(double(in.s_at(t, i, h)) - largest);
      if (total == 0) {
        EXPECT_EQ(out.s_at(t, 0, h), -kInfinity);
      } else {
        EXPECT_NEAR(out.s_at(t, 0, h), std::log2(total) + largest, 1e-5);
      }
      if (!merged(t)) continue;
      for (int64_t d = 0; d < in.dim; ++d) {
        double expected = 0;
        for (int64_t i = 0; i < count; ++i)
          if (in.s_at(t, i, h) != -kInfinity)
            expected += std::exp2(double(in.s_at(t, i, h)) - largest) / total * double(to_float(in.v_at(t, i, h, d)));
        const double difference = double(to_float(out.v_at(t, 0, h, d))) - expected;
        squares += difference * difference, norm += expected * expected;
      }
    }
  EXPECT_FALSE(std::isnan(squares));
  EXPECT_LE(std::sqrt(squares), bound * std::sqrt(norm));
}

template <class T>
constexpr double kBound = is_same_v<T, bf16>  ? 2e-3
                          : is_same_v<T, f16> ? 3e-4
                                              : 1e-6;

template <class T>
class MergeState : public testing::Test {};
using Dtypes = testing::Types<f16, bf16, float>;
TYPED_TEST_SUITE(MergeState, Dtypes);

TYPED_TEST(MergeState, Pair) {
  std::mt19937 generator(1);
  for (auto [tokens, heads, dim] :
       {std::tuple<int64_t, int64_t, int64_t>{7, 3, 64}, {1, 1, 8}, {200, 5, 128}, {3, 2, 600}, {4, 3, 13}, {0, 3, 64}, {3, 0, 64}})
    for (int64_t gap : {0, 3}) {
      StateArray<TypeParam> in(tokens, 2, heads, dim, gap), out(tokens, 1, heads, dim);
      in.randomise(generator);
      merge_state(in.v_of(0), in.s_of(0), in.v_of(1), in.s_of(1), out.v_of(0), out.s_of(0));
      expect_merged(in, out, kBound<TypeParam>, [](int64_t) { return true; });
      StateArray<TypeParam> without_s(tokens, 1, heads, dim);
      merge_state(in.v_of(0), in.s_of(0), in.v_of(1), in.s_of(1), without_s.v_of(0), {});
      without_s.s = out.s;
      expect_merged(in, without_s, kBound<TypeParam>, [](int64_t) { return true; });
    }
}

TYPED_TEST(MergeState, InPlace) {
  std::mt19937 generator(2);
  for (bool masked : {false, true}) {
    StateArray<TypeParam> in(50, 2, 4, 72, 1), out(50, 1, 4, 72, 1);
    in.randomise(generator);
    std::vector<uint8_t> mask(50);
    for (uint8_t& m : mask) m = uint8_t(generator() % 2);
    for (int64_t t = 0; t < 50; ++t)
      for (int64_t h = 0; h < 4; ++h) {
        out.s_at(t, 0, h) = in.s_at(t, 0, h);
        for (int64_t d = 0; d < 72; ++d) out.v_at(t, 0, h, d) = in.v_at(t, 0, h, d);
      }
    const StateArray<TypeParam> before = out;
    merge_state_in_place(out.v_of(0), out.s_of(0), in.v_of(1), in.s_of(1),
                         masked ? TensorView(mask.data(), DType::boolean, {50}) : TensorView());
    expect_merged(in, out, kBound<TypeParam>, [&](int64_t t) { return !masked || mask[size_t(t)]; });
    if (masked) {
      for (size_t t = 0; t < 50; ++t) {
        if (mask[t]) continue;
        for (size_t i = t * 4 * 73; i < (t + 1) * 4 * 73; ++i) ASSERT_EQ(std::memcmp(&before.v[i], &out.v[i], sizeof(TypeParam)), 0);
      }
    }
  }
}

TYPED_TEST(MergeState, Many) {
  std::mt19937 generator(3);
  for (int64_t states : {0, 1, 2, 3, 17})
    for (int64_t gap : {0, 5}) {
      StateArray<TypeParam> in(30, states, 3, 128, gap), out(30, 1, 3, 128, gap);
      in.randomise(generator);
      merge_states(in.v_all(), in.s_all(), out.v_of(0), out.s_of(0));
      expect_merged(in, out, kBound<TypeParam>, [](int64_t) { return true; });
    }
}

TEST(MergeStateChecks, RefuseWhatTheyCanNotTake) {
  struct Call {
    StateArray<float> in{4, 2, 2, 8}, out{4, 1, 2, 8};
    TensorView v_a = in.v_of(0), s_a = in.s_of(0), v_b = in.v_of(1), s_b = in.s_of(1), v = out.v_of(0), s = out.s_of(0);
    std::vector<uint8_t> bytes = std::vector<uint8_t>(8);
    TensorView mask{bytes.data(), DType::boolean, {4}};
    void operator()() {
      merge_state(v_a, s_a, v_b, s_b, v, s);
      merge_state_in_place(v, s, v_b, s_b, mask);
    }
  };
  const auto refused = [](auto change) {
    Call call;
    EXPECT_NO_THROW(call());
    change(call);
    EXPECT_THROW(call(), InvalidArgument);
  };
  refused([](Call& c) { c.v_a.dtype = DType::f16; });
  refused([](Call& c) { c.v.dtype = DType::e4m3; });
  refused([](Call& c) { c.s_b.dtype = DType::f16; });
  refused([](Call& c) { c.v_b.shape[2] = 4; });
  refused([](Call& c) { c.s_a.shape[0] = 3; });
  refused([](Call& c) { c.v_a.strides[2] = 2; });
  refused([](Call& c) { c.v.strides[0] = 0; });
  refused([](Call& c) { c.s.strides[1] = 0; });
  refused([](Call& c) { c.mask.shape[0] = 5; });
  refused([](Call& c) { c.mask.dtype = DType::i32; });
  refused([](Call& c) { c.v_b.data = c.v.as<float>() + 8; });
  refused([](Call& c) { c.s_b.data = c.s.as<float>() + 1; });
  refused([](Call& c) { c.s_a.device = {DeviceType::cuda, 1}; });
}

TEST(MergeStateLaunch, RowsStayInsideWarps) {
  RecordingKernels kernels(device_info_of({80, 0}));
  const Device gpu{DeviceType::cuda, 0};
  const Context context{gpu, nullptr, &kernels, false};
  const auto at = [&](int n, DType dtype, std::initializer_list<int64_t> shape) {
    return TensorView(reinterpret_cast<void*>(uintptr_t(n) << 40), dtype, shape, gpu);
  };
  const auto launch = [&](int64_t dim) {
    merge_state(at(1, DType::bf16, {10, 4, dim}), at(2, DType::f32, {10, 4}), at(3, DType::bf16, {10, 4, dim}), at(4, DType::f32, {10, 4}),
                at(5, DType::bf16, {10, 4, dim}), at(6, DType::f32, {10, 4}), context);
    return kernels.launches.back();
  };
  EXPECT_EQ(launch(128).shape.grid, (Dim3{5, 1, 1}));  // 16 lanes a row, 8 rows a block
  EXPECT_EQ(launch(128).text.kernel, "MergeStateKernel<MergeStateConfig{.dtype=DType::bf16, .head_dim=128, .vec=8, .pair=true}>");
  EXPECT_EQ(launch(96).shape.grid, (Dim3{5, 1, 1}));  // 12 of 16 lanes
  EXPECT_EQ(launch(512).shape.grid, (Dim3{10, 1, 1}));
  const size_t count = kernels.launches.size();
  merge_states(at(1, DType::f32, {0, 3, 4, 8}), at(2, DType::f32, {0, 3, 4}), at(3, DType::f32, {0, 4, 8}), at(4, DType::f32, {0, 4}),
               context);
  EXPECT_EQ(kernels.launches.size(), count);
}

}  // namespace
}  // namespace flashinfer
