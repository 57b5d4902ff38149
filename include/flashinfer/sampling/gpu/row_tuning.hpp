// Host only. How rows of a vocabulary are spread over the blocks of a GPU. Tested on any machine:
// cpp_tests/sampling/test_sampling_tuning.cpp.
#pragma once

#include <flashinfer/runtime/device.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

/// Elements that a warp may meet to list some of them (row_candidates.cuh): less than 2^16, with what lies around a slice.
inline constexpr int64_t kMostOfWarp = 60000;

/// Shared memory that no more than `blocks` on an SM have room for. Kernels that happen to need few registers run with more of them
/// otherwise, and what is left over runs with too little beside it: H100, from_probs with three blocks instead of two, 128 and 512 rows 32
/// and 113 us instead of 27 and 90.
constexpr int32_t smem_of_blocks(int32_t blocks, const DeviceInfo& device) {
  return min(device.smem_per_sm / (blocks + 1) - 1008, device.smem_per_block);
}

/// `threads` of a block, where two fit on an SM: 512 if 64 registers a thread suffice, else 256.
constexpr RowSplit split_rows(DType dtype, int64_t num_rows, int64_t vocab_size, const DeviceInfo& device, int32_t threads = 512) {
  const int64_t vecs = vocab_size / (16 / size_of(dtype)) + 2;  // a row may begin and end within a vector
  RowSplit split{.threads = threads, .blocks = 2};
  const RowSplit in_l2{.threads = 512, .blocks = 1};  // nothing of a row is kept
  if (!device.arch.has_tma()) return in_l2;
  // Few rows: as many blocks a row as there are SMs for it; measured on an H200, one row of 128256 floats takes 16 blocks 9 us, 8 blocks
  // 13. Many: two blocks an SM, so that one computes while the other waits for its cluster, and a ring that has room for more than a row,
  // so that the next one is on its way.
  const int32_t most = device.arch.number < 110 ? 16 : 8;  // blocks of a cluster: more than 8 not on every GPU
  while (split.cluster < most && num_rows * split.cluster * 2 <= device.num_sms && vecs > 2 * int64_t(split.cluster) * split.threads)
    split.cluster *= 2;
  for (; split.blocks > 0; --split.blocks) {
    if (split.blocks == 1) split.threads = 512;  // 128 registers a thread, as two blocks of 256 have
    const int32_t smem = min(device.smem_per_sm / split.blocks - 1024, device.smem_per_block);
    for (RowSplit wider = split; wider.cluster <= most; wider.cluster *= 2) {
      const int64_t needed = ceil_div(ceil_div(vecs, int64_t(wider.cluster)), int64_t(wider.threads));
      const bool one_row = num_rows <= clusters_at_once(wider.cluster, wider.blocks, device);
      if (wider.cluster == 16 && !one_row && split.blocks > 1) break;  // few of them fit
      wider.chunks = 0;
      wider.chunks = (smem - wider.smem_bytes()) / (wider.threads * 16 + 8);
      if (wider.chunks < (one_row ? needed : needed + 1)) continue;
      if (one_row) wider.chunks = int32_t(min(int64_t(wider.chunks), round_up(needed, int64_t(4))));
      return wider;
    }
  }
  return in_l2;
}

}  // namespace flashinfer::gpu
