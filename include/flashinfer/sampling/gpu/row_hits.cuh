// The few elements of a vector that more is to be done with than to look at them: code that they need is there once, and not for every
// element.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu {

/// x[j] for a j that is not known when compiling; a register array has no addresses.
template <class V, int kVec>
FLASHINFER_DEVICE V element_of(const V (&x)[kVec], int j) {
  V value = x[0];
#pragma unroll
  for (int i = 1; i < kVec; ++i) value = i == j ? x[i] : value;
  return value;
}
/// A bit for each place j of a vector for which hit(j).
template <int kVec, class Hit>
FLASHINFER_DEVICE uint32_t hits_of(const Hit& hit) {
  uint32_t hits = 0;
#pragma unroll
  for (int j = 0; j < kVec; ++j) hits |= hit(j) ? 1u << j : 0u;
  return hits;
}
/// f(place, bits from this one on) for each bit that is set. f may clear others that it has seen to.
template <class F>
FLASHINFER_DEVICE void for_each_hit(uint32_t hits, const F& f) {
#pragma unroll 1
  for (; hits; hits &= hits - 1) f(__ffs(int(hits)) - 1, hits);
}

}  // namespace flashinfer::gpu
