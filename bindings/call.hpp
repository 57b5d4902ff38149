// One call from Python: reads its tensors, decides device and stream, makes outputs in the caller's framework, runs without the GIL.
//
//   Tensor rmsnorm(const Tensor& input, const Tensor& weight, double eps, const std::optional<Tensor>& out, std::optional<bool> enable_pdl)
//   {
//     Call call("rmsnorm", enable_pdl);
//     const TensorView x = call.in("input", input), w = call.in("weight", weight);
//     Output y = call.out("out", out, x);
//     call.run([&](const Context& context) { flashinfer::rmsnorm(x, w, y.view, float(eps), context); });
//     return y.result();
//   }
#pragma once

#include <initializer_list>
#include <optional>
#include <vector>

#include <bindings/tensor.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::bindings {

/// The kernels of this process: compiled by NVRTC when first launched, with the compiler that the Python environment has.
KernelSource& jit_kernels();

/// An output: where the op writes, and what Python gets. Call result() after the op ran, for it may copy (JAX).
struct Output {
  TensorView view;
  nb::object object;
  enum : uint8_t { kAsIs, kNumpyToJax, kBufferToJax } conversion = kAsIs;
  Tensor result() const;
};

class Call {
 public:
  /// enable_pdl None: on where the GPU has it (SM90 up).
  explicit Call(const char* op, std::optional<bool> enable_pdl = {}) : op_(op), enable_pdl_(enable_pdl) {}
  ~Call();
  Call(const Call&) = delete;

  /// A tensor that the op reads. The first tensor decides the device of the call; the others must be there too.
  TensorView in(const char* argument, const Tensor& tensor) { return read(argument, tensor.object.ptr(), false, true); }
  TensorView in(const char* argument, const std::optional<Tensor>& tensor) { return tensor ? in(argument, *tensor) : TensorView(); }
  /// A tensor that may be on any device, such as lengths that a plan reads on the host.
  TensorView anywhere(const char* argument, const Tensor& tensor) { return read(argument, tensor.object.ptr(), false, false); }
  TensorView anywhere(const char* argument, const std::optional<Tensor>& tensor) {
    return tensor ? anywhere(argument, *tensor) : TensorView();
  }
  /// A tensor that the op writes.
  TensorView out(const char* argument, const Tensor& tensor) { return read(argument, tensor.object.ptr(), true, true); }
  /// The tensor given, else a new one of this shape and dtype beside the first tensor read. The op checks the shape of a given one.
  Output out(const char* argument, const std::optional<Tensor>& given, DType dtype, const int64_t* shape, int ndim);
  Output out(const char* argument, const std::optional<Tensor>& given, DType dtype, std::initializer_list<int64_t> shape) {
    return out(argument, given, dtype, shape.begin(), int(shape.size()));
  }
  Output out(const char* argument, const std::optional<Tensor>& given, const TensorView& like) {
    return out(argument, given, like.dtype, like.shape, like.ndim);
  }

  /// Is the device of the tensors read so far the CPU?
  bool is_on_cpu() const { return context_.device.type == DeviceType::cpu; }
  /// The device, stream and kernels of the tensors read so far.
  const Context& context();
  /// Runs f(context) without the GIL: nothing in f may touch a Python object.
  template <class F>
  void run(F&& f) {
    const Context& c = context();
    nb::gil_scoped_release release;
    f(c);
  }

 private:
  TensorView read(const char* argument, PyObject* object, bool write, bool on_device);
  TensorView read_numpy(const char* argument, PyObject* object, bool write);
  TensorView read_dlpack(const char* argument, PyObject* object, bool write, const TensorType& type);
  TensorView view_of(const char* argument, const dlpack::Tensor& t) const;
  void use_device(const char* argument, Device device, const TensorType& type, PyObject* object);
  Output allocate(const char* argument, DType dtype, const int64_t* shape, int ndim);

  const char* op_;
  std::optional<bool> enable_pdl_;
  Context context_;
  TensorType first_{};  // of the argument that decided the device
  const char* first_argument_ = nullptr;
  std::vector<Loan> held_;            // of producers that lend for as long as we hold
  std::vector<Loan> held_by_stream_;  // of JAX, for as long as our kernels run
  bool ready_ = false;
};

}  // namespace flashinfer::bindings
