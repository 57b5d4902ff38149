// Host only. A tensor of the caller's: pointer, element type, shape, strides in elements. It owns nothing.
#pragma once

#include <cstdint>
#include <initializer_list>

#include <flashinfer/core/dtype.hpp>

namespace flashinfer {

enum class DeviceType : uint8_t { cpu = 1, cuda = 2 };  // DLPack's numbers

struct Device {
  DeviceType type = DeviceType::cpu;
  int32_t index = 0;
  friend constexpr bool operator==(Device, Device) = default;
};

inline constexpr int kMaxDims = 8;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device;
  int32_t ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // in elements

  TensorView() = default;
  /// A contiguous tensor.
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> sizes, Device device = {})
      : data(data), dtype(dtype), device(device), ndim(int32_t(sizes.size())) {
    int i = 0;
    for (int64_t size : sizes) shape[i++] = size;
    int64_t stride = 1;
    for (i = ndim - 1; i >= 0; --i) {
      strides[i] = stride;
      stride *= shape[i];
    }
  }

  explicit operator bool() const { return ndim != 0 || data != nullptr; }
  bool is_cpu() const { return device.type == DeviceType::cpu; }
  int64_t size(int dim) const { return shape[dim < 0 ? dim + ndim : dim]; }
  int64_t stride(int dim) const { return strides[dim < 0 ? dim + ndim : dim]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  bool is_contiguous() const {
    int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != expected) return numel() == 0;
      expected *= shape[i];
    }
    return true;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace flashinfer
