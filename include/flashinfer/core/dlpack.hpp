// Host only. The binary interface of DLPack 1.x, as its specification fixes it: how array libraries hand tensors to each other.
// Own declarations, so that the library depends on no other; python_tests/test_tensor_import.py compares them with torch's dlpack.h.
#pragma once

#include <cstdint>

namespace flashinfer::dlpack {

inline constexpr uint32_t kMajorVersion = 1;

struct Version {
  uint32_t major, minor;
};

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };

struct Device {
  int32_t type;
  int32_t index;
};

enum TypeCode : uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6,
  kFloat8E4m3fn = 10,
  kFloat8E5m2 = 12,
  kFloat8E8m0fnu = 14,
  kFloat4E2m1fn = 17,
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; before 1.2 a null pointer meant a contiguous tensor
  uint64_t byte_offset;
};

/// What the capsule "dltensor" holds.
struct ManagedTensor {
  Tensor tensor;
  void* manager;
  void (*deleter)(ManagedTensor*);
};

inline constexpr uint64_t kReadOnly = 1, kIsCopied = 2;

/// What the capsule "dltensor_versioned" holds.
struct VersionedTensor {
  Version version;
  void* manager;
  void (*deleter)(VersionedTensor*);
  uint64_t flags;
  Tensor tensor;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;  // the same library's table for an older major version, or null
};

/// What the capsule "dlpack_exchange_api" in type(tensor).__dlpack_c_exchange_api__ points to. Functions return 0,
/// or -1 with a Python exception set (allocate: after set_error).
struct ExchangeApi {
  ExchangeHeader header;
  int (*allocate)(Tensor* prototype, VersionedTensor** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*export_managed)(void* object, VersionedTensor** out);
  int (*import_managed)(VersionedTensor* tensor, void** object);  // takes over the tensor
  int (*export_borrowed)(void* object, Tensor* out);              // may be null; valid while the object is
  int (*current_stream)(int32_t device_type, int32_t device_index, void** stream);
};

}  // namespace flashinfer::dlpack
