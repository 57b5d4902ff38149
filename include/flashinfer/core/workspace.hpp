// Exact sizes of caller-owned scratch memory: the same walk that lays a workspace out tells how large it must be.
#pragma once

#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// Offsets of arrays laid one after another, each aligned for vector and bulk copies.
struct WorkspaceLayout {
  static constexpr int64_t kAlignment = 128;
  int64_t size = 0;

  template <class T>
  FLASHINFER_HOST_DEVICE constexpr int64_t add(int64_t count) {
    const int64_t offset = size;
    size = round_up(size + count * int64_t(sizeof(T)), kAlignment);
    return offset;
  }
};

template <class T>
FLASHINFER_HOST_DEVICE T* at_offset(void* base, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

}  // namespace flashinfer
