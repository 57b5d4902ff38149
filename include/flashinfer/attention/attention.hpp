// Attention over a batch of requests: plan once per batch, run once per layer. Prefill, append, decode and mixed batches are one op.
//   out[i] = sum_j softmax_j(logit(q[i] . k[j] * sm_scale)) v[j]     over the keys j that the masks leave
//   lse[i] = log2(sum_j exp(logit)) by default (args.lse_factor)
// A row without any key gets out = 0, lse = -inf. Query head h reads key head h / (num_qo_heads / num_kv_heads).
#pragma once

#include <flashinfer/attention/attention_check.hpp>
#include <flashinfer/attention/attention_lengths.hpp>
#include <flashinfer/attention/attention_plan_work.hpp>
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

namespace detail {

/// What queries are taken for where only the device knows their lengths: prefill. For shorter ones there are plans besides.
inline constexpr int32_t kLongQoLen = 512;
static_assert(AttentionPlans::kMost == 1 + std::size(kDecodeTiles));

/// Keys of a request on average, at most, as far as the host knows whatever lies on the device. Captured kernels serve any lengths.
inline int64_t most_keys(const AttentionProblem& problem, const AttentionLengths& lengths, int32_t batch_size,
                         const AttentionPlanOptions& options) {
  if (options.reusable || batch_size == 0) return INT64_MAX;
  if (!lengths.kv_indptr) return lengths.uniform_kv_len;
  return problem.page_size && lengths.kv_indices ? lengths.kv_indices.size(0) * problem.page_size / batch_size : INT64_MAX;
}

/// The kernel for a problem, and the shape of its plan. Workers depend on the device alone, not on the batch.
inline PlannedKernel shape_kernel(const AttentionProblem& problem, const AttentionLengths& lengths, int32_t batch_size,
                                  const AttentionPlanOptions& options, const Context& context) {
  PlannedKernel planned;
  planned.tile_qo_len = problem.max_qo_len;
  AttentionPlan& plan = planned.plan;
  plan.batch_size = batch_size;
  plan.num_qo_heads = problem.num_qo_heads;
  plan.num_kv_heads = problem.num_kv_heads;
  plan.page_size = problem.page_size;
  plan.causal = problem.causal && !problem.flags.custom_mask;
  plan.window_left = problem.window_left;
  plan.uniform_qo_len = lengths.uniform_qo_len;
  plan.uniform_kv_len = lengths.uniform_kv_len;
  plan.batch_invariant = problem.batch_invariant;
  if (context.device.type == DeviceType::cpu) {
    const cpu::AttentionTiles tiles = cpu::attention_tiles(problem);
    plan.q_tile = tiles.q_tile;
    plan.kv_tile = tiles.kv_tile;
    plan.num_vo_tiles = tiles.num_vo_tiles;
    plan.num_kv_heads = problem.num_kv_heads / tiles.heads_per_item;
    plan.min_units = tiles.min_units;
    plan.max_workers = options.num_sms > 0 ? min(options.num_sms, tiles.max_workers) : tiles.max_workers;
    planned.vo_tile = ceil_div(problem.head_dim_vo, tiles.num_vo_tiles);
  } else {
    const DeviceInfo& info = context.kernels->device_info(context.device.index);
    const auto shape = [&](const auto& config) {
      if (const char* reason = gpu::why_invalid(config, info))
        throw Unsupported(std::string(options.op) + ": " + reason + " (" + text_of(config) + " on " + to_string(info.arch) + ")");
      plan.q_tile = config.q_tile;
      plan.kv_tile = config.kv_tile;
      plan.max_workers = gpu::workers_at_once(config, options.num_sms > 0 ? min(options.num_sms, info.num_sms) : info.num_sms, info);
      plan.num_vo_tiles = gpu::vo_tiles(config);
      plan.min_units = ceil_div(gpu::min_keys_per_worker(config), plan.kv_tile);
      plan.item_units = gpu::item_units(config, int64_t(batch_size) * problem.num_kv_heads, plan.max_workers);
      plan.head_lanes = gpu::head_lanes(config, plan.num_heads(), plan.max_workers);
      planned.vo_tile = ceil_div(problem.head_dim_vo, plan.num_vo_tiles);
    };
    planned.backend = gpu::choose_backend(problem, info);
    if (planned.backend == AttentionBackend::decode) {
      if (const char* reason = gpu::why_not_decode(problem, info)) throw Unsupported(std::string(options.op) + ": " + reason);
      planned.decode = gpu::tune_decode(problem, info);
      // The shares of a cluster depend on how many segments there are.
      if (!problem.batch_invariant)
        planned.decode = gpu::tune_cluster(planned.decode, int64_t(batch_size) * problem.num_kv_heads,
                                           most_keys(problem, lengths, batch_size, options), info);
      shape(planned.decode);
    } else {
      shape(planned.config = gpu::tune(problem, info));
    }
  }
  if (problem.batch_invariant && problem.cut_len > 0) plan.cut_tiles = ceil_div(round_up(problem.cut_len, 64), plan.kv_tile);
  planned.max_workers = plan.max_workers;
  return planned;
}

/// The kernels for a problem, and the shapes of their plans. `tile_qo_len` chooses the first; problem.max_qo_len 0: nobody knows how long
/// queries are, and the decode kernel's tiles that a caller who knew might get are there too.
inline PlannedAttention shape_plan(const AttentionProblem& problem, int32_t tile_qo_len, const AttentionLengths& lengths,
                                   int32_t batch_size, const AttentionPlanOptions& options, const Context& context) {
  AttentionProblem of_tile = problem;
  of_tile.max_qo_len = tile_qo_len;
  PlannedAttention planned;
  static_cast<PlannedKernel&>(planned) = shape_kernel(of_tile, lengths, batch_size, options, context);
  planned.problem = problem;
  planned.device = context.device;
  planned.reusable = options.reusable;
  if (problem.max_qo_len > 0 || problem.batch_invariant || problem.backend != AttentionBackend::automatic ||
      planned.device.type == DeviceType::cpu)
    return planned;
  of_tile.max_qo_len = 0;
  for (const int32_t rows : kDecodeTiles) {
    const int32_t qo_len = rows / planned.plan.group_size();
    if (qo_len == of_tile.max_qo_len) continue;  // none, or those of the tile before
    of_tile.max_qo_len = qo_len;
    if (!gpu::prefers_decode(of_tile, context.kernels->device_info(context.device.index))) continue;
    PlannedKernel& kernel = planned.short_plans[planned.num_short_plans++] = shape_kernel(of_tile, lengths, batch_size, options, context);
    kernel.plan.mean_qo_len = qo_len;
  }
  return planned;
}

/// Makes the plans where the lengths are.
inline void plan_on_device(const PlannedAttention& planned, const Context& context) {
  AttentionPlans plans;
  for_each_plan(planned, [&](const PlannedKernel& kernel, int32_t i) { plans.plans[i] = kernel.plan; });
  gpu::plan_on_device(plans, 1 + planned.num_short_plans, context);
}

/// Copies device arrays to the host, so that they are checked like the host's. Synchronises.
inline AttentionLengths fetch_lengths(const AttentionLengths& lengths, std::vector<int32_t> (&memory)[4], const Context& context) {
  AttentionLengths fetched = lengths;
  TensorView* const views[] = {&fetched.qo_indptr, &fetched.kv_indptr, &fetched.last_page_len, &fetched.kv_indices};
  for (int i = 0; i < 4; ++i) {
    TensorView& t = *views[i];
    if (!t || t.is_cpu()) continue;
    memory[i].resize(size_t(t.numel()));
    context.kernels->copy_to_host(memory[i].data(), t.data, memory[i].size() * sizeof(int32_t), context);
    t = TensorView(memory[i].data(), DType::i32, {t.numel()});
  }
  return fetched;
}

/// Everything about a plan but where it lies.
struct PreparedPlan {
  PlannedAttention planned;
  AttentionLayout layout;
  bool on_host = false;   // planned here, from lengths that lie here
  bool one_mask = false;  // a custom mask of a batch of one, which begins at byte 0
};

/// Reads what lies on the host into `host` and decides kernel, workers and sizes. The plan's lengths point into `host` until it is placed.
inline PreparedPlan prepare_plan(const Check& check, const AttentionProblem& given, const AttentionLengths& lengths,
                                 const AttentionLengths& homes, int64_t float_bytes, const AttentionPlanOptions& options,
                                 const Context& context, HostLengths& host) {
  check_problem(check, given);
  check.that(options.num_sms >= 0, "num_sms", "a number of SMs, or 0: all", [&] { return std::to_string(options.num_sms); });
  const bool on_cpu = context.device.type == DeviceType::cpu;
  const int32_t batch_size = check_lengths(check, given, lengths, context.device);
  const bool uniform = is_uniform(lengths);
  const bool one_mask = uniform && batch_size == 1;
  // The masks of several requests are laid out by their lengths, so those are needed here.
  const bool fetch = !on_cpu && (context.validate || options.least_kv_len > 0 || (given.flags.custom_mask && !one_mask));
  thread_local std::vector<int32_t> fetched[4];
  const AttentionLengths readable = fetch ? fetch_lengths(lengths, fetched, context) : lengths;
  const bool known = lengths_on_host(readable);
  read_lengths(check, given, readable, batch_size, known, host);
  for (int32_t r = 0; r < batch_size && known && options.least_kv_len > 0; ++r) {
    const int32_t kv_len = kv_len_of(host, given, lengths, r);
    check.that(kv_len == 0 || kv_len >= options.least_kv_len, "q_len_per_req",
               "at most kv_len: the earlier rows of a request would attend to an empty KV range", [&] {
                 return std::to_string(options.least_kv_len) + " for request " + std::to_string(r) +
                        " with kv_len=" + std::to_string(kv_len);
               });
  }

  AttentionProblem problem = given;
  const bool qo_len_known = !lengths.qo_indptr || !host.qo_indptr.empty();
  const bool again = options.tile_qo_len > 0;
  const int32_t most_qo_len = problem.max_qo_len || again ? problem.max_qo_len : qo_len_known ? max(host.max_qo_len, int32_t(1)) : 0;
  // A batch-invariant plan takes its tiles from the problem alone.
  const bool tiles_of_batch = given.max_qo_len || (qo_len_known && !(given.batch_invariant && lengths.qo_indptr));
  problem.max_qo_len = most_qo_len;
  const int32_t tile_qo_len = again ? options.tile_qo_len : tiles_of_batch ? most_qo_len : kLongQoLen;
  PreparedPlan prepared{shape_plan(problem, tile_qo_len, lengths, batch_size, options, context), {}, false, one_mask};
  PlannedAttention& planned = prepared.planned;
  prepared.on_host = lengths_on_host(lengths) && (on_cpu || !uniform) && planned.num_short_plans == 0;
  AttentionPlan& plan = planned.plan;
  if (known) {
    if (!host.qo_indptr.empty()) plan.qo_indptr = host.qo_indptr.data();
    if (!host.kv_indptr.empty()) plan.kv_indptr = host.kv_indptr.data();
    if (!host.last_page_len.empty()) plan.last_page_len = host.last_page_len.data();
    planned.total_qo_len = plan.qo_begin(batch_size);
    if (!problem.page_size) planned.total_kv_len = plan.kv_begin(batch_size);
    planned.max_page = host.max_page;
  } else if (!lengths.qo_indptr) {
    planned.total_qo_len = int64_t(batch_size) * lengths.uniform_qo_len;
  }

  int64_t num_slots = 0;
  if (plan.batch_invariant && plan.cut_tiles > 0) {
    const int64_t num_indices = problem.page_size ? (homes.kv_indices ? homes.kv_indices : lengths.kv_indices).size(0) : int64_t(0);
    num_slots = known && !options.reusable ? count_slots(plan) : most_slots(planned, num_indices, !lengths.qo_indptr);
  }
  if (uniform && !plan.batch_invariant) drop_idle_workers(planned);
  for_each_plan(planned, [&](PlannedKernel& kernel, int32_t) { size_plan(check, kernel, num_slots, float_bytes); });
  prepared.layout = layout_of(planned, problem.flags.custom_mask, uploaded_indices(lengths, homes, context.device));
  planned.workspace = prepared.layout.size;
  return prepared;
}

}  // namespace detail

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
