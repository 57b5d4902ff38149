// What host and device share of sampling: what the elements of a row weigh, which of them a filter keeps, which one is drawn; and
// the arguments of a launch. Both back ends compute exactly these functions: they keep the same elements and draw the same token,
// whatever the batch, the launch and the machine.
//
// A row is logits or probabilities of `vocab_size` tokens.
//
// 1. Order    (core/row_order.hpp) larger values first, equal ones by lower index, NaN last and never kept. A filter keeps a prefix.
// 2. Weight   f of an element, relative to the largest of its row:
//               logits: f = 2^t, t = (x - M) * c, M the largest x that is not NaN, c = log2(e) / temperature    (logit_exponent)
//               probs:  f = p * (1 / P), clamped to [0, 1], P the largest p                         (prob_scale, prob_weight)
//             +inf counts as the largest float, a negative probability as 0, NaN as -inf or 0.
// 3. Mass     w = f * 2^40 rounded to an integer (nearest, halves to even): sums of masses are exact in 64 bits, in any order. (mass_of)
// 4. Filters  top_k: the first k of the order.                                k <= 0 or k >= vocab_size: no filter
//             min_p: elements with t >= log2(min_p), or p >= min_p * P        !(min_p > 0): no filter; above 1 counts as 1
//             top_p: the smallest prefix whose mass reaches needed_mass(p, T) p >= 1: no filter; !(p > 0): only the first
//                    T is the mass of what top_k and min_p keep, or of the whole row if `joint`.
//             A temperature that is not above 0: only the first (greedy); what it weighs is that of temperature 1.
//             All filters that are on hold together. The first element of the order is always kept.
//             As equal values have equal masses, of c ties at the boundary, the mass of those before them being m, the first
//             ceil((needed - m) / w) by index are kept.
// 5. Draw     every kept element with weight > 0 runs a race: score = weight / noise, noise = exponential_noise(random bits of seed,
//             offset, draw and token); weight is f of a logit, p of a probability as it is (no maximum to wait for). The highest score
//             wins, of equal ones the lower index. It wins with probability f / (sum of kept f).
//             The bits of a token do not depend on the filters: a token that wins without a filter also wins with one that keeps it.
// 6. Valid    a row with a NaN, or with nothing to weigh (all -inf; P below kLeastProb), is not valid: token 0, log-probabilities
//             -inf, an `out` of zeros or -inf's.
// 7. Log-probabilities  of the distribution that was drawn from (filtered, renormalised), or of the row before filters
//             (`raw_logprobs`): ln f - ln(Z / 2^40), Z the mass of what counts, -inf for what was filtered.  (log_prob)
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/core/philox.hpp>
#include <flashinfer/core/portable_math.hpp>
#include <flashinfer/core/row_order.hpp>

namespace flashinfer {

inline constexpr int64_t kMaxVocabSize = int64_t(1) << 22;  // masses of a row sum to less than 2^63
inline constexpr int32_t kMaxTopLogprobs = 128;

enum class RowValues : uint8_t { logits, probs };
constexpr const char* type_name(RowValues) { return "RowValues"; }

// ---------------------------------------------------------------------------------------------------------------- weights and masses

inline constexpr float kLargestFloat = 3.402823466e38f;
inline constexpr float kLeastProb = 1.1754943508222875e-38f;  // the smallest normal float: its reciprocal is finite
inline constexpr float kMassUnit = 1099511627776.0f;          // 2^40: the mass of the largest element of a row

/// A logit as it counts: not NaN (the caller has dealt with it), at most the largest float.
FLASHINFER_HOST_DEVICE float finite_logit(float x) { return x < kLargestFloat ? x : kLargestFloat; }
/// A probability as it counts: negative and NaN are 0.
FLASHINFER_HOST_DEVICE float finite_prob(float p) { return p > 0 ? (p < kLargestFloat ? p : kLargestFloat) : 0.0f; }

FLASHINFER_HOST_DEVICE constexpr bool is_greedy(float temperature) { return !(temperature > 0); }
/// c of a row of logits.
FLASHINFER_HOST_DEVICE float logit_scale(float temperature) {
  const float c = is_greedy(temperature) ? kLog2e : kLog2e / temperature;
  return c < 1e30f ? c : 1e30f;  // 0 * c stays 0
}
/// t of a logit; monotone in x. -inf gives -inf. The product is an fma so that no compiler fuses it into the sums of portable_exp2.
FLASHINFER_HOST_DEVICE float logit_exponent(float x, float max, float c) { return PortableScalar::fma(finite_logit(x) - max, c, 0.0f); }
/// 1 / P of a row of probabilities, P >= kLeastProb.
FLASHINFER_HOST_DEVICE float prob_scale(float max) { return 1.0f / max; }
/// f of a probability; NaN is 0. (On a GPU a multiplication can do that.)
FLASHINFER_HOST_DEVICE float prob_weight(float p, float scale) {
  const float f = p * scale;
  return f > 0 ? (f < 1 ? f : 1.0f) : 0.0f;
}

/// f in [0, 1] as an integer; any code that gives round-to-nearest-even of f * 2^40 will do.
FLASHINFER_HOST_DEVICE uint64_t mass_of(float f) {
  // Two steps of 20 bits, each rounded by adding 1.5 * 2^23, need no conversion instruction and are exact: what the first rounds off
  // is a float, and 2^20 is even, so halves fall as they would in one step.
  constexpr float kMagic = 12582912.0f, kStep = 1048576.0f;
  const float high = PortableScalar::fma(f, kStep, kMagic), rest = PortableScalar::fma(f, kStep, -(high - kMagic));
  const float low = PortableScalar::fma(rest, kStep, kMagic);
  return uint64_t((int64_t(bit_cast<int32_t>(high) - 0x4b400000) << 20) + (bit_cast<int32_t>(low) - 0x4b400000));
}
/// The weight of a mass: exact up to the rounding to float.
FLASHINFER_HOST_DEVICE float weight_of_mass(uint64_t mass) { return float(mass) * (1.0f / kMassUnit); }

/// What a prefix must weigh to be top-p's, of a total above 0. 1 to total.
FLASHINFER_HOST_DEVICE uint64_t needed_mass(float top_p, uint64_t total) {
  if (!(top_p > 0)) return 1;
  const double product = double(top_p) * double(total);  // rounded once: the same on every machine
  const uint64_t whole = uint64_t(product);
  const uint64_t needed = whole + (double(whole) < product ? 1 : 0);
  return needed < 1 ? 1 : needed > total ? total : needed;
}

/// min_p as the least t of a row of logits; off: -inf.
FLASHINFER_HOST_DEVICE float least_exponent(float min_p) {
  if (!(min_p > 0)) return -kInfinity;
  return min_p < 1 ? (min_p >= kLeastProb ? portable_ln(min_p) * kLog2e : -126.0f) : 0.0f;
}
/// min_p as the least p of a row of probabilities; off: -inf.
FLASHINFER_HOST_DEVICE float least_prob(float min_p, float max) { return min_p > 0 ? (min_p < 1 ? min_p * max : max) : -kInfinity; }

// --------------------------------------------------------------------------------------------------------------------------- drawing

/// Philox's key of a seed: another one than torch's kernels make of the same seed, whose bits ours shall not repeat.
FLASHINFER_HOST_DEVICE constexpr uint64_t philox_key(uint64_t seed) { return seed ^ 0x666c617368696e66ull; }
/// The random bits of a draw from `token`'s race: 16 upper ones, by Philox4x32-7, which tell of almost all tokens that they do not win, and
/// 16 lower ones, by Philox4x32-10 of the same counter, which hardly any token needs. A counter serves eight tokens: four, and the four
/// that lie kTokensApart behind them, which the same thread of a warp reads with its next vector.
///   draw  the row of the outputs; 0 where every row has its own seed, so that its place in the batch does not count
///   step  0; speculative sampling: the position within the chain, below 128
inline constexpr uint32_t kTokensApart = 128;
/// The group of eight that a token belongs to.
FLASHINFER_HOST_DEVICE constexpr uint32_t group_of_token(uint32_t token) {
  return token / (2 * kTokensApart) * (kTokensApart / 4) + token % kTokensApart / 4;
}
/// Its first token.
FLASHINFER_HOST_DEVICE constexpr uint32_t token_of_group(uint32_t group) {
  return group / (kTokensApart / 4) * (2 * kTokensApart) + group % (kTokensApart / 4) * 4;
}
static_assert(group_of_token(uint32_t(kMaxVocabSize)) < 1u << 24);
static_assert(group_of_token(token_of_group(1234567)) == 1234567 && group_of_token(token_of_group(1234567) + kTokensApart + 3) == 1234567);
FLASHINFER_HOST_DEVICE constexpr Philox counter_of_token(uint64_t offset, uint32_t draw, uint32_t token, uint32_t step = 0) {
  return {{group_of_token(token) | step << 24, draw, uint32_t(offset), uint32_t(offset >> 32)}};
}
/// A token's 16 bits of its group's 128.
FLASHINFER_HOST_DEVICE constexpr uint32_t bits_of_group(const Philox& group, uint32_t token) {
  const uint32_t first = token & 2 ? group.word[1] : group.word[0], apart = token & 2 ? group.word[3] : group.word[2];
  return ((token & kTokensApart ? apart : first) >> (token % 2 * 16)) & 0xffffu;
}
/// All 32 of them, of a group of which upper bits are known.
template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr uint32_t noise_bits(const Philox& upper, uint64_t key, uint32_t token, const Product& product = {}) {
  const Philox lower = philox_further(upper, uint32_t(key), uint32_t(key >> 32), product);
  return bits_of_group(upper, token) << 16 | bits_of_group(lower, token);
}
FLASHINFER_HOST_DEVICE constexpr uint32_t noise_bits(uint64_t seed, uint64_t offset, uint32_t draw, uint32_t token, uint32_t step = 0) {
  return noise_bits(philox(counter_of_token(offset, draw, token, step), philox_key(seed)), philox_key(seed), token);
}
/// Uniform in [0, 1), of 24 bits: whether speculative sampling accepts the token of a step. Shares no bits with the races.
FLASHINFER_HOST_DEVICE constexpr float accept_uniform(uint64_t seed, uint64_t offset, uint32_t draw, uint32_t step) {
  return float(philox({{0x80000000u | step, draw, uint32_t(offset), uint32_t(offset >> 32)}}, philox_key(seed)).word[0] >> 8) *
         5.9604644775390625e-8f;
}
/// IEEE division: not approximate on any machine. Since exponential_noise(bits) >= (bits + 1/2) / 2^32 but for a rounding, an element
/// whose weight * 2^16 / (its upper bits) is, say, a millionth below the best score so far needs neither lower bits nor the noise.
FLASHINFER_HOST_DEVICE float race_score(float weight, uint32_t bits) { return weight / exponential_noise(bits); }

/// ln of f's share of a mass; at most 0.
FLASHINFER_HOST_DEVICE float log_prob(float f, uint64_t mass) {
  if (!(f >= kLeastProb)) return -kInfinity;
  const float l = portable_ln(f) - portable_ln(weight_of_mass(mass));
  return l < 0 ? l : 0.0f;
}

// ------------------------------------------------------------------------------------------------------------------------- arguments

/// One value for all rows, or one a row in the op's device memory (graph-safe: read when the kernel runs).
template <class T>
struct RowParam {
  const T* values = nullptr;  // null: value
  T value{};
  bool of_input = false;     // values belong to the rows of the input, not of the outputs (they differ with `indices`)
  bool one_for_all = false;  // values[0] for every row

  FLASHINFER_HOST_DEVICE constexpr T at(int64_t row, int64_t input_row) const {
    return values ? values[one_for_all ? 0 : of_input ? input_row : row] : value;
  }
  /// Does every output row have a value of its own?
  FLASHINFER_HOST_DEVICE constexpr bool per_row() const { return values && !one_for_all; }
};

/// GPU: who draws a row. topk: from the first k, read once (topk_sampling_kernel.cuh). race: from all, or what top_p and min_p keep, as it
/// is read (race_kernel.cuh). filter: by a large top_k (sampling_kernel.cuh).
enum class RowSampler : uint8_t { race, topk, filter };
inline constexpr int32_t kMostTopk = 512;  // an element a thread

/// Drawing one token for each row of the outputs.
struct SamplingParams {
  const void* input = nullptr;    // [num_inputs, vocab_size] of the config's dtype
  int64_t input_stride = 0;       // elements between rows
  const void* indices = nullptr;  // [num_rows]: row r draws from input row indices[r], clamped to [0, num_inputs); null: from row r
  int64_t num_rows = 0, num_inputs = 0;
  int32_t vocab_size = 0;
  bool indices_64 = false;  // indices are int64, not int32
  bool tokens_64 = false;
  bool joint = false;         // top_p is of the whole row's mass, not of what top_k and min_p keep
  bool mixed = false;         // GPU: the host does not know which kernel draws which row; kernels ask
  bool beside = false;        // GPU: the launch before draws other rows of the same call (gpu/grid_order.cuh)
  bool raw_logprobs = false;  // of the row before filters

  RowParam<float> temperature{nullptr, 1.0f};  // logits only
  RowParam<int32_t> top_k{nullptr, 0};
  RowParam<float> top_p{nullptr, 1.0f}, min_p{nullptr, 0.0f};
  RowParam<uint64_t> seed, offset;

  void* tokens = nullptr;         // [num_rows] int32 or int64
  bool* valid = nullptr;          // [num_rows], or null, as all below
  float* logprob = nullptr;       // [num_rows]: of the token drawn
  int32_t num_top = 0;            // at most kMaxTopLogprobs and vocab_size
  int32_t* top_tokens = nullptr;  // [num_rows, num_top]: the first of the row's order, before filters
  float* top_logprobs = nullptr;  // [num_rows, num_top]
  float* probs = nullptr;         // [num_rows, vocab_size]: the distribution drawn from, f / Z, 0 for what was filtered
  int64_t probs_stride = 0;

  FLASHINFER_HOST_DEVICE constexpr int64_t input_row(int64_t row) const {
    if (!indices) return row;
    const int64_t index = indices_64 ? static_cast<const int64_t*>(indices)[row] : static_cast<const int32_t*>(indices)[row];
    return clamp(index, int64_t(0), num_inputs - 1);
  }
  /// The kernel that draws a row whose filters are these.
  FLASHINFER_HOST_DEVICE constexpr RowSampler sampler_for(float temperature, int32_t k) const {
    const bool by_count = k > 0 && k < vocab_size;
    if (is_greedy(temperature) || (by_count && k <= kMostTopk)) return RowSampler::topk;
    return by_count ? RowSampler::filter : RowSampler::race;
  }
  /// Where the host does not know.
  FLASHINFER_HOST_DEVICE constexpr RowSampler sampler_of(int64_t row) const {
    const int64_t input = input_row(row);
    return sampler_for(temperature.at(row, input), top_k.at(row, input));
  }
  /// The `draw` of noise_bits.
  FLASHINFER_HOST_DEVICE constexpr uint32_t draw(int64_t row) const { return seed.per_row() ? 0u : uint32_t(row); }
};

FLASHINFER_HOST_DEVICE void write_token(const SamplingParams& p, int64_t row, int64_t token) {
  if (p.tokens_64)
    static_cast<int64_t*>(p.tokens)[row] = token;
  else
    static_cast<int32_t*>(p.tokens)[row] = int32_t(token);
}

}  // namespace flashinfer
