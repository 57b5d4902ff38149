// What the programs of this folder that time kernels of rows share: microseconds of a launch in a CUDA graph.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <flashinfer/gpu/entry.cuh>

inline cudaStream_t stream;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) std::printf("%s: %s\n", what, cudaGetErrorString(error)), std::exit(1);
}

/// Launches for all `params` in turn, at least eight; median of ten graphs. `at_once`: all clusters should run at the same time, and it is
/// said if they do not.
template <class Kernel>
float time_of(int threads, int cluster, int clusters, bool at_once, int smem_bytes, const std::vector<typename Kernel::Params>& params) {
  const auto kernel = flashinfer::gpu::entry<Kernel>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes), "shared memory");
  if (cluster > 8) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cluster");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(clusters * cluster));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(smem_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {unsigned(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  config.numAttrs = 1;
  int fit = clusters;
  if (at_once && cluster > 1) check(cudaOccupancyMaxActiveClusters(&fit, kernel, &config), "occupancy");
  if (fit < clusters) std::printf("[only %d of %d clusters fit] ", fit, clusters);
  config.numAttrs = 2;

  const int launches = std::max(int(params.size()), 8);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) {
    typename Kernel::Params p = params[size_t(i) % params.size()];
    void* arguments[] = {&p};
    check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments), "launch");
  }
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(begin, stream), cudaGraphLaunch(exec, stream), cudaEventRecord(end, stream);
    check(cudaEventSynchronize(end), "run");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 1) times.push_back(ms * 1e3f / float(launches));
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}
