// The generic attention kernel on an emulated Turing: without cp.async, bf16 computed in f16. Everything is in a namespace of its own, as
// the same templates mean something else here.
#define FLASHINFER_EMULATED_ARCH 75
#define flashinfer flashinfer_sm75

#include "cpp_tests/gpu/attention_batch.hpp"

namespace flashinfer {
namespace {

TEST(AttentionKernelSm75, Decode) {
  constexpr AttentionConfig kConfig = {
      .head_dim_qk = 64, .head_dim_vo = 64, .q_tile = 16, .kv_tile = 64, .vo_tile = 64, .warps_q = 1, .warps_kv = 4, .num_stages = 1};
  expect_attention<kConfig>({.most_qo = 3, .causal = true}, 0, 4);
}
TEST(AttentionKernelSm75, Append) {
  constexpr AttentionConfig kConfig = {.q = DType::f16,
                                       .kv = DType::f16,
                                       .out = DType::f16,
                                       .head_dim_qk = 40,
                                       .head_dim_vo = 32,
                                       .kv_tile = 32,
                                       .vo_tile = 32,
                                       .num_stages = 1,
                                       .sinks = true};
  expect_attention<kConfig>({.causal = true, .window_left = 100}, 10, 3);
}
TEST(AttentionKernelSm75, Float8Cache) {
  constexpr AttentionConfig kConfig = {
      .kv = DType::e4m3, .head_dim_qk = 32, .head_dim_vo = 32, .q_tile = 128, .kv_tile = 32, .vo_tile = 32, .num_stages = 1};
  expect_attention<kConfig>({.causal = true}, 20, 2);
}

}  // namespace
}  // namespace flashinfer
