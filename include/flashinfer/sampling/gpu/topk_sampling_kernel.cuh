// Draws a token from the first top_k elements of each row of logits or probabilities, after top_p and min_p of those.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same token wins, bit for bit.
//
// topk_selection.cuh reads the row once and leaves the first k in the first block of the row's cluster, sorted, an element a thread. The
// largest is the row's maximum, sums over the threads before are the masses that top_p asks for, and only what is kept races.
#pragma once

#include <flashinfer/gpu/grid_order.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>
#include <flashinfer/topk/gpu/topk_selection.cuh>

namespace flashinfer {

template <TopkSamplingConfig kConfig>
struct TopkSamplingKernel {
  using Params = SamplingParams;
  using T = number_t<kConfig.input>;
  using Weight = gpu::RowWeight<kConfig.values>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  /// What a thread's elements weigh, nearly: logits relative to the largest of the block's sample, for the row's maximum is not known yet.
  /// (Not to what those wanted reach: where a mask leaves few, that is next to -inf, and the sum infinite. H200, one row of which a mask
  /// left a thousandth took 36 us, others 9.)
  struct AboutMass {
    static constexpr bool kSums = true;
    float scale = 0, unit = 0, sum = 0;
    __device__ void begin(float largest) { unit = largest > -kInfinity ? largest : 0.0f, sum = 0; }
    template <int kVec>
    __device__ void add(const float (&x)[kVec]) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) sum += kLogits ? gpu::ptx::ex2((fmaxf(x[j], -kInfinity) - unit) * scale) : fmaxf(x[j], 0.0f);
    }
  };
  using Selection = gpu::TopkSelection<kConfig.topk(), false, true, conditional_t<kConfig.joint, AboutMass, gpu::NoSum>>;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = Selection::kMinBlocks;
  static_assert(kMostTopk <= kThreads && 4 * kMostTopk <= TopkSamplingConfig::kCapacity);

  static __device__ void run(const Params& p) {
    Selection::begin(0);
    gpu::wait_for_inputs(p.beside);
    gpu::ptx::griddep_launch_dependents();
    draw(p, int(blockIdx.x) / kCluster);
    gpu::end_after_inputs(p.beside);
  }

 private:
  static constexpr int kWarps = Selection::kWarps;
  struct Filter {
    float temperature, top_p, min_p;
  };

  static __device__ void draw(const Params& p, int row) {
    if (p.mixed && p.sampler_of(row) != RowSampler::topk) return Selection::meet();
    const int64_t input_row = p.input_row(row);
    const auto temperature = [&] { return kLogits ? p.temperature.at(row, input_row) : 1.0f; };
    const bool greedy = (kLogits && is_greedy(temperature())) || !(p.top_p.at(row, input_row) > 0);
    const TieBreak tie_break = TieBreak::small;
    Selection selection(static_cast<const T*>(p.input) + input_row * p.input_stride, p.vocab_size, greedy ? 1 : p.top_k.at(row, input_row),
                        TopkSamplingConfig::kCapacity, tie_break, 0);
    if constexpr (kConfig.joint && kLogits) selection.row_sum().scale = logit_scale(temperature());
    selection.collect();
    const auto chosen = selection.choose(true, [](int, uint64_t) {});
    if (Selection::Group::rank() != 0) return;
    // What draws is read while the candidates are sorted: before, it would take registers from the copies.
    const Filter filter{temperature(), p.top_p.at(row, input_row), p.min_p.at(row, input_row)};
    const gpu::RaceNoise<false> noise(p.seed.at(row, row), p.offset.at(row, row), p.draw(row));
    if (chosen != Selection::Chosen::sorted) selection.sort();
    draw(p, row, selection, filter, noise);
  }

  /// In the first block: thread i has the i-th element of the order.
  static __device__ void draw(const Params& p, int row, const Selection& selection, const Filter& filter,
                              const gpu::RaceNoise<false>& noise) {
    const auto [temperature, top_p, min_p] = filter;
    uint64_t(&sums)[kWarps] = selection.sums();
    const int i = int(threadIdx.x);
    Weight weight;
    const bool valid = !selection.has_nan() && weight.set(value_of_order_key<float>(key_of_rank(selection.ranked()[0])), temperature);
    if (!valid) return write(p, row, 0, false);

    const uint64_t rank = i < selection.wanted() ? selection.ranked()[i] : 0;
    const float x = value_of_order_key<float>(key_of_rank(rank)), f = rank ? weight(x) : 0.0f;
    bool kept = rank != 0;
    if (min_p > 0 && i > 0)
      kept &= kLogits ? logit_exponent(x, weight.max, weight.scale) >= least_exponent(min_p) : x >= least_prob(min_p, weight.max);
    if (top_p < 1) {
      uint64_t total;
      const uint64_t own = kept ? mass_of(f) : 0, before = gpu::block_sum_before<kThreads>(own, total, sums);
      if constexpr (kConfig.joint) {
        // The row's mass, but for roundings; where they matter, exactly.
        const float about = selection.sum(
            [&](float sum, float unit) { return sum * (kLogits ? gpu::ptx::ex2((unit - weight.max) * weight.scale) : weight.scale); });
        // Roundings of a thread's sum, and twice those of exponents up to 120.
        const float roundings = 2e-5f + 6e-8f * float(p.vocab_size / (kThreads * kCluster));
        const float needed = fmaxf(top_p, 0.0f) * about * kMassUnit, error = roundings * (about + 1) * kMassUnit;
        const float past = float(before) - needed;
        const bool unsure = kept && !(past > error || past < -error);
        if (__syncthreads_count(unsure) == 0) {
          kept &= past < 0;
          total = 0;
        } else {
          total = mass_of_row(selection, weight, sums);
        }
      }
      if (total > 0) kept &= before < needed_mass(top_p, total);
    }
    uint64_t best = 0;
    if (kept) {
      const uint32_t token = index_of_rank(rank);
      const float w = kLogits ? f : finite_prob(x);
      if (w > 0) best = gpu::race_entry(race_score(w, noise.bits_of(token)), token);
    }
    best = gpu::warp_max(best);
    __syncthreads();  // the sums have been read
    if (i % gpu::kWarpSize == 0) sums[i / gpu::kWarpSize] = best;
    __syncthreads();
    best = gpu::warp_max(sums[i % kWarps]);
    write(p, row, int32_t(index_of_rank(best)), true);
  }

  /// By this block alone: seldom.
  static __device__ uint64_t mass_of_row(const Selection& selection, const Weight& weight, uint64_t (&sums)[kWarps]) {
    constexpr int kVec = Selection::kVec;
    gpu::MassSum sum;
#pragma unroll 1
    for (int vec = int(threadIdx.x); vec < selection.row().count; vec += kThreads) {
      float x[kVec];
      selection.row().load(vec).to_float(x);
#pragma unroll
      for (float& y : x) y = weight(fmaxf(y, -kInfinity));
      sum.add(x);
    }
    uint64_t total;
    __syncthreads();  // the sums of before have been read
    gpu::block_sum_before<kThreads>(sum.total(), total, sums);
    return total;
  }

  static __device__ void write(const Params& p, int row, int32_t token, bool valid) {
    if (threadIdx.x != 0) return;
    write_token(p, row, token);
    if (p.valid) p.valid[row] = valid;
  }
};

}  // namespace flashinfer
