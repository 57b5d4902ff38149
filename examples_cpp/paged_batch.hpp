// A batch of three requests in decode, with keys and values in pages that lie in any order, and the naive loop that checks results.
#pragma once

#include <flashinfer/attention/attention_lengths.hpp>
#include <flashinfer/core/number.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

template <class T>
struct PagedBatch {
  static constexpr int kQoHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageSize = 16;
  std::vector<int32_t> kv_lens{1000, 7, 333}, indptr{0}, indices, last_page_len;
  int num_pages = 0;
  std::vector<T> q, k, v;

  PagedBatch() {
    for (int32_t kv_len : kv_lens) {
      num_pages += (kv_len + kPageSize - 1) / kPageSize;
      indptr.push_back(num_pages);
      last_page_len.push_back((kv_len - 1) % kPageSize + 1);
    }
    std::mt19937 random(1);
    indices.resize(size_t(num_pages));
    std::iota(indices.begin(), indices.end(), 0);
    std::shuffle(indices.begin(), indices.end(), random);
    std::normal_distribution<float> normal;
    const auto draw = [&](size_t n) {
      std::vector<T> numbers(n);
      for (T& x : numbers) x = flashinfer::from_float<T>(normal(random));
      return numbers;
    };
    q = draw(kv_lens.size() * kQoHeads * kHeadDim);
    k = draw(size_t(num_pages) * kPageSize * kKvHeads * kHeadDim);
    v = draw(k.size());
  }

  static constexpr flashinfer::AttentionProblem problem() {
    constexpr flashinfer::DType dtype = flashinfer::dtype_v<T>;
    return {.q = dtype,
            .kv = dtype,
            .out = dtype,
            .num_qo_heads = kQoHeads,
            .num_kv_heads = kKvHeads,
            .head_dim_qk = kHeadDim,
            .head_dim_vo = kHeadDim,
            .page_size = kPageSize};
  }
  /// Where each request's pages are: plan_attention() copies them to the device.
  flashinfer::AttentionLengths lengths() {
    const auto view = [](std::vector<int32_t>& a) { return flashinfer::TensorView(a.data(), flashinfer::DType::i32, {int64_t(a.size())}); };
    flashinfer::AttentionLengths lengths;  // one query token a request: no qo_indptr
    lengths.kv_indptr = view(indptr), lengths.kv_indices = view(indices), lengths.last_page_len = view(last_page_len);
    return lengths;
  }
  flashinfer::TensorView queries(void* data, flashinfer::Device device = {}) const {
    return {data, flashinfer::dtype_v<T>, {int64_t(kv_lens.size()), kQoHeads, kHeadDim}, device};
  }
  flashinfer::TensorView cache(void* data, flashinfer::Device device = {}) const {
    return {data, flashinfer::dtype_v<T>, {num_pages, kPageSize, kKvHeads, kHeadDim}, device};
  }

  /// |out - expected| / |expected|, in double from the definition; prints it.
  double error(const std::vector<T>& out) const {
    using flashinfer::to_float;
    double difference = 0, norm = 0;
    for (size_t r = 0; r < kv_lens.size(); ++r) {
      for (int h = 0; h < kQoHeads; ++h) {
        const size_t row = (r * kQoHeads + size_t(h)) * kHeadDim;
        std::vector<double> sum(kHeadDim, 0.0);
        double total = 0;
        for (int j = 0; j < kv_lens[r]; ++j) {
          const size_t page = size_t(indices[size_t(indptr[r] + j / kPageSize)]);
          const size_t key = ((page * kPageSize + size_t(j % kPageSize)) * kKvHeads + size_t(h * kKvHeads / kQoHeads)) * kHeadDim;
          double logit = 0;
          for (int d = 0; d < kHeadDim; ++d) logit += double(to_float(q[row + size_t(d)])) * to_float(k[key + size_t(d)]);
          const double weight = std::exp(logit / std::sqrt(double(kHeadDim)));
          total += weight;
          for (int d = 0; d < kHeadDim; ++d) sum[size_t(d)] += weight * to_float(v[key + size_t(d)]);
        }
        for (int d = 0; d < kHeadDim; ++d) {
          const double expected = sum[size_t(d)] / total;
          difference += std::pow(to_float(out[row + size_t(d)]) - expected, 2), norm += expected * expected;
        }
      }
    }
    const double error = std::sqrt(difference / norm);
    std::printf("relative error %.2g\n", error);
    return error;
  }
};
