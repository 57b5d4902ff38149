// Merging of attention states, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <bindings/xla_ffi.hpp>
#include <flashinfer/attention/merge_state.hpp>

#include <nanobind/stl/pair.h>

namespace flashinfer::bindings {
namespace {

using TensorPair = std::pair<Tensor, Tensor>;

TensorPair merge_state(const Tensor& v_a, const Tensor& s_a, const Tensor& v_b, const Tensor& s_b) {
  Call call("merge_state");
  const TensorView va = call.in("v_a", v_a), sa = call.in("s_a", s_a), vb = call.in("v_b", v_b), sb = call.in("s_b", s_b);
  const Check check("merge_state");
  check.rank("v_a", va, 3);
  const Output v = call.out("v", {}, va), s = call.out("s", {}, DType::f32, {va.size(0), va.size(1)});
  call.run([&](const Context& context) { flashinfer::merge_state(va, sa, vb, sb, v.view, s.view, context); });
  return {v.result(), s.result()};
}

void merge_state_in_place(const Tensor& v, const Tensor& s, const Tensor& v_other, const Tensor& s_other,
                          const std::optional<Tensor>& mask) {
  Call call("merge_state_in_place");
  const TensorView va = call.out("v", v), sa = call.out("s", s), vb = call.in("v_other", v_other), sb = call.in("s_other", s_other);
  const TensorView m = call.in("mask", mask);
  call.run([&](const Context& context) { flashinfer::merge_state_in_place(va, sa, vb, sb, m, context); });
}

TensorPair merge_states(const Tensor& v, const Tensor& s) {
  Call call("merge_states");
  const TensorView vs = call.in("v", v), ss = call.in("s", s);
  const Check check("merge_states");
  check.rank("v", vs, 4);
  const Output v_out = call.out("v_merged", {}, vs.dtype, {vs.size(0), vs.size(2), vs.size(3)});
  const Output s_out = call.out("s_merged", {}, DType::f32, {vs.size(0), vs.size(2)});
  call.run([&](const Context& context) { flashinfer::merge_states(vs, ss, v_out.view, s_out.view, context); });
  return {v_out.result(), s_out.result()};
}

const Family family{[](nb::module_& m) {
  m.def("merge_state", &merge_state, "v_a"_a, "s_a"_a, "v_b"_a, "s_b"_a,
        R"((v, s) of attention over two disjoint key sets together: s = log2(2^s_a + 2^s_b), v = 2^(s_a - s) v_a + 2^(s_b - s) v_b.

v_a, v_b: [num_tokens, num_heads, head_dim], float16, bfloat16 or float32. s_a, s_b: [num_tokens, num_heads], float32, base-2 LSE.
An empty set has s = -inf; two of them give v = 0, s = -inf.)");
  m.def("merge_state_in_place", &merge_state_in_place, "v"_a, "s"_a, "v_other"_a, "s_other"_a, "mask"_a = nb::none(),
        R"(As merge_state, written into v and s.

mask: [num_tokens], bool: tokens whose entry is False are left alone.)");
  m.def("merge_states", &merge_states, "v"_a, "s"_a,
        R"(As merge_state, for any number of states.

v: [num_tokens, num_states, num_heads, head_dim], s: [num_tokens, num_states, num_heads], float32.)");
}};

const Tuned merge_state_kernels{"merge_state", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_merge_state(arch, add); }};

// Under jax.jit (flashinfer/jax.py).
const XlaOp merge_state_op{
    "merge_state", [](XlaCall& c) { flashinfer::merge_state(c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), c.out(1), c.context()); }};
const XlaOp merge_states_op{"merge_states",
                            [](XlaCall& c) { flashinfer::merge_states(c.in(0), c.in(1), c.out(0), c.out(1), c.context()); }};

}  // namespace
}  // namespace flashinfer::bindings
