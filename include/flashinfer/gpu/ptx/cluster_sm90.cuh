// Blocks of a cluster: who they are, their barrier, and each other's shared memory (PTX ISA, "barrier.cluster", "mapa", distributed shared memory).
#pragma once

#include <flashinfer/core/std.hpp>

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

}  // namespace flashinfer::gpu::ptx
