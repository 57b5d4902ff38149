// A tensor of the caller's as an argument or a result of a bound function. The caster takes any object: Call reads it, under
// the names of the op and the argument, so that an error can say which one was not a tensor.
#pragma once

#include <string>

#include <nanobind/nanobind.h>

#include <flashinfer/core/dlpack.hpp>
#include <flashinfer/core/tensor.hpp>

namespace flashinfer::bindings {

namespace nb = nanobind;

struct Tensor {
  nb::object object;
};

/// A number, or a tensor on the op's device that holds it: reading that on the host would synchronise.
struct FloatOrTensor {
  double value = 0;
  nb::object tensor;  // null where it is a number
};

/// A tensor that its producer lends through a DLPack capsule of either kind, until it is given back.
struct Loan {
  dlpack::VersionedTensor* versioned = nullptr;
  dlpack::ManagedTensor* legacy = nullptr;

  /// Takes the tensor out of the capsule; an empty loan if it is none.
  static Loan take(nb::handle capsule);
  explicit operator bool() const { return versioned || legacy; }
  const dlpack::Tensor& tensor() const { return versioned ? versioned->tensor : legacy->tensor; }
  /// From any thread, with or without Python's lock.
  void give_back();
};

/// What is known of a Python type, looked up once: how to read its tensors and where new ones come from.
struct TensorType {
  enum Framework : uint8_t { kExchange, kTorch, kNumpy, kCupy, kJax, kJaxBuffer, kTvmFfi, kDlpack };
  PyTypeObject* type;
  const dlpack::ExchangeApi* api;  // the fast path; null for NumPy, CuPy, JAX and other producers of __dlpack__
  PyCFunction is_neg;              // torch: does the tensor stand for the negation of its memory?
  Framework framework;
};

/// str(object).
inline std::string text_of(nb::handle object) { return nb::str(object).c_str(); }

/// Throws TypeError naming op and argument if the object is no tensor, or one without memory behind it.
TensorType tensor_type(const char* op, const char* argument, PyObject* object);

/// The element type, if the library has it. Bytes of packed fp4 and of e8m0 scales are u8, unsigned indices are signed ones.
bool to_dtype(dlpack::DataType type, DType& dtype);
dlpack::DataType to_dlpack(DType dtype);
/// numpy.dtype, a borrowed reference; those of narrow floats come from ml_dtypes.
nb::handle numpy_dtype(DType dtype);

}  // namespace flashinfer::bindings

namespace nanobind::detail {

template <>
struct type_caster<flashinfer::bindings::Tensor> {
  NB_TYPE_CASTER(flashinfer::bindings::Tensor, const_name("Tensor"))
  bool from_python(handle source, uint32_t, cleanup_list*) noexcept {
    value.object = borrow(source);
    return true;
  }
  static handle from_cpp(const Value& tensor, rv_policy, cleanup_list*) noexcept { return tensor.object.inc_ref(); }
};

template <>
struct type_caster<flashinfer::bindings::FloatOrTensor> {
  NB_TYPE_CASTER(flashinfer::bindings::FloatOrTensor, const_name("float | Tensor"))
  bool from_python(handle source, uint32_t flags, cleanup_list* cleanup) noexcept {
    if (!PyFloat_Check(source.ptr()) && !PyLong_Check(source.ptr())) {
      value.tensor = borrow(source);
      return true;
    }
    make_caster<double> number;
    if (!number.from_python(source, flags, cleanup)) return false;
    value.value = number.value;
    return true;
  }
};

}  // namespace nanobind::detail
