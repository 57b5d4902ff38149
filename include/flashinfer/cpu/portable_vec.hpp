// Host only. The functions of core/portable_math.hpp on vectors: bit for bit what they give for one float.
#pragma once

#include <flashinfer/core/portable_math.hpp>
#include <flashinfer/cpu/vec.hpp>

namespace flashinfer::cpu {

template <class Isa>
struct PortableVec : Isa {};
/// One rounding, without the instruction.
template <>
struct PortableVec<Baseline> : Baseline {
  static F fma(const F& a, const F& b, const F& c) {
    F y;
    for (int i = 0; i < kLanes; ++i) y.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return y;
  }
};

/// 2^x for x <= 126; 0 from -125.5 down and for NaN.
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F portable_exp2(const typename Isa::F& x) {
  const typename Isa::F n = Isa::round(Isa::max(Isa::set(-126.0f), x));
  const typename Isa::F y = Isa::scale_by_power_of_two(portable_exp2_polynomial<PortableVec<Isa>>(Isa::fma(n, Isa::set(-1.0f), x)), n);
  return Isa::select(Isa::less(Isa::set(-125.5f), x), y, Isa::set(0));
}

}  // namespace flashinfer::cpu
