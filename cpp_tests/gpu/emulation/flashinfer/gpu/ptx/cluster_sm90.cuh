// Emulated gpu/ptx/cluster_sm90.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/mbarrier_sm90.cuh>

namespace flashinfer::gpu::ptx {

inline uint32_t cluster_rank() { return uint32_t(emulation::Block::current().fiber().rank); }
inline uint32_t cluster_size() { return uint32_t(emulation::Block::current().cluster_size()); }
inline void cluster_arrive() { emulation::Block::current().arrive_at_cluster(); }
inline void cluster_arrive_relaxed() { cluster_arrive(); }
inline void cluster_wait() { emulation::Block::current().wait_for_cluster(); }
inline void cluster_sync() { cluster_arrive(), cluster_wait(); }
template <class T>
T* cluster_map(T* shared, uint32_t rank) {
  emulation::Block& block = emulation::Block::current();
  if (!block.cluster_has_met()) std::fprintf(stderr, "emulation: cluster_map before every block has begun\n"), std::abort();
  if (block.has_left(int(rank))) std::fprintf(stderr, "emulation: cluster_map of a block that has left\n"), std::abort();
  auto* byte = reinterpret_cast<unsigned char*>(shared);
  if (byte < block.smem() || byte >= block.smem() + block.smem_bytes()) std::fprintf(stderr, "emulation: cluster_map\n"), std::abort();
  return reinterpret_cast<T*>(byte - block.smem() + block.smem_of(int(rank)));
}

/// Arrives as late as it may.
template <class T>
void cluster_send(T* to, T x, Mbarrier* barrier, uint32_t rank) {
  emulation::PendingArrival arrival{{}, cluster_map(barrier, rank), 0, sizeof(T), std::vector<unsigned char>(sizeof(T))};
  std::memcpy(arrival.sent.data(), &x, sizeof(T));
  arrival.copies.push_back({reinterpret_cast<unsigned char*>(cluster_map(to, rank)), arrival.sent.data(), true, sizeof(T)});
  emulation::Block::current().pend(std::move(arrival));
}
inline void cluster_arrive_at(Mbarrier* barrier, uint32_t rank) {
  emulation::Block::current().arrive_at(cluster_map(barrier, rank), 1, 0, 0);
}
inline void cluster_fence() {}
inline void cluster_receive(Mbarrier* barrier, uint32_t parity) { mbarrier_wait(barrier, parity); }

}  // namespace flashinfer::gpu::ptx
