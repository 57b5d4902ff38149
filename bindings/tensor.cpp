// Python types of tensors and element types.
#include <bindings/jax.hpp>
#include <bindings/tensor.hpp>

#include <cstring>
#include <string>

#include <flashinfer/core/check.hpp>

namespace flashinfer::bindings {
namespace {

std::string name_of(PyTypeObject* type) {
  const nb::handle t(reinterpret_cast<PyObject*>(type));
  const std::string module = text_of(nb::getattr(t, "__module__", nb::str("builtins")));
  return (module == "builtins" ? "" : module + ".") + text_of(t.attr("__qualname__"));
}

[[noreturn]] void refuse(const char* op, const char* argument, const std::string& given) {
  throw nb::type_error((std::string(op) + ": " + argument +
                        ": expected a tensor (torch, NumPy, CuPy, JAX, tvm-ffi or another with __dlpack__), got " + given)
                           .c_str());
}

bool derives_from(PyTypeObject* type, const char* name) {
  for (; type; type = type->tp_base)
    if (std::strcmp(type->tp_name, name) == 0) return true;
  return false;
}

bool in_package(const std::string& module, const char* package) {
  const size_t n = std::strlen(package);
  return module.compare(0, n, package) == 0 && (module.size() == n || module[n] == '.');
}

/// JAX's stand-ins for arrays while it traces a function.
bool derives_from_tracer(nb::handle type) {
  for (nb::handle base : nb::borrow<nb::tuple>(type.attr("__mro__")))
    if (text_of(base.attr("__name__")) == "Tracer" && in_package(text_of(base.attr("__module__")), "jax")) return true;
  return false;
}

/// Subclasses inherit __dlpack_c_exchange_api__, also those with no memory of their own (FakeTensor, DTensor): they are known by
/// their own __torch_dispatch__.
void refuse_wrapper(const char* op, const char* argument, nb::handle type) {
  const nb::object dispatch = type.attr("__torch_dispatch__");
  const nb::object plain = nb::module_::import_("torch").attr("Tensor").attr("__torch_dispatch__");
  if (!dispatch.equal(plain))
    refuse(op, argument,
           "the torch.Tensor subclass " + name_of(reinterpret_cast<PyTypeObject*>(type.ptr())) +
               ", which wraps its data (use its local tensor)");
}

PyCFunction method_without_arguments(nb::handle type, const char* name) {
  const nb::object method = nb::getattr(type, name, nb::none());
  if (!PyObject_TypeCheck(method.ptr(), &PyMethodDescr_Type)) return nullptr;
  const PyMethodDef* def = reinterpret_cast<PyMethodDescrObject*>(method.ptr())->d_method;
  return (def->ml_flags & METH_NOARGS) ? def->ml_meth : nullptr;
}

TensorType examine(const char* op, const char* argument, PyTypeObject* type) {
  const nb::handle t(reinterpret_cast<PyObject*>(type));
  TensorType result{type, nullptr, nullptr, TensorType::kDlpack};
  const nb::object capsule = nb::getattr(t, "__dlpack_c_exchange_api__", nb::none());
  if (!capsule.is_none()) {
    auto* header = static_cast<dlpack::ExchangeHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!header) throw nb::python_error();
    while (header && header->version.major != dlpack::kMajorVersion) header = header->previous;
    result.api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
    result.framework = TensorType::kExchange;
  }
  if (nb::hasattr(t, "__torch_dispatch__")) {
    refuse_wrapper(op, argument, t);
    if (!result.api) refuse(op, argument, "a tensor of a torch without the DLPack exchange API: torch 2.10 or newer is needed");
    result.framework = TensorType::kTorch;
    result.is_neg = method_without_arguments(t, "is_neg");
  }
  if (result.api) return result;

  if (nb::type_check(t) && t.is(nb::type<JaxBuffer>())) {
    result.framework = TensorType::kJaxBuffer;
    return result;
  }
  const std::string module = text_of(nb::getattr(t, "__module__", nb::str("")));
  if (derives_from(type, "numpy.ndarray")) {
    if (derives_from(type, "MaskedArray") || nb::hasattr(t, "_default_fill_value") || in_package(module, "numpy.ma"))
      refuse(op, argument, name_of(type) + ", whose mask would be ignored");
    result.framework = TensorType::kNumpy;
  } else if (derives_from_tracer(t)) {
    refuse(op, argument, "a traced JAX array: flashinfer.jax has the ops that run under jax.jit");
  } else if (!nb::hasattr(t, "__dlpack__") || !nb::hasattr(t, "__dlpack_device__")) {
    refuse(op, argument, name_of(type));
  } else if (in_package(module, "cupy")) {
    result.framework = TensorType::kCupy;
  } else if (in_package(module, "jax") || in_package(module, "jaxlib")) {
    result.framework = TensorType::kJax;
  } else if (in_package(module, "tvm_ffi")) {
    result.framework = TensorType::kTvmFfi;
  }
  return result;
}

}  // namespace

TensorType tensor_type(const char* op, const char* argument, PyObject* object) {
  // Guarded by the GIL, which examining a type may give away for a while: entries leave by value, for they may be replaced. An entry holds
  // a reference to its type, so that the address is not used again; few types ever come.
  static TensorType known[16];
  static int count = 0;
  static int oldest = 0;
  PyTypeObject* type = Py_TYPE(object);
  for (int i = 0; i < count; ++i)
    if (known[i].type == type) return known[i];

  const TensorType entry = examine(op, argument, type);
  int place = count;
  if (count < int(std::size(known))) {
    ++count;
  } else {
    place = oldest;
    oldest = (oldest + 1) % int(std::size(known));
    Py_DECREF(reinterpret_cast<PyObject*>(known[place].type));
  }
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  return known[place] = entry;
}

Loan Loan::take(nb::handle capsule) {
  Loan loan;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    loan.versioned = static_cast<dlpack::VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    loan.legacy = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  }
  return loan;
}

void Loan::give_back() {
  if (versioned && versioned->deleter) versioned->deleter(versioned);
  if (legacy && legacy->deleter) legacy->deleter(legacy);
  versioned = nullptr, legacy = nullptr;
}

bool to_dtype(dlpack::DataType type, DType& dtype) {
  const auto is = [&](uint8_t code, int bits) { return type.code == code && type.bits == bits && type.lanes == 1; };
  if (is(dlpack::kBfloat, 16))
    dtype = DType::bf16;
  else if (is(dlpack::kFloat, 16))
    dtype = DType::f16;
  else if (is(dlpack::kFloat, 32))
    dtype = DType::f32;
  else if (is(dlpack::kFloat, 64))
    dtype = DType::f64;
  else if (is(dlpack::kInt, 32) || is(dlpack::kUInt, 32))
    dtype = DType::i32;
  else if (is(dlpack::kInt, 64) || is(dlpack::kUInt, 64))
    dtype = DType::i64;
  else if (is(dlpack::kInt, 8))
    dtype = DType::i8;
  else if (is(dlpack::kUInt, 8) || is(dlpack::kFloat8E8m0fnu, 8))
    dtype = DType::u8;
  else if (type.code == dlpack::kFloat4E2m1fn && type.bits * type.lanes == 8)
    dtype = DType::u8;
  else if (is(dlpack::kBool, 8))
    dtype = DType::boolean;
  else if (is(dlpack::kFloat8E4m3fn, 8))
    dtype = DType::e4m3;
  else if (is(dlpack::kFloat8E5m2, 8))
    dtype = DType::e5m2;
  else
    return false;
  return true;
}

dlpack::DataType to_dlpack(DType dtype) {
  switch (dtype) {
    case DType::f32: return {dlpack::kFloat, 32, 1};
    case DType::f16: return {dlpack::kFloat, 16, 1};
    case DType::bf16: return {dlpack::kBfloat, 16, 1};
    case DType::e4m3: return {dlpack::kFloat8E4m3fn, 8, 1};
    case DType::e5m2: return {dlpack::kFloat8E5m2, 8, 1};
    case DType::f64: return {dlpack::kFloat, 64, 1};
    case DType::i32: return {dlpack::kInt, 32, 1};
    case DType::i64: return {dlpack::kInt, 64, 1};
    case DType::i8: return {dlpack::kInt, 8, 1};
    case DType::u8: return {dlpack::kUInt, 8, 1};
    case DType::boolean: return {dlpack::kBool, 8, 1};
  }
  return {};
}

nb::handle numpy_dtype(DType dtype) {
  static PyObject* known[int(DType::boolean) + 1];  // never released: a static nb::object would outlive the interpreter
  PyObject*& place = known[int(dtype)];
  if (place) return place;
  const char* name = "";
  bool narrow = false;
  switch (dtype) {
    case DType::f32: name = "float32"; break;
    case DType::f16: name = "float16"; break;
    case DType::f64: name = "float64"; break;
    case DType::i32: name = "int32"; break;
    case DType::i64: name = "int64"; break;
    case DType::i8: name = "int8"; break;
    case DType::u8: name = "uint8"; break;
    case DType::boolean: name = "bool"; break;
    case DType::bf16: name = "bfloat16", narrow = true; break;
    case DType::e4m3: name = "float8_e4m3fn", narrow = true; break;
    case DType::e5m2: name = "float8_e5m2", narrow = true; break;
  }
  const nb::object type = narrow ? nb::object(nb::module_::import_("ml_dtypes").attr(name)) : nb::object(nb::str(name));
  place = nb::module_::import_("numpy").attr("dtype")(type).release().ptr();
  return place;
}

}  // namespace flashinfer::bindings
