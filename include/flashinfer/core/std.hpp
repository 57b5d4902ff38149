// What device and shared code needs of the language's library, for every compiler that reads core/: g++, clang, nvcc, NVRTC.
// NVRTC has no <cstdint> and no <type_traits>, and cuda/std would triple the compile time of a kernel.
#pragma once

#if defined(__CUDACC__)
#define FLASHINFER_HOST_DEVICE __host__ __device__ __forceinline__
#define FLASHINFER_DEVICE __device__ __forceinline__
#else
#define FLASHINFER_HOST_DEVICE inline
#endif

#if defined(__CUDACC_RTC__)

namespace flashinfer {
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
}  // namespace flashinfer

#else

#include <cstddef>
#include <cstdint>

namespace flashinfer {
using std::int16_t;
using std::int32_t;
using std::int64_t;
using std::int8_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;
using std::uintptr_t;
}  // namespace flashinfer

#endif

namespace flashinfer {

template <class A, class B>
inline constexpr bool is_same_v = false;
template <class A>
inline constexpr bool is_same_v<A, A> = true;

template <class A, class B>
concept same_as = is_same_v<A, B>;

template <bool kCondition, class A, class B>
struct conditional {
  using type = A;
};
template <class A, class B>
struct conditional<false, A, B> {
  using type = B;
};
template <bool kCondition, class A, class B>
using conditional_t = typename conditional<kCondition, A, B>::type;

template <class To, class From>
FLASHINFER_HOST_DEVICE constexpr To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}

}  // namespace flashinfer
