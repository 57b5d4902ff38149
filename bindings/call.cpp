// Reading tensors and making outputs.
#include <bindings/call.hpp>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include <bindings/jax.hpp>
#include <flashinfer/core/check.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/jit/jit_kernels.hpp>

namespace flashinfer::bindings {
namespace {

using namespace nb::literals;

constexpr const char* kDtypes = "dtype f32, f16, bf16, e4m3, e5m2, f64, i32, i64, i8, u8 or boolean";

/// The first line of a Python error: torch appends a C++ stack trace.
std::string text_of(const nb::python_error& error) {
  const std::string text = bindings::text_of(error.value());
  return text.substr(0, text.find('\n'));
}

std::string text_of(dlpack::DataType type) {
  const char* names[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  const std::string lanes = type.lanes == 1 ? "" : "x" + std::to_string(type.lanes);
  const std::string name = type.code < std::size(names) ? names[type.code] : "DLPack type code " + std::to_string(type.code) + " of bits ";
  return name + std::to_string(type.bits) + lanes;
}

/// The element type of a NumPy array by its buffer format, for example "<f".
bool to_dtype(const char* format, Py_ssize_t item_size, DType& dtype) {
  if (!format) format = "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (format[0] == 0 || format[1] != 0) return false;
  switch (format[0]) {
    case 'f': dtype = DType::f32; return true;
    case 'e': dtype = DType::f16; return true;
    case 'd': dtype = DType::f64; return true;
    case 'b': dtype = DType::i8; return true;
    case 'B': dtype = DType::u8; return true;
    case '?': dtype = DType::boolean; return true;
    case 'i':
    case 'I':
    case 'l':
    case 'L':
    case 'q':
    case 'Q': dtype = item_size == 4 ? DType::i32 : DType::i64; return true;
    default: return false;
  }
}

struct Buffer {
  Py_buffer view{};
  explicit Buffer(PyObject* object) { ok = PyObject_GetBuffer(object, &view, PyBUF_RECORDS_RO) == 0; }
  ~Buffer() {
    if (ok) PyBuffer_Release(&view);
  }
  Buffer(const Buffer&) = delete;
  bool ok;
};

bool validate() {
  static const bool on = [] {
    const char* text = std::getenv("FLASHINFER_VALIDATE");
    return text && *text && *text != '0';
  }();
  return on;
}

}  // namespace

Call::~Call() {
  for (Loan& loan : held_) loan.give_back();
  if (held_by_stream_.empty()) [[likely]]
    return;
  try {
    give_back_later(context_.device.index, held_by_stream_);
  } catch (const Error&) {  // no driver: nothing was launched
    for (Loan& loan : held_by_stream_) loan.give_back();
  }
}

TensorView Call::view_of(const char* argument, const dlpack::Tensor& t) const {
  const Check check(op_);
  TensorView view;
  if (!to_dtype(t.dtype, view.dtype)) check.fail(argument, kDtypes, text_of(t.dtype));
  if (t.ndim > kMaxDims) check.fail(argument, "at most 8 dimensions", std::to_string(t.ndim));
  switch (t.device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost: view.device = {DeviceType::cpu, 0}; break;
    case dlpack::kCuda:
    case dlpack::kCudaManaged: view.device = {DeviceType::cuda, t.device.index}; break;
    default: check.fail(argument, "a tensor on the CPU or a CUDA device", "one on DLPack device type " + std::to_string(t.device.type));
  }
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  if (uintptr_t(view.data) % size_t(size_of(view.dtype)) != 0)
    check.fail(argument, "elements aligned to their size", "a tensor between them");
  view.ndim = t.ndim;
  int64_t packed = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    view.shape[i] = t.shape[i];
    view.strides[i] = t.strides ? t.strides[i] : packed;
    packed *= t.shape[i];
  }
  if (packed == 0)  // of no element: CuPy calls them 0, but what looks at strides wants those of a dense tensor
    for (int64_t i = t.ndim - 1, stride = 1; i >= 0; --i) view.strides[i] = stride, stride *= max(t.shape[i], int64_t(1));
  return view;
}

TensorView Call::read(const char* argument, PyObject* object, bool write, bool on_device) {
  const TensorType type = tensor_type(op_, argument, object);
  TensorView view;
  if (type.api && type.api->export_borrowed) {
    dlpack::Tensor borrowed;
    if (type.api->export_borrowed(object, &borrowed) != 0) {
      nb::python_error error;
      Check(op_).fail(argument, "a dense tensor with memory", text_of(error));
    }
    view = view_of(argument, borrowed);
    // The exchange API is silent about torch's lazy negation. Only real views of complex tensors have it: f16, f32, f64.
    if (type.is_neg && (view.dtype == DType::f32 || view.dtype == DType::f16 || view.dtype == DType::f64)) {
      PyObject* negated = type.is_neg(object, nullptr);
      if (!negated) throw nb::python_error();
      Py_DECREF(negated);
      if (negated == Py_True) Check(op_).fail(argument, "a tensor without the negative bit", "a lazily negated view: call resolve_neg()");
    }
  } else if (type.framework == TensorType::kNumpy) {
    view = read_numpy(argument, object, write);
  } else if (type.framework == TensorType::kJaxBuffer) {
    view = nb::cast<JaxBuffer&>(nb::handle(object)).view();
    use_device(argument, view.device, type, object);
  } else {
    view = read_dlpack(argument, object, write, type);
  }
  if (on_device) use_device(argument, view.device, type, object);
  return view;
}

TensorView Call::read_numpy(const char* argument, PyObject* object, bool write) {
  const Check check(op_);
  TensorView view;
  nb::object bits;  // ml_dtypes arrays export no buffer: read them as integers
  const char* narrow = nullptr;
  auto buffer = std::make_unique<Buffer>(object);
  if (!buffer->ok) {
    PyErr_Clear();
    const std::string name = bindings::text_of(nb::handle(object).attr("dtype").attr("name"));
    narrow = "uint8";
    if (name == "bfloat16")
      view.dtype = DType::bf16, narrow = "uint16";
    else if (name == "float8_e4m3fn")
      view.dtype = DType::e4m3;
    else if (name == "float8_e5m2")
      view.dtype = DType::e5m2;
    else if (name == "float8_e8m0fnu")
      view.dtype = DType::u8;
    else
      check.fail(argument, kDtypes, "a NumPy array of " + name);
    bits = nb::handle(object).attr("view")(narrow);
    buffer = std::make_unique<Buffer>(bits.ptr());
    if (!buffer->ok) throw nb::python_error();
  }
  const Py_buffer& b = buffer->view;
  if (!narrow && !to_dtype(b.format, b.itemsize, view.dtype))
    check.fail(argument, kDtypes, "a NumPy array of " + bindings::text_of(nb::handle(object).attr("dtype")));
  if (b.ndim > kMaxDims) check.fail(argument, "at most 8 dimensions", std::to_string(b.ndim));
  if (write && b.readonly) check.fail(argument, "a writable tensor", "a read-only NumPy array");
  if (uintptr_t(b.buf) % size_t(b.itemsize) != 0) check.fail(argument, "elements aligned to their size", "an unaligned NumPy array");
  view.data = b.buf;
  view.ndim = b.ndim;
  for (int i = 0; i < b.ndim; ++i) {
    if (b.strides[i] % b.itemsize != 0) check.fail(argument, "strides of whole elements", "a NumPy array with others");
    view.shape[i] = b.shape[i];
    view.strides[i] = b.strides[i] / b.itemsize;
  }
  return view;
}

TensorView Call::read_dlpack(const char* argument, PyObject* object, bool write, const TensorType& type) {
  const Check check(op_);
  if (write && type.framework == TensorType::kJax)
    check.fail(argument, "a writable tensor", "a JAX array, which is immutable: see flashinfer.jax for ops that return what they write");

  Loan loan;
  bool of_stream = false;
  try {
    if (type.api) {
      if (type.api->export_managed(object, &loan.versioned) != 0) throw nb::python_error();
    } else {
      nb::dict options;
      const nb::object device = nb::handle(object).attr("__dlpack_device__")();
      const int device_type = nb::cast<int>(device[0]);
      if (device_type == dlpack::kCuda || device_type == dlpack::kCudaManaged) {
        of_stream = type.framework == TensorType::kJax;
        // The producer orders its own work before the stream that it is told: ours.
        use_device(argument, {DeviceType::cuda, nb::cast<int>(device[1])}, type, object);
        options["stream"] = nb::int_(context_.stream ? uintptr_t(context_.stream) : uintptr_t(1));
      }
      const nb::object exporter = nb::handle(object).attr("__dlpack__");
      nb::object capsule;
      try {
        nb::dict versions = options;
        versions["max_version"] = nb::make_tuple(1, 0);
        capsule = exporter(**versions);
      } catch (nb::python_error& error) {
        if (!error.matches(PyExc_TypeError)) throw;
        options.attr("pop")("max_version", nb::none());
        capsule = exporter(**options);
      }
      loan = Loan::take(capsule);
      if (!loan) check.fail(argument, "a DLPack capsule from __dlpack__", bindings::text_of(nb::repr(capsule)));
    }
  } catch (nb::python_error& error) {
    check.fail(argument, "a dense tensor that __dlpack__ can export", text_of(error));
  }

  (of_stream ? held_by_stream_ : held_).push_back(loan);
  if (loan.legacy) return view_of(argument, loan.legacy->tensor);
  const dlpack::VersionedTensor* versioned = loan.versioned;
  if (versioned->version.major != dlpack::kMajorVersion)
    check.fail(argument, "DLPack 1", "version " + std::to_string(versioned->version.major));
  if (write && (versioned->flags & (dlpack::kReadOnly | dlpack::kIsCopied)))
    check.fail(argument, "a writable tensor", versioned->flags & dlpack::kReadOnly ? "a read-only one" : "one that is exported as a copy");
  return view_of(argument, versioned->tensor);
}

void Call::use_device(const char* argument, Device device, const TensorType& type, PyObject* object) {
  if (first_argument_) {
    if (device == context_.device) [[likely]]
      return;
    Check(op_).fail(argument, "a tensor on " + to_string(context_.device) + " like " + first_argument_, "one on " + to_string(device));
  }
  first_ = type;
  first_argument_ = argument;
  context_.device = device;
  if (device.type == DeviceType::cpu) return;
  if (type.api) {
    if (type.api->current_stream(dlpack::kCuda, device.index, &context_.stream) != 0) throw nb::python_error();
  } else if (type.framework == TensorType::kCupy) {  // which tells the stream of the current GPU
    const cu::CurrentContext current(JitKernels::global().context_of(device.index));
    const nb::object stream = nb::module_::import_("cupy").attr("cuda").attr("get_current_stream")();
    context_.stream = reinterpret_cast<void*>(nb::cast<uintptr_t>(stream.attr("ptr")));
  } else if (type.framework == TensorType::kTvmFfi) {
    const nb::object stream = nb::module_::import_("tvm_ffi").attr("get_raw_stream")(nb::handle(object).attr("device"));
    context_.stream = reinterpret_cast<void*>(nb::cast<uintptr_t>(stream));
  } else {
    context_.stream = jax_stream();  // CU_STREAM_LEGACY, which other streams wait for
  }
}

const Context& Call::context() {
  if (ready_) return context_;
  ready_ = true;
  context_.validate = validate();
  if (context_.device.type == DeviceType::cuda) {
    context_.kernels = &jit_kernels();
    context_.pdl = enable_pdl_ ? *enable_pdl_ : context_.kernels->device_info(context_.device.index).arch.number >= 90;
  }
  return context_;
}

Output Call::out(const char* argument, const std::optional<Tensor>& given, DType dtype, const int64_t* shape, int ndim) {
  if (given) return {out(argument, *given), given->object};
  return allocate(argument, dtype, shape, ndim);
}

Output Call::allocate(const char* argument, DType dtype, const int64_t* shape, int ndim) {
  if (!first_argument_) throw std::logic_error(std::string(op_) + ": outputs are made after the first input is read");
  Output output;
  TensorView& view = output.view;
  view.dtype = dtype;
  view.device = context_.device;
  view.ndim = ndim;
  int64_t packed = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    view.shape[i] = shape[i];
    view.strides[i] = packed;
    packed *= shape[i];
  }

  if (first_.api) {
    dlpack::Tensor prototype{nullptr, {int32_t(view.device.type), view.device.index}, ndim, to_dlpack(dtype), view.shape, view.strides, 0};
    dlpack::VersionedTensor* made = nullptr;
    const auto set_error = [](void*, const char* kind, const char* message) { PyErr_Format(PyExc_RuntimeError, "%s: %s", kind, message); };
    if (first_.api->allocate(&prototype, &made, nullptr, set_error) != 0) throw nb::python_error();
    view.data = static_cast<char*>(made->tensor.data) + made->tensor.byte_offset;
    void* object = nullptr;
    if (first_.api->import_managed(made, &object) != 0) throw nb::python_error();
    output.object = nb::steal(static_cast<PyObject*>(object));
    return output;
  }

  const bool jax = first_.framework == TensorType::kJax || first_.framework == TensorType::kJaxBuffer;
  if (jax && view.device.type == DeviceType::cuda) {
    output.object = make_jax_buffer(dtype, shape, ndim, view.device.index);
    output.conversion = Output::kBufferToJax;
    view.data = nb::cast<JaxBuffer&>(output.object).view().data;
    return output;
  }
  const bool numpy = first_.framework == TensorType::kNumpy || jax;
  if (!numpy && first_.framework != TensorType::kCupy)
    Check(op_).fail(argument, "a tensor: none can be made in the framework of " + std::string(first_argument_), "None");
  nb::object sizes = nb::steal(PyTuple_New(ndim));
  for (int i = 0; i < ndim; ++i) PyTuple_SET_ITEM(sizes.ptr(), i, PyLong_FromLongLong(shape[i]));
  if (numpy) {
    output.object = nb::module_::import_("numpy").attr("empty")(sizes, numpy_dtype(dtype));
    view.data = read_numpy(argument, output.object.ptr(), true).data;
    if (jax) output.conversion = Output::kNumpyToJax;
  } else {  // CuPy makes arrays on the current GPU
    const cu::CurrentContext current(JitKernels::global().context_of(view.device.index));
    output.object = nb::module_::import_("cupy").attr("empty")(sizes, numpy_dtype(dtype));
    view.data = read_dlpack(argument, output.object.ptr(), true, first_).data;
  }
  return output;
}

Tensor Output::result() const {
  if (conversion == kAsIs) return {object};
  return {conversion == kBufferToJax ? to_jax(object) : nb::module_::import_("jax").attr("numpy").attr("asarray")(object)};
}

}  // namespace flashinfer::bindings
