// Host only. Plans a batch on one thread: fills in what the planner on the device (gpu/attention_plan_kernel.cuh) does, bit for bit.
#pragma once

#include <cstdint>

#include <flashinfer/attention/attention_plan.hpp>

namespace flashinfer {

namespace detail {

/// Where the requests of a part of the batch lie on the line. Simple loops over arrays: most become vectors, and a request takes some
/// nanoseconds.
struct PlanChunk {
  static constexpr int32_t kRequests = 1024;
  int64_t units[kRequests + 1];  // before the i-th request of the chunk
  int64_t slots[kRequests + 1];  // the same, where a plan has partial results by number
  int32_t num_q_tiles[kRequests];
  int32_t num_units[kRequests];  // of a segment that sees all keys

  void count(const AttentionPlan& plan, const AlikeRequests& requests, int32_t first, int32_t count) {
    const int32_t* const qo = plan.qo_indptr;
    for (int32_t i = 0; i < count && qo; ++i) num_q_tiles[i] = requests.num_q_tiles(max(qo[first + i + 1] - qo[first + i], int32_t(0)));
    for (int32_t i = 0; i < count && !qo; ++i) num_q_tiles[i] = requests.uniform_q_tiles;
    const auto each = [&](const auto& kv_len) {
      for (int32_t i = 0; i < count; ++i) num_units[i] = requests.num_units(kv_len(first + i));
    };
    const int32_t *const indptr = plan.kv_indptr, *const last = plan.last_page_len, page_size = plan.page_size;
    if (!indptr) return each([&](int32_t) { return plan.uniform_kv_len; });
    if (page_size == 0) return each([&](int32_t r) { return indptr[r + 1] - indptr[r]; });
    // A request without pages may have anything in last_page_len.
    each([&](int32_t r) { return indptr[r + 1] > indptr[r] ? (indptr[r + 1] - indptr[r] - 1) * page_size + last[r] : 0; });
  }
};

}  // namespace detail

/// Two linear passes, no allocation. Fills header, starts and counters (host memory, max sizes).
inline void plan_work(const AttentionPlan& given, PlanHeader& header, WorkerStart* starts, int32_t* counters) {
  const AttentionPlan plan = given;  // nothing that is written here can lie in a copy: the loops keep it in registers
  const bool all_alike = plan.tiles_are_alike(), cuts = plan.batch_invariant && plan.cut_tiles > 0;
  const int32_t num_head_groups = plan.num_head_groups(), item_units = RequestWork::item_units(plan);
  const AlikeRequests requests(plan);
  for (int32_t i = 0; i < plan.max_slots; ++i) counters[i] = 0;
  header = {0, 0, 0};
  if (plan.is_empty()) return;

  // The only tile of a request ends at its last query, which sees all keys. A window may hide some of them from the first.
  const auto alike = [&](int32_t num_q_tiles) { return all_alike || (num_q_tiles <= 1 && plan.window_left < 0); };
  detail::PlanChunk chunk;
  const auto read = [&](int32_t first, int32_t count, int64_t units, int64_t slots) {
    chunk.count(plan, requests, first, count);
    if (all_alike && requests.uniform_q_tiles >= 0 && !cuts) {
      const int64_t segments = int64_t(requests.uniform_q_tiles) * num_head_groups;
      for (int32_t i = 0; i < count; ++i) chunk.units[i] = units, units += segments * (chunk.num_units[i] + item_units);
    } else {
      for (int32_t i = 0; i < count; ++i) {
        chunk.units[i] = units, chunk.slots[i] = slots;
        const int32_t n = chunk.num_units[i], num_q_tiles = chunk.num_q_tiles[i];
        if (alike(num_q_tiles)) {
          const int64_t segments = int64_t(num_q_tiles) * num_head_groups;
          units += segments * (n + item_units);
          if (cuts) slots += n > 1 ? segments * plan.head_lanes * n : 0;
        } else {
          const RequestWork work(plan, first + i);
          units += work.total_units(plan);
          if (cuts) slots += work.total_slots(plan);
        }
      }
    }
    chunk.units[count] = units, chunk.slots[count] = slots;
  };
  const int32_t chunk_size = detail::PlanChunk::kRequests;
  int64_t num_units = 0, num_slots = 0;
  for (int32_t first = 0; first < plan.batch_size; first += chunk_size) {
    const int32_t count = min(plan.batch_size - first, chunk_size);
    read(first, count, num_units, num_slots);
    num_units = chunk.units[count], num_slots = chunk.slots[count];
  }
  const int32_t num_pieces = num_units ? count_pieces(plan, num_units) : 0;
  header = {num_units, num_pieces * plan.head_lanes, int32_t(num_slots)};

  // Pieces are found in the order of the line, as locate() finds each by itself.
  const int64_t length_of_piece = num_pieces ? num_units / num_pieces : 0, rest = num_pieces ? num_units % num_pieces : 0;
  int64_t begin = 0, remainder = 0;  // begin: piece_begin() of `piece`
  int32_t piece = 0;
  // Those in segments that follow one another: alike, one group of heads after the other, from `unit` of the line.
  const auto place = [&](const RequestLengths& lengths, int32_t r, int32_t q_tile, int64_t segments, int32_t n, int64_t unit,
                         int64_t slot) {
    const int32_t length = n + item_units, slots = cuts && n > 1 ? n * plan.head_lanes : 0;
    const int64_t end = unit + segments * length;
    while (piece < num_pieces && begin < end) {
      const int64_t at = begin - unit;
      const int64_t segment = int32_t(at) == at ? int32_t(at) / length : at / length;
      const int32_t tile = segment < num_head_groups ? 0 : int32_t(segment / num_head_groups);
      const int32_t head = int32_t(segment - int64_t(tile) * num_head_groups) * plan.head_lanes;
      starts[piece] = {lengths, r, q_tile + tile, head, int32_t(at - segment * length), int32_t(slot + segment * slots), {}};
      ++piece, begin += length_of_piece, remainder += rest;
      if (remainder >= num_pieces) remainder -= num_pieces, ++begin;
    }
    return end;
  };
  int64_t units = 0, slots = 0;
  for (int32_t first = 0; first < plan.batch_size && piece < num_pieces; first += chunk_size) {
    const int32_t count = min(plan.batch_size - first, chunk_size);
    if (plan.batch_size > chunk_size) read(first, count, units, slots);
    units = chunk.units[count], slots = chunk.slots[count];
    for (int32_t i = 0; piece < num_pieces; ++i) {
      while (i < count && chunk.units[i + 1] <= begin) ++i;
      if (i == count) break;
      const int32_t r = first + i, num_q_tiles = chunk.num_q_tiles[i];
      int64_t unit = chunk.units[i], slot = cuts ? chunk.slots[i] : 0;
      if (alike(num_q_tiles)) {
        place(plan.lengths(r), r, 0, int64_t(num_q_tiles) * num_head_groups, chunk.num_units[i], unit, slot);
        continue;
      }
      const RequestWork work(plan, r);
      for (int32_t q_tile = 0; q_tile < num_q_tiles && piece < num_pieces; ++q_tile) {
        const int32_t n = work.num_units(plan, q_tile);
        unit = place(work, r, q_tile, num_head_groups, n, unit, slot);
        if (cuts && n > 1) slot += int64_t(n) * plan.num_heads();
      }
    }
  }
}

}  // namespace flashinfer
