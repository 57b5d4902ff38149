// JAX arrays on a GPU, outside of jit. JAX runs its work on streams of its own, which it does not tell, and has no array that may be
// written. So an op runs on a stream of ours, on memory that JAX allocated for it and nobody else has seen:
//   inputs    __dlpack__(stream=ours): our stream waits for what computes them
//   outputs   a JaxBuffer: bytes from JAX's allocator; jax.dlpack.from_dlpack makes an array of it, for which JAX's stream waits for ours
//   freeing   JAX may give memory that is not held to its next computation at once. What our stream still uses is held until it is done
// Nothing synchronises. Under jit it is simpler: JAX calls us, with its stream and its memory (xla_ffi.cpp).
#pragma once

#include <vector>

#include <bindings/tensor.hpp>

namespace flashinfer::bindings {

/// The stream of our kernels on JAX arrays: the legacy default stream, which also waits for other libraries' default streams.
inline void* jax_stream() { return reinterpret_cast<void*>(uintptr_t(1)); }

/// Gives loans back once our stream has done what was enqueued so far, or at a later call of this. With Python's lock.
void give_back_later(int device, std::vector<Loan> loans);

/// Memory of JAX's on a GPU that is ours to write, until to_jax() makes a JAX array of it.
class JaxBuffer {
 public:
  JaxBuffer(DType dtype, const int64_t* shape, int ndim, int device);
  ~JaxBuffer();
  JaxBuffer(JaxBuffer&& other) noexcept : view_(other.view_), loan_(other.loan_) { other.loan_ = {}; }

  const TensorView& view() const { return view_; }
  /// The capsule that __dlpack__ gives: it takes the memory along. `stream`, JAX's, waits for what was enqueued so far.
  nb::object give(nb::handle stream);

 private:
  TensorView view_;
  Loan loan_;
};

/// A new JaxBuffer as a Python object.
nb::object make_jax_buffer(DType dtype, const int64_t* shape, int ndim, int device);
/// jax.dlpack.from_dlpack.
nb::object to_jax(nb::handle jax_buffer);

}  // namespace flashinfer::bindings
