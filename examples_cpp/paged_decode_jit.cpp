// Decode attention over a paged KV cache on a GPU, in a program that g++ compiled: the kernel comes from NVRTC at the first launch,
// and from the disk cache afterwards. Needs libcuda and NVRTC when it runs; without a GPU it says so and does nothing.
#include <flashinfer/attention/attention.hpp>
#include <flashinfer/jit/jit_kernels.hpp>

#include "paged_batch.hpp"

namespace {

/// Device memory with a copy of `host`. A server has an allocator of its own; the driver's is enough here.
template <class T>
T* on_device(const std::vector<T>& host, const flashinfer::Context& context) {
  static const flashinfer::cu::Entry<"cuMemAlloc_v2", flashinfer::cu::DevicePointer*, size_t> allocate;
  flashinfer::cu::DevicePointer memory = 0;
  flashinfer::cu::check(allocate(&memory, host.size() * sizeof(T)), "cuMemAlloc");
  context.kernels->copy_to_device(reinterpret_cast<void*>(memory), host.data(), host.size() * sizeof(T), context);
  return reinterpret_cast<T*>(memory);
}

}  // namespace

int main() {
  using namespace flashinfer;
  JitKernels& kernels = JitKernels::global();
  try {
    if (kernels.device_count() == 0) throw CudaError("no device");
  } catch (const CudaError& error) {
    std::printf("no GPU: %s\n", error.what());
    return 0;
  }
  const cu::Driver& driver = cu::Driver::get();
  cu::Context primary = nullptr;
  cu::check(driver.device_primary_ctx_retain(&primary, 0), "cuDevicePrimaryCtxRetain");
  const cu::CurrentContext current(primary);
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels};  // .stream: a CUstream of the server's

  PagedBatch<bf16> batch;
  const AttentionProblem problem = PagedBatch<bf16>::problem();
  const AttentionWorkspace size =
      workspace_size(problem, AttentionCapacity{.batch_size = 8, .num_indices = 1024, .upload_indices = true}, {}, context);
  const std::vector<uint8_t> floats(size_t(size.float_bytes)), ints(size_t(size.int_bytes));
  const TensorView float_workspace(on_device(floats, context), DType::u8, {size.float_bytes}, context.device);
  const TensorView int_workspace(on_device(ints, context), DType::u8, {size.int_bytes}, context.device);

  // The lengths lie on the host here. Lengths on the device are planned there, and both calls can be captured in a graph.
  const PlannedAttention planned = plan_attention(problem, batch.lengths(), {}, float_workspace, int_workspace, {}, context);

  AttentionArguments args;
  args.variant.sm_scale = 1 / std::sqrt(float(batch.kHeadDim));
  std::vector<bf16> out(batch.q.size());
  bf16* const result = on_device(out, context);
  attention(planned, batch.queries(on_device(batch.q, context), context.device), batch.cache(on_device(batch.k, context), context.device),
            batch.cache(on_device(batch.v, context), context.device), batch.queries(result, context.device), {}, args, context);
  kernels.copy_to_host(out.data(), result, out.size() * sizeof(bf16), context);
  return batch.error(out) < 5e-3 ? 0 : 1;
}
