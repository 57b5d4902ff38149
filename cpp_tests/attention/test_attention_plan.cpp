// The work list covers every key of every segment exactly once, for random batches and both ways of cutting.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <flashinfer/attention/attention_plan_work.hpp>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

namespace flashinfer {
namespace {

struct RandomBatch {
  AttentionPlan plan;
  std::vector<int32_t> qo_indptr{0}, kv_indptr{0}, last_page_len;
  PlanHeader header{};
  std::vector<WorkerStart> starts;
  std::vector<int32_t> counters;

  explicit RandomBatch(uint32_t seed) {
    std::mt19937 generator(seed);
    auto draw = [&](int low, int high) { return low + int(generator() % uint32_t(high - low + 1)); };
    plan.batch_size = draw(0, 6);
    plan.num_kv_heads = draw(1, 3);
    plan.num_qo_heads = plan.num_kv_heads * draw(1, 5);
    plan.num_vo_tiles = draw(1, 2);
    plan.q_tile = 8 * draw(1, 3);
    plan.kv_tile = 16;
    plan.page_size = draw(0, 1) ? draw(1, 5) : 0;
    plan.max_workers = draw(1, 20);
    plan.min_units = draw(1, 3);
    plan.item_units = draw(0, 3);
    plan.batch_invariant = draw(0, 1);
    plan.cut_tiles = draw(0, 3);
    plan.causal = draw(0, 1);
    plan.window_left = draw(0, 1) ? draw(0, 50) : -1;
    do plan.head_lanes = draw(1, 6);
    while (plan.num_heads() % plan.head_lanes != 0 || plan.head_lanes > plan.max_workers);
    for (int r = 0; r < plan.batch_size; ++r) {
      qo_indptr.push_back(qo_indptr.back() + draw(0, 20));
      kv_indptr.push_back(kv_indptr.back() + (draw(0, 4) ? draw(0, plan.page_size ? 40 : 100) : 0));
      last_page_len.push_back(plan.page_size ? draw(1, plan.page_size) : 0);
    }
    plan.qo_indptr = qo_indptr.data();
    plan.kv_indptr = kv_indptr.data();
    plan.last_page_len = last_page_len.data();
    plan.max_slots = 2 * plan.max_workers;
    if (plan.batch_invariant) {
      plan.max_slots = 0;
      for (int r = 0; r < plan.batch_size; ++r) plan.max_slots += int32_t(RequestWork(plan, r).total_slots(plan));
    }
    starts.resize(plan.max_workers);
    counters.assign(plan.max_slots, -1);
    plan_work(plan, header, starts.data(), counters.data());
    plan.header = &header;
    plan.starts = starts.data();
  }
};

TEST(AttentionPlan, EveryKeyOfEverySegmentOnce) {
  for (uint32_t seed = 0; seed < 5000; ++seed) {
    SCOPED_TRACE(seed);
    const RandomBatch batch(seed);
    const AttentionPlan& plan = batch.plan;
    std::map<std::tuple<int, int, int>, std::vector<WorkItem>> segments;
    std::set<int> slots;
    for (int worker = 0; worker < plan.max_workers; ++worker) {
      WorkIterator items(plan, worker);
      for (WorkItem item; items.next(item);) {
        segments[{item.request, item.q_tile, item.head}].push_back(item);
        const RequestLengths lengths = plan.lengths(item.request);
        ASSERT_EQ(std::memcmp(&items.at, &lengths, sizeof(lengths)), 0);
        if (item.slot < 0) continue;
        ASSERT_LT(item.slot, plan.max_slots);
        ASSERT_TRUE(slots.insert(item.slot).second) << "slot " << item.slot << " is written twice";
      }
    }
    size_t num_segments = 0;
    for (int r = 0; r < plan.batch_size; ++r) {
      const RequestWork work(plan, r);
      num_segments += size_t(work.num_q_tiles) * plan.num_heads();
      for (int t = 0; t < work.num_q_tiles; ++t) {
        const KvRange keys = work.keys(plan, t);
        for (int head = 0; head < plan.num_heads(); ++head) {
          const auto& items = segments[{r, t, head}];
          ASSERT_FALSE(items.empty());
          int position = keys.begin / plan.kv_tile * plan.kv_tile;
          for (const WorkItem& item : items) {
            if (keys.end > keys.begin) ASSERT_EQ(item.kv_begin, position);
            position = item.kv_end;
            if (items.size() == 1) {
              ASSERT_EQ(item.slot, -1);
              continue;
            }
            ASSERT_EQ(item.num_slots, int(items.size()));
            ASSERT_EQ(item.slot, items[0].slot_at(int(&item - items.data())));
            ASSERT_EQ(item.first_slot, items[0].slot);
          }
          if (keys.end > keys.begin) ASSERT_EQ(position, keys.end);
        }
      }
    }
    ASSERT_EQ(segments.size(), num_segments);
    for (int32_t counter : batch.counters) ASSERT_EQ(counter, 0);
  }
}

TEST(AttentionPlan, StartsTellTheLengthsOfTheirRequests) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const RandomBatch batch(seed);
    for (int piece = 0; piece < batch.header.num_workers / batch.plan.head_lanes; ++piece) {
      const RequestLengths want = batch.plan.lengths(batch.starts[piece].request);
      ASSERT_EQ(std::memcmp(&batch.starts[piece], &want, sizeof(want)), 0) << "seed " << seed << ", piece " << piece;
    }
  }
}

TEST(AttentionPlan, BalancedPiecesDifferByOneUnit) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const RandomBatch batch(seed);
    const PlanHeader& h = batch.header;
    const int num_pieces = h.num_workers / batch.plan.head_lanes;
    for (int piece = 0; piece < num_pieces; ++piece) {
      const int64_t units = piece_begin(h.num_units, num_pieces, piece + 1) - piece_begin(h.num_units, num_pieces, piece);
      ASSERT_GE(units, h.num_units / num_pieces);
      ASSERT_LE(units, h.num_units / num_pieces + 1);
    }
  }
}

TEST(AttentionPlan, LanesGoSideBySide) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const RandomBatch batch(seed);
    const int lanes = batch.plan.head_lanes;
    for (int first = 0; first + lanes <= batch.plan.max_workers; first += lanes) {
      std::vector<WorkIterator> workers;
      for (int lane = 0; lane < lanes; ++lane) workers.emplace_back(batch.plan, first + lane);
      for (WorkItem item, other; workers[0].next(item);) {
        ASSERT_EQ(item.head % lanes, 0);
        for (int lane = 1; lane < lanes; ++lane) {
          ASSERT_TRUE(workers[lane].next(other));
          ASSERT_EQ(std::tie(other.request, other.q_tile, other.kv_begin, other.kv_end),
                    std::tie(item.request, item.q_tile, item.kv_begin, item.kv_end));
          ASSERT_EQ(other.head, item.head + lane);
        }
      }
    }
  }
}

TEST(AttentionPlan, BatchInvariantCutsDoNotDependOnNeighbours) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    RandomBatch batch(seed);
    if (!batch.plan.batch_invariant || batch.plan.batch_size == 0) continue;
    auto cuts = [](const AttentionPlan& plan, int request) {
      std::vector<std::tuple<int, int, int, int>> found;
      for (int worker = 0; worker < plan.max_workers; ++worker) {
        WorkIterator items(plan, worker);
        for (WorkItem item; items.next(item);)
          if (item.request == request) found.emplace_back(item.q_tile, item.head, item.kv_begin, item.kv_end);
      }
      std::sort(found.begin(), found.end());  // lanes take turns
      return found;
    };
    const int request = batch.plan.batch_size - 1;
    const auto together = cuts(batch.plan, request);
    AttentionPlan alone = batch.plan;
    alone.batch_size = 1;
    alone.qo_indptr += request, alone.kv_indptr += request, alone.last_page_len += request;
    PlanHeader header;
    std::vector<WorkerStart> starts(alone.max_workers);
    std::vector<int32_t> counters(alone.max_slots);
    plan_work(alone, header, starts.data(), counters.data());
    alone.header = &header;
    alone.starts = starts.data();
    EXPECT_EQ(together, cuts(alone, 0)) << "seed " << seed;
  }
}

TEST(AttentionPlan, OtherLengthsThanPlannedStayInside) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    RandomBatch batch(seed);
    const AttentionPlan& plan = batch.plan;
    std::mt19937 generator(seed);
    for (int r = 0; r < plan.batch_size; ++r) {  // a captured launch is replayed without its plan
      batch.qo_indptr[r + 1] = batch.qo_indptr[r] + int(generator() % 40);
      batch.kv_indptr[r + 1] = batch.kv_indptr[r] + int(generator() % 200);
    }
    for (int worker = 0; worker < plan.max_workers; ++worker) {
      WorkIterator items(plan, worker);
      int64_t num_items = 0;
      for (WorkItem item; items.next(item);) {
        ASSERT_LE(++num_items, batch.header.num_units);
        ASSERT_LT(item.request, plan.batch_size);
        if (item.slot < 0) continue;
        ASSERT_GE(item.first_slot, 0);
        ASSERT_LT(item.slot, plan.max_slots);
        ASSERT_LT(item.slot_at(item.num_slots - 1), plan.max_slots);
      }
    }
  }
}

}  // namespace
}  // namespace flashinfer
