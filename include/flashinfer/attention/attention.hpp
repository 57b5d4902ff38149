// Attention over a batch of requests: plan once per batch, run once per layer. Prefill, append, decode and mixed batches are one op.
//   out[i] = sum_j softmax_j(logit(q[i] . k[j] * sm_scale)) v[j]     over the keys j that the masks leave
//   lse[i] = log2(sum_j exp(logit)) by default (args.lse_factor)
// A row without any key gets out = 0, lse = -inf. Query head h reads key head h / (num_qo_heads / num_kv_heads).
#pragma once

#include <flashinfer/attention/attention_check.hpp>
#include <flashinfer/attention/attention_lengths.hpp>
#include <flashinfer/attention/attention_plan_work.hpp>
#include <flashinfer/attention/attention_shape.hpp>
#include <flashinfer/attention/attention_workspace.hpp>
#include <flashinfer/attention/cpu/attention.hpp>
#include <flashinfer/attention/gpu/attention.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

/// What may change from one attention() to the next.
struct AttentionArguments {
  VariantParams variant;    // its numbers; the pointers, causal and window_left are set from the plan and the tensors here
  TensorView alibi_slopes;  // [num_qo_heads] f32; none: no ALiBi
  TensorView custom_mask;   // [mask_bytes] u8, bits of each request from a byte of its own, little-endian
  TensorView sinks;         // [num_qo_heads] f32, natural-log logits of keys without values
  // What the cache was divided by (and q), f32, where the host does not know it: [1], [num_heads], or for k and v of tokens and heads,
  // [num_pages, page_size, num_kv_heads] or [num_tokens, num_kv_heads], any strides. Numbers go into sm_scale and out_scale.
  TensorView q_scale, k_scale, v_scale;
  float out_scale = 1.0f;
  float lse_factor = 1.0f;                         // 1: base 2, kLn2: natural
  const gpu::UserVariant* user_variant = nullptr;  // GPU: C++ source in place of the built-in variant; its parameters are variant.user
  const char* op = "attention";                    // whom errors name
};

/// Workspace for every batch within the capacity: what plan_attention() needs at most, at full speed.
/// It plans in less by cutting less, down to int_bytes and a float workspace of nothing.
inline AttentionWorkspace workspace_size(const AttentionProblem& problem, const AttentionCapacity& capacity,
                                         const AttentionPlanOptions& options = {}, const Context& context = {}) {
  const Check check(options.op);
  check_problem(check, problem);
  PlannedAttention planned =
      detail::shape_plan(problem, problem.max_qo_len ? problem.max_qo_len : detail::kLongQoLen, {}, capacity.batch_size, options, context);
  const bool cut = planned.plan.batch_invariant && planned.plan.cut_tiles > 0;
  const int64_t num_slots = cut ? detail::most_slots(planned, capacity.num_indices, false) : 0;
  detail::for_each_plan(planned, [&](PlannedKernel& kernel, int32_t) { detail::size_plan(check, kernel, num_slots, -1); });
  return detail::layout_of(planned, problem.flags.custom_mask, capacity.upload_indices ? capacity.num_indices : 0).size;
}

/// Workspace of plan_attention() with the same arguments.
inline AttentionWorkspace workspace_size(const AttentionProblem& problem, const AttentionLengths& lengths, const AttentionLengths& homes,
                                         const AttentionPlanOptions& options = {}, const Context& context = {}) {
  HostLengths host;
  return detail::prepare_plan(Check(options.op), problem, lengths, homes, -1, options, context, host).layout.size;
}

/// attention() will soon ask for the plan's kernel: where it is not there yet, it may be built meanwhile. What only attention() is told of,
/// such as scales in memory, makes it another one.
inline void prefetch(const PlannedAttention& planned, const Context& context) {
  if (planned.device.type == DeviceType::cpu) return;
  if (planned.backend == AttentionBackend::decode)
    prefetch(planned.decode, context);
  else
    prefetch(planned.config, context);
}

/// Plans a batch.
///   problem          max_qo_len 0: taken from qo_indptr on the host, else unknown: planned for long queries and for short ones, and
///                    attention() takes the one or the other by the rows of q
///   lengths          on the host: checked, planned here, one copy to the device. On the device: planned there, nothing is copied back, and
///                    the call can be captured; qo_indptr's last entry may then be anything up to the rows of q at run. Mixed: planned
///                    there
///   homes            where the arrays shall live for attention(), each as large as the largest batch: buffers that a CUDA graph has
///                    captured. Host arrays are copied into them. Arrays without a home live in int_workspace, or where they are
///   float_workspace  any size: fewer cuts where it is small. Too small for problem.cut_len: InvalidArgument
///   int_workspace    a tensor of workspace_size().int_bytes, or a function of the bytes that returns one
/// The workspaces, homes and device arrays must outlive the plan's last attention().
template <class IntWorkspace>
PlannedAttention plan_attention(const AttentionProblem& problem, const AttentionLengths& lengths, const AttentionLengths& homes,
                                const TensorView& float_workspace, IntWorkspace&& int_workspace_of,
                                const AttentionPlanOptions& options = {}, const Context& context = {}) {
  using namespace detail;
  const Check check(options.op);
  const bool on_cpu = context.device.type == DeviceType::cpu;
  check_workspace(check, "float_workspace", float_workspace, 0, context.device);
  thread_local HostLengths host;
  PreparedPlan prepared =
      prepare_plan(check, problem, lengths, homes, float_workspace.numel() * size_of(float_workspace.dtype), options, context, host);
  PlannedAttention& planned = prepared.planned;
  AttentionPlan& plan = planned.plan;
  const AttentionLayout& layout = prepared.layout;
  TensorView int_workspace;
  if constexpr (requires { int_workspace_of(int64_t(0)); })
    int_workspace = int_workspace_of(layout.size.int_bytes);
  else
    int_workspace = int_workspace_of;
  check_workspace(check, "int_workspace", int_workspace, layout.size.int_bytes, context.device);
  check_apart(check, "int_workspace", int_workspace, "float_workspace", float_workspace);

  // The image of the int workspace: written in place on the CPU, in one copy to the GPU.
  thread_local std::vector<int64_t> staging;
  if (!on_cpu) staging.resize(size_t(ceil_div(layout.size.int_bytes, int64_t(sizeof(int64_t)))));
  char* const image = on_cpu ? int_workspace.as<char>() : reinterpret_cast<char*>(staging.data());
  int64_t image_begin = layout.size.int_bytes, image_end = 0;  // what of it must be copied
  const auto touch = [&](int64_t offset, int64_t bytes) {
    image_begin = min(image_begin, offset), image_end = max(image_end, offset + bytes);
    return image + offset;
  };
  const auto put = [&](int64_t offset, const void* data, size_t bytes) {
    if (bytes) std::memcpy(touch(offset, int64_t(bytes)), data, bytes);
  };
  if (prepared.on_host) {
    const PlanLayout& here = layout.plans[0];
    PlanHeader& header = *reinterpret_cast<PlanHeader*>(touch(here.header, sizeof(PlanHeader)));
    plan_work(plan, header, reinterpret_cast<WorkerStart*>(image + here.starts),
              reinterpret_cast<int32_t*>(touch(here.counters, plan.max_slots * int64_t(sizeof(int32_t)))));
    touch(here.starts, header.num_workers / plan.head_lanes * int64_t(sizeof(WorkerStart)));
    // A reusable plan was sized for max_qo_len.
    check.that(
        header.num_slots <= plan.max_slots || !plan.batch_invariant, "qo_indptr",
        [&] { return "at most max_qo_len=" + std::to_string(problem.max_qo_len) + " tokens a request"; }, "more");
    if (!options.reusable) plan.max_workers = max(header.num_workers, int32_t(1));
  }

  // Where each array lives from now on.
  const auto settle = [&](const char* argument, const TensorView& t, const TensorView& home, const int32_t* read,
                          int64_t offset) -> const int32_t* {
    if (!t) return nullptr;
    if (!t.is_cpu()) return t.as<const int32_t>();
    const size_t bytes = size_t(t.size(0)) * sizeof(int32_t);
    if (home) {
      check.dtype(argument, home, DType::i32);
      check.device(argument, home, context.device);
      check.contiguous(argument, home);
      check.that(
          home.numel() >= t.size(0), argument,
          [&] { return "at most " + std::to_string(home.numel()) + " entries, which its buffer holds"; },
          [&] { return std::to_string(t.size(0)); });
      if (home.data == t.data || bytes == 0) return home.as<const int32_t>();
      if (on_cpu)
        std::memcpy(home.data, read, bytes);
      else
        context.kernels->copy_to_device(home.data, read, bytes, context);
      return home.as<const int32_t>();
    }
    put(offset, read, bytes);
    return at_offset<const int32_t>(int_workspace.data, offset);
  };
  plan.qo_indptr = settle("qo_indptr", lengths.qo_indptr, homes.qo_indptr, host.qo_indptr.data(), layout.qo_indptr);
  plan.kv_indptr = settle("kv_indptr", lengths.kv_indptr, homes.kv_indptr, host.kv_indptr.data(), layout.kv_indptr);
  plan.last_page_len = settle("last_page_len", lengths.last_page_len, homes.last_page_len, host.last_page_len.data(), layout.last_page_len);
  if (const TensorView& indices = lengths.kv_indices; indices) {
    const bool in_place = indices.is_cpu() && !homes.kv_indices && !uploaded_indices(lengths, homes, context.device);
    planned.kv_indices =
        in_place ? indices.as<const int32_t>() : settle("kv_indices", indices, homes.kv_indices, host.kv_indices, layout.kv_indices);
    planned.num_indices = int32_t(options.reusable && homes.kv_indices ? homes.kv_indices.size(0) : indices.size(0));
  }
  if (problem.flags.custom_mask && prepared.one_mask) {
    planned.mask_bits = int64_t(lengths.uniform_qo_len) * lengths.uniform_kv_len;
    planned.mask_bytes = ceil_div(planned.mask_bits, int64_t(8));
  } else if (problem.flags.custom_mask) {
    put(layout.mask_elements, host.mask_elements.data(), host.mask_elements.size() * sizeof(int64_t));
    put(layout.mask_indptr, host.mask_indptr.data(), host.mask_indptr.size() * sizeof(int32_t));
    planned.mask_elements = at_offset<const int64_t>(int_workspace.data, layout.mask_elements);
    planned.mask_indptr = at_offset<const int32_t>(int_workspace.data, layout.mask_indptr);
    planned.mask_bits = host.mask_elements.back();
    planned.mask_bytes = host.mask_indptr.back();
  }
  if (!on_cpu && image_end > image_begin)
    context.kernels->copy_to_device(int_workspace.as<char>() + image_begin, image + image_begin, size_t(image_end - image_begin), context);

  for_each_plan(planned, [&](PlannedKernel& kernel, int32_t i) {
    const PlanLayout& here = layout.plans[i];
    AttentionPlan& placed = kernel.plan;
    placed.qo_indptr = plan.qo_indptr, placed.kv_indptr = plan.kv_indptr, placed.last_page_len = plan.last_page_len;
    placed.header = at_offset<PlanHeader>(int_workspace.data, here.header);
    placed.starts = at_offset<WorkerStart>(int_workspace.data, here.starts);
    placed.counters = at_offset<int32_t>(int_workspace.data, here.counters);
    placed.partial_out = at_offset<float>(float_workspace.data, here.partial_out);
    placed.partial_states = at_offset<PartialState>(float_workspace.data, here.partial_states);
  });
  if (!prepared.on_host) {
    prefetch(planned, context);  // to be built beside the planner, if neither is there yet
    plan_on_device(planned, context);
  }
  return planned;
}

/// Plans again for another mask, from the lengths that the plan already has: nothing is copied, and the call can be captured.
/// A batch-invariant plan with cuts has room for masks that leave no more keys than its own.
inline void plan_mask(PlannedAttention& planned, bool causal, int32_t window_left, const Context& context) {
  const Check check("attention");
  AttentionPlan& plan = planned.plan;
  const int32_t causal_now = causal && !planned.problem.flags.custom_mask;
  check.that(window_left >= -1, "window_left", "-1 (off) or more", [&] { return std::to_string(window_left); });
  if (plan.causal == causal_now && plan.window_left == window_left) return;
  if (plan.batch_invariant && plan.cut_tiles > 0)
    check.that(causal_now >= plan.causal && (plan.window_left < 0 || (window_left >= 0 && window_left <= plan.window_left)), "causal",
               "a mask as narrow as the planned one", "a wider one: plan with it");
  planned.problem.causal = causal, planned.problem.window_left = window_left;
  detail::for_each_plan(planned, [&](PlannedKernel& kernel, int32_t) {
    kernel.plan.causal = causal_now, kernel.plan.window_left = window_left;
    kernel.plan.max_workers = kernel.max_workers;
  });
  if (planned.device.type == DeviceType::cpu)
    plan_work(plan, *plan.header, plan.starts, plan.counters);
  else
    detail::plan_on_device(planned, context);
}

/// What attention() runs for a q of so many rows. The decode kernel is for requests that all have the same few queries, as in speculative
/// decoding. Where lengths differ, the rows seldom divide evenly: a long request among short ones would take it longer than it saves.
inline const PlannedKernel& kernel_for(const PlannedAttention& planned, int64_t rows) {
  const int64_t batch_size = planned.plan.batch_size;
  if (rows == 0 || batch_size == 0 || rows % batch_size) return planned;
  for (int32_t i = 0; i < planned.num_short_plans; ++i)
    if (rows / batch_size <= planned.short_plans[i].tile_qo_len) return planned.short_plans[i];
  return planned;
}

/// Runs a plan.
///   q    [total_qo_len, num_qo_heads, head_dim_qk]
///   k, v [num_pages, page_size, num_kv_heads, head_dim], or [num_tokens, num_kv_heads, head_dim] when ragged; K and V may differ in
///        every stride, and HND is a matter of strides
///   out  [total_qo_len, num_qo_heads, head_dim_vo], memory of its own; lse [total_qo_len, num_qo_heads] f32, or none
/// Every stride but the innermost is free.
template <AttentionVariant Variant = BuiltinVariant<kAllVariants>>
void attention(const PlannedAttention& planned, const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& out,
               const TensorView& lse, const AttentionArguments& args, const Context& context) {
  const Check check(args.op);
  const AttentionProblem& p = planned.problem;
  const AttentionPlan& plan = planned.plan;
  check.device("q", q, planned.device);
  check.shape("q", q, {{"total_qo_len"}, {"num_qo_heads", p.num_qo_heads}, {"head_dim_qk", p.head_dim_qk}});
  check_planned_dtype(check, "q", q, "q_data_type", p.q);
  check.inner_stride("q", q);
  const int64_t rows = q.size(0);
  if (planned.total_qo_len >= 0 && (planned.reusable ? rows < planned.total_qo_len : rows != planned.total_qo_len)) [[unlikely]]
    throw InvalidArgument(check.op, "q",
                          "q.shape[0] (" + std::to_string(rows) + ") does not match " +
                              (plan.qo_indptr ? "qo_indptr[-1] (" + std::to_string(planned.total_qo_len) + ")"
                                              : "batch_size * q_len_per_req (" + std::to_string(plan.batch_size) + " * " +
                                                    std::to_string(plan.uniform_qo_len) + ")"));
  check.that(rows <= INT32_MAX, "q", "fewer than 2^31 rows", [&] { return "shape " + shape_of(q); });
  check_cache(check, "k", k, p, p.head_dim_qk, planned.device);
  check_cache(check, "v", v, p, p.head_dim_vo, planned.device);
  check.that(
      v.size(0) == k.size(0), "v", [&] { return "as many pages or tokens as k: " + std::to_string(k.size(0)); },
      [&] { return std::to_string(v.size(0)); });
  check.that(
      planned.max_page < k.size(0), "kv_indices", [&] { return "page ids below num_pages=" + std::to_string(k.size(0)); },
      [&] { return std::to_string(planned.max_page); });
  check.that(
      planned.total_kv_len <= k.size(0), "k", [&] { return "kv_indptr[-1]=" + std::to_string(planned.total_kv_len) + " tokens or more"; },
      [&] { return std::to_string(k.size(0)); });
  check_output(check, "out", out, {rows, p.num_qo_heads, p.head_dim_vo}, p.out, planned.device);
  check.inner_stride("out", out);
  check_apart(check, "out", out, "q", q);
  check_apart(check, "out", out, "k", k);
  check_apart(check, "out", out, "v", v);
  if (lse) {
    check_output(check, "lse", lse, {rows, p.num_qo_heads}, DType::f32, planned.device);
    check_apart(check, "lse", lse, "out", out);
    check_apart(check, "lse", lse, "q", q);
    check_apart(check, "lse", lse, "k", k);
    check_apart(check, "lse", lse, "v", v);
  }

  AttentionParams params;
  params.variant = args.variant;
  check_variant(check, params.variant);
  VariantParams& variant = params.variant;
  variant.causal = plan.causal;
  variant.window_left = plan.window_left;
  const auto per_head = [&](const char* argument, const TensorView& t) -> const float* {
    if (!t) return nullptr;
    check.rank(argument, t, 1);
    check.that(
        t.size(0) >= variant.qo_head_offset + p.num_qo_heads && variant.qo_head_offset >= 0, argument,
        [&] { return "an entry for each of num_qo_heads=" + std::to_string(p.num_qo_heads); }, [&] { return "shape " + shape_of(t); });
    check.dtype(argument, t, DType::f32);
    check.device(argument, t, planned.device);
    check.contiguous(argument, t);
    return t.as<const float>();
  };
  variant.alibi_slopes = per_head("alibi_slopes", args.alibi_slopes);
  variant.sinks = per_head("sinks", args.sinks);
  variant.custom_mask = nullptr, variant.mask_indptr = nullptr;
  check.that(bool(args.custom_mask) == p.flags.custom_mask, "custom_mask",
             p.flags.custom_mask ? "the mask that was planned" : "none: the plan has no mask", args.custom_mask ? "a mask" : "none");
  if (args.custom_mask) {
    check.rank("custom_mask", args.custom_mask, 1);
    check.dtype("custom_mask", args.custom_mask, DType::u8);
    check.device("custom_mask", args.custom_mask, planned.device);
    check.contiguous("custom_mask", args.custom_mask);
    check.that(
        args.custom_mask.size(0) >= planned.mask_bytes, "custom_mask",
        [&] { return std::to_string(planned.mask_bytes) + " bytes or more"; }, [&] { return std::to_string(args.custom_mask.size(0)); });
    variant.custom_mask = args.custom_mask.as<const uint8_t>();
    variant.mask_indptr = planned.mask_indptr;
  }
  params.scales = check_scales(check, p, k.size(0), args.q_scale, args.k_scale, args.v_scale, planned.device);
  if (rows == 0 || plan.batch_size == 0) return;

  // The stride of a dimension of one means nothing: frameworks leave any number there.
  const auto stride = [](const TensorView& t, int dim) { return t.size(dim) > 1 ? t.stride(dim) : 0; };
  const int token = p.page_size ? 1 : 0;  // dimension of k and v
  params.plan = plan;
  params.kv = {k.data,
               v.data,
               token ? stride(k, 0) : 0,
               stride(k, token),
               stride(k, token + 1),
               token ? stride(v, 0) : 0,
               stride(v, token),
               stride(v, token + 1),
               planned.kv_indices,
               planned.num_indices,
               int32_t(k.size(0))};
  params.q = q.data, params.q_stride_token = stride(q, 0), params.q_stride_head = stride(q, 1);
  params.out = out.data, params.out_stride_token = stride(out, 0), params.out_stride_head = stride(out, 1);
  if (lse) params.lse = lse.as<float>(), params.lse_stride_token = lse.stride(0), params.lse_stride_head = lse.stride(1);
  params.total_qo_len = int32_t(rows);
  params.out_scale = args.out_scale;
  params.lse_factor = args.lse_factor;
  if (planned.device.type == DeviceType::cpu) {
    if (args.user_variant)
      throw Unsupported(std::string(args.op) +
                        ": variant: C++ source is compiled for GPUs alone; on the CPU a variant is a template argument");
    return cpu::attention<Variant>(params, p);
  }
  const bool rope = variant.rope_log2_theta > 0.0f;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const auto configured = [&](auto config) {
    config.limits = plan.causal || plan.window_left >= 0;
    config.soft_cap = variant.soft_cap > 0.0f;
    config.alibi = variant.alibi_slopes != nullptr;
    config.custom_mask = variant.custom_mask != nullptr;
    config.sinks = variant.sinks != nullptr;
    if (params.scales.any_of_heads() || params.scales.any_of_tokens())
      config = gpu::with_scales(config, params.scales.any_of_heads(), params.scales.any_of_tokens(), device);
    if constexpr (requires { config.rope; }) config.rope = rope;
    return config;
  };
  if (const PlannedKernel& kernel = kernel_for(planned, rows); &kernel != &planned && !rope) {
    const DecodeConfig config = configured(kernel.decode);
    params.plan = kernel.plan;
    // The generic kernel takes a few strides more.
    if (!gpu::why_invalid(config, device) && !gpu::why_unfit(params, config))
      return gpu::attention(params, config, context, args.user_variant);
    params.plan = plan;
  }
  if (planned.backend == AttentionBackend::decode) {
    if (rope) throw Unsupported(std::string(args.op) + ": the planned kernel has no RoPE in attention: plan with it");
    gpu::attention(params, configured(planned.decode), context, args.user_variant);
  } else {
    gpu::attention(params, configured(planned.config), context, args.user_variant);
  }
}

/// One request, keys and values [kv_len, num_kv_heads, head_dim]: planned and run in one call, which can be captured.
/// problem.page_size is 0, problem.max_qo_len q's rows. `workspace`: single_attention_workspace() bytes, aligned to 16.
inline AttentionWorkspace single_attention_workspace(const AttentionProblem& problem, int32_t kv_len, const Context& context,
                                                     const char* op = "attention") {
  AttentionLengths lengths;
  lengths.uniform_qo_len = max(problem.max_qo_len, int32_t(1)), lengths.uniform_kv_len = kv_len;
  return workspace_size(problem, lengths, {}, {.op = op}, context);
}

template <AttentionVariant Variant = BuiltinVariant<kAllVariants>>
void single_attention(const AttentionProblem& problem, const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& out,
                      const TensorView& lse, const AttentionArguments& args, const TensorView& workspace, const Context& context) {
  const Check check(args.op);
  check.rank("q", q, 3);
  check.rank("k", k, 3);
  if (q.size(0) == 0) return;
  AttentionLengths lengths;
  lengths.uniform_qo_len = int32_t(q.size(0)), lengths.uniform_kv_len = int32_t(k.size(0));
  const AttentionWorkspace size = single_attention_workspace(problem, lengths.uniform_kv_len, context, args.op);
  detail::check_workspace(check, "workspace", workspace, size.int_bytes + size.float_bytes, context.device);
  const TensorView ints(workspace.data, DType::u8, {size.int_bytes}, context.device);
  const TensorView floats(workspace.as<char>() + size.int_bytes, DType::u8, {size.float_bytes}, context.device);
  attention<Variant>(plan_attention(problem, lengths, {}, floats, ints, {.op = args.op}, context), q, k, v, out, lse, args, context);
}

}  // namespace flashinfer
