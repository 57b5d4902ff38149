// The module flashinfer._flashinfer: exceptions, then every Family.
#include <nanobind/stl/vector.h>

#include <bindings/module.hpp>

#include <flashinfer/core/check.hpp>
#include <flashinfer/version.hpp>

namespace flashinfer::bindings {
namespace {

// Never released: they live as long as the interpreter.
PyObject *invalid_argument, *unsupported, *compile_error, *cuda_error;

PyObject* add_exception(nb::module_& m, const char* name, PyObject* base, const char* doc, nb::dict attributes = {}) {
  PyObject* type = PyErr_NewExceptionWithDoc((std::string("flashinfer.") + name).c_str(), doc, base, attributes.ptr());
  if (!type) throw nb::python_error();
  m.attr(name) = nb::handle(type);
  return type;
}

void translate(const std::exception_ptr& error, void*) {
  try {
    std::rethrow_exception(error);
  } catch (const InvalidArgument& e) {
    const nb::object value = nb::handle(invalid_argument)(e.what());
    value.attr("op") = e.op;
    value.attr("argument") = e.argument;
    PyErr_SetObject(invalid_argument, value.ptr());
  } catch (const Unsupported& e) {
    PyErr_SetString(unsupported, e.what());
  } catch (const CompileError& e) {
    PyErr_SetString(compile_error, e.what());
  } catch (const CudaError& e) {
    PyErr_SetString(cuda_error, e.what());
  }
}

nb::dict describe(const Tensor& tensor, bool writable) {
  Call call("describe");
  const TensorView view = writable ? call.out("tensor", tensor) : call.in("tensor", tensor);
  nb::list shape, strides;
  for (int i = 0; i < view.ndim; ++i) shape.append(view.shape[i]), strides.append(view.strides[i]);
  nb::dict d;
  d["shape"] = nb::tuple(shape);
  d["strides"] = nb::tuple(strides);
  d["dtype"] = to_string(view.dtype);
  d["device"] = to_string(view.device);
  d["data_ptr"] = uintptr_t(view.data);
  return d;
}

DType parse_dtype(const std::string& name) {
  std::string names;
  for (int i = 0; i <= int(DType::boolean); ++i) {
    if (name == name_of(DType(i))) return DType(i);
    names += (i ? ", " : "") + to_string(DType(i));
  }
  throw InvalidArgument("empty", "dtype", names, "'" + name + "'");
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, const std::string& dtype) {
  Call call("empty");
  call.in("like", like);
  if (shape.size() > kMaxDims) throw InvalidArgument("empty", "shape", "at most 8 dimensions", std::to_string(shape.size()));
  return call.out("out", std::nullopt, parse_dtype(dtype), shape.data(), int(shape.size())).result();
}

/// What every call costs before its op: for benchmarks/host_overhead.py.
void read_four(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& out) {
  Call call("read_four");
  call.in("a", a), call.in("b", b), call.in("c", c), call.out("out", out);
  call.run([](const Context&) {});
}

}  // namespace
}  // namespace flashinfer::bindings

NB_MODULE(_flashinfer, m) {
  using namespace flashinfer::bindings;
  nb::set_leak_warnings(false);
  m.attr("__version__") = FLASHINFER_VERSION;
  nb::dict attributes;
  attributes["op"] = "";
  attributes["argument"] = "";
  invalid_argument =
      add_exception(m, "InvalidArgument", PyExc_ValueError, "An argument that the op cannot take; op and argument name it.", attributes);
  unsupported = add_exception(m, "Unsupported", PyExc_NotImplementedError, "Well-formed, but no kernel takes it.");
  compile_error = add_exception(m, "CompileError", PyExc_RuntimeError, "NVRTC refused a kernel; the text holds its log.");
  cuda_error = add_exception(m, "CudaError", PyExc_RuntimeError, "The CUDA driver or the machine refused.");
  nb::register_exception_translator(translate);
  m.def("describe", &describe, "tensor"_a, "writable"_a = false,
        "Shape, strides in elements, dtype, device and address, as the kernels see them.");
  m.def("_empty", &empty, "like"_a, "shape"_a, "dtype"_a,
        "A new tensor of this shape and dtype (\"bf16\", \"f32\", ...), of the framework and on the device of `like`.");
  m.def("_read_four", &read_four, "a"_a, "b"_a, "c"_a, "out"_a);
  Family::bind_all(m);
}
