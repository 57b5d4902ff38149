// The gated activations, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <bindings/xla_ffi.hpp>
#include <flashinfer/activation/act_and_mul.hpp>

namespace flashinfer::bindings {
namespace {

using ActAndMul = void (*)(const TensorView& input, const TensorView& output, const Context& context);

Tensor act_and_mul(const char* op, ActAndMul f, const Tensor& input, const std::optional<Tensor>& out, std::optional<bool> enable_pdl) {
  Call call(op, enable_pdl);
  const TensorView x = call.in("input", input);
  Check(op).rank("input", x, 1, kMaxDims);
  // The kernels take any size; FlashInfer's callers rely on this refusal and its text.
  if (x.size(-1) * size_of(x.dtype) % 16 != 0) throw InvalidArgument(op, "input", "input: The pointers must be multiple of 16 bytes.");
  TensorView half = x;
  half.shape[x.ndim - 1] /= 2;
  const Output y = call.out("out", out, half);
  call.run([&](const Context& context) { f(x, y.view, context); });
  return y.result();
}

Tensor silu_and_mul(const Tensor& input, const std::optional<Tensor>& out, std::optional<bool> enable_pdl) {
  return act_and_mul("silu_and_mul", flashinfer::silu_and_mul, input, out, enable_pdl);
}
Tensor gelu_and_mul(const Tensor& input, const std::optional<Tensor>& out, std::optional<bool> enable_pdl) {
  return act_and_mul("gelu_and_mul", flashinfer::gelu_and_mul, input, out, enable_pdl);
}
Tensor gelu_tanh_and_mul(const Tensor& input, const std::optional<Tensor>& out, std::optional<bool> enable_pdl) {
  return act_and_mul("gelu_tanh_and_mul", flashinfer::gelu_tanh_and_mul, input, out, enable_pdl);
}

const Family family{[](nb::module_& m) {
  m.def("silu_and_mul", &silu_and_mul, "input"_a, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        R"(silu(input[..., :dim]) * input[..., dim:], computed in float32.

input: [..., 2 * dim], float32, float16 or bfloat16, rows of a multiple of 16 bytes; the innermost stride is 1, others are free.
out: [..., dim], may be a half of input itself; made if None.)");
  m.def("gelu_and_mul", &gelu_and_mul, "input"_a, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        "As silu_and_mul, with gelu(x) = x (1 + erf(x / sqrt(2))) / 2.");
  m.def("gelu_tanh_and_mul", &gelu_tanh_and_mul, "input"_a, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        "As silu_and_mul, with gelu(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.");
}};

const Tuned act_and_mul_kernels{"act_and_mul", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_act_and_mul(arch, add); }};

// Under jax.jit (flashinfer/jax.py).
const XlaOp silu_and_mul_op{"silu_and_mul", [](XlaCall& c) { flashinfer::silu_and_mul(c.in(0), c.out(0), c.context()); }};
const XlaOp gelu_and_mul_op{"gelu_and_mul", [](XlaCall& c) { flashinfer::gelu_and_mul(c.in(0), c.out(0), c.context()); }};
const XlaOp gelu_tanh_and_mul_op{"gelu_tanh_and_mul", [](XlaCall& c) { flashinfer::gelu_tanh_and_mul(c.in(0), c.out(0), c.context()); }};

}  // namespace
}  // namespace flashinfer::bindings
