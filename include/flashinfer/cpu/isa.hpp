// Host only. Which vector instructions this machine has, and how a kernel is compiled for each of them in one binary.
//
// The library is compiled for plain x86-64. A kernel is a template on an ISA tag (Baseline, Avx2, Avx512: cpu/vec_*.hpp) whose
// vector operations carry the target attribute. The kernel itself carries none: dispatch_isa calls it from an entry function
// with the same attribute and `flatten`, which inlines everything below it, so the whole loop is compiled for that target.
// clang flattens one level only: functions and lambdas below the entry are FLASHINFER_INLINE.
#pragma once

#include <cstdlib>
#include <string_view>
#include <type_traits>

#include <flashinfer/cpu/vec_avx2.hpp>
#include <flashinfer/cpu/vec_avx512.hpp>
#include <flashinfer/cpu/vec_baseline.hpp>

#define FLASHINFER_INLINE __attribute__((always_inline))

namespace flashinfer::cpu {

enum class IsaLevel { baseline, avx2, avx512, avx512_bf16 };

constexpr const char* name_of(IsaLevel level) {
  switch (level) {
    case IsaLevel::baseline: return "baseline";
    case IsaLevel::avx2: return "avx2";
    case IsaLevel::avx512: return "avx512";
    default: return "avx512_bf16";
  }
}

/// The highest level of this CPU and its operating system, or a lower one named by FLASHINFER_CPU_ISA. Read once.
inline IsaLevel best_isa() {
  static const IsaLevel best = [] {
    IsaLevel found = IsaLevel::baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found = IsaLevel::avx2;  // all of them have F16C
    if (found == IsaLevel::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      found = __builtin_cpu_supports("avx512bf16") ? IsaLevel::avx512_bf16 : IsaLevel::avx512;
#endif
    if (const char* text = std::getenv("FLASHINFER_CPU_ISA"))
      for (IsaLevel level : {IsaLevel::baseline, IsaLevel::avx2, IsaLevel::avx512, IsaLevel::avx512_bf16})
        if (level < found && std::string_view(text) == name_of(level)) found = level;
    return found;
  }();
  return best;
}

namespace detail {
#if defined(__x86_64__)
template <class F>
__attribute__((flatten, noinline)) FLASHINFER_AVX2 void enter(Avx2 isa, const F& f) {
  f(isa);
}
template <class F>
__attribute__((flatten, noinline)) FLASHINFER_AVX512 void enter(Avx512 isa, const F& f) {
  f(isa);
}
template <class F>
__attribute__((flatten, noinline)) FLASHINFER_AVX512_BF16 void enter(Avx512Bf16 isa, const F& f) {
  f(isa);
}
#endif
template <class F>
__attribute__((flatten, noinline)) void enter(Baseline isa, const F& f) {
  f(isa);
}
}  // namespace detail

/// f(tag) with the tag of `level`, which must not be above best_isa(). `f` is a generic callable; call it on one chunk of work,
/// inside parallel_for, not around it. Levels above kHighest are taken as kHighest: fewer copies of the kernel.
template <IsaLevel kHighest = IsaLevel::avx512, class F>
void dispatch_isa(IsaLevel level, const F& f) {
#if defined(__x86_64__)
  if constexpr (kHighest >= IsaLevel::avx512_bf16)
    if (level >= IsaLevel::avx512_bf16) return detail::enter(Avx512Bf16{}, f);
  if constexpr (kHighest >= IsaLevel::avx512)
    if (level >= IsaLevel::avx512) return detail::enter(Avx512{}, f);
  if constexpr (kHighest >= IsaLevel::avx2)
    if (level >= IsaLevel::avx2) return detail::enter(Avx2{}, f);
#endif
  detail::enter(Baseline{}, f);
}
template <IsaLevel kHighest = IsaLevel::avx512, class F>
void dispatch_isa(const F& f) {
  dispatch_isa<kHighest>(best_isa(), f);
}

/// f() in a function of its own, compiled for Isa: for a pass that a kernel calls from several places.
template <class Isa, class F>
FLASHINFER_INLINE inline auto outlined(const F& f) {
  if constexpr (std::is_void_v<decltype(f())>) {
    detail::enter(Isa{}, [&](Isa) FLASHINFER_INLINE { f(); });
  } else {
    decltype(f()) result;
    detail::enter(Isa{}, [&](Isa) FLASHINFER_INLINE { result = f(); });
    return result;
  }
}

}  // namespace flashinfer::cpu
