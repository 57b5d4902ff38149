// How q, keys and values come to shared memory: rows found through the page table, 16 bytes a thread, zeros for what is not there.
// Nothing outside q's rows, the page table and the pool is ever read, whatever the lengths say.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>

namespace flashinfer::gpu {

/// Copies kRows rows of kDim elements, eight elements a chunk, padded to a multiple of 16 with zeros, by the kGroup threads of a group.
/// A source has: begin(row), and valid(row, column): what is not valid is not read, zeros are written. One with kScaled has scale(row).
/// A thread looks up to kMostTogether rows up at a time: few where that needs divisions.
template <class T, class Operand, bool kAsync, int kRows, int kDim, int kPitch, int kGroup, int kMostTogether = 8>
struct RowCopy {
  static constexpr int kChunks = padded(kDim) / 8;
  /// Neighbouring threads share a row: a power of two that divides its chunks, so that all of a thread's addresses are one register
  /// and constants.
  static constexpr int kSharers = min(kChunks & -kChunks, kGroup);
  static constexpr int kRowsAtOnce = kGroup / kSharers, kColumnSteps = kChunks / kSharers;
  static constexpr int kPerThread = ceil_div(kRows, kRowsAtOnce) * kColumnSteps;
  /// Through registers a whole tile is under way at a time if it takes few of them; else it is moved in parts, without overlap.
  static constexpr int kWords = Vec<T, 8>::kBytes / 4;
  static constexpr bool kOverlaps = !kAsync && kPerThread * kWords <= 32;
  static constexpr int kPart = kOverlaps ? kPerThread : min(kPerThread, 16 / kWords);

  Vec<T, 8> held[kAsync ? 1 : kPart];

  template <class Source>
  FLASHINFER_DEVICE void copy(int thread, unsigned char* smem, const Source& source) {
    if constexpr (kAsync) {
      const uint32_t to = ptx::smem_address(smem);
      constexpr int kRowSteps = ceil_div(kRows, kRowsAtOnce), kTogether = min(kRowSteps, kMostTogether);
#pragma unroll(kMostTogether < 8 ? 1 : kRowSteps)
      for (int first = 0; first < kRowSteps; first += kTogether) {
        const char* from[kTogether];  // all looked up before the first copy: one after the other they would wait for each
#pragma unroll
        for (int r = 0; r < kTogether; ++r) from[r] = source.begin(Chunk(thread, min(first + r, kRowSteps - 1) * kColumnSteps).clamped());
#pragma unroll
        for (int i = 0; i < kTogether * kColumnSteps; ++i) {
          const Chunk at(thread, first * kColumnSteps + i);
          if (first * kColumnSteps + i < kPerThread && at.exists())
            ptx::cp_async_16(to + at.to(), from[i / kColumnSteps] + at.column * Vec<T, 8>::kBytes, at.valid(source));
        }
      }
    } else {
      fetch(thread, source);
      store(thread, smem, source);
    }
  }

  /// The two halves of a copy through registers; compute in between.
  template <class Source>
  FLASHINFER_DEVICE void fetch(int thread, const Source& source) {
    if constexpr (kOverlaps) fetch_part<0>(thread, source);
  }
  template <class Source>
  FLASHINFER_DEVICE void store(int thread, unsigned char* smem, const Source& source) {
    if constexpr (kOverlaps) {
      store_part<0>(thread, smem, source);
    } else {
      move_parts<0>(thread, smem, source);
    }
  }

 private:
  /// The i-th chunk of a thread.
  struct Chunk {
    int row, column;
    FLASHINFER_DEVICE Chunk(int thread, int i)
        : row(int(unsigned(thread) / kSharers) + i / kColumnSteps * kRowsAtOnce),
          column(int(unsigned(thread) % kSharers) + i % kColumnSteps * kSharers) {}
    FLASHINFER_DEVICE int clamped() const { return kRows % kRowsAtOnce == 0 ? row : min(row, kRows - 1); }
    FLASHINFER_DEVICE bool exists() const { return kRows % kRowsAtOnce == 0 || row < kRows; }
    FLASHINFER_DEVICE int to() const { return row * kPitch + column * 16; }
    template <class Source>
    FLASHINFER_DEVICE bool valid(const Source& source) const {
      return (kDim % 16 == 0 || column < kDim / 8) && source.valid(row, column);
    }
  };
  template <int kFirst, class Source>
  FLASHINFER_DEVICE void fetch_part(int thread, const Source& source) {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const Chunk at(thread, kFirst + i);
      if (kFirst + i >= kPerThread) break;
      held[i] = at.exists() && at.valid(source)
                    ? Vec<T, 8>::load(reinterpret_cast<const T*>(source.begin(at.row) + at.column * Vec<T, 8>::kBytes))
                    : Vec<T, 8>::zero();
    }
  }
  template <int kFirst, class Source>
  FLASHINFER_DEVICE void store_part(int thread, unsigned char* smem, const Source& source) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const Chunk at(thread, kFirst + i);
      if (kFirst + i >= kPerThread || !at.exists()) continue;
      if constexpr (Source::kScaled) {
        to_operand<Operand>(held[i], source.scale(at.row)).store(reinterpret_cast<Operand*>(smem + at.to()));
      } else {
        to_operand<Operand>(held[i]).store(reinterpret_cast<Operand*>(smem + at.to()));
      }
    }
  }
  template <int kFirst, class Source>
  FLASHINFER_DEVICE void move_parts(int thread, unsigned char* smem, const Source& source) {
    if constexpr (kFirst < kPerThread) {
      fetch_part<kFirst>(thread, source);
      store_part<kFirst>(thread, smem, source);
      move_parts<kFirst + kPart>(thread, smem, source);
    }
  }
};

/// q's rows of an item. Rows past the request or past q are zeros.
template <AttentionConfig kConfig>
struct QSource {
  static constexpr bool kScaled = false;
  using T = typename AttentionTile<kConfig>::Q;
  const AttentionParams& p;
  const char* base;  // of the kv head's first query head
  int32_t first_row, num_rows, qo_begin;

  FLASHINFER_DEVICE QSource(const AttentionParams& p, const AttentionWork& work)
      : p(p),
        base(reinterpret_cast<const char*>(static_cast<const T*>(p.q) +
                                           int64_t(work.item.head / p.plan.num_vo_tiles) * p.plan.group_size() * p.q_stride_head)),
        first_row(work.item.q_tile * kConfig.q_tile),
        num_rows(work.qo_len * p.plan.group_size()),
        qo_begin(work.qo_begin) {}
  FLASHINFER_DEVICE const char* begin(int row) const {
    const int32_t group_size = p.plan.group_size(), token = (first_row + row) / group_size, head = first_row + row - token * group_size;
    return base + ((qo_begin + token) * p.q_stride_token + head * p.q_stride_head) * int64_t(sizeof(T));
  }
  FLASHINFER_DEVICE bool valid(int row, int) const {
    return first_row + row < num_rows && uint32_t(qo_begin + (first_row + row) / p.plan.group_size()) < uint32_t(p.total_qo_len);
  }
};

/// By all threads of the block.
template <AttentionConfig kConfig>
FLASHINFER_DEVICE void load_q(const AttentionParams& p, const AttentionWork& work) {
  using Tile = AttentionTile<kConfig>;
  RowCopy<typename Tile::Q, typename Tile::Operand, Tile::kQAsync, kConfig.q_tile, kConfig.head_dim_qk, Tile::kSmem.q_pitch, Tile::kThreads,
          2>
      rows;
  rows.copy(ptx::opaque(int(threadIdx.x)), dynamic_smem() + Tile::kSmem.q, QSource<kConfig>(p, work));
}

/// Where a key's rows of k and v begin: of the item's head, and of its columns of v.
struct KvPlace {
  const char *k, *v;
};
static_assert(sizeof(KvPlace) == AttentionSmem::kPlaceBytes);

/// Loads the key tiles of one item. A thread looks one key of a tile up and leaves its place in shared memory for those who
/// copy; the page id is read (find) long before it is needed (publish).
template <AttentionConfig kConfig>
struct KvLoader {
  using Tile = AttentionTile<kConfig>;
  using T = typename Tile::Kv;
  static constexpr AttentionSmem kSmem = Tile::kSmem;
  static constexpr int kVoTiles = ceil_div(kConfig.head_dim_vo, kConfig.vo_tile);
  using KCopy = RowCopy<T, typename Tile::Operand, Tile::kKvAsync, Tile::kLoadKeys, kConfig.head_dim_qk, kSmem.k_pitch, Tile::kLoadThreads>;
  using VCopy = RowCopy<T, typename Tile::Operand, Tile::kKvAsync, Tile::kLoadKeys, kConfig.vo_tile, kSmem.v_pitch, Tile::kLoadThreads>;
  /// A page and a row in it; a token and 0 when ragged.
  struct Row {
    int32_t page, row;
  };

  // What is not here is read again from parameters and shared memory: registers are the kernel's scarcest good.
  const KvView& kv;
  const uint32_t page_size;
  const AttentionWork& work;

  FLASHINFER_DEVICE KvLoader(const AttentionParams& p, const AttentionWork& work) : kv(p.kv), page_size(p.plan.page_size), work(work) {}

  /// Of a token, for its key (x) and its value (y). Zeros for tokens that no row sees: their memory may hold anything.
  FLASHINFER_DEVICE float2 find_scales(const AttentionParams& p, int32_t key, const Row& found) const {
    if (key >= kv_end()) return make_float2(0.0f, 0.0f);
    if constexpr (kConfig.limits) {
      const int32_t first_token = work.item.q_tile * kConfig.q_tile / p.plan.group_size();
      if (key < kv_range(p.plan.causal, p.plan.window_left, first_token, work.qo_len, work.kv_len).begin) return make_float2(0.0f, 0.0f);
    }
    const int32_t page = uint32_t(found.page) < uint32_t(kv.num_pages) ? found.page : 0, head = work.item.head / kVoTiles;
    return make_float2(p.scales.of_key(page, found.row, head), p.scales.of_value(page, found.row, head));
  }
  /// As find_own() and publish_own(), for the scales.
  FLASHINFER_DEVICE float2 find_own_scales(const AttentionParams& p, int32_t tile, const Row& found) const {
    return Tile::loader() < Tile::kLoadKeys ? find_scales(p, first_key(tile) + Tile::loader(), found) : make_float2(0.0f, 0.0f);
  }
  FLASHINFER_DEVICE void publish_own_scales(int32_t tile, float2 found) const {
    if (Tile::loader() < Tile::kLoadKeys) scales(tile)[Tile::first_load_key() + Tile::loader()] = found;
  }

  /// This loader's first key of a tile.
  FLASHINFER_DEVICE int32_t first_key(int32_t tile) const { return work.item.kv_begin + tile * kConfig.kv_tile + Tile::first_load_key(); }
  /// From here on there are zeros.
  FLASHINFER_DEVICE int32_t kv_end() const { return kv.num_pages > 0 ? work.item.kv_end : 0; }
  /// Columns of v; fewer than vo_tile in the last part of an output that vo_tile does not divide.
  FLASHINFER_DEVICE int32_t v_columns() const {
    if constexpr (kConfig.head_dim_vo % kConfig.vo_tile == 0) return kConfig.vo_tile;
    return kConfig.head_dim_vo - work.item.head % kVoTiles * kConfig.vo_tile;
  }

  /// Only starts the load: who looks at the page id here waits for it here.
  FLASHINFER_DEVICE Row find(int32_t key) const {
    if (key >= kv_end()) return {0, 0};
    if constexpr (kConfig.paged) {
      const int32_t page = int32_t(uint32_t(key) / page_size), at = work.kv_begin + page;
      return {uint32_t(at) < uint32_t(kv.num_indices) ? kv.indices[at] : 0, key - page * int32_t(page_size)};
    } else {
      return {work.kv_begin + key, 0};
    }
  }
  FLASHINFER_DEVICE void publish(int32_t tile, int32_t key_in_tile, const Row& found) const {
    const int32_t page = uint32_t(found.page) < uint32_t(kv.num_pages) ? found.page : 0;
    const int32_t head = work.item.head / kVoTiles, part = work.item.head % kVoTiles;
    int64_t of_k = head * kv.k_stride_head, of_v = head * kv.v_stride_head + part * kConfig.vo_tile;
    if constexpr (kConfig.paged) {
      of_k += page * kv.k_stride_page + found.row * kv.k_stride_token;
      of_v += page * kv.v_stride_page + found.row * kv.v_stride_token;
    } else {
      of_k += page * kv.k_stride_token;
      of_v += page * kv.v_stride_token;
    }
    places(tile)[key_in_tile] = {reinterpret_cast<const char*>(static_cast<const T*>(kv.k) + of_k),
                                 reinterpret_cast<const char*>(static_cast<const T*>(kv.v) + of_v)};
  }
  /// In the loop: this thread's key of the tile.
  FLASHINFER_DEVICE Row find_own(int32_t tile) const {
    return Tile::loader() < Tile::kLoadKeys ? find(first_key(tile) + Tile::loader()) : Row{0, 0};
  }
  FLASHINFER_DEVICE void publish_own(int32_t tile, const Row& found) const {
    if (Tile::loader() < Tile::kLoadKeys) publish(tile, Tile::first_load_key() + Tile::loader(), found);
  }
  /// Before the loop: all keys of the first kTiles tiles, their page ids under way together.
  template <int kTiles>
  FLASHINFER_DEVICE void publish_first(const AttentionParams& p) const {
    constexpr int kPerThread = ceil_div(kTiles * Tile::kLoadKeys, Tile::kLoadThreads);
    Row found[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = Tile::loader() + i * Tile::kLoadThreads, tile = at / Tile::kLoadKeys, key = at % Tile::kLoadKeys;
      found[i] = tile < kTiles ? find(first_key(tile) + key) : Row{0, 0};
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int at = Tile::loader() + i * Tile::kLoadThreads, tile = at / Tile::kLoadKeys, key = at % Tile::kLoadKeys;
      if (tile < kTiles) publish(tile, Tile::first_load_key() + key, found[i]);
      if constexpr (kConfig.token_scales)
        if (tile < kTiles) scales(tile)[Tile::first_load_key() + key] = find_scales(p, first_key(tile) + key, found[i]);
    }
  }

  /// A tile of keys, or of values.
  template <bool kOfValues>
  struct Source {
    static constexpr bool kScaled = kOfValues && kConfig.token_scales;
    const KvPlace* places;
    int32_t rows, columns;  // that are there
    const float2* scales = nullptr;
    FLASHINFER_DEVICE const char* begin(int row) const { return kOfValues ? places[row].v : places[row].k; }
    FLASHINFER_DEVICE bool valid(int row, int column) const {
      return row < rows && (!kOfValues || kConfig.head_dim_vo % kConfig.vo_tile == 0 || column * 8 < columns);
    }
    FLASHINFER_DEVICE float scale(int row) const { return scales[row].y; }
  };
  FLASHINFER_DEVICE Source<false> keys(int32_t tile) const {
    return {places(tile) + Tile::first_load_key(), kv_end() - first_key(tile), kConfig.head_dim_qk};
  }
  FLASHINFER_DEVICE Source<true> values(int32_t tile) const {
    return {places(tile) + Tile::first_load_key(), kv_end() - first_key(tile), v_columns(), scales(tile) + Tile::first_load_key()};
  }
  /// Shared memory of this loader's first row of a stage.
  static FLASHINFER_DEVICE unsigned char* k_smem(int32_t stage) {
    return dynamic_smem() + kSmem.k + stage * kSmem.k_stage + Tile::first_load_key() * kSmem.k_pitch;
  }
  static FLASHINFER_DEVICE unsigned char* v_smem(int32_t stage) {
    return dynamic_smem() + kSmem.v + stage * kSmem.v_stage + Tile::first_load_key() * kSmem.v_pitch;
  }
  /// Of a tile's tokens: for the key and for the value.
  static FLASHINFER_DEVICE float2* scales(int32_t tile) {
    return reinterpret_cast<float2*>(dynamic_smem() + kSmem.scales) + (tile & (kSmem.num_places - 1)) * kConfig.kv_tile;
  }
  static FLASHINFER_DEVICE KvPlace* places(int32_t tile) {
    return reinterpret_cast<KvPlace*>(dynamic_smem() + kSmem.places) + (tile & (kSmem.num_places - 1)) * kConfig.kv_tile;
  }
};

}  // namespace flashinfer::gpu
