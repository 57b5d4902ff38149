// Decode attention over a paged KV cache on a GPU, with the kernel compiled into the program by nvcc: nothing is compiled at run time.
#include <cuda_runtime.h>

#include <flashinfer/attention/attention.hpp>
#include <flashinfer/attention/gpu/decode_kernel.cuh>
#include <flashinfer/runtime/compiled_kernels.cuh>

#include "paged_batch.hpp"

namespace {

using flashinfer::bf16;

/// The kernels that the problem is tuned to on these GPUs, for large batches and small; a launch that needs another one names it in its
/// error.
template <int kArch>
void add_decode(flashinfer::CompiledKernels& kernels) {
  constexpr auto kConfigs =
      flashinfer::gpu::decode_configs(PagedBatch<bf16>::problem(), flashinfer::device_info_of(flashinfer::arch_of(kArch / 10, kArch % 10)));
  [&]<size_t... i>(std::index_sequence<i...>) {
    (kernels.add<flashinfer::gpu::DecodeKernel<kConfigs[i]>>(flashinfer::kernel_id(kConfigs[i]).hash), ...);
  }(std::make_index_sequence<kConfigs.size()>());
}

template <class T>
T* on_device(const std::vector<T>& host) {
  T* memory = nullptr;
  cudaMalloc(&memory, host.size() * sizeof(T));
  cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return memory;
}

}  // namespace

int main() {
  using namespace flashinfer;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return std::printf("no GPU\n"), 0;
  CompiledKernels kernels;
  add_decode<80>(kernels), add_decode<89>(kernels), add_decode<90>(kernels), add_decode<100>(kernels);
  const Context context{.device = {DeviceType::cuda, 0}, .stream = nullptr, .kernels = &kernels};

  PagedBatch<bf16> batch;
  const AttentionProblem problem = PagedBatch<bf16>::problem();
  const AttentionWorkspace size =
      workspace_size(problem, AttentionCapacity{.batch_size = 8, .num_indices = 1024, .upload_indices = true}, {}, context);
  const std::vector<uint8_t> floats(size_t(size.float_bytes)), ints(size_t(size.int_bytes));
  const TensorView float_workspace(on_device(floats), DType::u8, {size.float_bytes}, context.device);
  const TensorView int_workspace(on_device(ints), DType::u8, {size.int_bytes}, context.device);
  const PlannedAttention planned = plan_attention(problem, batch.lengths(), {}, float_workspace, int_workspace, {}, context);

  AttentionArguments args;
  args.variant.sm_scale = 1 / std::sqrt(float(batch.kHeadDim));
  std::vector<bf16> out(batch.q.size());
  bf16* const result = on_device(out);
  attention(planned, batch.queries(on_device(batch.q), context.device), batch.cache(on_device(batch.k), context.device),
            batch.cache(on_device(batch.v), context.device), batch.queries(result, context.device), {}, args, context);
  cudaMemcpy(out.data(), result, out.size() * sizeof(bf16), cudaMemcpyDeviceToHost);
  return batch.error(out) < 5e-3 ? 0 : 1;
}
