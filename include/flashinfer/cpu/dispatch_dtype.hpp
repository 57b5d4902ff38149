// Host only. From a DType that is known when the op is called to a type that is known when it is compiled.
#pragma once

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/isa.hpp>

namespace flashinfer::cpu {

/// f(T{}) with the element type T of `dtype`, one of kAllowed: what is not among them the op has refused before.
template <DType... kAllowed, class F>
FLASHINFER_INLINE inline void dispatch_dtype(DType dtype, const F& f) {
  (void)((dtype == kAllowed && (f(number_t<kAllowed>{}), true)) || ...);
}

}  // namespace flashinfer::cpu
