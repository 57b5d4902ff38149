// What both back ends share of merge_state: attention states of the same queries over disjoint keys, (v, s) = (output, base-2 LSE).
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// States of one array, in elements; row = (token, head).
struct States {
  const void* v = nullptr;
  const float* s = nullptr;
  int64_t v_stride_state = 0, v_stride_token = 0, v_stride_head = 0;
  int64_t s_stride_state = 0, s_stride_token = 0, s_stride_head = 0;
};

struct MergeStateParams {
  States first, rest;  // state 0, and states 1, 2, ...: merge_state takes them from two arrays, merge_states from one
  void* v_out = nullptr;
  float* s_out = nullptr;  // null: not wanted
  int64_t v_out_stride_token = 0, v_out_stride_head = 0;
  int64_t s_out_stride_token = 0, s_out_stride_head = 0;
  const uint8_t* mask = nullptr;  // [num_tokens]: tokens with 0 are left alone; null: none is
  int32_t num_states = 2, num_tokens = 0, num_heads = 0;
};

/// The v of state i at an element's offset into a row's head, and its s.
template <class T>
FLASHINFER_HOST_DEVICE const T* state_v(const MergeStateParams& p, int32_t i, int64_t token, int64_t head) {
  const States& x = i == 0 ? p.first : p.rest;
  return static_cast<const T*>(x.v) + (i == 0 ? 0 : i - 1) * x.v_stride_state + token * x.v_stride_token + head * x.v_stride_head;
}
FLASHINFER_HOST_DEVICE float state_s(const MergeStateParams& p, int32_t i, int64_t token, int64_t head) {
  const States& x = i == 0 ? p.first : p.rest;
  return x.s[(i == 0 ? 0 : i - 1) * x.s_stride_state + token * x.s_stride_token + head * x.s_stride_head];
}

struct MergeStateConfig {
  DType dtype = DType::bf16;
  int head_dim = 128;
  int vec = 8;       // elements of a load; divides head_dim
  bool pair = true;  // two states, whose loads are issued together

  static constexpr const char* kName = "MergeStateConfig";
  static constexpr const char* kKernel = "MergeStateKernel";
  static constexpr const char* kHeader = "attention/gpu/merge_state_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("dtype", dtype), f("head_dim", head_dim), f("vec", vec), f("pair", pair);
  }
  static constexpr int kThreads = 128;
  /// Threads of one row, all of one warp: a power of two, so that rows do not straddle warps.
  FLASHINFER_HOST_DEVICE constexpr int lanes() const {
    int lanes = 1;
    while (lanes < 32 && lanes * vec < head_dim) lanes *= 2;
    return lanes;
  }
};

}  // namespace flashinfer
