// The end of an item: accumulators go through shared memory, so that rows are written in long runs by short loops. Warps that shared rows
// merge there. The result is final, or a partial one that the last block to arrive at its segment merges with the others.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>
#include <flashinfer/gpu/ptx/atomic.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>

namespace flashinfer::gpu {

/// The columns that an item is about, and its key head. Constants of the tile, but where a block of a cluster has a part of them.
template <class Tile>
struct ItemColumns {
  template <class Work>
  static FLASHINFER_DEVICE int32_t count(const Work&) {
    return Tile::kVoTile;
  }
  template <class Work>
  static FLASHINFER_DEVICE int32_t first(const Work& work) {
    return work.item.head % Tile::kVoTiles * Tile::kVoTile;
  }
  template <class Work>
  static FLASHINFER_DEVICE int32_t kv_head(const Work& work) {
    return work.item.head / Tile::kVoTiles;
  }
};

/// A row of the item's tile and where it goes.
struct OutRow {
  int64_t token;  // of all requests' queries
  int32_t qo_head;
  bool valid;  // a row of the request, inside out
};
template <class Tile, class Work>
FLASHINFER_DEVICE OutRow out_row(const AttentionParams& p, const Work& work, int32_t row) {
  const int32_t group_size = work.group_size(p), packed = work.item.q_tile * Tile::kQTile + row;
  const int32_t token = work.token_of(p, packed), at = work.qo_begin + token;
  return {at, ItemColumns<Tile>::kv_head(work) * group_size + packed - token * group_size,
          token < work.qo_len && uint32_t(at) < uint32_t(p.total_qo_len)};
}

/// What is left to do to a row whose softmax state is m (log2 domain) and d: out = o * factor, and its log-sum-exp.
struct FinishedRow {
  float factor, lse;
};
template <class Tile, class Variant, class Work>
FLASHINFER_DEVICE FinishedRow finish_row(const AttentionParams& p, const Work& work, float m, float d, int32_t qo_head) {
  const float sink = Variant::sink(p.variant, qo_head) * kLog2e;
  float factor = p.out_scale;
  if constexpr (Tile::kHeadScales) factor *= p.scales.of_output(ItemColumns<Tile>::kv_head(work));
  if (sink > -kInfinity) {
    const float both = fmaxf(m, sink), keep = m == -kInfinity ? 0.0f : ptx::ex2(m - both);
    d = d * keep + ptx::ex2(sink - both);
    m = both;
    factor *= keep;
  }
  // No key to attend to: zeros, and -inf as the log of nothing. NaN stays NaN.
  return {d == 0.0f ? 0.0f : factor * ptx::rcp(d), d == 0.0f ? -kInfinity : (m + ptx::lg2(d)) * p.lse_factor};
}

/// The row's first column of the item, in elements from the start of the result.
template <class Tile, class Work>
FLASHINFER_DEVICE int64_t out_begin(const AttentionParams& p, const Work& work, const OutRow& at) {
  return at.token * p.out_stride_token + at.qo_head * p.out_stride_head + ItemColumns<Tile>::first(work);
}
FLASHINFER_DEVICE int64_t lse_place(const AttentionParams& p, const OutRow& at) {
  return at.token * p.lse_stride_token + at.qo_head * p.lse_stride_head;
}
/// Writes four columns of a row: of the result, or of the item's slot.
template <class Tile, class Work>
FLASHINFER_DEVICE void store_out(const AttentionParams& p, const Work& work, const OutRow& at, int32_t column, float4 x) {
  using Out = typename Tile::Out;
  if (!at.valid || column >= ItemColumns<Tile>::count(work) || ItemColumns<Tile>::first(work) + column >= Tile::kHeadDimVo) return;
  Vec<Out, 4>::from_float({x.x, x.y, x.z, x.w}).store_global(static_cast<Out*>(p.out) + out_begin<Tile>(p, work, at) + column);
}
template <class Tile, class Work>
FLASHINFER_DEVICE void store_lse(const AttentionParams& p, const Work& work, const OutRow& at, float lse) {
  if (p.lse && at.valid && ItemColumns<Tile>::first(work) == 0) p.lse[lse_place(p, at)] = lse;
}
template <class Tile, class Work>
FLASHINFER_DEVICE void store_partial(const AttentionParams& p, const Work& work, const OutRow& at, int32_t row, int32_t column, float4 x) {
  const int32_t columns = ItemColumns<Tile>::count(work);
  if (!at.valid || column >= columns) return;
  const int64_t slot_row = int64_t(work.item.slot) * Tile::kQTile + row;
  Vec<float, 4>::from_float({x.x, x.y, x.z, x.w}).store_global(p.plan.partial_out + slot_row * columns + column);
}
/// Writes the softmax state of a row, and returns the factor that its accumulators are to be multiplied by.
template <class Tile, class Variant, class Work>
FLASHINFER_DEVICE float store_state(const AttentionParams& p, const Work& work, int32_t row, float m, float d, bool writes) {
  const OutRow at = out_row<Tile>(p, work, row);
  if (work.item.slot >= 0) {
    const int64_t slot_row = int64_t(work.item.slot) * Tile::kQTile + row;
    if (writes && at.valid) p.plan.partial_states[slot_row] = {m, d};
    return 1.0f;
  }
  const FinishedRow finished = finish_row<Tile, Variant>(p, work, m, d, at.qo_head);
  if (writes) store_lse<Tile>(p, work, at, finished.lse);
  return finished.factor;
}

/// Rows of accumulators in shared memory: 8 floats apart, so that a fragment's eight rows lie in different banks.
constexpr FLASHINFER_HOST_DEVICE int row_floats(int columns) { return columns + 8; }

/// Where a row of the item's tile goes, found once a row: divisions are long, and code that is repeated is compiled again.
struct RowTarget {
  int64_t begin;  // elements from the start of the result, or of the partial results; below 0: nowhere
  float factor;   // of the accumulators
};
/// Four columns of a row.
template <class Tile, class Work>
FLASHINFER_DEVICE void store_columns(const AttentionParams& p, const Work& work, const RowTarget& to, int32_t column, float4 x) {
  if (to.begin < 0 || column >= Tile::kVoTile) return;
  if (work.item.slot >= 0) {
    Vec<float, 4>::from_float({x.x, x.y, x.z, x.w}).store_global(p.plan.partial_out + to.begin + column);
  } else {
    if (Tile::kHeadDimVo % Tile::kVoTile && ItemColumns<Tile>::first(work) + column >= Tile::kHeadDimVo) return;
    using Out = typename Tile::Out;
    Vec<Out, 4>::from_float({x.x * to.factor, x.y * to.factor, x.z * to.factor, x.w * to.factor})
        .store_global(static_cast<Out*>(p.out) + to.begin + column);
  }
}
/// Also writes the softmax state of the row.
template <class Tile, class Variant, class Work>
FLASHINFER_DEVICE RowTarget row_target(const AttentionParams& p, const Work& work, int32_t row, float m, float d) {
  const float factor = store_state<Tile, Variant>(p, work, row, m, d, true);
  const OutRow at = out_row<Tile>(p, work, row);
  const int64_t begin = work.item.slot >= 0 ? (int64_t(work.item.slot) * Tile::kQTile + row) * Tile::kVoTile : out_begin<Tile>(p, work, at);
  return {at.valid ? begin : -1, factor};
}

/// Writes an item of warps that have rows of their own. Each warp passes them through its part of what were tiles, 16 rows or all at a
/// time.
template <AttentionConfig kConfig, class Variant>
FLASHINFER_DEVICE void store_rows(const AttentionParams& p, const AttentionWork& work,
                                  const float (&m)[AttentionTile<kConfig>::kRowFragments][2],
                                  const float (&d)[AttentionTile<kConfig>::kRowFragments][2],
                                  const float (&o)[AttentionTile<kConfig>::kRowFragments][AttentionTile<kConfig>::kOutFragments][4]) {
  using Tile = AttentionTile<kConfig>;
  constexpr int kRows = rows_per_warp(kConfig), kWarpBytes = Tile::kSmem.tiles_end / (Tile::kThreads / kWarpSize) / 16 * 16;
  constexpr int kFloats = (kWarpBytes - kRows * int(sizeof(RowTarget))) / 4;
  /// Fragments of 8 columns and of 16 rows at a time.
  constexpr int kColumns = min(Tile::kOutFragments, (kFloats / 16 - 8) / 8), kPitch = row_floats(kColumns * 8);
  constexpr int kTogether = kColumns == Tile::kOutFragments && kRows * kPitch <= kFloats ? Tile::kRowFragments : 1;
  static_assert(kColumns > 0);
  const int thread = ptx::opaque(int(threadIdx.x)), lane = thread % kWarpSize;
  RowTarget* targets = reinterpret_cast<RowTarget*>(dynamic_smem() + thread / kWarpSize * kWarpBytes);  // first (m, d) of each row
  float* rows = reinterpret_cast<float*>(targets + kRows);
  __syncthreads();  // all warps are done with the tiles that lie here
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      if (lane % 4 == 0) *reinterpret_cast<float2*>(targets + f * 16 + h * 8 + lane / 4) = make_float2(m[f][h], d[f][h]);
  __syncwarp();
  if (lane < kRows) {
    const float2 state = *reinterpret_cast<const float2*>(targets + lane);
    targets[lane] = row_target<Tile, Variant>(p, work, Tile::warp_q(thread) * kRows + lane, state.x, state.y);
  }
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; f += kTogether)
#pragma unroll
    for (int first = 0; first < Tile::kOutFragments; first += kColumns) {
#pragma unroll
      for (int r = 0; r < kTogether * 2; ++r)
#pragma unroll
        for (int n = first; n < min(first + kColumns, Tile::kOutFragments); ++n)
          *reinterpret_cast<float2*>(rows + (lane / 4 + 8 * r) * kPitch + (n - first) * 8 + lane % 4 * 2) =
              make_float2(o[f + r / 2][n][r % 2 * 2], o[f + r / 2][n][r % 2 * 2 + 1]);
      __syncwarp();
      constexpr int kVecs = kColumns * 2;  // of four columns, per row
#pragma unroll 1
      for (int i = lane; i < kTogether * 16 * kVecs; i += kWarpSize) {
        const int row = i / kVecs, column = i % kVecs * 4;
        const float4 x = *reinterpret_cast<const float4*>(rows + row * kPitch + column);
        store_columns<Tile>(p, work, targets[f * 16 + row], first * 8 + column, x);
      }
      __syncwarp();
    }
}

/// Writes an item of warps that shared 16 rows, each with keys of its own: the block adds up what they have.
template <AttentionConfig kConfig, class Variant>
FLASHINFER_DEVICE void merge_warps(const AttentionParams& p, const AttentionWork& work, const float (&m)[1][2], const float (&d)[1][2],
                                   const float (&o)[1][AttentionTile<kConfig>::kOutFragments][4]) {
  using Tile = AttentionTile<kConfig>;
  constexpr int kWarps = kConfig.warps_kv, kPitch = row_floats(padded(kConfig.vo_tile));
  float* rows = reinterpret_cast<float*>(dynamic_smem() + Tile::kSmem.k);            // [warp, row]
  float* maxima = reinterpret_cast<float*>(dynamic_smem() + Tile::kSmem.merge_max);  // [warp, row]; then factors
  float* sums = reinterpret_cast<float*>(dynamic_smem() + Tile::kSmem.merge_sum);    // [warp, row]
  const int thread = ptx::opaque(int(threadIdx.x)), lane = thread % kWarpSize, warp = thread / kWarpSize;
  __syncthreads();  // all warps are done with the keys and values that lie here
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp * 16 + Tile::row(0, h, thread);
#pragma unroll
    for (int n = 0; n < Tile::kOutFragments; ++n)
      *reinterpret_cast<float2*>(rows + row * kPitch + n * 8 + lane % 4 * 2) = make_float2(o[0][n][2 * h], o[0][n][2 * h + 1]);
    if (lane % 4 == 0) maxima[row] = m[0][h], sums[row] = d[0][h];
  }
  __syncthreads();
  if (thread < 16) {
    const int row = thread;
    float most = -kInfinity, sum = 0.0f, factor[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, maxima[w * 16 + row]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float of_warp = maxima[w * 16 + row];
      factor[w] = of_warp == -kInfinity ? 0.0f : ptx::ex2(of_warp - most);
      sum += sums[w * 16 + row] * factor[w];
    }
    const float last = store_state<Tile, Variant>(p, work, row, most, sum, true);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) maxima[w * 16 + row] = factor[w] * last;
  }
  __syncthreads();
  constexpr int kVecs = padded(kConfig.vo_tile) / 4;
#pragma unroll 1
  for (int i = thread; i < 16 * kVecs; i += Tile::kThreads) {
    const int row = i / kVecs, column = i % kVecs * 4;
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float4 of_warp = *reinterpret_cast<const float4*>(rows + (w * 16 + row) * kPitch + column);
      const float factor = maxima[w * 16 + row];
      x.x += of_warp.x * factor, x.y += of_warp.y * factor, x.z += of_warp.z * factor, x.w += of_warp.w * factor;
    }
    const OutRow at = out_row<Tile>(p, work, row);
    if (work.item.slot >= 0) {
      store_partial<Tile>(p, work, at, row, column, x);
    } else {
      store_out<Tile>(p, work, at, column, x);
    }
  }
}

/// After every thread has stored its part of a partial result: is this the last block of the segment to do so?
template <class Tile>
FLASHINFER_DEVICE bool arrives_last(const AttentionParams& p, const WorkItem& item) {
  int32_t& is_last = Tile::is_last();
  Tile::sync();
  if (threadIdx.x == 0) {
    // Publishes what all threads have stored before the barrier, and takes in what the other blocks did.
    int32_t* counter = p.plan.counters + item.first_slot;
    is_last = ptx::atomic_add_acq_rel(counter, 1) == item.num_slots - 1;
    if (is_last) *counter = 0;  // nobody else comes: ready for the next launch
  }
  Tile::sync();
  return is_last;
}

/// Sixteen bytes that other blocks have written, past the registers where the architecture can. The thread that asks waits for them.
FLASHINFER_DEVICE void copy_16(unsigned char* smem, const void* global) {
  if constexpr (ptx::kHasCpAsync) {
    ptx::cp_async_16(ptx::smem_address(smem), global, true);
  } else {
    *reinterpret_cast<uint4*>(smem) = __ldcg(static_cast<const uint4*>(global));
  }
}

/// Four columns of a row of several parts, added up: the sums, and the softmax state that they are relative to.
struct MergedColumns {
  float m = -kInfinity, d = 0.0f;
  float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

  template <int kParts>
  FLASHINFER_DEVICE void add(const PartialState (&states)[kParts], const float4 (&parts)[kParts]) {
    float most = m;
#pragma unroll
    for (int i = 0; i < kParts; ++i) most = fmaxf(most, states[i].max);
    const float keep = m == -kInfinity ? 0.0f : ptx::ex2(m - most);
    o.x *= keep, o.y *= keep, o.z *= keep, o.w *= keep, d *= keep, m = most;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float factor = states[i].max == -kInfinity ? 0.0f : ptx::ex2(states[i].max - most);
      o.x += parts[i].x * factor, o.y += parts[i].y * factor, o.z += parts[i].z * factor, o.w += parts[i].w * factor;
      d += states[i].sum * factor;
    }
  }
};

/// Where a merged row goes, found once a row.
struct MergedRow {
  int64_t out, lse;  // elements from the start; out below 0: nowhere
  int32_t qo_head;
};
static_assert(sizeof(MergedRow) <= kMergedRowBytes);

/// Merges a segment's partial results in the order of their slots, whatever the order of arrival. A task is four columns of a row. The
/// whole block waits for this memory, so as much of it as shared memory holds is under way at a time, each thread's to cells of its own:
/// many slots of one task (decode), or few slots of many tasks (prefill). Nobody waits for another, and no loop is unrolled for what is
/// under way: in registers that was a quarter of the kernel to compile (NOTES.md).
template <class Tile, class Variant, class Work>
FLASHINFER_DEVICE void merge_slots(const AttentionParams& p, const Work& work) {
  static_assert(Tile::kQTile % 2 == 0, "states are copied in pairs of rows");
  using Out = typename Tile::Out;
  constexpr int kPartBytes = Tile::kThreads * kMergedPartBytes;  // of all threads: their columns, then the states
  constexpr int kCellBytes = kMergedPartBytes / 2, kStateCells = kPartBytes / 2;
  constexpr int kTogether = 4;  // parts that are added at a time
  const AttentionPlan& plan = p.plan;
  const WorkItem& item = work.item;
  const int columns = ItemColumns<Tile>::count(work), tasks_per_row = columns / 4;
  const int num_rows = min(Tile::kQTile, work.qo_len * work.group_size(p) - item.q_tile * Tile::kQTile);
  const int num_tasks = num_rows * tasks_per_row, thread = ptx::opaque(int(threadIdx.x));
  const MergeSpace space = Tile::merge_space(work);
  auto* const rows = reinterpret_cast<MergedRow*>(space.data);
  unsigned char* const cells = space.data + Tile::kQTile * kMergedRowBytes + thread * kCellBytes;
  const int most_parts = (space.bytes - Tile::kQTile * kMergedRowBytes) / kPartBytes, most_slots = min(item.num_slots, most_parts);
  const int step = most_parts / most_slots * Tile::kThreads;  // tasks of the block at a time
  const int to_second = (item.slot_at(1) - item.slot_at(0)) * Tile::kQTile, to_next = item.slot_stride * Tile::kQTile;  // rows of slots
#pragma unroll 1
  for (int begin = 0; begin < num_tasks; begin += step) {
    const int first = begin + thread;
    MergedColumns merged;
#pragma unroll 1
    for (int slot = 0; slot < item.num_slots; slot += most_slots) {
      const int end = min(slot + most_slots, item.num_slots), end_task = min(begin + step, num_tasks);
      const int64_t slot_row = int64_t(item.slot_at(slot)) * Tile::kQTile;
      unsigned char* to = cells;
#pragma unroll 1
      for (int task = first; task < end_task; task += Tile::kThreads) {
        const float* part = plan.partial_out + slot_row * columns + task * 4;
        const PartialState* state = plan.partial_states + slot_row + task / tasks_per_row / 2 * 2;
#pragma unroll(ptx::kHasCpAsync ? 1 : 4)
        for (int i = slot; i < end; ++i, to += kPartBytes) {
          copy_16(to, part);
          copy_16(to + kStateCells, state);
          const int ahead = i == 0 ? to_second : to_next;
          part += ahead * columns, state += ahead;
        }
      }
      ptx::cp_async_commit();
      if (begin == 0 && slot == 0) {  // while the first parts are under way
#pragma unroll 1
        for (int row = thread; row < num_rows; row += Tile::kThreads) {
          const OutRow at = out_row<Tile>(p, work, row);
          rows[row] = {at.valid ? out_begin<Tile>(p, work, at) : -1, lse_place(p, at), at.qo_head};
        }
        Tile::sync();
      }
      ptx::cp_async_wait<0>();
      const unsigned char* from = cells;
#pragma unroll 1
      for (int task = first; task < end_task; task += Tile::kThreads) {
        const int row = task / tasks_per_row;
#pragma unroll 1
        for (int i = slot; i < end; i += kTogether) {
          PartialState states[kTogether];
          float4 parts[kTogether];
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            const bool there = i + j < end;
            states[j] = there ? reinterpret_cast<const PartialState*>(from + kStateCells)[row % 2] : PartialState{-kInfinity, 0.0f};
            parts[j] = there ? *reinterpret_cast<const float4*>(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            from += there ? kPartBytes : 0;
          }
          merged.add(states, parts);
        }
        if (end < item.num_slots) break;
        const MergedRow& to_row = rows[row];
        const int column = (task - row * tasks_per_row) * 4;
        const FinishedRow finished = finish_row<Tile, Variant>(p, work, merged.m, merged.d, to_row.qo_head);
        const bool exists = Tile::kHeadDimVo % Tile::kVoTile == 0 || ItemColumns<Tile>::first(work) + column < Tile::kHeadDimVo;
        if (to_row.out >= 0 && exists) {
          const float factor = finished.factor;
          Vec<Out, 4>::from_float({merged.o.x * factor, merged.o.y * factor, merged.o.z * factor, merged.o.w * factor})
              .store_global(static_cast<Out*>(p.out) + to_row.out + column);
          if (column == 0 && p.lse && ItemColumns<Tile>::first(work) == 0) p.lse[to_row.lse] = finished.lse;
        }
        merged = MergedColumns();
      }
    }
  }
}

}  // namespace flashinfer::gpu
