// Host only. merge_state on the CPU: a weighted sum of each row's states, in their order.
#pragma once

#include <algorithm>
#include <cmath>

#include <flashinfer/attention/merge_state_params.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/isa.hpp>
#include <flashinfer/cpu/parallel_for.hpp>

namespace flashinfer::cpu {

/// Columns that are summed at a time.
inline constexpr int64_t kMergeTile = 256;

/// Weight of a state beside the largest LSE of its row; an empty state's v may be anything, so it is skipped, not multiplied by 0.
inline float merge_weight(float s, float largest) { return s == -kInfinity ? 0.0f : std::exp2(s - largest); }

template <class V, class T>
void merge_row(const MergeStateParams& p, int64_t token, int64_t head, int64_t head_dim) {
  float largest = -kInfinity, total = 0;
  for (int32_t i = 0; i < p.num_states; ++i) largest = std::max(largest, state_s(p, i, token, head));
  for (int32_t i = 0; i < p.num_states; ++i) total += merge_weight(state_s(p, i, token, head), largest);
  const float inverse = total == 0 ? 0.0f : 1.0f / total;

  T* out = static_cast<T*>(p.v_out) + token * p.v_out_stride_token + head * p.v_out_stride_head;
  for (int64_t begin = 0; begin < head_dim; begin += kMergeTile) {
    const int64_t columns = std::min(kMergeTile, head_dim - begin), whole = columns / V::kLanes * V::kLanes;
    const int rest = int(columns - whole);
    float sum[kMergeTile] = {};
    for (int32_t i = 0; i < p.num_states; ++i) {
      const float weight = merge_weight(state_s(p, i, token, head), largest) * inverse;
      if (weight == 0) continue;
      const T* v = state_v<T>(p, i, token, head) + begin;
      for (int64_t c = 0; c < whole; c += V::kLanes) V::store(sum + c, V::fma(V::load(v + c), V::set(weight), V::load(sum + c)));
      if (rest) V::store(sum + whole, V::fma(V::load(v + whole, rest), V::set(weight), V::load(sum + whole, rest)), rest);
    }
    for (int64_t c = 0; c < whole; c += V::kLanes) V::store(out + begin + c, V::load(sum + c));
    if (rest) V::store(out + begin + whole, V::load(sum + whole, rest), rest);
  }
  if (p.s_out) p.s_out[token * p.s_out_stride_token + head * p.s_out_stride_head] = total == 0 ? -kInfinity : std::log2(total) + largest;
}

template <class T>
void merge_state(const MergeStateParams& p, int64_t head_dim) {
  const int64_t grain = max(16384 / max(head_dim * p.num_states, int64_t(1)), int64_t(1));
  parallel_for(int64_t(p.num_tokens) * p.num_heads, grain, [&](int64_t begin, int64_t end) {
    dispatch_isa([&](auto isa) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t token = row / p.num_heads;
        if (p.mask && p.mask[token] == 0) continue;
        merge_row<decltype(isa), T>(p, token, row % p.num_heads, head_dim);
      }
    });
  });
}

inline void merge_state(const MergeStateParams& p, DType dtype, int64_t head_dim) {
  if (dtype == DType::f16)
    merge_state<f16>(p, head_dim);
  else if (dtype == DType::bf16)
    merge_state<bf16>(p, head_dim);
  else
    merge_state<float>(p, head_dim);
}

}  // namespace flashinfer::cpu
