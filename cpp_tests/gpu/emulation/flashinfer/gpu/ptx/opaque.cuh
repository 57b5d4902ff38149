// Emulated gpu/ptx/opaque.cuh.
#pragma once

namespace flashinfer::gpu::ptx {

inline int opaque(int x) { return x; }
inline float opaque(float x) { return x; }
template <class T>
T* opaque(T* x) {
  return x;
}

}  // namespace flashinfer::gpu::ptx
