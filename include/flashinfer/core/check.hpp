// Host only. Errors, and the checks that every public function makes of its arguments before it reads them.
// An error names the op, the argument, what was expected and what was given; Python sees the same types and texts.
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <numeric>
#include <stdexcept>
#include <string>

#include <flashinfer/core/tensor.hpp>

namespace flashinfer {

/// Base of every error of this library.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// An argument that the op cannot take. Python: flashinfer.InvalidArgument, a ValueError.
struct InvalidArgument : Error {
  std::string op, argument;
  InvalidArgument(std::string op, std::string argument, const std::string& expected, const std::string& given)
      : Error(op + ": " + argument + ": expected " + expected + ", got " + given), op(std::move(op)), argument(std::move(argument)) {}
  /// With a text of its own, where callers already match one.
  InvalidArgument(std::string op, std::string argument, const std::string& text)
      : Error(op + ": " + text), op(std::move(op)), argument(std::move(argument)) {}
};
/// Well-formed, but no kernel takes it. Python: flashinfer.Unsupported, a NotImplementedError.
struct Unsupported : Error {
  using Error::Error;
};
/// NVRTC refused a kernel: the text holds its log, the options and the config. Python: flashinfer.CompileError, a RuntimeError.
struct CompileError : Error {
  using Error::Error;
};
/// The CUDA driver or the machine refused. Python: flashinfer.CudaError, a RuntimeError.
struct CudaError : Error {
  using Error::Error;
};

inline std::string to_string(DType dtype) { return name_of(dtype); }
inline std::string to_string(Device device) { return device.type == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(device.index); }
inline std::string list_of(const int64_t* values, int count) {
  std::string text = "[";
  for (int i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}
inline std::string shape_of(const TensorView& t) { return list_of(t.shape, t.ndim); }
inline std::string strides_of(const TensorView& t) { return list_of(t.strides, t.ndim); }

/// A named extent of an expected shape: {"batch_size", 4}, or a free one: {"max_pos"}.
struct Extent {
  const char* name;
  int64_t value = -1;
};

/// The checks of one call: Check("rmsnorm").rank("input", input, 2, 3).
struct Check {
  const char* op;
  explicit constexpr Check(const char* op) : op(op) {}

  [[noreturn]] void fail(const char* argument, const std::string& expected, const std::string& given) const {
    throw InvalidArgument(op, argument, expected, given);
  }
  /// `expected` and `given` are built only when the check fails: pass lambdas where building them costs.
  template <class Expected, class Given>
  void that(bool holds, const char* argument, const Expected& expected, const Given& given) const {
    if (holds) [[likely]]
      return;
    fail(argument, text(expected), text(given));
  }

  void rank(const char* argument, const TensorView& t, int least, int most) const {
    if (t.ndim >= least && t.ndim <= most) [[likely]]
      return;
    fail(argument,
         least == most ? std::to_string(least) + " dimensions" : std::to_string(least) + " to " + std::to_string(most) + " dimensions",
         "shape " + shape_of(t));
  }
  void rank(const char* argument, const TensorView& t, int count) const { rank(argument, t, count, count); }

  void shape(const char* argument, const TensorView& t, std::initializer_list<Extent> extents) const {
    bool same = t.ndim == int(extents.size());
    int i = 0;
    for (const Extent& extent : extents) {
      if (!same) break;
      same = extent.value < 0 || t.shape[i] == extent.value;
      ++i;
    }
    if (same) [[likely]]
      return;
    std::string expected = "shape [";
    i = 0;
    for (const Extent& extent : extents) {
      expected += (i++ ? ", " : "") + std::string(extent.name);
      if (extent.value >= 0) expected += "=" + std::to_string(extent.value);
    }
    fail(argument, expected + "]", "shape " + shape_of(t));
  }
  void same_shape(const char* argument, const TensorView& t, const char* as, const TensorView& other) const {
    bool same = t.ndim == other.ndim;
    for (int i = 0; same && i < t.ndim; ++i) same = t.shape[i] == other.shape[i];
    if (same) [[likely]]
      return;
    fail(argument, std::string("the shape of ") + as + " " + shape_of(other), "shape " + shape_of(t));
  }

  void dtype(const char* argument, const TensorView& t, std::initializer_list<DType> allowed) const {
    for (DType dtype : allowed)
      if (t.dtype == dtype) [[likely]]
        return;
    std::string expected = "dtype ";
    int i = 0;
    for (DType dtype : allowed) expected += (i++ ? " or " : "") + to_string(dtype);
    fail(argument, expected, "dtype " + to_string(t.dtype));
  }
  void dtype(const char* argument, const TensorView& t, DType allowed) const { dtype(argument, t, {allowed}); }

  void device(const char* argument, const TensorView& t, Device expected) const {
    if (t.device == expected) [[likely]]
      return;
    fail(argument, "a tensor on " + to_string(expected), "one on " + to_string(t.device));
  }
  /// The innermost dimension is dense: kernels read it in vectors.
  void inner_stride(const char* argument, const TensorView& t) const {
    if (t.ndim == 0 || t.size(-1) <= 1 || t.stride(-1) == 1) [[likely]]
      return;
    fail(argument, "innermost stride must be 1", "strides " + strides_of(t));
  }
  void contiguous(const char* argument, const TensorView& t) const {
    if (t.is_contiguous()) [[likely]]
      return;
    fail(argument, "a contiguous tensor", "shape " + shape_of(t) + " with strides " + strides_of(t));
  }
  /// Every element of an output has its own place: no broadcast strides, no windows that overlap.
  void writable(const char* argument, const TensorView& t) const {
    int order[kMaxDims], count = 0;  // dimensions, smallest stride first
    for (int i = 0; i < t.ndim; ++i) {
      if (t.shape[i] == 0) return;
      if (t.shape[i] == 1) continue;
      int at = count++;
      for (; at > 0 && std::abs(t.strides[order[at - 1]]) > std::abs(t.strides[i]); --at) order[at] = order[at - 1];
      order[at] = i;
    }
    int64_t span = 0;  // from the first element to the last of the dimensions seen
    for (int k = 0; k < count; ++k) {
      const int64_t stride = std::abs(t.strides[order[k]]);
      if (stride <= span)
        fail(argument, "an output whose elements do not overlap", "shape " + shape_of(t) + " with strides " + strides_of(t));
      span += (t.shape[order[k]] - 1) * stride;
    }
  }
  template <class T>
  void positive(const char* argument, T value) const {
    if (value > T(0)) [[likely]]
      return;
    fail(argument, "a positive number", std::to_string(value));
  }
  template <class T>
  void in_range(const char* argument, T value, T low, T high) const {
    if (value >= low && value <= high) [[likely]]
      return;
    fail(argument, std::to_string(low) + " to " + std::to_string(high), std::to_string(value));
  }

 private:
  static std::string text(const char* s) { return s; }
  static const std::string& text(const std::string& s) { return s; }
  template <class F>
  static auto text(const F& f) -> decltype(std::string(f())) {
    return f();
  }
};

/// Do two tensors share a byte? Exact for slices of one buffer that lie side by side, such as q and k of a packed qkv; otherwise
/// strided tensors are taken by their extent, which may say yes where gaps interleave.
inline bool overlap(const TensorView& a, const TensorView& b) {
  if (a.device != b.device || a.numel() == 0 || b.numel() == 0) return false;
  auto range = [](const TensorView& t, uintptr_t& begin, uintptr_t& end) {
    begin = end = uintptr_t(t.data);
    for (int i = 0; i < t.ndim; ++i) {
      const int64_t span = (t.shape[i] - 1) * t.strides[i] * size_of(t.dtype);
      (span < 0 ? begin : end) += span;
    }
    end += size_of(t.dtype);
  };
  uintptr_t a_begin, a_end, b_begin, b_end;
  range(a, a_begin, a_end);
  range(b, b_begin, b_end);
  if (a_begin >= b_end || b_begin >= a_end) return false;

  // A tensor is a dense run (its last dimensions), repeated at its other strides. Where those are multiples of `period` bytes, the
  // runs of both lie at fixed places modulo the period.
  int64_t period = 0;
  auto run = [&](const TensorView& t) {
    int64_t elements = 1;
    for (int i = t.ndim - 1; i >= 0; --i)
      if (t.shape[i] > 1) {
        if (period == 0 && t.strides[i] == elements)
          elements *= t.shape[i];
        else
          period = std::gcd(period, t.strides[i] * size_of(t.dtype));
      }
    return elements * size_of(t.dtype);
  };
  const int64_t a_run = run(a), a_period = period;
  period = 0;
  const int64_t b_run = run(b);
  period = std::gcd(period, a_period);
  if (period == 0) return true;
  const int64_t distance = (int64_t(uintptr_t(b.data) - uintptr_t(a.data)) % period + period) % period;
  return distance < a_run || distance + b_run > period;
}

/// Are two tensors one and the same view, so that an op may read one and write the other element by element?
inline bool same_memory(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.device != b.device || a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.shape[i] != b.shape[i] || (a.shape[i] > 1 && a.strides[i] != b.strides[i])) return false;
  return true;
}

}  // namespace flashinfer
