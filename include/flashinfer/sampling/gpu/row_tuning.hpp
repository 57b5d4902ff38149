// Host only. How rows of a vocabulary are spread over the blocks of a GPU. Tested on any machine: cpp_tests/sampling/test_sampling_tuning.cpp.
#pragma once

#include <flashinfer/runtime/device.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

/// Clusters of a launch that run at the same time. A cluster lies within a GPC, of which these GPUs have 8: a rest of SMs stays idle.
constexpr int64_t clusters_at_once(const RowSplit& split, const DeviceInfo& device) {
  if (split.cluster == 1) return int64_t(device.num_sms) * split.blocks;
  return max(device.num_sms / 8 * split.blocks / split.cluster, 1) * 8;
}

constexpr RowSplit split_rows(DType dtype, int64_t num_rows, int64_t vocab_size, const DeviceInfo& device) {
  const int64_t vecs = vocab_size / (16 / size_of(dtype)) + 2;  // a row may begin and end within a vector
  RowSplit split;
  split.threads = 512;
  if (!device.arch.has_tma()) return split;
  // Few rows: a block an SM and as many blocks a row as there are SMs for it. Many: two blocks an SM, so that one computes while the other
  // waits for its cluster, and a ring that has room for more than a row, so that the next one is on its way.
  while (split.cluster < 16 && num_rows * split.cluster * 2 <= device.num_sms && vecs > 2 * int64_t(split.cluster) * split.threads)
    split.cluster *= 2;
  const bool one_row = num_rows <= clusters_at_once(split, device);
  for (split.blocks = one_row ? 1 : 2; split.blocks > 0; --split.blocks) {
    const int32_t smem = min(device.smem_per_sm / split.blocks - 1024, device.smem_per_block);
    for (RowSplit wider = split; wider.cluster <= (one_row ? 16 : 8); wider.cluster *= 2) {
      wider.chunks = 0;
      const int64_t needed = ceil_div(ceil_div(vecs, int64_t(wider.cluster)), int64_t(wider.threads));
      wider.chunks = (smem - wider.smem_bytes()) / (wider.threads * 16 + 8);
      if (wider.chunks < (one_row ? needed : needed + needed / 4)) continue;
      if (one_row) wider.chunks = int32_t(min(int64_t(wider.chunks), max(round_up(needed, int64_t(4)), int64_t(4))));
      return wider;
    }
  }
  return {.threads = 512};  // of a row that no cluster has room for, nothing is kept
}

}  // namespace flashinfer::gpu
