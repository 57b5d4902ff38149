// JAX arrays on a GPU, outside of jit: see jax.hpp.
#include <bindings/jax.hpp>

#include <deque>
#include <string>

#include <bindings/module.hpp>
#include <flashinfer/jit/jit_kernels.hpp>

namespace flashinfer::bindings {
namespace {

cu::Stream stream() { return static_cast<cu::Stream>(jax_stream()); }

/// A device's events, and what waits for them in the order of the stream. Guarded by Python's lock.
struct Waiting {
  struct Loans {
    cu::Event done;
    std::vector<Loan> loans;
  };
  std::deque<Loans> loans;
  std::vector<cu::Event> spare;

  cu::Event record() {
    cu::Driver& driver = cu::Driver::get();
    cu::Event event = nullptr;
    if (spare.empty()) {
      cu::check(driver.event_create(&event, cu::kEventDisableTiming), "cuEventCreate");
    } else {
      event = spare.back();
      spare.pop_back();
    }
    cu::check(driver.event_record(event, stream()), "cuEventRecord");
    return event;
  }
  void give_back_done() {
    while (!loans.empty() && cu::Driver::get().event_query(loans.front().done) == 0) {
      spare.push_back(loans.front().done);
      for (Loan& loan : loans.front().loans) loan.give_back();
      loans.pop_front();
    }
  }

  /// Never destroyed: the driver and JAX may be gone before static destructors run.
  static Waiting& on(int device) {
    static Waiting* all = new Waiting[jit::kMaxDevices];
    return all[device];
  }
};

/// What JAX holds of memory that it took over.
struct Given {
  dlpack::ManagedTensor managed;
  TensorView view;
  Loan loan;
};

dlpack::ManagedTensor* managed_of(const TensorView& view, Loan loan) {
  auto* given = new Given{{}, view, loan};
  TensorView& v = given->view;
  given->managed = {
      {v.data, {dlpack::kCuda, v.device.index}, v.ndim, to_dlpack(v.dtype), v.shape, v.strides, 0}, given, [](dlpack::ManagedTensor* self) {
        auto* done = static_cast<Given*>(self->manager);
        done->loan.give_back();  // JAX orders what it does next with it after what it has done
        delete done;
      }};
  return &given->managed;
}

}  // namespace

void give_back_later(int device, std::vector<Loan> loans) {
  const cu::CurrentContext current(JitKernels::global().context_of(device));
  Waiting& waiting = Waiting::on(device);
  waiting.give_back_done();
  if (!loans.empty()) waiting.loans.push_back({waiting.record(), std::move(loans)});
}

JaxBuffer::JaxBuffer(DType dtype, const int64_t* shape, int ndim, int device) {
  view_.dtype = dtype, view_.device = {DeviceType::cuda, device}, view_.ndim = ndim;
  int64_t packed = 1;
  for (int i = ndim - 1; i >= 0; --i) view_.shape[i] = shape[i], view_.strides[i] = packed, packed *= shape[i];
  // As bytes: JAX would make 32-bit numbers of 64-bit ones, and compile for every shape.
  const nb::object bytes = nb::module_::import_("flashinfer._jax").attr("allocate")(packed * size_of(dtype), device);
  loan_ = Loan::take(bytes.attr("__dlpack__")("stream"_a = uintptr_t(jax_stream())));
  if (!loan_) throw CudaError("JAX: __dlpack__ gave no DLPack capsule");
  view_.data = static_cast<char*>(loan_.tensor().data) + loan_.tensor().byte_offset;
}

JaxBuffer::~JaxBuffer() {
  if (!loan_) return;
  try {
    give_back_later(view_.device.index, {loan_});
  } catch (const Error&) {  // the driver is broken: nothing runs on this memory any more
    loan_.give_back();
  }
}

nb::object JaxBuffer::give(nb::handle stream_of_jax) {
  if (!loan_) throw nb::buffer_error("this memory was given to JAX before");
  const cu::CurrentContext current(JitKernels::global().context_of(view_.device.index));
  cu::Driver& driver = cu::Driver::get();
  if (stream_of_jax.is_none()) {  // a JAX without streams for this
    cu::check(driver.stream_synchronize(stream()), "cuStreamSynchronize");
  } else {
    Waiting& waiting = Waiting::on(view_.device.index);
    const cu::Event event = waiting.record();
    cu::check(driver.stream_wait_event(reinterpret_cast<cu::Stream>(nb::cast<uintptr_t>(stream_of_jax)), event, 0), "cuStreamWaitEvent");
    waiting.spare.push_back(event);  // the wait is for what it marks now
  }
  PyObject* capsule = PyCapsule_New(managed_of(view_, loan_), "dltensor", [](PyObject* unused) {
    if (!PyCapsule_IsValid(unused, "dltensor")) return;
    auto* tensor = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(unused, "dltensor"));
    tensor->deleter(tensor);
  });
  if (!capsule) throw nb::python_error();
  loan_ = {};
  return nb::steal(capsule);
}

nb::object make_jax_buffer(DType dtype, const int64_t* shape, int ndim, int device) {
  return nb::cast(JaxBuffer(dtype, shape, ndim, device));
}

nb::object to_jax(nb::handle jax_buffer) { return nb::module_::import_("jax").attr("dlpack").attr("from_dlpack")(jax_buffer); }

namespace {

/// Memory that an op may write between calls, beside `like`: as many bytes. JAX arrays are immutable, so theirs can not be it.
Tensor scratch_like(const Tensor& like) {
  Call call("scratch");
  const TensorView view = call.in("like", like);
  return {call.out("scratch", std::nullopt, DType::u8, {view.numel() * size_of(view.dtype)}).object};
}

const Family jax_family{[](nb::module_& m) {
  nb::class_<JaxBuffer>(m, "JaxBuffer", "Memory of JAX's on a GPU that the library writes.")
      .def("__dlpack_device__", [](const JaxBuffer& b) { return nb::make_tuple(int(dlpack::kCuda), b.view().device.index); })
      .def(
          "__dlpack__", [](JaxBuffer& b, nb::handle stream, nb::kwargs) { return b.give(stream); }, "stream"_a.none() = nb::none(),
          "kwargs"_a);
  m.def("_scratch_like", &scratch_like, "like"_a);
}};

}  // namespace
}  // namespace flashinfer::bindings
