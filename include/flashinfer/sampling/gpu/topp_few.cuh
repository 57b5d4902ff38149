// Keeps the top_p prefix of a row of probabilities of which it is few elements, with one look at the row: part of ToppRenormKernel
// (topp_renorm_kernel.cuh), for a block with a row of its own, or a pair.
//
// 1. Sums of probabilities by their upper bits (prob_bins.cuh), of a twentieth of the row, leave a value that the boundary is
//    hardly below: of what a block's warps begin with, or, where a pair shares the row, of what both read beside it.
// 2. The row is read: the mass of what is lighter, its maximum, and for each warp a list of the elements that reach that value.
// 3. Of the lists alone: which bin of such sums has the boundary, the mass above it, the order of what lies in it, the row. What
//    is listed has exact masses, so that only the roundings of what is lighter are not known; one row in a thousand is looked
//    at again for them. Where what the bin has are more than have their order found, and equal, their places are counted.
#pragma once

#include <flashinfer/sampling/gpu/topp_renorm_kernel.cuh>

namespace flashinfer {

template <ToppRenormConfig kConfig>
__device__ bool ToppRenormKernel<kConfig>::keep_few(const Bins& sample) {
  // What is light weighs in the whole row what it does in the sample, in proportion: most of what top_p leaves out is such.
  float sum = 0;
  for_each_sampled([&](const float(&x)[kVec]) {
#pragma unroll
    for (float y : x) sum += fmaxf(y, 0.0f);
    sample.template add<Bins::kCoarse>(x);
  });
  const uint64_t seen = group_.sum_of_block(Bins::fixed(sum));
  const float share = fminf(float(kSampled * kThreads * Row::kVec) / float(p_.vocab_size), 1.0f);
  const auto [floor, count] = sample.reach(seen - min(seen, Bins::fixed(kLight * (1 - top_p_) * share)), int(share * kFewest));
  const float least = value_of_order_key<float>(floor);
  if (float(kCluster == 1 ? count : most_of_a_block(least)) > share * kRoom) {
    if constexpr (kCluster == 1) window_ = sample.window(top_p_, seen);
    return false;
  }
  __syncthreads();  // the sample's bins have been read: the candidates lie there, or their bins
  if constexpr (kConfig.bins_apart()) {
    Bins::clear(smem_.bins);
    __syncthreads();  // the bins are empty: a warp that has read its part goes on at once
  }

  Candidates candidates(smem_.candidates);
  if (keep_candidates(candidates, least, list_candidates(candidates, least))) return true;
  Group::sync();  // nobody reads what this block holds any more
  ring_.start();
  return false;
}

template <ToppRenormConfig kConfig>
template <class F>
__device__ void ToppRenormKernel<kConfig>::for_each_sampled(const F& f) const {
  if constexpr (kAsks) {
#pragma unroll 1
    for (int i = 0; i < kSampled; ++i) {
      float x[Row::kVec];
      gpu::element_of(sample_.vecs, i).to_float(x);
#pragma unroll
      for (int j = 0; j < Row::kVec; j += kVec) f({x[j], x[j + 1], x[j + 2], x[j + 3]});
    }
  } else {
    ring_.template sample<kVec, kSampled>(f);
  }
}

template <ToppRenormConfig kConfig>
__device__ int ToppRenormKernel<kConfig>::most_of_a_block(float least) {
  static_assert(!kAsks || kCluster == 2);
  uint64_t counts = 0;  // of both blocks
  if constexpr (kAsks) {
    const Row whole(input(p_, int(blockIdx.x) / kCluster), p_.vocab_size, 1, 0);
#pragma unroll
    for (int i = 0; i < kSampled; ++i) {
      float x[Row::kVec];
      sample_.vecs[i].to_float(x);
      uint64_t count = 0;
#pragma unroll
      for (float y : x) count += y >= least;
      counts += whole.template spread_to<kThreads, kSampled>(i) < ceil_div(whole.count, kCluster) ? count : count << 32;
    }
    counts = group_.sum_of_block(counts);
  }
  return int(max(uint32_t(counts), uint32_t(counts >> 32)));
}

template <ToppRenormConfig kConfig>
__device__ bool ToppRenormKernel<kConfig>::keep_candidates(const Candidates& candidates, float floor, Listed listed) {
  const float heavy = heavy_from(floor);
  typename Bins::Smem& smem = bins_of(smem_.found, smem_);
  const Bins bins(smem, p_.vocab_size, top_p_);
  if constexpr (!kConfig.bins_apart()) {
    __syncthreads();  // nobody reads the ring any more
    Bins::clear(smem);
    __syncthreads();  // the bins are empty
  }
  float own = 0;
  if (candidates.fit()) {
    candidates.template for_each<kAtOnce>([](int, int, int) { return 0; },
                                          [&](const float(&x)[kAtOnce], const auto&) {
#pragma unroll
                                            for (float y : x) {
                                              bins.template add<Bins::kCoarse>(y, 1);
                                              if (y >= heavy) own += y, ++listed.num_heavy;
                                            }
                                          });
  }
  listed.heavy = Bins::fixed(own);
  bins.tell();
  listed = group_.all(listed);  // and the bins are full
  weight_.max = bit_cast<float>(listed.largest);
  if (listed.largest > bit_cast<uint32_t>(1.0f) || !weight_.set(weight_.max, 1)) return false;
  // The rest is known but for half a unit an element: what is heavy is one.
  const double light = double(listed.mass - (uint64_t(listed.num_heavy) << 40)), roundings = double(p_.vocab_size / 2 + 1);
  const double unit = double(heavy) * 0x1p-40;
  const typename Bins::Keys keys = bins.find(top_p_, listed.heavy + uint64_t(light * unit * double(uint64_t(1) << Bins::kPoint)));
  __syncthreads();  // the bins have been read: the list may lie there
  if (keys.least < order_key(floor)) return false;

  List& list = smem_.found.list;
  const int begin = ring_.part_begin();
  const auto index_of = [begin](int thread, int vec, int j) { return index_in(begin, thread, vec, j); };
  const float most = value_of_order_key<float>(keys.most), least = value_of_order_key<float>(keys.least);
  uint64_t above = 0, of_heavy = 0;
  candidates.template for_each<kAtOnce>(index_of, [&](const float(&x)[kAtOnce], const auto& index_of_one) {
#pragma unroll
    for (float y : x) {
      const uint64_t own = mass_of(weight_(y));
      if (y >= heavy) of_heavy += own;
      if (y > most) above += own;
    }
    gpu::for_each_hit(gpu::hits_of<kAtOnce>([&](int k) { return x[k] >= least && x[k] <= most; }), [&](int k, uint32_t&) {
      if (!is_full()) append(list, order_rank(order_key(gpu::element_of(x, k)), uint32_t(index_of_one(k))));
    });
  });
  if constexpr (kCluster > 1) send(list);
  // What is light weighs, in units of the largest element, this but for the roundings of products and masses. Where they matter, exactly,
  // by another look: one row in a thousand. Before the threads meet: these steps take as long as each other.
  const double scale_of_light = unit * double(weight_.scale) * 0x1p40, relative = 7e-8;
  const auto bound = [&](double sign) {
    return fmax((light + sign * roundings) * scale_of_light * (1 + sign * relative) + sign * roundings, 0.0);
  };
  const double least_light = bound(-1), most_light = bound(1);
  const auto [mass_above, mass_of_heavy] = group_.sum(above, of_heavy);
  const int lane = int(threadIdx.x) % gpu::kWarpSize, of_lane = lane < kCluster ? listed_by(smem_, lane) : 0;
  const bool crowded = gpu::warp_sum(of_lane) > kListed;
  uint64_t needed = needed_mass(top_p_, uint64_t(double(mass_of_heavy) + least_light));
  uint64_t surely = needed_mass(top_p_, uint64_t(double(mass_of_heavy) + most_light));
  if (crowded) {
    if (!choose_crowded(smem_, group_, candidates, weight_, ring_.slice(), begin, needed, surely)) return false;
  } else {
    while (!choose(smem_, true, weight_, needed, surely, mass_above)) {
      if (needed == surely) return false;
      needed = surely = needed_mass(top_p_, exact_mass());
    }
  }
  if constexpr (kCluster > 1) {
    if (__any_sync(0xffffffffu, of_lane > Inbox::kSlots)) Group::sync();  // others have fetched this block's list
    gpu::ptx::cluster_arrive_relaxed();                                   // what they hold has been read
  }
  const Prefix::Test is_kept = smem_.prefix.test();
  const float scale = 1.0f / weight_of_mass(smem_.prefix.mass);
  candidates.write(begin, ring_.part_length(), writer(), smem_.found.window,
                   [&](float x, int index) { return is_kept(x, index) ? weight_(x) * scale : 0.0f; });
  return true;
}

template <ToppRenormConfig kConfig>
__device__ __noinline__ bool ToppRenormKernel<kConfig>::choose_crowded(Smem& smem, Group group, Candidates candidates, Weight weight,
                                                                       Row slice, int begin, uint64_t needed, uint64_t surely) {
  List& list = smem.found.list;
  Ties::clear(list.ties);
  const uint32_t key = uint32_t(group.max(smem.listed ? key_of_rank(list.ranks[0]) : 0));
  const float value = value_of_order_key<float>(key);
  const Ties ties(list.ties, slice.length);
  uint64_t above = 0;
  candidates.template for_each<1>([begin](int thread, int vec, int j) { return index_in(begin, thread, vec, j); },
                                  [&](const float(&x)[1], const auto& index_of_one) {
                                    if (x[0] > value) above += mass_of(weight(x[0]));
                                    if (x[0] == value) ties.add(index_of_one(0));
                                  });
  above = group.sum(above);
  return choose_tie(smem, list, weight, slice, needed, surely, {key, above});
}

template <ToppRenormConfig kConfig>
__device__ typename ToppRenormKernel<kConfig>::Listed ToppRenormKernel<kConfig>::list_candidates(Candidates& candidates, float least) {
  const float unit = 1 / heavy_from(least);
  gpu::MassSum sum;
  uint32_t largest = 0;
  int place = Candidates::first_place();
  ring_.for_each_eight([&](const float(&x)[8]) {
    float f[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = gpu::ptx::multiply_saturate(x[j], unit);
#pragma unroll
    for (int j = 0; j < 8; j += 2) largest = max(largest, max(bit_cast<uint32_t>(x[j]), bit_cast<uint32_t>(x[j + 1])));
    sum.add_few(f);  // a list is of no more than 2^16 elements of a warp
#pragma unroll
    for (int i = 0; i < 8; i += kVec) {  // hardly ever has a warp none
      candidates.add({x[i], x[i + 1], x[i + 2], x[i + 3]}, place, least);
      place = Candidates::template next_place<kVec>(place);
    }
  });
  return {sum.total(), 0, candidates.fit() ? largest : ~0u, 0};
}

template <ToppRenormConfig kConfig>
__device__ uint64_t ToppRenormKernel<kConfig>::exact_mass() {
  constexpr int kLoads = 4;
  gpu::MassSum sum;
#pragma unroll 1
  for (int vec = int(threadIdx.x); vec < ring_.slice().count; vec += kLoads * kThreads) {
    typename Row::Vector held[kLoads];
    ring_.slice().load(held, vec, kThreads);
#pragma unroll
    for (const auto& v : held) {
      float x[Row::kVec], f[4];
      v.to_float(x);
#pragma unroll
      for (int i = 0; i < Row::kVec; i += 4) {
#pragma unroll
        for (int j = 0; j < 4; ++j) f[j] = weight_(x[i + j]);
        sum.add(f);
      }
    }
  }
  return group_.sum(sum.total());
}

}  // namespace flashinfer
