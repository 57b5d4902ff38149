// Host only. The launch of a kernel of rows: a cluster each, or rows are spread evenly over the clusters that run at the same time, which
// take them in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/row_tuning.hpp>

namespace flashinfer::gpu {

/// A cluster for each row.
template <class Config>
LaunchShape cluster_a_row(const Config& config, int64_t num_rows, bool pdl) {
  LaunchShape shape;
  shape.grid.x = uint32_t(num_rows * config.cluster);
  shape.block.x = uint32_t(config.threads);
  shape.smem_bytes = config.smem_bytes();
  shape.cluster.x = uint32_t(config.cluster);
  shape.pdl = pdl;
  return shape;
}

/// Clusters that take rows in turn.
template <class Config>
LaunchShape clusters_in_turn(const Config& config, int64_t num_rows, const DeviceInfo& device, bool pdl) {
  const int64_t turns = ceil_div(num_rows, clusters_at_once(config.cluster, config.blocks, device));
  return cluster_a_row(config, ceil_div(num_rows, turns), pdl);
}

}  // namespace flashinfer::gpu
