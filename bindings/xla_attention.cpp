// Attention under jax.jit, by the names and attributes that flashinfer/jax.py gives: planned where the lengths lie, in the call itself.
#include <bindings/xla_ffi.hpp>

#include <cmath>

#include <flashinfer/attention/attention.hpp>
#include <flashinfer/core/check.hpp>

namespace flashinfer::bindings {
namespace {

struct Attention {
  TensorView q, k, v, out, lse;
  AttentionProblem problem;
  AttentionArguments args;

  Attention(const XlaCall& c, const TensorView& q, const TensorView& k, const TensorView& v, int32_t page_size) : q(q), k(k), v(v) {
    const Check check(c.op());
    check.rank("q", q, 3);
    check.rank("k", k, page_size ? 4 : 3);
    check.rank("v", v, page_size ? 4 : 3);
    out = c.out(0);
    if (c.num_outputs() > 1) lse = c.out(1);
    problem.q = q.dtype, problem.kv = k.dtype, problem.out = out.dtype;
    problem.num_qo_heads = int32_t(q.size(1)), problem.num_kv_heads = int32_t(k.size(-2));
    problem.head_dim_qk = int32_t(q.size(2)), problem.head_dim_vo = int32_t(v.size(-1));
    problem.page_size = page_size;
    problem.causal = c.flag("causal"), problem.window_left = int32_t(c.number("window_left"));
    args.op = c.op();
    const double sm_scale = c.number("sm_scale");
    args.variant.sm_scale = float(std::isnan(sm_scale) ? 1.0 / std::sqrt(double(max(problem.head_dim_qk, 1))) : sm_scale);
    args.variant.soft_cap = float(c.number("logits_soft_cap"));
    problem.flags.soft_cap = args.variant.soft_cap > 0;
  }

  /// Of a batch.
  void run(XlaCall& c, const AttentionLengths& lengths) const {
    const AttentionPlanOptions options{.op = c.op()};
    const AttentionWorkspace size = workspace_size(problem, lengths, {}, options, c.context());
    const TensorView floats = c.scratch(size.float_bytes), ints = c.scratch(size.int_bytes);
    attention(plan_attention(problem, lengths, {}, floats, ints, options, c.context()), q, k, v, out, lse, args, c.context());
  }
};

TensorView with_row(TensorView t) {
  if (t.ndim == 0) return t;
  for (int i = t.ndim; i > 0; --i) t.shape[i] = t.shape[i - 1], t.strides[i] = t.strides[i - 1];
  t.shape[0] = 1, t.strides[0] = t.shape[1] * t.strides[1];
  ++t.ndim;
  return t;
}
TensorView ragged(const XlaCall& c, const TensorView& t) { return t.ndim == 3 ? c.nhd(t, 0) : t; }

const XlaOp single_attention_op{
    "single_attention", [](XlaCall& c) {
      const bool decode = c.in(0).ndim == 2;
      Attention a(c, decode ? with_row(c.in(0)) : c.in(0), ragged(c, c.in(1)), ragged(c, c.in(2)), 0);
      if (decode) a.out = with_row(a.out), a.lse = with_row(a.lse);
      a.problem.max_qo_len = int32_t(max(a.q.size(0), int64_t(1)));
      const AttentionWorkspace size = single_attention_workspace(a.problem, int32_t(a.k.size(0)), c.context(), c.op());
      single_attention(a.problem, a.q, a.k, a.v, a.out, a.lse, a.args, c.scratch(size.int_bytes + size.float_bytes), c.context());
    }};
/// Inputs: q, k, v pages; kv_indptr, kv_indices, last_page_len; qo_indptr unless every request has q_len_per_req rows.
const XlaOp paged_attention_op{"paged_attention", [](XlaCall& c) {
                                 const TensorView k = c.pages(c.in(1)), v = c.pages(c.in(2));
                                 Attention a(c, c.in(0), k, v, int32_t(k.size(1)));
                                 AttentionLengths lengths;
                                 lengths.kv_indptr = c.in(3), lengths.kv_indices = c.in(4), lengths.last_page_len = c.in(5);
                                 const int32_t qo_len = int32_t(c.number("qo_len"));  // of every request, or the most that one has
                                 a.problem.max_qo_len = qo_len;
                                 if (c.num_inputs() > 6)
                                   lengths.qo_indptr = c.in(6);
                                 else
                                   lengths.uniform_qo_len = qo_len;
                                 a.run(c, lengths);
                               }};
/// Inputs: q, k, v; qo_indptr, kv_indptr.
const XlaOp ragged_attention_op{"ragged_attention", [](XlaCall& c) {
                                  Attention a(c, c.in(0), ragged(c, c.in(1)), ragged(c, c.in(2)), 0);
                                  AttentionLengths lengths;
                                  lengths.qo_indptr = c.in(3), lengths.kv_indptr = c.in(4);
                                  a.problem.max_qo_len = int32_t(c.number("qo_len"));
                                  a.run(c, lengths);
                                }};

}  // namespace
}  // namespace flashinfer::bindings
