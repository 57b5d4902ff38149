// RMSNorm, its relatives and LayerNorm, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <bindings/xla_ffi.hpp>
#include <flashinfer/norm/layernorm.hpp>
#include <flashinfer/norm/rmsnorm.hpp>

namespace flashinfer::bindings {
namespace {

/// Read after the inputs: a tensor on the host, where they are on a GPU, is taken as a number.
QuantScale read_scale(Call& call, const FloatOrTensor& scale) {
  if (!scale.tensor) return float(scale.value);
  const TensorView view = call.anywhere("scale", Tensor{scale.tensor});
  if (view.is_cpu() && call.context().device.type == DeviceType::cuda && view.dtype == DType::f32 && view.numel() == 1)
    return *view.as<float>();
  return view;
}

Tensor rmsnorm(const Tensor& input, const Tensor& weight, double eps, const std::optional<Tensor>& out, std::optional<bool> enable_pdl) {
  Call call("rmsnorm", enable_pdl);
  const TensorView x = call.in("input", input), w = call.in("weight", weight);
  const Output y = call.out("out", out, x);
  call.run([&](const Context& context) { flashinfer::rmsnorm(x, w, y.view, float(eps), context); });
  return y.result();
}

Tensor gemma_rmsnorm(const Tensor& input, const Tensor& weight, double eps, const std::optional<Tensor>& out,
                     std::optional<bool> enable_pdl) {
  Call call("gemma_rmsnorm", enable_pdl);
  const TensorView x = call.in("input", input), w = call.in("weight", weight);
  const Output y = call.out("out", out, x);
  call.run([&](const Context& context) { flashinfer::gemma_rmsnorm(x, w, y.view, float(eps), context); });
  return y.result();
}

void fused_add_rmsnorm(const Tensor& input, const Tensor& residual, const Tensor& weight, double eps, std::optional<bool> enable_pdl) {
  Call call("fused_add_rmsnorm", enable_pdl);
  const TensorView x = call.out("input", input), r = call.out("residual", residual), w = call.in("weight", weight);
  call.run([&](const Context& context) { flashinfer::fused_add_rmsnorm(x, r, w, float(eps), context); });
}

void gemma_fused_add_rmsnorm(const Tensor& input, const Tensor& residual, const Tensor& weight, double eps,
                             std::optional<bool> enable_pdl) {
  Call call("gemma_fused_add_rmsnorm", enable_pdl);
  const TensorView x = call.out("input", input), r = call.out("residual", residual), w = call.in("weight", weight);
  call.run([&](const Context& context) { flashinfer::gemma_fused_add_rmsnorm(x, r, w, float(eps), context); });
}

void rmsnorm_quant(const Tensor& out, const Tensor& input, const Tensor& weight, const FloatOrTensor& scale, double eps,
                   std::optional<bool> enable_pdl) {
  Call call("rmsnorm_quant", enable_pdl);
  const TensorView x = call.in("input", input), w = call.in("weight", weight), y = call.out("out", out);
  const QuantScale s = read_scale(call, scale);
  call.run([&](const Context& context) { flashinfer::rmsnorm_quant(x, w, s, y, float(eps), context); });
}

void fused_add_rmsnorm_quant(const Tensor& out, const Tensor& input, const Tensor& residual, const Tensor& weight,
                             const FloatOrTensor& scale, double eps, std::optional<bool> enable_pdl) {
  Call call("fused_add_rmsnorm_quant", enable_pdl);
  const TensorView x = call.in("input", input), r = call.out("residual", residual), w = call.in("weight", weight), y = call.out("out", out);
  const QuantScale s = read_scale(call, scale);
  call.run([&](const Context& context) { flashinfer::fused_add_rmsnorm_quant(x, r, w, s, y, float(eps), context); });
}

Tensor layernorm(const Tensor& input, const Tensor& gemma, const Tensor& beta, double eps, const std::optional<Tensor>& out,
                 std::optional<bool> enable_pdl) {
  Call call("layernorm", enable_pdl);
  const TensorView x = call.in("input", input), g = call.in("gemma", gemma), b = call.in("beta", beta);
  const Output y = call.out("out", out, x);
  call.run([&](const Context& context) { flashinfer::layernorm(x, g, b, y.view, float(eps), context); });
  return y.result();
}

void layernorm_quant(const Tensor& out, const Tensor& input, const Tensor& gemma, const Tensor& beta, const FloatOrTensor& scale,
                     double eps, std::optional<bool> enable_pdl) {
  Call call("layernorm_quant", enable_pdl);
  const TensorView x = call.in("input", input), g = call.in("gemma", gemma), b = call.in("beta", beta), y = call.out("out", out);
  const QuantScale s = read_scale(call, scale);
  call.run([&](const Context& context) { flashinfer::layernorm_quant(x, g, b, s, y, float(eps), context); });
}

const Family family{[](nb::module_& m) {
  m.def("rmsnorm", &rmsnorm, "input"_a, "weight"_a, "eps"_a = 1e-6, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        R"(input / sqrt(mean(input^2) + eps) * weight over the last dimension, computed in float32.

input: [num_rows, hidden_size] or [num_tokens, num_heads, head_dim], float32, float16 or bfloat16. weight: [hidden_size],
input's dtype or float32. out: as input, may be input itself; made if None. All strides but the innermost are free.)");
  m.def("gemma_rmsnorm", &gemma_rmsnorm, "input"_a, "weight"_a, "eps"_a = 1e-6, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        "As rmsnorm, times weight + 1.");
  m.def("fused_add_rmsnorm", &fused_add_rmsnorm, "input"_a, "residual"_a, "weight"_a, "eps"_a = 1e-6, "enable_pdl"_a = nb::none(),
        "residual += input; input = rmsnorm(residual). The norm is that of the sum in float32, before it is rounded into residual.");
  m.def("gemma_fused_add_rmsnorm", &gemma_fused_add_rmsnorm, "input"_a, "residual"_a, "weight"_a, "eps"_a = 1e-6,
        "enable_pdl"_a = nb::none(), "As fused_add_rmsnorm, times weight + 1.");
  m.def("rmsnorm_quant", &rmsnorm_quant, "out"_a, "input"_a, "weight"_a, "scale"_a, "eps"_a = 1e-6, "enable_pdl"_a = nb::none(),
        "out = rmsnorm(input) / scale, in FP8 (e4m3 or e5m2), saturating. scale: a number, or a float32 tensor of one element.");
  m.def("fused_add_rmsnorm_quant", &fused_add_rmsnorm_quant, "out"_a, "input"_a, "residual"_a, "weight"_a, "scale"_a, "eps"_a = 1e-6,
        "enable_pdl"_a = nb::none(), "residual += input; out = rmsnorm(residual) / scale, in FP8. The input keeps its values.");
  m.def("layernorm", &layernorm, "input"_a, "gemma"_a, "beta"_a, "eps"_a = 1e-6, "out"_a = nb::none(), "enable_pdl"_a = nb::none(),
        R"((input - mean) / sqrt(variance + eps) * gemma + beta over the last dimension, computed in float32.

input: [num_rows, hidden_size] or [num_tokens, num_heads, head_dim], float32, float16 or bfloat16. gemma, beta: [hidden_size],
input's dtype or float32. out: as input, may be input itself; made if None. All strides but the innermost are free.)");
  m.def("layernorm_quant", &layernorm_quant, "out"_a, "input"_a, "gemma"_a, "beta"_a, "scale"_a, "eps"_a = 1e-6,
        "enable_pdl"_a = nb::none(),
        "out = layernorm(input) / scale, in FP8 (e4m3 or e5m2), saturating; layernorm(input) is rounded to input's dtype first.");
}};

const Tuned rmsnorm_kernels{"rmsnorm", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_rmsnorm(arch, add); }};
const Tuned layernorm_kernels{"layernorm", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_layernorm(arch, add); }};

// Under jax.jit (flashinfer/jax.py).
float eps(const XlaCall& c) { return float(c.number("eps")); }

const XlaOp rmsnorm_op{"rmsnorm", [](XlaCall& c) { flashinfer::rmsnorm(c.in(0), c.in(1), c.out(0), eps(c), c.context()); }};
const XlaOp gemma_rmsnorm_op{"gemma_rmsnorm",
                             [](XlaCall& c) { flashinfer::gemma_rmsnorm(c.in(0), c.in(1), c.out(0), eps(c), c.context()); }};
const XlaOp fused_add_rmsnorm_op{"fused_add_rmsnorm", [](XlaCall& c) {
                                   flashinfer::fused_add_rmsnorm(c.in_place(0, 0), c.in_place(1, 1), c.in(2), eps(c), c.context());
                                 }};
const XlaOp gemma_fused_add_rmsnorm_op{
    "gemma_fused_add_rmsnorm",
    [](XlaCall& c) { flashinfer::gemma_fused_add_rmsnorm(c.in_place(0, 0), c.in_place(1, 1), c.in(2), eps(c), c.context()); }};
const XlaOp layernorm_op{"layernorm", [](XlaCall& c) { flashinfer::layernorm(c.in(0), c.in(1), c.in(2), c.out(0), eps(c), c.context()); }};

}  // namespace
}  // namespace flashinfer::bindings
