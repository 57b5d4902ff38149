// Decode attention over a paged KV cache on the CPU: plan once per batch, run once per layer.
#include <flashinfer/attention/attention.hpp>

#include "paged_batch.hpp"

int main() {
  using namespace flashinfer;
  PagedBatch<float> batch;
  const AttentionProblem problem = PagedBatch<float>::problem();

  // Scratch belongs to the caller; its size is known before the lengths are: at most 8 requests of 1024 pages together.
  const AttentionWorkspace size = workspace_size(problem, AttentionCapacity{.batch_size = 8, .num_indices = 1024});
  std::vector<float> floats(size_t(size.float_bytes) / sizeof(float));
  std::vector<int64_t> ints(size_t(size.int_bytes) / sizeof(int64_t));
  const TensorView float_workspace(floats.data(), DType::f32, {int64_t(floats.size())}),
      int_workspace(ints.data(), DType::i64, {int64_t(ints.size())});

  const PlannedAttention planned = plan_attention(problem, batch.lengths(), {}, float_workspace, int_workspace);

  AttentionArguments args;
  args.variant.sm_scale = 1 / std::sqrt(float(batch.kHeadDim));
  std::vector<float> out(batch.q.size());
  attention(planned, batch.queries(batch.q.data()), batch.cache(batch.k.data()), batch.cache(batch.v.data()), batch.queries(out.data()), {},
            args, {});
  return batch.error(out) < 1e-5 ? 0 : 1;
}
