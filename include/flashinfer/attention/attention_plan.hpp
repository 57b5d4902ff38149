// The work list of attention: who computes which keys of which rows, and where partial results meet. One pure function of the
// lengths, the same code on host and device, so that both give the same bits.
//
// The work of a batch is a line of units. Requests follow one another; within a request its query tiles, within those the heads,
// within those the keys:
//     segment = (request, q_tile, head), unit = a run of kv tiles of one segment (at least one unit, even with no keys: it writes 0)
// A worker (a CTA, or a CPU thread's turn) takes one contiguous piece of the line. Nothing else is stored: the items of a worker follow
// from where it starts and the lengths (WorkIterator). Two ways to cut the line:
//   balanced         unit = one kv tile, and item_units in front of every segment for what beginning an item costs: a worker with many
//                    short segments gets fewer keys. Equal pieces, of at least min_units; a segment cut by a border has partial results, of
//                    which a worker has at most two (its first and its last segment), so scratch is 2 * num_workers slots whatever the
//                    batch. Stream-K.
//   batch-invariant  unit = cut_tiles kv tiles, counted from key 0 of the request. Every unit of a segment with several has its own slot,
//                    merged in key order: what a request gets does not depend on its neighbours, bit for bit. cut_tiles = 0: never cut.
// Workers may come in lanes: head_lanes of them share a piece of a line of (request, q_tile, group of head_lanes heads, keys), one head
// each, and go over the same keys at the same time. The rows of a token's heads lie side by side in memory, so DRAM pages are read as a
// whole: on an H200 bare copies of a paged cache take 497 us in eight lanes and 538 in one, the decode kernel 491 and 496. Partials are (o,
// m, d) in fp32. The last worker to arrive at a segment's counter merges them in slot order and resets the counter, so results do not
// depend on timing and a captured launch can be replayed.
#pragma once

#include <flashinfer/attention/variant.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// Where a request's rows and keys lie.
struct RequestLengths {
  int32_t qo_begin, qo_len;  // tokens
  int32_t kv_begin;          // first page (paged) or token (ragged)
  int32_t kv_len;            // tokens
};

/// Where a worker's piece of the line begins, and what its first item needs: from here a kernel goes to page ids and then to keys,
/// without a look at the lengths.
struct alignas(16) WorkerStart : RequestLengths {  // of `request`
  int32_t request, q_tile, head;
  int32_t unit;  // of the segment's stretch of the line, counted from its first
  int32_t slot;  // batch-invariant: slot of that unit's segment's first unit
  int32_t padding[3];
};
static_assert(sizeof(WorkerStart) == 48);

/// Written by the planner in front of the worker starts.
struct PlanHeader {
  int64_t num_units;
  int32_t num_workers;  // that have work; the launched grid may be larger
  int32_t num_slots;    // batch-invariant: partial slots in use
};

/// One run of keys of one segment.
struct WorkItem {
  int32_t request = 0, q_tile = 0, head = 0;
  int32_t kv_begin = 0, kv_end = 0;       // keys to visit: begin is a multiple of kv_tile, end is not past the request's keys
  int32_t slot = -1;                      // where the partial result goes; -1: the result is final
  int32_t first_slot = 0, num_slots = 0;  // of the whole segment
  int32_t slot_stride = 1;                // 1: batch-invariant; else the first worker's slot is an odd one, the others' are even
  FLASHINFER_HOST_DEVICE int32_t slot_at(int32_t i) const { return first_slot + i * slot_stride - (i > 0 && slot_stride > 1); }
};

/// The softmax state of a partial result's row. In pairs, as a kernel that merges them copies 16 bytes at a time.
struct alignas(8) PartialState {
  float max, sum;  // of the logits in the log2 domain; of 2^(logit - max)
};

/// A plan is a value: shape, cuts, and pointers to the lengths and to the planner's output (device memory for a GPU plan).
struct AttentionPlan {
  int32_t batch_size = 0;
  int32_t num_qo_heads = 0, num_kv_heads = 0;
  int32_t num_vo_tiles = 1;  // "head" of an item runs over num_kv_heads * num_vo_tiles, kv head-major
  int32_t q_tile = 64;       // packed rows: row = token * group_size + head in group
  int32_t kv_tile = 64;
  int32_t page_size = 0;    // 0: ragged
  int32_t head_lanes = 1;   // workers that go side by side over the same keys, a head each; divides num_heads()
  int32_t max_workers = 0;  // capacity: the launched grid, sizes of starts; at least head_lanes
  int32_t max_slots = 0;    // capacity: partial slots, counters
  int32_t item_units = 0;   // balanced: what beginning an item costs a worker, in units: every segment has that many more on the line
  int32_t min_units = 1;    // balanced: fewer units than this are not worth another worker and a merge
  int32_t batch_invariant = 0;
  int32_t cut_tiles = 0;  // batch-invariant: kv tiles per unit; 0: never cut
  int32_t causal = 0;
  int32_t window_left = -1;
  int32_t uniform_qo_len = 1, uniform_kv_len = 0;  // of every request, where the indptr is null
  int32_t mean_qo_len = 0;                         // above 0: the plan is empty where queries are longer on average

  const int32_t* qo_indptr = nullptr;      // [batch_size + 1] tokens
  const int32_t* kv_indptr = nullptr;      // [batch_size + 1] pages, or tokens when ragged
  const int32_t* last_page_len = nullptr;  // [batch_size], paged only
  PlanHeader* header = nullptr;
  WorkerStart* starts = nullptr;           // [max_workers / head_lanes]
  int32_t* counters = nullptr;             // [max_slots], zero between launches; a segment's counter is that of its first slot
  float* partial_out = nullptr;            // [max_slots, q_tile, vo_tile]
  PartialState* partial_states = nullptr;  // [max_slots, q_tile]

  FLASHINFER_HOST_DEVICE int32_t group_size() const { return num_qo_heads / num_kv_heads; }
  FLASHINFER_HOST_DEVICE int32_t num_heads() const { return num_kv_heads * num_vo_tiles; }
  FLASHINFER_HOST_DEVICE int32_t num_head_groups() const { return head_lanes == 1 ? num_heads() : num_heads() / head_lanes; }
  /// Do all query tiles of a request see the same keys: all of them? A causal tile that is a request's only one does.
  FLASHINFER_HOST_DEVICE bool tiles_are_alike() const {
    const bool only = !qo_indptr && int64_t(uniform_qo_len) * num_qo_heads <= int64_t(q_tile) * num_kv_heads;
    return window_left < 0 && (!causal || only);
  }
  /// A plan for short queries is run where q has few rows. Where it has many, walking over so many small tiles would be for nothing.
  FLASHINFER_HOST_DEVICE bool is_empty() const { return mean_qo_len > 0 && qo_begin(batch_size) > int64_t(batch_size) * mean_qo_len; }
  FLASHINFER_HOST_DEVICE int32_t qo_begin(int32_t r) const { return qo_indptr ? qo_indptr[r] : r * uniform_qo_len; }
  FLASHINFER_HOST_DEVICE int32_t qo_len(int32_t r) const { return qo_indptr ? qo_indptr[r + 1] - qo_indptr[r] : uniform_qo_len; }
  /// First page (paged) or token (ragged) of a request's keys.
  FLASHINFER_HOST_DEVICE int32_t kv_begin(int32_t r) const { return kv_indptr ? kv_indptr[r] : r * uniform_kv_len; }
  FLASHINFER_HOST_DEVICE int32_t kv_len(int32_t r) const {
    if (!kv_indptr) return uniform_kv_len;
    const int32_t n = kv_indptr[r + 1] - kv_indptr[r];
    if (page_size == 0) return max(n, int32_t(0));
    const int32_t last = last_page_len[r];  // whatever n is: the loads go side by side
    return n <= 0 ? 0 : (n - 1) * page_size + last;
  }
  FLASHINFER_HOST_DEVICE RequestLengths lengths(int32_t r) const {
    return {qo_begin(r), max(qo_len(r), int32_t(0)), kv_begin(r), kv_len(r)};
  }
};

/// What the planner on the device takes: plans of one batch for several kernels.
struct AttentionPlans {
  static constexpr int32_t kMost = 5;
  AttentionPlan plans[kMost];
};

/// The segments of one request: they differ by query tile only, heads are alike.
struct RequestWork : RequestLengths {
  int32_t group_size, num_q_tiles;

  FLASHINFER_HOST_DEVICE RequestWork(const RequestLengths& lengths, int32_t group_size, int32_t q_tile)
      : RequestLengths(lengths), group_size(group_size), num_q_tiles(ceil_div(qo_len * group_size, q_tile)) {}
  FLASHINFER_HOST_DEVICE RequestWork(const AttentionPlan& plan, const RequestLengths& lengths)
      : RequestWork(lengths, plan.group_size(), plan.q_tile) {}
  FLASHINFER_HOST_DEVICE RequestWork(const AttentionPlan& plan, int32_t request) : RequestWork(plan, plan.lengths(request)) {}

  /// Keys that any row of the tile may see.
  FLASHINFER_HOST_DEVICE KvRange keys(const AttentionPlan& plan, int32_t q_tile) const {
    if (plan.tiles_are_alike()) return {0, kv_len};
    const bool only = num_q_tiles == 1;  // most often, and divisions are what a walk over requests takes
    const int32_t last = only ? qo_len - 1 : min((q_tile + 1) * plan.q_tile - 1, qo_len * group_size - 1) / group_size;
    const int32_t end = kv_range(plan.causal, -1, last, qo_len, kv_len).end;
    if (plan.window_left < 0) return {0, end};
    const int32_t first = only ? 0 : q_tile * plan.q_tile / group_size;
    return {kv_range(plan.causal, plan.window_left, first, qo_len, kv_len).begin, end};
  }
  FLASHINFER_HOST_DEVICE static int32_t unit_keys(const AttentionPlan& plan) {
    if (!plan.batch_invariant) return plan.kv_tile;
    return plan.cut_tiles > 0 ? plan.cut_tiles * plan.kv_tile : 0;
  }
  /// Units of one segment of this tile.
  FLASHINFER_HOST_DEVICE int32_t num_units(const AttentionPlan& plan, int32_t q_tile) const { return num_units(plan, keys(plan, q_tile)); }
  FLASHINFER_HOST_DEVICE static int32_t num_units(const AttentionPlan& plan, const KvRange& range) {
    const int32_t step = unit_keys(plan);
    if (step == 0) return 1;
    return max(ceil_div(range.end, step) - (range.begin ? range.begin / step : 0), int32_t(1));
  }
  /// The segment's stretch of the line.
  FLASHINFER_HOST_DEVICE int32_t length(const AttentionPlan& plan, int32_t q_tile) const {
    return num_units(plan, q_tile) + item_units(plan);
  }
  FLASHINFER_HOST_DEVICE static int32_t item_units(const AttentionPlan& plan) { return plan.batch_invariant ? 0 : plan.item_units; }
  /// The whole request's.
  FLASHINFER_HOST_DEVICE int64_t total_units(const AttentionPlan& plan) const {
    int64_t units = 0;
    if (plan.tiles_are_alike()) {
      units = num_q_tiles ? int64_t(num_q_tiles) * length(plan, 0) : 0;
    } else {
      for (int32_t t = 0; t < num_q_tiles; ++t) units += length(plan, t);
    }
    return units * plan.num_head_groups();
  }
  /// Slots of the whole request in a batch-invariant plan: the units of segments that have several.
  FLASHINFER_HOST_DEVICE int64_t total_slots(const AttentionPlan& plan) const {
    int64_t slots = 0;
    for (int32_t t = 0; t < num_q_tiles; ++t) {
      const int32_t n = num_units(plan, t);
      slots += n > 1 ? n : 0;
    }
    return slots * plan.num_heads();
  }
};

/// Pieces that the line is cut into: every one has at least min_units, and none is empty.
FLASHINFER_HOST_DEVICE int32_t count_pieces(const AttentionPlan& plan, int64_t num_units) {
  const int64_t least = plan.batch_invariant ? 1 : max(plan.min_units, int32_t(1)) + plan.item_units;
  return int32_t(min(int64_t(plan.head_lanes == 1 ? plan.max_workers : plan.max_workers / plan.head_lanes), ceil_div(num_units, least)));
}
/// Workers that get work: head_lanes a piece.
FLASHINFER_HOST_DEVICE int32_t busy_workers(const AttentionPlan& plan, int64_t num_units) {
  return count_pieces(plan, num_units) * plan.head_lanes;
}
/// First unit of a piece; `piece` may equal num_pieces.
FLASHINFER_HOST_DEVICE int64_t piece_begin(int64_t num_units, int32_t num_pieces, int32_t piece) {
  return int64_t(piece) * num_units / num_pieces;
}
/// The piece that holds the unit.
FLASHINFER_HOST_DEVICE int32_t piece_of(int64_t num_units, int32_t num_pieces, int64_t unit) {
  return int32_t(((unit + 1) * num_pieces - 1) / num_units);
}

/// Division, rounded up, by what is a power of two nearly always: divisions would be most of a plan's time.
struct CeilDivision {
  int32_t divisor, shift = -1;

  FLASHINFER_HOST_DEVICE explicit CeilDivision(int32_t by) : divisor(by) {
    if (!is_power_of_two(by)) return;
    for (shift = 0; int32_t(1) << shift < by;) ++shift;
  }
  FLASHINFER_HOST_DEVICE int32_t quotient(int32_t x) const { return shift >= 0 ? (x + divisor - 1) >> shift : ceil_div(x, divisor); }
};

/// Counts the segments of requests whose query tiles are alike, nearly without divisions.
struct AlikeRequests {
  int32_t group_size;
  CeilDivision q_tile, unit_keys;  // unit_keys 0: never cut
  int32_t uniform_q_tiles = -1;    // -1: lengths of queries differ

  FLASHINFER_HOST_DEVICE explicit AlikeRequests(const AttentionPlan& plan)
      : group_size(plan.group_size()), q_tile(plan.q_tile), unit_keys(RequestWork::unit_keys(plan)) {
    if (!plan.qo_indptr) uniform_q_tiles = num_q_tiles(plan.uniform_qo_len);
  }
  FLASHINFER_HOST_DEVICE int32_t num_q_tiles(int32_t qo_len) const {
    return uniform_q_tiles >= 0 ? uniform_q_tiles : q_tile.quotient(qo_len * group_size);
  }
  /// Of one segment.
  FLASHINFER_HOST_DEVICE int32_t num_units(int32_t kv_len) const {
    return unit_keys.divisor ? unit_keys.quotient(max(kv_len, int32_t(1))) : 1;
  }
};

/// Finds the start of the workers whose piece begins at `unit` of the request's own units; `slot` is the request's first slot.
FLASHINFER_HOST_DEVICE WorkerStart locate(const AttentionPlan& plan, int32_t request, int64_t unit, int64_t slot) {
  const RequestWork work(plan, request);
  const int32_t num_head_groups = plan.num_head_groups();
  for (int32_t q_tile = 0;; ++q_tile) {
    const int32_t n = work.num_units(plan, q_tile), length = n + RequestWork::item_units(plan);
    const int64_t tile_units = int64_t(length) * num_head_groups;
    const int32_t slots = plan.batch_invariant && n > 1 ? n * plan.head_lanes : 0;
    if (unit < tile_units || q_tile + 1 >= work.num_q_tiles || plan.tiles_are_alike()) {
      const int64_t segment = int32_t(unit) == unit ? int32_t(unit) / length : unit / length;
      const int32_t tile = segment < num_head_groups ? 0 : int32_t(segment / num_head_groups);
      const int32_t head = int32_t(segment - int64_t(tile) * num_head_groups) * plan.head_lanes;
      return {work, request, q_tile + tile, head, int32_t(unit - segment * length), int32_t(slot + segment * slots), {}};
    }
    unit -= tile_units;
    slot += int64_t(slots) * num_head_groups;
  }
}

/// How far a worker has come: what a kernel keeps from item to item.
struct WorkCursor {
  int64_t num_units = 0, unit = 0, end = 0;  // on the line
  int32_t num_pieces = 0, piece = 0, lane = 0;
  WorkerStart at{};  // its lengths are those of the item that next() gave; head and slot are those of lane 0
};

/// Walks the items of one worker.
struct WorkIterator : WorkCursor {
  const AttentionPlan& plan;

  FLASHINFER_HOST_DEVICE WorkIterator(const AttentionPlan& plan, const WorkCursor& cursor) : WorkCursor(cursor), plan(plan) {}
  FLASHINFER_HOST_DEVICE WorkIterator(const AttentionPlan& plan, int32_t worker) : plan(plan) {
    const int32_t lanes = plan.head_lanes;
    piece = lanes == 1 ? worker : worker / lanes;
    lane = worker - piece * lanes;
    if (piece * lanes + lanes > plan.max_workers) return;  // the grid's last lanes, where they are not a group
    num_units = plan.header->num_units;
    const int32_t num_workers = plan.header->num_workers;
    at = plan.starts[piece];  // in one round trip with the header; past num_pieces it is anything, and not used
    if (worker >= num_workers) return;
    num_pieces = lanes == 1 ? num_workers : num_workers / lanes;
    unit = piece_begin(num_units, num_pieces, piece);
    end = piece_begin(num_units, num_pieces, piece + 1);
  }

  /// False when the worker is done. Ends, and names only requests and slots that exist, also when lengths on the device are not those
  /// of the plan (results are then wrong).
  FLASHINFER_HOST_DEVICE bool next(WorkItem& item) {
    while (unit < end && at.request < plan.batch_size) {
      const RequestWork work(plan, at);
      if (at.q_tile >= work.num_q_tiles) {  // behind the last, or of a request without queries, which has no segments
        at.q_tile = 0;
        if (++at.request < plan.batch_size) static_cast<RequestLengths&>(at) = plan.lengths(at.request);
        continue;
      }
      const KvRange range = work.keys(plan, at.q_tile);
      const int32_t n = RequestWork::num_units(plan, range), before = RequestWork::item_units(plan), length = n + before;
      // Balanced: all of the segment that is this worker's, in one go. Batch-invariant: one unit.
      const int32_t step = plan.batch_invariant ? 1 : int32_t(min(int64_t(max(length - at.unit, int32_t(1))), end - unit));
      const int32_t first = max(at.unit - before, int32_t(0)), last = at.unit + step - before;
      const bool has_keys = last > first;  // else the piece ends before the segment's first unit
      if (has_keys) take(item, range, n, first, last);
      unit += step;
      at.unit += step;
      if (at.unit >= length) {
        at.unit = 0;
        at.slot += n > 1 ? n * plan.head_lanes : 0;
        if ((at.head += plan.head_lanes) >= plan.num_heads()) at.head = 0, ++at.q_tile;
      }
      if (has_keys) return true;
    }
    return false;
  }

 private:
  /// Units [first, last) of the n of the segment at hand, whose rows see the range.
  FLASHINFER_HOST_DEVICE void take(WorkItem& item, const KvRange& range, int32_t n, int32_t first, int32_t last) const {
    const int32_t keys = RequestWork::unit_keys(plan);
    const int32_t first_unit = keys ? range.begin / keys : 0;
    const int32_t aligned_begin = range.begin / plan.kv_tile * plan.kv_tile;
    item.request = at.request, item.q_tile = at.q_tile, item.head = at.head + lane;
    item.kv_begin = keys ? max(aligned_begin, (first_unit + first) * keys) : aligned_begin;
    item.kv_end = keys && last < n ? (first_unit + last) * keys : range.end;
    item.slot = -1, item.first_slot = 0, item.num_slots = 0, item.slot_stride = 1;
    if (last - first == n) return;
    if (plan.batch_invariant) {
      const int64_t first_slot = at.slot + int64_t(lane) * n;
      if (first >= n || first_slot + n > plan.max_slots) return;
      item.first_slot = int32_t(first_slot), item.num_slots = n, item.slot = item.first_slot + first;
      return;
    }
    // Worker w has slot 2w for the segment it continues and 2w + 1 for the one it leaves unfinished.
    const int64_t segment_begin = unit - at.unit + RequestWork::item_units(plan);  // of its keys
    const int32_t first_piece = piece_of(num_units, num_pieces, segment_begin);
    const int32_t last_piece = piece_of(num_units, num_pieces, segment_begin + n - 1);
    if (first_piece < 0 || last_piece >= num_pieces) return;
    item.slot_stride = 2 * plan.head_lanes;
    item.first_slot = first_piece * item.slot_stride + 2 * lane + 1, item.num_slots = last_piece - first_piece + 1;
    item.slot = item.slot_at(piece - first_piece);
  }
};

}  // namespace flashinfer
