// The end of an item of the decode kernel: the groups of warps, each with keys of its own, add up what they have through shared memory.
#pragma once

#include <flashinfer/attention/gpu/decode_cluster.cuh>
#include <flashinfer/attention/gpu/decode_softmax.cuh>

namespace flashinfer::gpu {

/// Writes the item's result, or its partial one, or this block's part of its cluster's. By all consumers.
template <DecodeConfig kConfig, class Variant>
FLASHINFER_DEVICE void merge_groups(const AttentionParams& p, const DecodeWork& work, const DecodeState<kConfig, Variant>& state) {
  using Tile = DecodeTile<kConfig>;
  using State = DecodeState<kConfig, Variant>;
  constexpr DecodeSmem kSmem = Tile::kSmem;
  constexpr int kGroups = kConfig.warps_kv;
  float* rows = reinterpret_cast<float*>(dynamic_smem() + kSmem.scratch);   // [group, row]
  float* maxima = reinterpret_cast<float*>(dynamic_smem() + kSmem.maxima);  // [group, row]
  float* sums = reinterpret_cast<float*>(dynamic_smem() + kSmem.sums);      // [group, row]
  Tile::sync();                                                             // nobody reads what the item before left here
#pragma unroll
  for (int r = 0; r < State::kRowFragments; ++r)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = Tile::warp_kv() * kConfig.q_tile + State::row(r, e);
#pragma unroll
      for (int i = 0; i < State::kOutFragments; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) rows[row * kSmem.row_floats + State::column(i, h)] = state.o[i][r][2 * h + e];
      if (Tile::lane() < 4) maxima[row] = state.m[r][e], sums[row] = state.d[r][e];
    }
  Tile::sync();
  constexpr int kVecs = kConfig.head_dim_vo / 4;
#pragma unroll 1
  for (int task = ptx::opaque(int(threadIdx.x)); task < kConfig.q_tile * kVecs; task += Tile::kThreads) {
    const int row = task / kVecs, column = task % kVecs * 4;
    const OutRow at = out_row<Tile>(p, work, row);
    if (!at.valid && !(kConfig.cluster_blocks > 1 && work.in_cluster)) continue;  // whole tiles are sent: their bytes are counted
    float most = -kInfinity, sum = 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) most = fmaxf(most, maxima[g * kConfig.q_tile + row]);
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const float of_group = maxima[g * kConfig.q_tile + row], factor = of_group == -kInfinity ? 0.0f : ptx::ex2(of_group - most);
      sum += sums[g * kConfig.q_tile + row] * factor;
      const float4 y = *reinterpret_cast<const float4*>(rows + (g * kConfig.q_tile + row) * kSmem.row_floats + column);
      x.x += y.x * factor, x.y += y.y * factor, x.z += y.z * factor, x.w += y.w * factor;
    }
    if constexpr (kConfig.cluster_blocks > 1) {
      if (work.in_cluster) {
        ClusterColumns<kConfig>::push(row, column, most, sum, x);
        continue;
      }
    }
    const float last = store_state<Tile, Variant>(p, work, row, most, sum, column == 0);
    if (work.item.slot >= 0) {
      store_partial<Tile>(p, work, at, row, column, x);
    } else {
      store_out<Tile>(p, work, at, column, make_float4(x.x * last, x.y * last, x.z * last, x.w * last));
    }
  }
}

}  // namespace flashinfer::gpu
