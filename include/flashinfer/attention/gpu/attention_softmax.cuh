// One warp's step over a tile of keys: scores = q k^T, mask, online softmax in the log2 domain, out += p v. Everything but q,
// k and v stays in registers, in the layout of mma accumulators.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>
#include <flashinfer/gpu/ptx/math.cuh>

namespace flashinfer::gpu {

/// The rows of a warp against the keys of an item: which tiles are skipped, and which need no mask.
template <AttentionConfig kConfig>
struct WarpRows {
  using Tile = AttentionTile<kConfig>;

  KvRange visible, full;  // keys that some row, that every row of this warp may see

  /// Kept in shared memory between tiles.
  static FLASHINFER_DEVICE WarpRows& of_warp() { return reinterpret_cast<WarpRows*>(dynamic_smem() + Tile::kSmem.rows)[Tile::warp()]; }

  FLASHINFER_DEVICE WarpRows(const AttentionParams& p, const AttentionWork& work) {
    const int32_t group_size = p.plan.group_size();
    const int32_t first = work.item.q_tile * kConfig.q_tile + Tile::warp_q() * rows_per_warp(kConfig);
    const int32_t last = min(first + rows_per_warp(kConfig), work.qo_len * group_size) - 1;
    if (last < first) {  // padding only: nothing to compute
      visible = full = {0, 0};
    } else {  // limits grow with the token
      const KvRange a = limits(p, work, first / group_size), b = limits(p, work, last / group_size);
      visible = {a.begin, b.end};
      full = {b.begin, a.end};
    }
  }
  FLASHINFER_DEVICE bool sees(int32_t key) const { return key < visible.end && key + Tile::kKeysPerWarp > visible.begin; }
  FLASHINFER_DEVICE bool sees_all(int32_t key) const { return key >= full.begin && key + Tile::kKeysPerWarp <= full.end; }

  /// Keys that a token may see.
  static FLASHINFER_DEVICE KvRange limits(const AttentionParams& p, const AttentionWork& work, int32_t token) {
    if constexpr (kConfig.limits) {
      return kv_range(p.plan.causal, p.plan.window_left, token, work.qo_len, work.kv_len);
    } else {
      return {0, work.kv_len};
    }
  }
};

/// m, d and o of a thread's rows. d is this thread's part until finish(); m is the same in the four lanes of a row.
template <AttentionConfig kConfig, class Variant>
struct WarpState {
  using Tile = AttentionTile<kConfig>;
  using Operand = typename Tile::Operand;
  static constexpr AttentionSmem kSmem = Tile::kSmem;
  static constexpr int kRowFragments = Tile::kRowFragments, kScoreFragments = Tile::kScoreFragments, kOutFragments = Tile::kOutFragments;
  static constexpr bool kKeepsQ = keeps_q(kConfig);
  /// p may exceed 1 by this much (log2) before m moves up and o is rescaled. Scores settle early, so after the first tiles
  /// nothing is rescaled; 2^8 is far from the limits of f16 p.
  static constexpr float kSlack = 8.0f;

  float m[kRowFragments][2], d[kRowFragments][2];
  float o[kRowFragments][kOutFragments][4];
  uint32_t q[kKeepsQ ? Tile::kQkSteps : 1][kRowFragments][4];
  uint32_t q_address, k_address, v_address;  // this lane's rows for ldmatrix, of stage 0

  /// No keys yet. Called when all that comes before the first tile is done: accumulators fill the registers.
  FLASHINFER_DEVICE void clear() {
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f) {
#pragma unroll
      for (int h = 0; h < 2; ++h) m[f][h] = -kInfinity, d[f][h] = 0.0f;
#pragma unroll
      for (int n = 0; n < kOutFragments; ++n)
#pragma unroll
        for (float& x : o[f][n]) x = 0.0f;
    }
  }

  FLASHINFER_DEVICE WarpState() {
    const int lane = Tile::lane();
    const uint32_t smem = ptx::smem_address(dynamic_smem());
    // q and v: rows of both 8x8 matrices downward, then the next 8 columns; k: 8 keys, then the next 8 columns, then the next 8 keys.
    q_address = smem + kSmem.q + (Tile::warp_q() * rows_per_warp(kConfig) + lane % 16) * kSmem.q_pitch + lane / 16 * 16;
    k_address = smem + kSmem.k + (Tile::warp_kv() * Tile::kKeysPerWarp + lane % 8 + lane / 16 * 8) * kSmem.k_pitch + lane / 8 % 2 * 16;
    v_address = smem + kSmem.v + (Tile::warp_kv() * Tile::kKeysPerWarp + lane % 16) * kSmem.v_pitch + lane / 16 * 16;
  }

  /// Once q is in shared memory.
  FLASHINFER_DEVICE void keep_q() {
    if constexpr (kKeepsQ) {
#pragma unroll
      for (int step = 0; step < Tile::kQkSteps; ++step) load_q_fragments(step, q[step]);
    }
  }

  FLASHINFER_DEVICE void scores(float (&s)[kRowFragments][kScoreFragments][4], int32_t stage) const {
    const uint32_t k = k_address + stage * kSmem.k_stage;
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
      for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
        for (float& x : s[f][n]) x = 0.0f;
#pragma unroll
    for (int step = 0; step < Tile::kQkSteps; ++step) {
      uint32_t a[kRowFragments][4];
      if constexpr (kKeepsQ) {
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
          for (int i = 0; i < 4; ++i) a[f][i] = q[step][f][i];
      } else {
        load_q_fragments(step, a);
      }
#pragma unroll
      for (int n = 0; n < kScoreFragments; n += 2) {
        uint32_t b[4];
        ptx::ldmatrix_x4(b, k + n * 8 * kSmem.k_pitch + step * 32);
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f) {
          ptx::mma_m16n8k16<Operand>(s[f][n], a[f], b[0], b[1]);
          ptx::mma_m16n8k16<Operand>(s[f][n + 1], a[f], b[2], b[3]);
        }
      }
    }
  }

  /// A thread finds the scale of one row, of its query head and its key head, for those who have the row.
  static FLASHINFER_DEVICE void publish_row_scales(const AttentionParams& p, const AttentionWork& work) {
    static_assert(kConfig.q_tile <= Tile::kThreads);
    const int32_t group_size = p.plan.group_size(), kv_head = work.item.head / p.plan.num_vo_tiles;
    const int32_t row = work.item.q_tile * kConfig.q_tile + int32_t(threadIdx.x);
    if (threadIdx.x < kConfig.q_tile) row_scale(int(threadIdx.x)) = p.scales.of_scores(kv_head * group_size + row % group_size, kv_head);
  }
  /// What the cache was divided by comes back before anything else is done to the scores. `token_scales`: of the tile.
  FLASHINFER_DEVICE void scale_scores(float (&s)[kRowFragments][kScoreFragments][4], const float2* token_scales) const {
    if constexpr (kConfig.token_scales) {
      const float2* of_lane = token_scales + Tile::warp_kv() * Tile::kKeysPerWarp + Tile::lane() % 4 * 2;
#pragma unroll
      for (int n = 0; n < kScoreFragments; ++n) {
        const float4 scales = *reinterpret_cast<const float4*>(of_lane + n * 8);  // of two tokens
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
          for (int e = 0; e < 4; ++e) s[f][n][e] *= e % 2 ? scales.z : scales.x;
      }
    }
    if constexpr (kConfig.head_scales) {
#pragma unroll
      for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
        for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) s[f][n][e] *= row_scale(Tile::row(f, e / 2));
    }
  }

  /// Masks the scores of the warp's keys from first_key on, and returns the factor that makes log2-domain logits of them.
  FLASHINFER_DEVICE float logits(float (&s)[kRowFragments][kScoreFragments][4], const AttentionParams& p, const AttentionWork& work,
                                 const WarpRows<kConfig>& rows, int32_t first_key) const {
    const bool partial = !rows.sees_all(first_key);
    const int32_t lane_key = first_key + Tile::lane() % 4 * 2;
    const int32_t group_size = p.plan.group_size(), num_rows = work.qo_len * group_size, first_row = work.item.q_tile * kConfig.q_tile;
    if constexpr (Variant::kTransformsLogits || Variant::kMasks) {
      const int32_t kv_head = work.item.head / p.plan.num_vo_tiles;
#pragma unroll
      for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          // A padding row takes the last one's place: functors never see an index out of range.
          const int32_t row = min(first_row + Tile::row(f, h), num_rows - 1), token = row / group_size;
          const KvRange limits = partial ? rows.limits(p, work, token) : rows.full;
#pragma unroll
          for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const LogitPosition at = {work.item.request,
                                        token,
                                        work.qo_len,
                                        lane_key + n * 8 + e,
                                        work.kv_len,
                                        kv_head * group_size + row - token * group_size,
                                        kv_head};
              float& x = s[f][n][2 * h + e];
              bool visible = at.kv_idx >= limits.begin && at.kv_idx < limits.end;
              if constexpr (Variant::kMasks) visible = visible && Variant::visible(p.variant, at);
              x = visible ? Variant::logit(p.variant, x * p.variant.sm_scale, at) * kLog2e : -kInfinity;
            }
        }
      return 1.0f;
    } else {
      const float scale = p.variant.sm_scale * kLog2e;
      const bool folds = scale > 0.0f;  // else the largest score is not the largest logit
      if (!folds) {
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
          for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
            for (float& x : s[f][n]) x *= scale;
      }
      if (partial) {
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const KvRange limits = rows.limits(p, work, min(first_row + Tile::row(f, h), num_rows - 1) / group_size);
            const uint32_t first = uint32_t(lane_key - limits.begin), count = uint32_t(max(limits.end - limits.begin, int32_t(0)));
#pragma unroll
            for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
              for (int e = 0; e < 2; ++e)
                if (first + uint32_t(n * 8 + e) >= count) s[f][n][2 * h + e] = -kInfinity;
          }
      }
      return folds ? scale : 1.0f;
    }
  }

  /// Turns scores into probabilities relative to m, as fragments of the next product's left operand.
  FLASHINFER_DEVICE void softmax(float (&s)[kRowFragments][kScoreFragments][4], float scale,
                                 uint32_t (&probabilities)[kRowFragments][kScoreFragments / 2][4]) {
    bool rescales = false;
    float factor[kRowFragments][2];
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = s[f][0][2 * h];
#pragma unroll
        for (int n = 0; n < kScoreFragments; ++n) largest = fmaxf(largest, fmaxf(s[f][n][2 * h], s[f][n][2 * h + 1]));
        largest = warp_max<4>(largest) * scale;
        const bool moves = largest > m[f][h] + kSlack;  // from -inf: always, unless all keys are masked
        factor[f][h] = moves ? ptx::ex2(m[f][h] - largest) : 1.0f;
        if (moves) m[f][h] = largest;
        rescales = rescales || moves;
        const float shift = m[f][h] == -kInfinity ? 0.0f : -m[f][h];
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kScoreFragments; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            s[f][n][e] = ptx::ex2(fmaf(s[f][n][e], scale, shift));
            sum += s[f][n][e];
          }
        d[f][h] = d[f][h] * factor[f][h] + sum;
      }
    if (__any_sync(0xffffffffu, rescales)) {
#pragma unroll
      for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
        for (int n = 0; n < kOutFragments; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) o[f][n][e] *= factor[f][e / 2];
    }
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
      for (int n = 0; n < kScoreFragments; n += 2) {
        probabilities[f][n / 2][0] = pack2<Operand>(s[f][n][0], s[f][n][1]);
        probabilities[f][n / 2][1] = pack2<Operand>(s[f][n][2], s[f][n][3]);
        probabilities[f][n / 2][2] = pack2<Operand>(s[f][n + 1][0], s[f][n + 1][1]);
        probabilities[f][n / 2][3] = pack2<Operand>(s[f][n + 1][2], s[f][n + 1][3]);
      }
  }

  FLASHINFER_DEVICE void accumulate(const uint32_t (&probabilities)[kRowFragments][kScoreFragments / 2][4], int32_t stage) {
    const uint32_t v = v_address + stage * kSmem.v_stage;
#pragma unroll
    for (int step = 0; step < kScoreFragments / 2; ++step)
#pragma unroll
      for (int n = 0; n < kOutFragments; n += 2) {
        uint32_t b[4];
        ptx::ldmatrix_x4_transposed(b, v + step * 16 * kSmem.v_pitch + n * 16);
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f) {
          ptx::mma_m16n8k16<Operand>(o[f][n], probabilities[f][step], b[0], b[1]);
          ptx::mma_m16n8k16<Operand>(o[f][n + 1], probabilities[f][step], b[2], b[3]);
        }
      }
  }

  /// After the last tile: d of whole rows.
  FLASHINFER_DEVICE void finish() {
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
      for (int h = 0; h < 2; ++h) d[f][h] = warp_sum<4>(d[f][h]);
  }

 private:
  /// Behind the row of q, in what keeps rows an odd number of chunks apart.
  static FLASHINFER_DEVICE float& row_scale(int row) {
    static_assert(kSmem.q_pitch == padded(kConfig.head_dim_qk) * 2 + 16);
    return *reinterpret_cast<float*>(dynamic_smem() + kSmem.q + (row + 1) * kSmem.q_pitch - 16);
  }
  FLASHINFER_DEVICE void load_q_fragments(int step, uint32_t (&a)[kRowFragments][4]) const {
#pragma unroll
    for (int f = 0; f < kRowFragments; ++f) ptx::ldmatrix_x4(a[f], q_address + f * 16 * kSmem.q_pitch + step * 32);
  }
};

}  // namespace flashinfer::gpu
