// Host only. Everything about a plan of attention but where it lies: the kernel that a batch gets, its workers, and how much room they
// take. plan_attention() places it (attention.hpp).
#pragma once

#include <string>
#include <vector>

#include <flashinfer/attention/attention_check.hpp>
#include <flashinfer/attention/attention_lengths.hpp>
#include <flashinfer/attention/attention_workspace.hpp>
#include <flashinfer/attention/cpu/attention.hpp>
#include <flashinfer/attention/gpu/attention.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

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

}  // namespace flashinfer
