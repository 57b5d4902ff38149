// Host only. What a plan of attention takes: the workers and partial results that it has room for, and where everything lies in the two
// workspaces. The walk that lays them out is the one that tells their sizes.
#pragma once

#include <iterator>

#include <flashinfer/attention/attention_lengths.hpp>
#include <flashinfer/attention/decode_params.hpp>
#include <flashinfer/core/workspace.hpp>

namespace flashinfer {

/// Bytes of the two scratch buffers. They belong to one plan from plan_attention() to the end of the last attention() with it.
struct AttentionWorkspace {
  int64_t float_bytes = 0;  // partial results; may be shared by plans whose attention() never overlap
  int64_t int_bytes = 0;    // the plan itself, and host arrays on their way to the device
};

struct AttentionPlanOptions {
  int32_t num_sms = 0;       // SMs to use, 0: all
  bool reusable = false;     // sizes depend on capacities alone, so that a captured attention() stays valid when its plan is made again
  int32_t least_kv_len = 0;  // above 0: requests that have keys must have this many; lengths on the device are read back for it
  /// To make a reusable plan again: the first one's tile_qo_len, and its problem.max_qo_len, so that kernel and sizes are the same
  /// whatever is known of the new lengths. 0: a first plan.
  int32_t tile_qo_len = 0;
  const char* op = "plan_attention";  // whom errors name
};

/// What a batch may reach at most, where the workspace must be known before the lengths are.
struct AttentionCapacity {
  int32_t batch_size = 1;
  int64_t num_indices = 0;      // pages, or key tokens when ragged; 0: unknown
  bool upload_indices = false;  // page ids come from the host and have no home on the device
};

/// A plan and the kernel that it is for.
struct PlannedKernel {
  AttentionPlan plan;
  AttentionBackend backend = AttentionBackend::generic;  // the GPU's kernel, and its config
  AttentionConfig config;
  DecodeConfig decode;
  int32_t vo_tile = 0;
  int32_t tile_qo_len = 0;  // the max_qo_len that chose the kernel
  int32_t max_workers = 0;  // capacity; plan.max_workers is what this batch needs
};

/// A plan and what attention() checks its tensors against: a value, whose arrays lie in the workspaces and in the caller's tensors.
struct PlannedAttention : PlannedKernel {
  /// Of the same batch for tiles of the decode kernel, the smallest first, where nobody has said how long queries are. attention() sees
  /// how many rows q has and takes one of them or the plan for long queries. All lie there from the start, so that nothing is left to
  /// run(): it may be captured, and come from any thread and stream.
  PlannedKernel short_plans[std::size(kDecodeTiles)];
  int32_t num_short_plans = 0;
  AttentionProblem problem;
  Device device;
  bool reusable = false;
  int64_t total_qo_len = -1;  // rows of q; -1: known on the device alone
  int64_t total_kv_len = -1;  // ragged: rows of k
  int32_t max_page = -1;      // paged: the largest page id; -1: known on the device alone
  const int32_t* kv_indices = nullptr;
  int32_t num_indices = 0;
  const int32_t* mask_indptr = nullptr;    // with a custom mask: [batch_size + 1] bytes
  const int64_t* mask_elements = nullptr;  // [batch_size + 1] elements, for segment_packbits
  int64_t mask_bits = 0;                   // elements of the whole mask
  int64_t mask_bytes = 0;
  AttentionWorkspace workspace;  // what of the buffers is in use
};

namespace detail {

/// visit(kernel, index) for the plan and those for short queries.
template <class Planned, class Visit>
void for_each_plan(Planned& planned, Visit&& visit) {
  visit(planned, 0);
  for (int32_t i = 0; i < planned.num_short_plans; ++i) visit(planned.short_plans[i], 1 + i);
}

/// Where everything lies in the two buffers.
struct PlanLayout {
  int64_t header, counters, starts;
  int64_t partial_out, partial_states;
};
struct AttentionLayout {
  PlanLayout plans[AttentionPlans::kMost];  // in the order of for_each_plan()
  int64_t qo_indptr, kv_indptr, last_page_len, mask_elements, mask_indptr, kv_indices;
  AttentionWorkspace size;
};

inline int64_t partial_bytes(const AttentionPlan& plan, int32_t vo_tile, int64_t num_slots, PlanLayout* layout = nullptr) {
  WorkspaceLayout walk;
  const int64_t out = walk.add<float>(num_slots * plan.q_tile * vo_tile);
  const int64_t states = walk.add<PartialState>(num_slots * plan.q_tile);
  if (layout) layout->partial_out = out, layout->partial_states = states;
  return walk.size;
}

inline AttentionLayout layout_of(const PlannedAttention& planned, bool custom_mask, int64_t uploaded_indices) {
  const AttentionPlan& plan = planned.plan;
  AttentionLayout layout{};
  WorkspaceLayout walk;
  const auto add_counts = [&](const PlannedKernel& kernel, int32_t i) {
    layout.plans[i].header = walk.add<PlanHeader>(1);
    layout.plans[i].counters = walk.add<int32_t>(kernel.plan.max_slots);
  };
  const auto add_starts = [&](const PlannedKernel& kernel, int32_t i) {
    layout.plans[i].starts = walk.add<WorkerStart>(kernel.plan.max_workers);
  };
  // In front, so that they are not uploaded: only the device writes them.
  for (int32_t i = 0; i < planned.num_short_plans; ++i)
    add_counts(planned.short_plans[i], 1 + i), add_starts(planned.short_plans[i], 1 + i);
  add_counts(planned, 0);
  layout.qo_indptr = walk.add<int32_t>(plan.batch_size + 1);
  layout.kv_indptr = walk.add<int32_t>(plan.batch_size + 1);
  layout.last_page_len = walk.add<int32_t>(plan.batch_size);
  layout.mask_elements = walk.add<int64_t>(custom_mask ? plan.batch_size + 1 : 0);
  layout.mask_indptr = walk.add<int32_t>(custom_mask ? plan.batch_size + 1 : 0);
  add_starts(planned, 0);                                   // here, so that what follows the last busy worker is not uploaded
  layout.kv_indices = walk.add<int32_t>(uploaded_indices);  // last: the only part whose size may differ between plans of one capacity
  // One of the plans runs at a time: their partial results share the other buffer.
  layout.size.int_bytes = walk.size;
  for_each_plan(planned, [&](const PlannedKernel& kernel, int32_t i) {
    const int64_t bytes = partial_bytes(kernel.plan, kernel.vo_tile, kernel.plan.max_slots, &layout.plans[i]);
    layout.size.float_bytes = max(layout.size.float_bytes, bytes);
  });
  return layout;
}

/// Slots of a batch-invariant plan for any batch within the capacity; -1 where nothing bounds them.
inline int64_t most_slots(const PlannedAttention& planned, int64_t num_indices, bool uniform_qo_len) {
  const AttentionPlan& plan = planned.plan;
  const int64_t qo_len = uniform_qo_len ? plan.uniform_qo_len : planned.problem.max_qo_len;
  if (qo_len == 0 || num_indices == 0) return -1;
  const int64_t q_tiles = ceil_div(qo_len * plan.group_size(), int64_t(plan.q_tile));
  // A request longer than a cut has ceil(kv_len / cut) units, and there are at most total / cut such requests.
  const int64_t cuts = num_indices * max(plan.page_size, 1) / (int64_t(plan.cut_tiles) * plan.kv_tile);
  return plan.num_heads() * q_tiles * (cuts + min(int64_t(plan.batch_size), cuts));
}

/// Decides max_workers and max_slots. `num_slots`: what a batch-invariant plan needs, -1 where nothing bounds it.
/// `float_bytes` < 0: as much as it takes.
inline void size_plan(const Check& check, PlannedKernel& planned, int64_t num_slots, int64_t float_bytes) {
  AttentionPlan& plan = planned.plan;
  const int32_t vo_tile = planned.vo_tile;
  const auto fits = [&](int64_t slots) { return float_bytes < 0 || partial_bytes(plan, vo_tile, slots) <= float_bytes; };
  const auto never_cut = [&] { plan.batch_invariant = 1, plan.cut_tiles = 0, plan.max_slots = 0; };
  plan.max_workers = planned.max_workers;
  if (plan.batch_invariant && (plan.cut_tiles == 0 || num_slots < 0)) return never_cut();
  if (plan.batch_invariant) {
    check.that(num_slots <= INT32_MAX, "fixed_split_size", "fewer than 2^31 partial results", [&] { return std::to_string(num_slots); });
    check.that(
        fits(num_slots), "float_workspace",
        [&] { return "at least " + std::to_string(partial_bytes(plan, vo_tile, num_slots)) + " bytes for this split"; },
        [&] { return std::to_string(float_bytes) + " bytes"; });
    plan.max_slots = int32_t(num_slots);
    return;
  }
  if (!fits(2 * int64_t(plan.max_workers))) {
    const int64_t slot_bytes = int64_t(plan.q_tile) * (vo_tile + 2) * int64_t(sizeof(float));
    const int64_t fit = max(float_bytes - 3 * WorkspaceLayout::kAlignment, int64_t(0)) / slot_bytes / 2;
    if (2 * fit < plan.max_workers) return never_cut();
    plan.max_workers = int32_t(fit);
    if (plan.max_workers < plan.head_lanes) plan.head_lanes = 1;
    planned.max_workers = plan.max_workers;
  }
  plan.max_slots = 2 * plan.max_workers;
}

/// Workers that a batch of known lengths keeps busy: its workspace need not hold more.
inline void drop_idle_workers(PlannedAttention& planned) {
  AttentionPlan& plan = planned.plan;
  int64_t units = 0;
  for (int32_t r = 0; r < plan.batch_size; ++r) units += RequestWork(plan, r).total_units(plan);
  plan.max_workers = max(busy_workers(plan, units), int32_t(1));
  planned.max_workers = plan.max_workers;
}

inline int64_t count_slots(const AttentionPlan& plan) {
  int64_t slots = 0;
  for (int32_t r = 0; r < plan.batch_size; ++r) slots += RequestWork(plan, r).total_slots(plan);
  return slots;
}

inline void check_workspace(const Check& check, const char* argument, const TensorView& t, int64_t needed, Device device) {
  check.device(argument, t, device);
  check.contiguous(argument, t);
  if (uintptr_t(t.data) % 16 != 0)
    throw InvalidArgument(
        check.op, argument,
        std::string(argument) + " must be 16-byte aligned, got data_ptr % 16 = " + std::to_string(uintptr_t(t.data) % 16));
  check.that(
      t.numel() * size_of(t.dtype) >= needed, argument, [&] { return "at least " + std::to_string(needed) + " bytes"; },
      [&] { return std::to_string(t.numel() * size_of(t.dtype)) + " bytes"; });
}

inline bool lengths_on_host(const AttentionLengths& lengths) {
  const auto here = [](const TensorView& t) { return !t || t.is_cpu(); };
  return here(lengths.qo_indptr) && here(lengths.kv_indptr) && here(lengths.last_page_len);
}
inline bool is_uniform(const AttentionLengths& lengths) { return !lengths.qo_indptr && !lengths.kv_indptr; }

/// Page ids that must travel through the int workspace: on the host, without a home, and not readable where they are.
inline int64_t uploaded_indices(const AttentionLengths& lengths, const AttentionLengths& homes, Device device) {
  const TensorView& t = lengths.kv_indices;
  if (!t || !t.is_cpu() || homes.kv_indices) return 0;
  if (device.type == DeviceType::cpu && t.dtype == DType::i32 && t.is_contiguous()) return 0;
  return t.size(0);
}

}  // namespace detail

}  // namespace flashinfer
