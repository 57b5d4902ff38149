// The compile-time choices of the kernels that go over rows of logits or probabilities: sampling, softmax, renorm.
#pragma once

#include <flashinfer/sampling/sampling_params.hpp>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer {

/// How a row is spread over blocks.
struct RowSplit {
  int32_t threads = 512;
  int32_t cluster = 1;  // blocks that share a row; more than one: SM90 up
  int32_t chunks =
      0;  // of one 16-byte vector a thread, in shared memory: a block's part of a row, and what is copied ahead. 0: rows stay in L2
  int32_t blocks = 1;  // on an SM

  /// Vectors of a row that a cluster has room for.
  FLASHINFER_HOST_DEVICE constexpr int64_t resident_vecs() const { return int64_t(chunks) * threads * cluster; }
  /// Chunks and their barriers; histograms, lists of candidates, mail.
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const { return chunks * (threads * 16 + 8) + cluster * 1152 + 14 * 1024; }
};

struct SamplingConfig {
  static constexpr const char *kName = "SamplingConfig", *kKernel = "SamplingKernel", *kHeader = "sampling/gpu/sampling_kernel.cuh";

  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool extras = false;  // log-probabilities or the distribution are asked for
  bool mixed = false;   // of the rows, those that other kernels draw are left out
  int32_t threads = 512, cluster = 1, chunks = 0, blocks = 1;

  FLASHINFER_HOST_DEVICE constexpr RowSplit split() const { return {threads, cluster, chunks, blocks}; }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("values", values), f("extras", extras), f("mixed", mixed);
    f("threads", threads), f("cluster", cluster), f("chunks", chunks), f("blocks", blocks);
  }
};

/// Sampling from the first top_k, with top_p and min_p of those.
struct TopkSamplingConfig {
  static constexpr const char *kName = "TopkSamplingConfig", *kKernel = "TopkSamplingKernel",
                              *kHeader = "sampling/gpu/topk_sampling_kernel.cuh";

  static constexpr int32_t kCapacity = 4 * kMostTopk;  // candidates

  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool joint = false;                                        // top_p is of the whole row's mass
  int32_t threads = 512, vecs = 2, stages = 4, cluster = 1;  // as TopkConfig's

  FLASHINFER_HOST_DEVICE constexpr TopkConfig topk() const { return {input, threads, vecs, stages, cluster}; }
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const { return topk().smem_bytes(kCapacity); }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("values", values), f("joint", joint);
    f("threads", threads), f("vecs", vecs), f("stages", stages), f("cluster", cluster);
  }
};

/// Sampling without filters, or with top_p and min_p.
struct RaceConfig {
  static constexpr const char *kName = "RaceConfig", *kKernel = "RaceKernel", *kHeader = "sampling/gpu/race_kernel.cuh";

  static constexpr int32_t kStages = 6;  // vectors of a thread in its ring: three pairs

  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool top_p = false, min_p = false;
  int32_t threads = 256;
  int32_t cluster = 1;     // blocks that share a row; more than one: SM90 up
  int32_t blocks = 3;      // on an SM
  int32_t columns = 1;     // parts of a block's threads, whole warps, that race for themselves
  int32_t chunks = 0;      // of one 16-byte vector a thread: a block's part of a row that stays in shared memory. 0: nothing does
  int32_t candidates = 0;  // for a warp: of probabilities that top_p may keep, which alone race if they are few
  int32_t count_bits = 7;  // weights are counted in bins of a 2^count_bits-th of an octave, no more in it than threads. 0: not at all

  /// That weights are counted in.
  FLASHINFER_HOST_DEVICE static constexpr int32_t octaves(RowValues values) { return values == RowValues::probs ? 21 : 64; }
  /// Whether weights are counted as they are read, for top_p of the whole row.
  FLASHINFER_HOST_DEVICE constexpr bool counts() const { return count_bits > 0 && top_p && !min_p && chunks == 0; }
  FLASHINFER_HOST_DEVICE constexpr bool lists() const { return candidates > 0; }
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const {
    const int32_t counting = counts() ? (4 * octaves(values) << count_bits) + octaves(values) * 16 + 512 : 0;
    return (chunks ? chunks : kStages) * threads * 16 + 3072 + counting + (lists() ? threads / 32 * candidates * 6 + 4224 : 0);
  }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("values", values), f("top_p", top_p), f("min_p", min_p);
    f("threads", threads), f("cluster", cluster), f("blocks", blocks), f("columns", columns), f("chunks", chunks);
    f("candidates", candidates), f("count_bits", count_bits);
  }
};

struct SoftmaxConfig {
  static constexpr const char *kName = "SoftmaxConfig", *kKernel = "SoftmaxKernel", *kHeader = "sampling/gpu/softmax_kernel.cuh";

  DType input = DType::f32;
  bool widens = false;                                         // shared memory has room for the weights of 16-bit rows
  int32_t threads = 512, cluster = 1, chunks = 0, blocks = 1;  // as RowSplit's; chunks of a slice, nothing of another row beside them

  /// Chunks; mail.
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const { return chunks * threads * (widens ? 32 : 16) + 2048; }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("widens", widens), f("threads", threads), f("cluster", cluster), f("chunks", chunks), f("blocks", blocks);
  }
};

struct RenormConfig {
  static constexpr const char *kName = "RenormConfig", *kKernel = "RenormKernel", *kHeader = "sampling/gpu/renorm_kernel.cuh";

  DType input = DType::f32;
  DType output = DType::f32;
  RowValues values = RowValues::probs;
  bool mixed = false;  // of the rows, those of a small top_k are left out
  int32_t threads = 512, cluster = 1, chunks = 0, blocks = 1;

  FLASHINFER_HOST_DEVICE constexpr RowSplit split() const { return {threads, cluster, chunks, blocks}; }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("output", output), f("values", values), f("mixed", mixed);
    f("threads", threads), f("cluster", cluster), f("chunks", chunks), f("blocks", blocks);
  }
};

/// Renorm by a small top_k alone.
struct TopkRenormConfig {
  static constexpr const char *kName = "TopkRenormConfig", *kKernel = "TopkRenormKernel", *kHeader = "sampling/gpu/topk_renorm_kernel.cuh";

  DType input = DType::f32;
  DType output = DType::f32;
  RowValues values = RowValues::probs;
  int32_t threads = 512, vecs = 2, stages = 4, cluster = 1;  // as TopkConfig's

  FLASHINFER_HOST_DEVICE constexpr TopkConfig topk() const { return {input, threads, vecs, stages, cluster}; }
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const { return topk().smem_bytes(TopkSamplingConfig::kCapacity); }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("output", output), f("values", values);
    f("threads", threads), f("vecs", vecs), f("stages", stages), f("cluster", cluster);
  }
};

/// Renorm of probabilities by top_p alone.
struct ToppRenormConfig {
  static constexpr const char *kName = "ToppRenormConfig", *kKernel = "ToppRenormKernel", *kHeader = "sampling/gpu/topp_renorm_kernel.cuh";

  DType input = DType::f32;
  DType output = DType::f32;
  int32_t threads = 1024;
  int32_t cluster = 1;     // blocks that share a row; more than one: SM90 up
  int32_t chunks = 4;      // of one 16-byte vector a thread, in shared memory
  bool held = false;       // shared memory has room for a block's slice: read once
  int32_t candidates = 0;  // elements of a warp that may be kept, in shared memory
  int32_t blocks = 1;      // on an SM

  /// Whether sums by upper bits have a place of their own: where rows are few, or a block has the SM for itself, there is room.
  FLASHINFER_HOST_DEVICE constexpr bool bins_apart() const { return cluster > 2 || (candidates > 0 && blocks == 1); }
  /// Chunks; candidates; lists of elements and what sorts them, or sums, which with candidates lie in the place of both; mail.
  FLASHINFER_HOST_DEVICE constexpr int32_t smem_bytes() const {
    const int32_t inbox = cluster > 1 ? threads * 8 + cluster * 4 : 0,
                  bins = bins_apart() ? 17 * 1024 + cluster * 128 + 128 + (cluster == 1 ? 8448 : 0) : 0;
    const int32_t list = 67 * 512, ring = chunks * threads * 16, mail = 2048 + cluster * 64 + inbox + (candidates > 0 ? threads : 0);
    if (candidates > 0) return bins + max(ring, list) + max(threads / 32 * candidates * 6, list) + mail;
    return ring + bins + list + mail;
  }
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("output", output), f("threads", threads), f("cluster", cluster);
    f("chunks", chunks), f("held", held), f("candidates", candidates), f("blocks", blocks);
  }
};

/// Rows of f32 probabilities of a draft and of the target, both read where they lie.
struct SpeculativeConfig {
  static constexpr const char *kName = "SpeculativeConfig", *kKernel = "SpeculativeKernel",
                              *kHeader = "sampling/gpu/speculative_kernel.cuh";

  static constexpr int32_t kSmemBytes = 4096;

  int32_t threads = 512;  // more than the steps
  int32_t cluster = 1;    // blocks that share a request; more than one: SM90 up

  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("threads", threads), f("cluster", cluster);
  }
};

}  // namespace flashinfer
