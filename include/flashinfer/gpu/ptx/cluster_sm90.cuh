// Blocks of a cluster: who they are, their barrier, and each other's shared memory (PTX ISA, "barrier.cluster", "mapa", distributed shared
// memory).
#pragma once

#include <flashinfer/gpu/ptx/mbarrier_sm90.cuh>

namespace flashinfer::gpu::ptx {

/// Rank of this block in its cluster, and the cluster's number of blocks.
FLASHINFER_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
FLASHINFER_DEVICE uint32_t cluster_size() {
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

/// What a thread wrote to shared memory, its own or another block's, before it arrives is visible to every thread that has waited.
/// No block may exit while another still reads or writes its shared memory: meet once more at the end.
FLASHINFER_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
/// The same where nothing was written: who waits learns that this thread has come, and no fence keeps it up.
FLASHINFER_DEVICE void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
FLASHINFER_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
FLASHINFER_DEVICE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

/// Where an object of this block's shared memory lies in that of the block `rank`: an ordinary (generic) pointer.
template <class T>
FLASHINFER_DEVICE T* cluster_map(T* shared, uint32_t rank) {
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(shared), "r"(rank));
  return reinterpret_cast<T*>(address);
}

/// Sends x to the place of `to` in the shared memory of the block `rank`, whose `barrier` counts the bytes when they are there. Nobody
/// waits here; the other block must have started, and must not exit before.
FLASHINFER_DEVICE void cluster_send(float4* to, float4 x, Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there, at;\nmapa.shared::cluster.u32 there, %0, %6;\nmapa.shared::cluster.u32 at, %5, %6;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], {%1, %2, %3, %4}, [at];\n}" ::"r"(smem_address(to)),
      "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w), "r"(smem_address(barrier)), "r"(rank)
      : "memory");
}
FLASHINFER_DEVICE void cluster_send(float2* to, float2 x, Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there, at;\nmapa.shared::cluster.u32 there, %0, %4;\nmapa.shared::cluster.u32 at, %3, %4;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [there], {%1, %2}, [at];\n}" ::"r"(smem_address(to)),
      "f"(x.x), "f"(x.y), "r"(smem_address(barrier)), "r"(rank)
      : "memory");
}
FLASHINFER_DEVICE void cluster_send(uint64_t* to, uint64_t x, Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there, at;\nmapa.shared::cluster.u32 there, %0, %3;\nmapa.shared::cluster.u32 at, %2, %3;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [there], %1, [at];\n}" ::"r"(smem_address(to)),
      "l"(x), "r"(smem_address(barrier)), "r"(rank)
      : "memory");
}
/// One arrival at a barrier of the block `rank`. What this thread, and those it has met, did before is visible to who waits there.
FLASHINFER_DEVICE void cluster_arrive_at(Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 at;\nmapa.shared::cluster.u32 at, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [at];\n}" ::"r"(smem_address(barrier)),
      "r"(rank)
      : "memory");
}
/// What was written before is visible to the blocks that learn of what is sent after.
FLASHINFER_DEVICE void cluster_fence() { asm volatile("fence.acq_rel.cluster;" ::: "memory"); }
/// Like mbarrier_wait(), for what other blocks have sent.
FLASHINFER_DEVICE void cluster_receive(Mbarrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@done bra finished;\nbra wait;\n"
      "finished:\n}" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
}

}  // namespace flashinfer::gpu::ptx
