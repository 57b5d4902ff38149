// The loading warps of the decode kernel: they walk the worker's items ahead of those who compute, and keep the ring of stages full
// across the ends of items. Keys and values come by cp.async, 16 bytes a thread, from any page size; a stage is full when its copies have
// landed, without a thread that waits for them. The copy engine is no faster (4.1 against 4.3 TB/s with boxes of a page of 16, 3.9 of a
// page of 8; benchmarks/micro/decode.cu), takes no smaller page and needs a tensor map. Nothing outside q's rows, the page table and the
// pool is ever read.
#pragma once

#include <flashinfer/attention/gpu/decode_cluster.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>

namespace flashinfer::gpu {

/// Page ids of a run of keys, in registers: id 32 j + l of the window in word j of lane l. The next window is read while this one is in
/// use.
struct PageWindow {
  static constexpr int kWords = 4, kPages = kWords * kWarpSize;

  int32_t ids[kWords], ahead[kWords];
  int32_t first = 0, ahead_first = 0;  // pages of the request

  /// `table`: the request's pages, of which `count` may be read.
  FLASHINFER_DEVICE void read(int32_t (&words)[kWords], const int32_t* table, int32_t page, int32_t count, int lane) {
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      const int32_t at = page + j * kWarpSize + lane;
      words[j] = at < count ? __ldg(table + at) : 0;
    }
  }
  FLASHINFER_DEVICE void advance() {
#pragma unroll
    for (int j = 0; j < kWords; ++j) ids[j] = ahead[j];
    first = ahead_first;
  }
  /// By all lanes, each its own page.
  FLASHINFER_DEVICE int32_t id(int32_t page) const {
    const uint32_t at = uint32_t(page - first);
    int32_t id = __shfl_sync(0xffffffffu, ids[0], int(at % kWarpSize));
#pragma unroll
    for (int j = 1; j < kWords; ++j) {
      const int32_t other = __shfl_sync(0xffffffffu, ids[j], int(at % kWarpSize));
      if (int(at / kWarpSize) == j) id = other;
    }
    return id;
  }
};

/// Of a kernel without clusters.
struct NoShare {
  FLASHINFER_DEVICE explicit NoShare(const AttentionPlan&) {}
};

template <DecodeConfig kConfig>
struct DecodeLoader {
  using Tile = DecodeTile<kConfig>;
  static constexpr DecodeSmem kSmem = Tile::kSmem;
  static constexpr int kElementBytes = int(sizeof(typename Tile::Kv));
  static constexpr int kKeysAtOnce = min(kConfig.kv_tile, kWarpSize);

  const AttentionParams& p;
  const int lane, loader;
  const Divisor group, page_size;
  /// What all strides are multiples of, in bytes; the strides in such units. A key's place is 32 bits that way, which lanes pass on at
  /// once.
  const uint32_t unit;
  const uint32_t k_page, k_token, v_page, v_token;
  const conditional_t<(kConfig.cluster_blocks > 1), ClusterShare<kConfig>, NoShare> share;
  PageWindow pages;
  RingPosition<Tile::kStages> stage;
  RingPosition<Tile::kItems> slot;

  FLASHINFER_DEVICE DecodeLoader(const AttentionParams& p, int loader)
      : p(p),
        lane(Tile::lane()),
        loader(loader),
        group(p.plan.group_size()),
        page_size(max(p.plan.page_size, int32_t(1))),
        unit(uint32_t(stride_unit(p.kv, kElementBytes))),
        k_page(in_units(p.kv.k_stride_page)),
        k_token(in_units(p.kv.k_stride_token)),
        v_page(in_units(p.kv.v_stride_page)),
        v_token(in_units(p.kv.v_stride_token)),
        share(p.plan) {}

  FLASHINFER_DEVICE void run() {
    RequestLengths lengths{};
    bool exists = false, in_cluster = false;
    if constexpr (kConfig.cluster_blocks > 1) {
      exists = share.request < p.plan.batch_size;
      if (exists) lengths = p.plan.lengths(share.request);
      in_cluster = share.taken(lane);
    }
    WorkIterator items(p.plan, in_cluster ? WorkCursor() : WorkIterator(p.plan, int32_t(blockIdx.x)));
    for (bool has_item = true; has_item;) {  // a block of a cluster has one item, or none
      WorkItem item;
      if constexpr (kConfig.cluster_blocks > 1) {
        if (in_cluster) {
          has_item = exists && share.has_part(lengths);  // the same in all blocks of the cluster
          if (has_item) item = share.item(lengths);
        }
      }
      if (!in_cluster) has_item = items.next(item), lengths = items.at;
      if (has_item) ask_for_pages(lengths, item);
      if (loader == 0) hand_over(lengths, item, has_item, in_cluster);
      if (has_item) load_keys(lengths, item);
      if (in_cluster) break;
    }
  }

 private:
  /// Units are powers of two: a shift, where a division of 64 bits would take as long as a load.
  FLASHINFER_DEVICE uint32_t in_units(int64_t elements) const {
    return uint32_t(uint64_t(elements * kElementBytes) >> (63 - __clzll(int64_t(unit))));
  }
  /// Gives the consumers the item and its rows of q, or the end.
  FLASHINFER_DEVICE void hand_over(const RequestLengths& lengths, const WorkItem& item, bool has_item, bool in_cluster) {
    ptx::mbarrier_wait(Tile::item_empty(slot.slot), slot.parity ^ 1u);
    if (lane == 0) {
      DecodeWork& work = Tile::work(slot.slot);
      static_cast<RequestLengths&>(work) = lengths;
      work.item = item;
      work.has_item = has_item;
      work.in_cluster = in_cluster;
      work.group = group;
    }
    if (has_item) load_q(lengths, item);
    ptx::cp_async_mbarrier_arrive(Tile::item_full(slot.slot));
    if (lane == 0) ptx::mbarrier_arrive(Tile::item_full(slot.slot));  // what it wrote is there
    slot = slot.after(1);
  }

  /// Rows past the request or past q are zeros.
  FLASHINFER_DEVICE void load_q(const RequestLengths& lengths, const WorkItem& item) {
    constexpr int kChunks = kConfig.head_dim_qk / 8;
    const uint32_t to = ptx::smem_address(Tile::q_rows(slot.slot));
    const int32_t group_size = int32_t(group.divisor), first_row = item.q_tile * kConfig.q_tile;
    const auto* heads = static_cast<const typename Tile::Q*>(p.q) + int64_t(item.head) * group_size * p.q_stride_head;
    static_assert(kConfig.q_tile * kChunks % kWarpSize == 0);
#pragma unroll 4
    for (int j = 0; j < kConfig.q_tile * kChunks / kWarpSize; ++j) {
      const int i = lane + j * kWarpSize, row = i / kChunks, chunk = i % kChunks;
      const int32_t token = group.quotient(first_row + row), head = first_row + row - token * group_size;
      const bool valid = token < lengths.qo_len && uint32_t(lengths.qo_begin + token) < uint32_t(p.total_qo_len);
      const auto* from = heads + (lengths.qo_begin + token) * p.q_stride_token + head * p.q_stride_head + chunk * 8;
      ptx::cp_async_16(to + row * kSmem.q_pitch + chunk * 16, valid ? from : p.q, valid);
    }
  }

  /// Keys from here on are zeros.
  FLASHINFER_DEVICE int32_t end_of_keys(const WorkItem& item) const { return p.kv.num_pages > 0 ? item.kv_end : 0; }
  /// The first page ids of the item, which load_keys() waits for: q is asked for in between.
  FLASHINFER_DEVICE void ask_for_pages(const RequestLengths& lengths, const WorkItem& item) {
    if (kConfig.paged && item.kv_end > item.kv_begin) read_ahead(lengths, end_of_keys(item), item.kv_begin);
  }

  FLASHINFER_DEVICE void load_keys(const RequestLengths& lengths, const WorkItem& item) {
    const int32_t num_tiles = ceil_div(max(item.kv_end - item.kv_begin, int32_t(0)), int32_t(kConfig.kv_tile));
    const int32_t kv_end = end_of_keys(item);
    int32_t window_end = item.kv_begin;  // first key of the next window of page ids: ask_for_pages() has asked for the first
    // Loading warps take turns.
    const auto* k = static_cast<const char*>(p.kv.k) + item.head * p.kv.k_stride_head * kElementBytes;
    const auto* v = static_cast<const char*>(p.kv.v) + item.head * p.kv.v_stride_head * kElementBytes;
    const int32_t first_scale = kConfig.token_scales ? first_visible(lengths, item) : 0;
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
      const int32_t first_key = item.kv_begin + tile * kConfig.kv_tile;
      if (kConfig.paged && first_key >= window_end) {
        pages.advance();
        window_end = next_window(item.kv_begin);
        read_ahead(lengths, kv_end, window_end);
      }
      if (kConfig.load_warps == 1 || stage.slot % kConfig.load_warps == loader) {
        ptx::mbarrier_wait(Tile::stage_empty(stage.slot), stage.parity ^ 1u);
        load_stage(k, v, lengths.kv_begin, first_key, kv_end);
        if constexpr (kConfig.token_scales) load_scales(item.head, lengths.kv_begin, first_key, first_scale, kv_end);
        ptx::cp_async_mbarrier_arrive(Tile::stage_full(stage.slot));
      }
      stage = stage.after(1);
    }
  }

  /// The first tile with a page past the window at hand: windows begin with a tile's first key.
  FLASHINFER_DEVICE int32_t next_window(int32_t kv_begin) const {
    const int64_t end = int64_t(pages.first + PageWindow::kPages) * int32_t(page_size.divisor);
    constexpr int32_t kNever = 0x7fffffff;
    return end > kNever - kConfig.kv_tile ? kNever : kv_begin + (int32_t(end) - kv_begin) / kConfig.kv_tile * kConfig.kv_tile;
  }
  FLASHINFER_DEVICE void read_ahead(const RequestLengths& lengths, int32_t kv_end, int32_t key) {
    pages.ahead_first = page_size.quotient(key);
    const int32_t of_request = key < kv_end ? page_size.quotient(kv_end - 1) + 1 : 0;
    pages.read(pages.ahead, p.kv.indices + lengths.kv_begin, pages.ahead_first,
               lengths.kv_begin >= 0 ? min(of_request, p.kv.num_indices - lengths.kv_begin) : 0, lane);
  }

  /// A lane looks one key up; then eight lanes copy 128 bytes of a row, four rows at a time.
  FLASHINFER_DEVICE void load_stage(const char* k, const char* v, int32_t kv_begin, int32_t first_key, int32_t kv_end) {
    const uint32_t to = ptx::smem_address(dynamic_smem()) + stage.slot * kSmem.stage_bytes + lane / 8 * 128;
#pragma unroll
    for (int part = 0; part < kConfig.kv_tile; part += kKeysAtOnce) {
      uint32_t k_at, v_at;
      look_up(kv_begin, min(first_key + part + lane % kKeysAtOnce, max(kv_end - 1, int32_t(0))), k_at, v_at);
#pragma unroll
      for (int rows = 0; rows < kKeysAtOnce; rows += 4) {
        const int row = rows + lane / 8;
        const bool valid = first_key + part + row < kv_end;
        const uint32_t at = to + uint32_t((part + rows) * 128 + (lane % 8 ^ row % 8) * 16);
        const char* k_row = k + uint64_t(__shfl_sync(0xffffffffu, k_at, row)) * unit;
        const char* v_row = v + uint64_t(__shfl_sync(0xffffffffu, v_at, row)) * unit;
        copy_row<kSmem.k_blocks, row_bytes(kConfig.kv, kConfig.head_dim_qk)>(at, k_row, valid);
        copy_row<kSmem.v_blocks, row_bytes(kConfig.kv, kConfig.head_dim_vo)>(at + kSmem.v, v_row, valid);
      }
    }
  }
  /// Of the stage's tokens, a lane each; zeros for those that no row sees: their memory may hold anything.
  FLASHINFER_DEVICE void load_scales(int32_t head, int32_t kv_begin, int32_t first_key, int32_t first_scale, int32_t kv_end) {
    const AttentionScales& scales = p.scales;
    const uint32_t to = ptx::smem_address(Tile::scales(stage.slot)) + uint32_t(lane % kKeysAtOnce) * 4;
#pragma unroll
    for (int part = 0; part < kConfig.kv_tile; part += kKeysAtOnce) {
      const int32_t key = first_key + part + lane % kKeysAtOnce;
      const Place at = find(kv_begin, clamp(key, int32_t(0), max(kv_end - 1, int32_t(0))));
      const bool there = key >= first_scale && key < kv_end;
      copy_scale(to + part * 4, scales.k, at.page * scales.k_stride_page + at.row * scales.k_stride_token + head * scales.k_stride_head,
                 there);
      copy_scale(to + (kConfig.kv_tile + part) * 4, scales.v,
                 at.page * scales.v_stride_page + at.row * scales.v_stride_token + head * scales.v_stride_head, there);
    }
  }
  FLASHINFER_DEVICE void copy_scale(uint32_t to, const float* scales, int64_t at, bool there) const {
    if (lane < kKeysAtOnce && scales) ptx::cp_async_4(to, there ? scales + at : scales, there);
  }
  /// The first key that some row of the item sees.
  FLASHINFER_DEVICE int32_t first_visible(const RequestLengths& lengths, const WorkItem& item) const {
    if constexpr (!kConfig.limits) return 0;
    return kv_range(p.plan.causal, p.plan.window_left, group.quotient(item.q_tile * kConfig.q_tile), lengths.qo_len, lengths.kv_len).begin;
  }
  template <int kBlocks, int kBytes>
  FLASHINFER_DEVICE void copy_row(uint32_t to, const char* from, bool valid) const {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      if (kBytes % 128 == 0 || (block * 8 + lane % 8) * 16 < kBytes)
        ptx::cp_async_16(to + block * kSmem.block_bytes, from + block * 128 + lane % 8 * 16, valid);
  }
  /// A page and a row in it; a token and 0 when ragged.
  struct Place {
    int32_t page, row;
  };
  FLASHINFER_DEVICE Place find(int32_t kv_begin, int32_t key) const {
    if constexpr (kConfig.paged) {
      const int32_t index = page_size.quotient(key), row = key - index * int32_t(page_size.divisor);
      const int32_t found = pages.id(index);
      return {uint32_t(found) < uint32_t(p.kv.num_pages) ? found : 0, row};
    } else {
      return {uint32_t(kv_begin + key) < uint32_t(p.kv.num_pages) ? kv_begin + key : 0, 0};
    }
  }
  /// From the head's first row of the pool to the key's, in units.
  FLASHINFER_DEVICE void look_up(int32_t kv_begin, int32_t key, uint32_t& k_at, uint32_t& v_at) const {
    const Place at = find(kv_begin, key);
    if constexpr (kConfig.paged) {
      k_at = uint32_t(at.page) * k_page + uint32_t(at.row) * k_token;
      v_at = uint32_t(at.page) * v_page + uint32_t(at.row) * v_token;
    } else {
      k_at = uint32_t(at.page) * k_token;
      v_at = uint32_t(at.page) * v_token;
    }
  }
};

/// Brings the first keys that the block will load to L2. Run by the warps that compute, which have nothing to do before, and before the
/// wait for the kernel before: what this reads of lengths and page ids may be older than what the loading warps will read, and then other
/// rows of the pool are brought. L1 does not keep any of it. On the H100, us with and without, kernels one after the other: 1 x 1024 keys x
/// 8 heads 6.6 and 7.1, 16 x 1024 27.5 and 28.1, in pieces 1 x 8192 21.1 and 21.5, 64 x 8192 x 1 97.9 and 98.7.
template <DecodeConfig kConfig>
struct DecodePrefetch {
  using Tile = DecodeTile<kConfig>;

  static FLASHINFER_DEVICE void run(const AttentionParams& p) {
    const AttentionPlan& plan = p.plan;
    RequestLengths lengths{};
    int32_t head, first_key, end_key;
    if constexpr (kConfig.cluster_blocks > 1) {
      const ClusterShare<kConfig> share(plan);
      if (share.request >= plan.batch_size) return;
      lengths = lengths_of(plan, share.request);
      if (!share.has_part(lengths)) return;
      const WorkItem item = share.item(lengths);
      head = item.head, first_key = item.kv_begin, end_key = item.kv_end;
    } else {
      const int32_t lanes = plan.head_lanes, piece = int32_t(blockIdx.x) / lanes, lane = int32_t(blockIdx.x) - piece * lanes;
      if (piece * lanes + lanes > plan.max_workers) return;
      const auto* words = reinterpret_cast<const uint4*>(plan.starts + piece);
      const uint4 of_request = __ldcg(words), at = __ldcg(words + 1);  // lengths; request, q_tile, head, unit
      lengths = {int32_t(of_request.x), int32_t(of_request.y), int32_t(of_request.z), int32_t(of_request.w)};
      head = int32_t(at.z) + lane;
      // Without the keys that a window hides. Longer than the piece may be: another block's keys, or none.
      const RequestWork work(lengths, plan.group_size(), kConfig.q_tile);
      first_key = work.keys(plan, int32_t(at.y)).begin / kConfig.kv_tile * kConfig.kv_tile +
                  max(int32_t(at.w) - RequestWork::item_units(plan), int32_t(0)) * RequestWork::unit_keys(plan);
      end_key = lengths.kv_len;
    }
    constexpr int kKeys = kConfig.num_stages * kConfig.kv_tile;  // as many as the ring holds
    if (uint32_t(head) >= uint32_t(plan.num_heads()) || first_key < 0 || lengths.kv_begin < 0) return;
    const Divisor page_size(max(plan.page_size, int32_t(1)));
    const int32_t count = min(end_key - first_key, int32_t(kKeys));
    // Nothing of this is kept for later: 16 rows a warp and an FP8 cache spilled.
#pragma unroll 1
    for (int32_t i = ptx::opaque(int(threadIdx.x)); i < count; i += Tile::kThreads) {
      const int32_t key = first_key + i, page = kConfig.paged ? page_size.quotient(key) : 0;
      const int32_t row = key - page * int32_t(page_size.divisor);
      int64_t at = int64_t(lengths.kv_begin) + (kConfig.paged ? page : key);
      if (kConfig.paged) at = at < p.kv.num_indices ? __ldcg(p.kv.indices + at) : -1;
      if (uint64_t(at) >= uint64_t(p.kv.num_pages)) continue;
      const int64_t k = kConfig.paged ? at * p.kv.k_stride_page + row * p.kv.k_stride_token : at * p.kv.k_stride_token;
      const int64_t v = kConfig.paged ? at * p.kv.v_stride_page + row * p.kv.v_stride_token : at * p.kv.v_stride_token;
      fetch<row_bytes(kConfig.kv, kConfig.head_dim_qk)>(p.kv.k, k + head * p.kv.k_stride_head);
      fetch<row_bytes(kConfig.kv, kConfig.head_dim_vo)>(p.kv.v, v + head * p.kv.v_stride_head);
    }
  }

 private:
  /// By sectors of 32 bytes prefetching takes longer than it saves: 1 x 1024 7.7 us.
  static constexpr int kLineBytes = 128;

  static FLASHINFER_DEVICE RequestLengths lengths_of(const AttentionPlan& plan, int32_t r) {
    RequestLengths x = {r * plan.uniform_qo_len, plan.uniform_qo_len, r * plan.uniform_kv_len, plan.uniform_kv_len};
    if (plan.qo_indptr) x.qo_begin = __ldcg(plan.qo_indptr + r), x.qo_len = max(__ldcg(plan.qo_indptr + r + 1) - x.qo_begin, int32_t(0));
    if (plan.kv_indptr) {
      x.kv_begin = __ldcg(plan.kv_indptr + r);
      const int32_t n = max(__ldcg(plan.kv_indptr + r + 1) - x.kv_begin, int32_t(0));
      x.kv_len = kConfig.paged && n > 0 ? (n - 1) * plan.page_size + __ldcg(plan.last_page_len + r) : n;
    }
    return x;
  }
  template <int kBytes>
  static FLASHINFER_DEVICE void fetch(const void* data, int64_t element) {
    const auto* row = static_cast<const typename Tile::Kv*>(data) + element;
#pragma unroll
    for (int byte = 0; byte < kBytes; byte += kLineBytes) ptx::prefetch_l2(reinterpret_cast<const char*>(row) + byte);
  }
};

}  // namespace flashinfer::gpu
