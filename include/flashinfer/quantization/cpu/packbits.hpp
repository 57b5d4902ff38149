// Host only. packbits and segment_packbits on the CPU: eight booleans are one load, one product, one byte.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#include <flashinfer/core/check.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/quantization/packbits_params.hpp>

namespace flashinfer::cpu {

inline constexpr int64_t kPackbitsGrain = 16384;  // bytes of output: some 10 us

/// Bytes [begin, end) of a packed run of num_bits booleans.
template <BitOrder kOrder>
void pack_run(const uint8_t* input, int64_t num_bits, uint8_t* output, int64_t begin, int64_t end) {
  uint64_t booleans;
  const int64_t whole = std::clamp(num_bits / 8, begin, end);  // only the last byte may have fewer than eight
  for (int64_t i = begin; i < whole; ++i) {
    std::memcpy(&booleans, input + 8 * i, 8);
    output[i] = pack8<kOrder>(booleans);
  }
  if (whole < end) {
    booleans = 0;
    std::memcpy(&booleans, input + 8 * whole, size_t(num_bits - 8 * whole));
    output[whole] = pack8<kOrder>(booleans);
  }
}

template <class F>
void with_bit_order(BitOrder order, const F& f) {
  if (order == BitOrder::big)
    f(std::integral_constant<BitOrder, BitOrder::big>{});
  else
    f(std::integral_constant<BitOrder, BitOrder::little>{});
}

inline void packbits(const PackbitsParams& p, BitOrder order) {
  with_bit_order(order, [&](auto kOrder) {
    parallel_for(p.output_size, kPackbitsGrain,
                 [&](int64_t begin, int64_t end) { pack_run<kOrder>(p.input, p.num_bits, p.output, begin, end); });
  });
}

template <class Index>
void segment_packbits(const PackbitsParams& p, BitOrder order) {
  const Check check("segment_packbits");
  const auto* indptr = static_cast<const Index*>(p.indptr);
  check.that(indptr[0] == 0, "indptr", "a first entry of 0", [&] { return std::to_string(indptr[0]); });
  int64_t size = 0;
  p.packed_indptr[0] = 0;
  for (int32_t s = 0; s < p.num_segments; ++s) {
    check.that(
        indptr[s] <= indptr[s + 1] && indptr[s + 1] <= p.num_bits, "indptr",
        [&] { return "entries that rise to at most " + std::to_string(p.num_bits); },
        [&] { return std::to_string(indptr[s]) + " before " + std::to_string(indptr[s + 1]); });
    size += packed_size(indptr[s + 1] - indptr[s]);
    check.that(size <= INT32_MAX, "x", "packed segments of at most 2^31 - 1 bytes", "more");
    p.packed_indptr[s + 1] = int32_t(size);
  }
  check.that(
      size <= p.output_size, "output", [&] { return "at least " + std::to_string(size) + " bytes"; },
      [&] { return std::to_string(p.output_size); });

  with_bit_order(order, [&](auto kOrder) {
    parallel_for(size, kPackbitsGrain, [&](int64_t begin, int64_t end) {
      // The segment that byte `begin` lies in: the last that starts at or before it.
      const int32_t* ends = p.packed_indptr + 1;
      for (int64_t s = std::upper_bound(ends, ends + p.num_segments, begin) - ends; begin < end; ++s) {
        const int64_t start = p.packed_indptr[s], stop = std::min<int64_t>(end, p.packed_indptr[s + 1]);
        pack_run<kOrder>(p.input + indptr[s], indptr[s + 1] - indptr[s], p.output + start, begin - start, stop - start);
        begin = stop;
      }
    });
  });
}

inline void segment_packbits(const PackbitsParams& p, BitOrder order, DType indptr) {
  if (indptr == DType::i32)
    segment_packbits<int32_t>(p, order);
  else
    segment_packbits<int64_t>(p, order);
}

}  // namespace flashinfer::cpu
