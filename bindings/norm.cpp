// RMSNorm and its relatives, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <flashinfer/norm/rmsnorm.hpp>

namespace flashinfer::bindings {
namespace {

QuantScale read_scale(Call& call, const FloatOrTensor& scale) {
  return scale.tensor ? QuantScale(call.in("scale", Tensor{scale.tensor})) : QuantScale(float(scale.value));
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
}};

const Tuned rmsnorm_kernels{"rmsnorm", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_rmsnorm(arch, add); }};

}  // namespace
}  // namespace flashinfer::bindings
