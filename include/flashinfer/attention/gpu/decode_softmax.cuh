// One warp's step over a stage of keys, with swapped operands: scores^T[keys x rows] = k q^T, online softmax in the log2 domain,
// out^T[columns x rows] += v^T p^T. The keys are the 16 rows of mma and a warp's rows its 8 columns, so that eight rows of queries waste
// nothing. A warp has its own maximum, sum and accumulators from the item's first key to its last: no warp waits for another in between.
#pragma once

#include <flashinfer/attention/gpu/decode_tile.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/movmatrix.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>

namespace flashinfer::gpu {

/// Keys that some row, that every row of a warp may see. Kept in shared memory: registers are scarce.
struct DecodeLimits {
  KvRange visible, full;
};

/// m, d and o of a warp's rows. In fragments of 8 rows: a thread has rows 2 (lane % 4) and the next; of the scores keys lane / 4 and + 8,
/// of o as many columns. d is this thread's part until finish(); m is the same in all threads of a row.
template <DecodeConfig kConfig, class Variant>
struct DecodeState {
  using Tile = DecodeTile<kConfig>;
  using Operand = typename Tile::Operand;
  static constexpr DecodeSmem kSmem = Tile::kSmem;
  static constexpr int kRowFragments = Tile::kRows / 8, kKeyFragments = kConfig.kv_tile / 16;
  static constexpr int kQkSteps = kConfig.head_dim_qk / 16, kOutFragments = kConfig.head_dim_vo / 16;
  /// p may exceed 1 by this much (log2) before m moves up and o is rescaled. Scores settle early, so after the first keys nothing is
  /// rescaled; 2^8 is far from the limits of f16 p.
  static constexpr float kSlack = 8.0f;
  /// bf16 queries meet an FP8 cache as f16: each row times a power of two that brings it into range, exactly but for underflow.
  static constexpr bool kNormalizesRows = Tile::kConverts && kConfig.q == DType::bf16;
  static constexpr bool kScalesRows = kNormalizesRows || kConfig.head_scales;
  /// Values of tokens that have scales: p times the scale goes into the product as f16. It is taken in a unit of the warp, a power of two
  /// that moves up so that scales are 2^6 at most and p times them 2^14: what f16 cuts off is 2^-28 of the largest.
  static constexpr bool kScalesValues = kConfig.token_scales;
  static constexpr float kMostValueScale = 64.0f;

  float m[kRowFragments][2], d[kRowFragments][2];
  float o[kOutFragments][kRowFragments][4];
  uint32_t q[kQkSteps][kRowFragments][2];
  float row_scale[kRowFragments][2];  // what undoes it, and the scale of the row's head
  float per_unit;                     // 1 / the unit of the accumulators

  /// No keys yet.
  FLASHINFER_DEVICE void begin(const AttentionParams& p, const DecodeWork& work, int32_t slot) {
    load_q(slot);
    if constexpr (kConfig.head_scales) find_row_scales(p, work);
    if constexpr (kScalesValues) per_unit = p.scales.v ? 0x1p100f : 1.0f;  // no scale yet
    find_limits(p, work);
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e) m[r][e] = -kInfinity, d[r][e] = 0.0f;
#pragma unroll
    for (int i = 0; i < kOutFragments; ++i)
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (float& x : o[i][r]) x = 0.0f;
  }

  /// Takes in the keys from first_key on, which lie in the stage.
  FLASHINFER_DEVICE void step(const AttentionParams& p, const DecodeWork& work, int32_t stage, int32_t first_key) {
    const auto [visible, full] = of_warp();
    if (first_key >= visible.end || first_key + kConfig.kv_tile <= visible.begin) return;
    const uint32_t k = ptx::smem_address(dynamic_smem()) + stage * kSmem.stage_bytes, v = k + kSmem.v;
    float s[kKeyFragments][kRowFragments][4];
    scores(s, k);
    if constexpr (kScalesRows) scale_rows(s);
    if constexpr (kConfig.token_scales)
      if (p.scales.k) scale_keys(s, Tile::scales(stage));
    const bool partial = first_key < full.begin || first_key + kConfig.kv_tile > full.end;
    const float scale = logits(s, p, work, first_key, partial);
    uint32_t probabilities[kKeyFragments][kRowFragments][2];
    softmax(s, scale, kScalesValues && p.scales.v ? Tile::scales(stage) + kConfig.kv_tile : nullptr, probabilities);
    accumulate(probabilities, v);
  }

  /// After the last key: d of whole rows.
  FLASHINFER_DEVICE void finish() {
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e)
#pragma unroll
        for (int step = 4; step < kWarpSize; step *= 2) d[r][e] += __shfl_xor_sync(0xffffffffu, d[r][e], step);
    if constexpr (kScalesValues) rescale_out(reciprocal(per_unit));
  }

  /// Column of the output that half of a fragment's accumulators belong to. FP8 values leave their fragments with even and odd columns
  /// apart.
  static FLASHINFER_DEVICE int column(int fragment, int half) {
    return fragment * 16 + (Tile::kConverts ? Tile::lane() / 4 * 2 + half : Tile::lane() / 4 + half * 8);
  }
  /// Of the item's tile.
  static FLASHINFER_DEVICE int row(int fragment, int e) { return Tile::warp_q() * Tile::kRows + fragment * 8 + Tile::lane() % 4 * 2 + e; }

 private:
  /// A lane's row of a fragment of sixteen keys for ldmatrix, and which of its chunks. Keys: 16 rows, then the next chunk of the same.
  /// Values: 8 rows, their next chunk, then the next 8 rows; FP8 values like keys.
  struct Lane {
    uint32_t row, chunk;
    FLASHINFER_DEVICE explicit Lane(bool like_keys) {
      const uint32_t lane = uint32_t(ptx::opaque(Tile::lane()));  // found again for every stage: registers are scarcer than time
      row = (like_keys ? lane % 16 : lane % 8 + lane / 16 * 8) * 128;
      chunk = ((like_keys ? lane / 16 : lane / 8 % 2) ^ lane % 8) * 16;
    }
  };

  FLASHINFER_DEVICE void load_q(int32_t slot) {
    const unsigned char* rows = Tile::q_rows(slot) + Tile::warp_q() * Tile::kRows * kSmem.q_pitch;
    if constexpr (!Tile::kConverts) {
      const uint32_t from = ptx::smem_address(rows) + Tile::lane() % 8 * kSmem.q_pitch + Tile::lane() / 8 * 16;
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (int step = 0; step < kQkSteps; step += 2) {
          uint32_t words[4];
          static_assert(kQkSteps % 2 == 0);
          ptx::ldmatrix_x4(words, from + r * 8 * kSmem.q_pitch + step * 32);
          q[step][r][0] = words[0], q[step][r][1] = words[1], q[step + 1][r][0] = words[2], q[step + 1][r][1] = words[3];
        }
    } else {
      // As FP8 keys come out of ldmatrix: elements 4 (lane % 4) to + 3 of every 16.
      const unsigned char* from = rows + Tile::lane() / 4 * kSmem.q_pitch + Tile::lane() % 4 * 8;
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r) {
#pragma unroll
        for (int step = 0; step < kQkSteps; ++step) {
          const uint2 pairs = *reinterpret_cast<const uint2*>(from + r * 8 * kSmem.q_pitch + step * 32);
          q[step][r][0] = pairs.x, q[step][r][1] = pairs.y;
        }
        if constexpr (kNormalizesRows) scale_row(r);
      }
    }
  }
  FLASHINFER_DEVICE void scale_row(int r) {
    float largest = 0.0f;
#pragma unroll
    for (int step = 0; step < kQkSteps; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const ptx::FloatPair pair = unpack2<bf16>(q[step][r][i]);
        largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
      }
    largest = warp_max<4>(largest);
    // The largest element gets exponent 14; the exponents of tiny and of infinite rows stay normal.
    const uint32_t exponent = clamp(bit_cast<uint32_t>(largest) >> 23, uint32_t(20), uint32_t(250));
    const float up = bit_cast<float>((268u - exponent) << 23), down = bit_cast<float>((exponent - 14u) << 23);
#pragma unroll
    for (int step = 0; step < kQkSteps; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const ptx::FloatPair pair = unpack2<bf16>(q[step][r][i]);
        q[step][r][i] = pack2<f16>(pair.x * up, pair.y * up);
      }
#pragma unroll
    for (int e = 0; e < 2; ++e) row_scale[r][e] = __shfl_sync(0xffffffffu, down, (Tile::lane() % 4 * 2 + e) * 4);
  }

  FLASHINFER_DEVICE void find_row_scales(const AttentionParams& p, const DecodeWork& work) {
    const int32_t group_size = work.group_size(p), first_row = work.item.q_tile * kConfig.q_tile;
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t packed = min(first_row + row(r, e), work.qo_len * group_size - 1);
        const int32_t in_group = packed - work.token_of(p, packed) * group_size;
        const float scale = p.scales.of_scores(work.item.head * group_size + in_group, work.item.head);
        row_scale[r][e] = kNormalizesRows ? row_scale[r][e] * scale : scale;
      }
  }

  static FLASHINFER_DEVICE DecodeLimits& of_warp() { return reinterpret_cast<DecodeLimits*>(dynamic_smem() + kSmem.limits)[Tile::warp()]; }

  FLASHINFER_DEVICE void find_limits(const AttentionParams& p, const DecodeWork& work) {
    const int32_t first = work.item.q_tile * kConfig.q_tile + Tile::warp_q() * Tile::kRows;
    const int32_t last = min(first + Tile::kRows, work.qo_len * work.group_size(p)) - 1;
    DecodeLimits found = {{0, 0}, {0, 0}};  // padding only: nothing to compute
    if (last >= first) {                    // limits grow with the token
      const KvRange a = limits(p, work, work.token_of(p, first)), b = limits(p, work, work.token_of(p, last));
      found = {{a.begin, b.end}, {b.begin, a.end}};
    }
    if (Tile::lane() == 0) of_warp() = found;
    __syncwarp();
  }
  /// Keys that a token may see.
  static FLASHINFER_DEVICE KvRange limits(const AttentionParams& p, const DecodeWork& work, int32_t token) {
    if constexpr (kConfig.limits) {
      return kv_range(p.plan.causal, p.plan.window_left, token, work.qo_len, work.kv_len);
    } else {
      return {0, work.kv_len};
    }
  }

  FLASHINFER_DEVICE void scores(float (&s)[kKeyFragments][kRowFragments][4], uint32_t k) const {
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (float& x : s[i][r]) x = 0.0f;
    constexpr int kChunks = Tile::kConverts ? kQkSteps : 2 * kQkSteps;
    const Lane at(true);
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk += 2)
#pragma unroll
      for (int i = 0; i < kKeyFragments; ++i) {
        uint32_t words[4];
        ptx::ldmatrix_x4(words, k + chunk / 8 * kSmem.block_bytes + i * 2048 + at.row + (chunk % 8 * 16 ^ at.chunk));
        if constexpr (!Tile::kConverts) {
#pragma unroll
          for (int r = 0; r < kRowFragments; ++r) ptx::mma_m16n8k16<Operand>(s[i][r], words, q[chunk / 2][r][0], q[chunk / 2][r][1]);
        } else {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t a[4] = {widen(words[2 * h]), widen(words[2 * h + 1]), widen(words[2 * h] >> 16), widen(words[2 * h + 1] >> 16)};
#pragma unroll
            for (int r = 0; r < kRowFragments; ++r) ptx::mma_m16n8k16<Operand>(s[i][r], a, q[chunk + h][r][0], q[chunk + h][r][1]);
          }
        }
      }
  }
  FLASHINFER_DEVICE void scale_rows(float (&s)[kKeyFragments][kRowFragments][4]) const {
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[i][r][e] *= row_scale[r][e % 2];
  }
  FLASHINFER_DEVICE void scale_keys(float (&s)[kKeyFragments][kRowFragments][4], const float* scales) const {
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float scale = scales[i * 16 + h * 8 + Tile::lane() / 4];
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r) s[i][r][2 * h] *= scale, s[i][r][2 * h + 1] *= scale;
      }
  }
  /// Two elements of the cache, in the low half of a word.
  static FLASHINFER_DEVICE uint32_t widen(uint32_t pair) {
    if constexpr (kConfig.kv == DType::e4m3) {
      return ptx::f16x2_from_e4m3x2(uint16_t(pair));
    } else {
      return ptx::f16x2_from_e5m2x2(uint16_t(pair));
    }
  }

  /// Masks the scores of the keys from first_key on, and returns the factor that makes log2-domain logits of them.
  FLASHINFER_DEVICE float logits(float (&s)[kKeyFragments][kRowFragments][4], const AttentionParams& p, const DecodeWork& work,
                                 int32_t first_key, bool partial) const {
    const int32_t lane_key = first_key + Tile::lane() / 4;
    const int32_t group_size = work.group_size(p), num_rows = work.qo_len * group_size, first_row = work.item.q_tile * kConfig.q_tile;
    if constexpr (Variant::kTransformsLogits || Variant::kMasks) {
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          // A padding row takes the last one's place: functors never see an index out of range.
          const int32_t packed = min(first_row + row(r, e), num_rows - 1), token = work.token_of(p, packed);
          const KvRange seen = partial ? limits(p, work, token) : of_warp().full;
#pragma unroll
          for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const LogitPosition at = {work.item.request, token,
                                        work.qo_len,       lane_key + i * 16 + h * 8,
                                        work.kv_len,       work.item.head * group_size + packed - token * group_size,
                                        work.item.head};
              float& x = s[i][r][2 * h + e];
              bool is_visible = at.kv_idx >= seen.begin && at.kv_idx < seen.end;
              if constexpr (Variant::kMasks) is_visible = is_visible && Variant::visible(p.variant, at);
              x = is_visible ? Variant::logit(p.variant, x * p.variant.sm_scale, at) * kLog2e : -kInfinity;
            }
        }
      return 1.0f;
    } else {
      const float scale = p.variant.sm_scale * kLog2e;
      const bool folds = scale > 0.0f;  // else the largest score is not the largest logit
      if (!folds) {
#pragma unroll
        for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
          for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
            for (float& x : s[i][r]) x *= scale;
      }
      if (partial) {
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const KvRange seen = limits(p, work, work.token_of(p, min(first_row + row(r, e), num_rows - 1)));
#pragma unroll
            for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                const int32_t key = lane_key + i * 16 + h * 8;
                if (key < seen.begin || key >= seen.end) s[i][r][2 * h + e] = -kInfinity;
              }
          }
      }
      return folds ? scale : 1.0f;
    }
  }

  /// Turns scores into probabilities relative to m, times the scales of values where there are such, as fragments of the next product's
  /// right operand.
  FLASHINFER_DEVICE void softmax(float (&s)[kKeyFragments][kRowFragments][4], float scale, const float* value_scales,
                                 uint32_t (&probabilities)[kKeyFragments][kRowFragments][2]) {
    float largest[kRowFragments][2];  // of this thread's keys
    bool moves = false;
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float x = fmaxf(s[0][r][e], s[0][r][e + 2]);
#pragma unroll
        for (int i = 1; i < kKeyFragments; ++i) x = fmaxf(x, fmaxf(s[i][r][e], s[i][r][e + 2]));
        largest[r][e] = x * scale;
        moves = moves || largest[r][e] > m[r][e] + kSlack;  // from -inf: always, unless all keys are masked
      }
    if (__any_sync(0xffffffffu, moves)) move_up(largest);
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float shift = m[r][e] == -kInfinity ? 0.0f : -m[r][e];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& x = s[i][r][2 * h + e];
            x = ptx::ex2(fmaf(x, scale, shift));
            sum += x;
          }
        d[r][e] += sum;
      }
    if constexpr (kScalesValues)
      if (value_scales) scale_values(s, value_scales);
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (int h = 0; h < 2; ++h) probabilities[i][r][h] = ptx::transpose_8x8(pack2<Operand>(s[i][r][2 * h], s[i][r][2 * h + 1]));
  }
  FLASHINFER_DEVICE void move_up(const float (&largest)[kRowFragments][2]) {
#pragma unroll
    for (int r = 0; r < kRowFragments; ++r) {
      float factor[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float x = largest[r][e];
#pragma unroll
        for (int step = 4; step < kWarpSize; step *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
        const bool moves = x > m[r][e];
        factor[e] = moves ? ptx::ex2(m[r][e] - x) : 1.0f;
        if (moves) m[r][e] = x;
        d[r][e] *= factor[e];
      }
#pragma unroll
      for (int i = 0; i < kOutFragments; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][r][e] *= factor[e % 2];
    }
  }

  /// Probabilities times the scales of the values, in the unit.
  FLASHINFER_DEVICE void scale_values(float (&s)[kKeyFragments][kRowFragments][4], const float* scales) {
    float own[kKeyFragments][2], largest = 0.0f;  // of this thread's keys
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        own[i][h] = scales[i * 16 + h * 8 + Tile::lane() / 4];
        largest = fmaxf(largest, fabsf(own[i][h]));
      }
    if (__any_sync(0xffffffffu, largest * per_unit > kMostValueScale)) {
#pragma unroll
      for (int step = 4; step < kWarpSize; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
      // The largest scale gets exponent 5.
      const uint32_t exponent = clamp(bit_cast<uint32_t>(largest) >> 23, uint32_t(20), uint32_t(230));
      const float moved = bit_cast<float>((259u - exponent) << 23);
      rescale_out(moved * reciprocal(per_unit));
      per_unit = moved;
    }
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float in_unit = own[i][h] * per_unit;
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r) s[i][r][2 * h] *= in_unit, s[i][r][2 * h + 1] *= in_unit;
      }
  }
  FLASHINFER_DEVICE void rescale_out(float factor) {
#pragma unroll
    for (int i = 0; i < kOutFragments; ++i)
#pragma unroll
      for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
        for (float& x : o[i][r]) x *= factor;
  }
  /// Of a power of two.
  static FLASHINFER_DEVICE float reciprocal(float x) { return bit_cast<float>((254u << 23) - bit_cast<uint32_t>(x)); }

  FLASHINFER_DEVICE void accumulate(const uint32_t (&probabilities)[kKeyFragments][kRowFragments][2], uint32_t v) {
    constexpr int kChunks = Tile::kConverts ? kOutFragments : 2 * kOutFragments;
    const Lane at(Tile::kConverts);
#pragma unroll
    for (int i = 0; i < kKeyFragments; ++i)
#pragma unroll
      for (int chunk = 0; chunk < kChunks; chunk += 2) {
        uint32_t words[4];
        ptx::ldmatrix_x4_transposed(words, v + chunk / 8 * kSmem.block_bytes + i * 2048 + at.row + (chunk % 8 * 16 ^ at.chunk));
        if constexpr (!Tile::kConverts) {
#pragma unroll
          for (int r = 0; r < kRowFragments; ++r)
            ptx::mma_m16n8k16<Operand>(o[chunk / 2][r], words, probabilities[i][r][0], probabilities[i][r][1]);
        } else {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            // A word holds two columns of two keys.
            const uint32_t low = words[2 * h], high = words[2 * h + 1];
            const uint32_t a[4] = {widen(__byte_perm(low, 0, 0x4420)), widen(__byte_perm(low, 0, 0x4431)),
                                   widen(__byte_perm(high, 0, 0x4420)), widen(__byte_perm(high, 0, 0x4431))};
#pragma unroll
            for (int r = 0; r < kRowFragments; ++r)
              ptx::mma_m16n8k16<Operand>(o[chunk + h][r], a, probabilities[i][r][0], probabilities[i][r][1]);
          }
        }
      }
  }
};

}  // namespace flashinfer::gpu
