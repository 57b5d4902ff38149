// Stores to global memory as one instruction (PTX ISA, st). Of `*p = uint4` compilers have made four stores where they lost sight of the
// address's alignment, each of which fills a quarter of every sector that it touches: renorm by top_p took a fifth longer.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Of 16 and of 8 bytes, to which p is aligned.
FLASHINFER_DEVICE void store_global(void* p, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
FLASHINFER_DEVICE void store_global(void* p, uint32_t a, uint32_t b) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(a), "r"(b) : "memory");
}

}  // namespace flashinfer::gpu::ptx
