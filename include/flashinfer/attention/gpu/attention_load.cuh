// How q, keys and values come to shared memory: rows found through the page table, 16 bytes a thread, zeros for what is not there.
// Nothing outside q's rows, the page table and the pool is ever read, whatever the lengths say.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>

namespace flashinfer::gpu {

/// Copies a thread's chunks of `kRows` rows of `kDim` elements, eight elements a chunk, padded to a multiple of 16 with zeros.
/// The kGroup threads of a group share the rows. `place(row, valid)` is the row's first element.
template <class T, class Operand, bool kAsync, int kRows, int kDim, int kPitch, int kGroup>
struct RowCopy {
  static constexpr int kChunks = padded(kDim) / 8;
  static constexpr int kTotal = kRows * kChunks;
  static constexpr int kPerThread = ceil_div(kTotal, kGroup);
  /// Through registers a whole tile is under way at a time if it takes few of them; else it is moved in parts, without overlap.
  static constexpr int kWords = Vec<T, 8>::kBytes / 4;
  static constexpr bool kOverlaps = !kAsync && kPerThread * kWords <= 32;
  static constexpr int kPart = kOverlaps ? kPerThread : min(kPerThread, 16 / kWords);

  Vec<T, 8> held[kAsync ? 1 : kPart];

  template <class Place>
  FLASHINFER_DEVICE void copy(int thread, unsigned char* smem, const Place& place) {
    if constexpr (kAsync) {
      const uint32_t base = ptx::smem_address(smem);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const unsigned chunk = unsigned(thread) + i * kGroup, row = chunk / kChunks, column = chunk % kChunks;
        if (kTotal % kGroup != 0 && chunk >= kTotal) break;
        bool valid = kDim % 16 == 0 || column < kDim / 8;
        const T* from = place(int(row), int(column), valid);
        ptx::cp_async_16(base + row * kPitch + column * 16, from, valid);
      }
    } else {
      fetch(thread, place);
      store(thread, smem, place);
    }
  }

  /// The two halves of a copy through registers; compute in between.
  template <class Place>
  FLASHINFER_DEVICE void fetch(int thread, const Place& place) {
    if constexpr (kOverlaps) fetch_part<0>(thread, place);
  }
  template <class Place>
  FLASHINFER_DEVICE void store(int thread, unsigned char* smem, const Place& place) {
    if constexpr (kOverlaps) {
      store_part<0>(thread, smem);
    } else {
      move_parts<0>(thread, smem, place);
    }
  }

 private:
  template <int kFirst, class Place>
  FLASHINFER_DEVICE void fetch_part(int thread, const Place& place) {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const unsigned chunk = unsigned(thread) + (kFirst + i) * kGroup, row = chunk / kChunks, column = chunk % kChunks;
      bool valid = chunk < kTotal && (kDim % 16 == 0 || column < kDim / 8);
      const T* from = place(int(row), int(column), valid);
      held[i] = valid ? Vec<T, 8>::load(from) : Vec<T, 8>::zero();
    }
  }
  template <int kFirst>
  FLASHINFER_DEVICE void store_part(int thread, unsigned char* smem) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const unsigned chunk = unsigned(thread) + (kFirst + i) * kGroup, row = chunk / kChunks, column = chunk % kChunks;
      if (chunk < kTotal) to_operand<Operand>(held[i]).store(reinterpret_cast<Operand*>(smem + row * kPitch + column * 16));
    }
  }
  template <int kFirst, class Place>
  FLASHINFER_DEVICE void move_parts(int thread, unsigned char* smem, const Place& place) {
    if constexpr (kFirst < kPerThread) {
      fetch_part<kFirst>(thread, place);
      store_part<kFirst>(thread, smem);
      move_parts<kFirst + kPart>(thread, smem, place);
    }
  }
};

/// Moves q's rows of an item, which all threads load together. Rows past the request or past q are zeros.
template <AttentionConfig kConfig>
FLASHINFER_DEVICE void load_q(const AttentionParams& p) {
  using Tile = AttentionTile<kConfig>;
  using T = typename Tile::Q;
  const AttentionWork& work = Tile::work();
  const int32_t group_size = p.plan.group_size();
  const int32_t first_row = work.item.q_tile * kConfig.q_tile, num_rows = work.qo_len * group_size;
  const int32_t qo_begin = work.qo_begin;
  const T* q = static_cast<const T*>(p.q) + int64_t(work.item.head / p.plan.num_vo_tiles) * group_size * p.q_stride_head;
  RowCopy<T, typename Tile::Operand, Tile::kQAsync, kConfig.q_tile, kConfig.head_dim_qk, Tile::kSmem.q_pitch, Tile::kThreads> rows;
  rows.copy(int(threadIdx.x), dynamic_smem() + Tile::kSmem.q, [&](int row, int column, bool& valid) {
    const int32_t packed = first_row + row, token = packed / group_size, head = packed - token * group_size;
    valid = valid && packed < num_rows && unsigned(qo_begin + token) < unsigned(p.total_qo_len);
    return q + (valid ? (qo_begin + token) * p.q_stride_token + head * p.q_stride_head + column * 8 : 0);
  });
}

/// Where a key's rows of k and v begin, in elements from the head's first.
struct KvPlace {
  int64_t k, v;
};
static_assert(sizeof(KvPlace) == AttentionSmem::kPlaceBytes);

/// Loads the key tiles of one item. A thread looks one key of a tile up and leaves its place in shared memory for those who
/// copy; the page id is read (find) long before it is needed (publish).
template <AttentionConfig kConfig>
struct KvLoader {
  using Tile = AttentionTile<kConfig>;
  using T = typename Tile::Kv;
  static constexpr AttentionSmem kSmem = Tile::kSmem;
  using KCopy = RowCopy<T, typename Tile::Operand, Tile::kKvAsync, Tile::kLoadKeys, kConfig.head_dim_qk, kSmem.k_pitch, Tile::kLoadThreads>;
  using VCopy = RowCopy<T, typename Tile::Operand, Tile::kKvAsync, Tile::kLoadKeys, kConfig.vo_tile, kSmem.v_pitch, Tile::kLoadThreads>;
  /// A page and a row in it; a token and 0 when ragged.
  struct Row {
    int32_t page, row;
  };

  const KvView& kv;
  const T *k, *v;      // of the head; v: of the item's columns
  int32_t request_begin;  // first page or token
  int32_t page_size;
  int32_t kv_begin, kv_end;  // of the item; past kv_end there are zeros
  int32_t v_columns;         // fewer than vo_tile in the last part of an output that vo_tile does not divide

  FLASHINFER_DEVICE KvLoader(const AttentionParams& p, const AttentionWork& work)
      : kv(p.kv), request_begin(work.kv_begin), page_size(p.plan.page_size), kv_begin(work.item.kv_begin),
        kv_end(p.kv.num_pages > 0 ? work.item.kv_end : 0) {
    const int32_t head = work.item.head / p.plan.num_vo_tiles, part = work.item.head - head * p.plan.num_vo_tiles;
    k = static_cast<const T*>(kv.k) + head * kv.k_stride_head;
    v = static_cast<const T*>(kv.v) + head * kv.v_stride_head + part * kConfig.vo_tile;
    v_columns = kConfig.head_dim_vo - part * kConfig.vo_tile;
  }

  /// The key that this thread looks up in a tile.
  FLASHINFER_DEVICE int32_t own_key(int32_t tile) const { return kv_begin + tile * kConfig.kv_tile + Tile::first_load_key() + Tile::loader(); }

  FLASHINFER_DEVICE Row find(int32_t key) const {
    if (key >= kv_end) return {0, 0};
    if constexpr (kConfig.paged) {
      const int32_t page = int32_t(uint32_t(key) / uint32_t(page_size)), at = request_begin + page;
      const int32_t id = uint32_t(at) < uint32_t(kv.num_indices) ? kv.indices[at] : 0;
      return {uint32_t(id) < uint32_t(kv.num_pages) ? id : 0, key - page * page_size};
    } else {
      const int32_t token = request_begin + key;
      return {uint32_t(token) < uint32_t(kv.num_pages) ? token : 0, 0};
    }
  }
  FLASHINFER_DEVICE void publish(int32_t tile, int32_t key_in_tile, const Row& found) const {
    KvPlace place;
    if constexpr (kConfig.paged) {
      place.k = found.page * kv.k_stride_page + found.row * kv.k_stride_token;
      place.v = found.page * kv.v_stride_page + found.row * kv.v_stride_token;
    } else {
      place.k = found.page * kv.k_stride_token;
      place.v = found.page * kv.v_stride_token;
    }
    places(tile)[key_in_tile] = place;
  }
  /// In the loop: this thread's key of the tile.
  FLASHINFER_DEVICE Row find_own(int32_t tile) const { return Tile::loader() < Tile::kLoadKeys ? find(own_key(tile)) : Row{0, 0}; }
  FLASHINFER_DEVICE void publish_own(int32_t tile, const Row& found) const {
    if (Tile::loader() < Tile::kLoadKeys) publish(tile, Tile::first_load_key() + Tile::loader(), found);
  }
  /// Before the loop: all keys of the first kTiles tiles, their page ids under way together.
  template <int kTiles>
  FLASHINFER_DEVICE void publish_first() const {
    constexpr int kPerThread = ceil_div(kTiles * Tile::kLoadKeys, Tile::kLoadThreads);
    Row found[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = Tile::loader() + i * Tile::kLoadThreads, tile = at / Tile::kLoadKeys, key = at % Tile::kLoadKeys;
      found[i] = find(tile < kTiles ? kv_begin + tile * kConfig.kv_tile + Tile::first_load_key() + key : kv_end);
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = Tile::loader() + i * Tile::kLoadThreads, tile = at / Tile::kLoadKeys, key = at % Tile::kLoadKeys;
      if (tile < kTiles) publish(tile, Tile::first_load_key() + key, found[i]);
    }
  }

  FLASHINFER_DEVICE void copy_k(KCopy& rows, int32_t tile, int32_t stage) const {
    rows.copy(Tile::loader(), k_smem(stage), k_place(tile));
  }
  FLASHINFER_DEVICE void copy_v(VCopy& rows, int32_t tile, int32_t stage) const {
    rows.copy(Tile::loader(), v_smem(stage), v_place(tile));
  }
  FLASHINFER_DEVICE auto k_place(int32_t tile) const {
    return [this, at = places(tile) + Tile::first_load_key(), first = kv_begin + tile * kConfig.kv_tile + Tile::first_load_key()](
               int row, int column, bool& valid) {
      valid = valid && first + row < kv_end;
      return k + (valid ? at[row].k + column * 8 : 0);
    };
  }
  FLASHINFER_DEVICE auto v_place(int32_t tile) const {
    return [this, at = places(tile) + Tile::first_load_key(), first = kv_begin + tile * kConfig.kv_tile + Tile::first_load_key()](
               int row, int column, bool& valid) {
      valid = valid && first + row < kv_end && (kConfig.head_dim_vo % kConfig.vo_tile == 0 || column * 8 < v_columns);
      return v + (valid ? at[row].v + column * 8 : 0);
    };
  }
  /// Shared memory of this loader's first row of a stage.
  static FLASHINFER_DEVICE unsigned char* k_smem(int32_t stage) {
    return dynamic_smem() + kSmem.k + stage * kSmem.k_stage + Tile::first_load_key() * kSmem.k_pitch;
  }
  static FLASHINFER_DEVICE unsigned char* v_smem(int32_t stage) {
    return dynamic_smem() + kSmem.v + stage * kSmem.v_stage + Tile::first_load_key() * kSmem.v_pitch;
  }
  static FLASHINFER_DEVICE KvPlace* places(int32_t tile) {
    return reinterpret_cast<KvPlace*>(dynamic_smem() + kSmem.places) + (tile & (kSmem.num_places - 1)) * kConfig.kv_tile;
  }
};

}  // namespace flashinfer::gpu
