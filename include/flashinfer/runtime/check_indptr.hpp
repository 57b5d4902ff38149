// Host only. Checks of index arrays: those in host memory are always looked at, those on a device under FLASHINFER_VALIDATE=1.
#pragma once

#include <string>
#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

/// Calls f(at), at(i) being entry i of a contiguous i32 or i64 array, where the array is to be looked at.
template <class F>
void look_at(const TensorView& t, const Context& context, const F& f) {
  std::vector<char> copy;
  const void* data = t.data;
  if (!t.is_cpu()) {
    if (!context.validate) return;
    copy.resize(size_t(t.numel() * size_of(t.dtype)));
    context.kernels->copy_to_host(copy.data(), t.data, copy.size(), context);
    data = copy.data();
  }
  f([&](int64_t i) {
    return t.dtype == DType::i32 ? int64_t(static_cast<const int32_t*>(data)[i]) : static_cast<const int64_t*>(data)[i];
  });
}

/// Bounds of segments: from 0, never falling.
inline void check_indptr(const Check& check, const char* argument, const TensorView& t, const Context& context) {
  look_at(t, context, [&](const auto& at) {
    check.that(t.size(0) > 0 && at(0) == 0, argument, "a first entry of 0", [&] { return t.size(0) > 0 ? std::to_string(at(0)) : "none"; });
    for (int64_t i = 1; i < t.size(0); ++i)
      check.that(at(i) >= at(i - 1), argument, "entries that never fall",
                 [&] { return std::to_string(at(i)) + " after " + std::to_string(at(i - 1)) + " at " + std::to_string(i); });
  });
}

}  // namespace flashinfer
