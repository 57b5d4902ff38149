// What kernels do with all the elements of a row: its maximum and mass, and the row's output.
#pragma once

#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/sampling/gpu/row_hits.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>

namespace flashinfer::gpu {

template <RowValues kValues, class Reader, class Group>
class RowPasses {
 public:
  static constexpr int kVec = 4;  // elements that a pass looks at together
  using Weight = RowWeight<kValues>;

  Reader reader;
  Group group;

  __device__ RowPasses(const Reader& reader, const Group& group) : reader(reader), group(group) {}

  /// f(four elements as floats, index of the first) for all elements; all lanes of a warp together, with NaN where a lane has none.
  template <class F>
  __device__ void for_each(const F& f) const {
    reader.template for_each<kVec>([&](const Vec<typename Reader::Element, kVec>& v, int first) {
      float x[kVec];
      v.to_float(x);
      f(x, first);
    });
  }

  /// f for the first vector of each thread.
  template <class F>
  __device__ void first_of_thread(const F& f) const {
    float x[kVec];
    int first;
    reader.template first_of_thread<kVec>(first).to_float(x);
    f(x, first);
  }

  __device__ static bool reaches(const float (&x)[kVec], float least) {
    bool any = false;
#pragma unroll
    for (int j = 0; j < kVec; ++j) any |= x[j] >= least;
    return any;
  }
  /// f(element, index) for the elements that hit(element).
  template <class Hit, class F>
  __device__ static void for_each_hit(const float (&x)[kVec], int first, const Hit& hit, const F& f) {
    gpu::for_each_hit(hits_of<kVec>([&](int j) { return hit(x[j]); }), [&](int j, uint32_t) { f(element_of(x, j), uint32_t(first + j)); });
  }

  /// The largest element that is not NaN, -inf without one; for a row with a NaN, NaN if it `counts`. The first pass over a row.
  template <bool kNanCounts>
  __device__ float look() {
    float most = -kInfinity;
    reader.for_each_first([&](const typename Reader::Vector& v) {
      float x[Reader::kVec];
      v.to_float(x);
#pragma unroll
      for (int j = 0; j < Reader::kVec; ++j) most = kNanCounts ? ptx::max_or_nan(most, x[j]) : fmaxf(most, x[j]);
    });
    constexpr uint32_t kNanKey = 0xffffffffu;  // above all others
    const uint32_t key = uint32_t(group.max(kNanCounts && most != most ? kNanKey : order_key(most)));
    return kNanCounts && key == kNanKey ? bit_cast<float>(0x7fc00000u) : value_of_order_key<float>(key);
  }

  /// The mass of elements of rank `floor` and above, in every thread.
  __device__ uint64_t mass_from(const Weight& weight, uint64_t floor) {
    MassSum sum;
    const RowPrefix::Test kept = RowPrefix{floor, 0}.test();
    for_each([&](const float(&x)[kVec], int first) {
      float f[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) f[j] = weight(kept(x[j], first + j) ? x[j] : -kInfinity);
      sum.add(f);
    });
    return group.sum(sum.total());
  }
  /// The rank of the first element, whose value is `largest`.
  __device__ uint64_t first(float largest) {
    uint64_t best = 0;
    for_each([&](const float(&x)[kVec], int index) {
#pragma unroll
      for (int j = 0; j < kVec; ++j)
        if (x[j] == largest) best = max(best, order_rank(order_key(x[j]), uint32_t(index + j)));
    });
    return group.max(best);
  }

  /// Writes value(element) * factor for what is kept, value(-inf) for the rest.
  template <class Out, class Value>
  __device__ void write(Out* output, const Value& value, const RowPrefix& prefix, float factor) const {
    const RowPrefix::Test kept = prefix.test();
    const RowWriter<Out, kVec> writer(output, reader.row());
    for_each([&](const float(&x)[kVec], int first) {
      float y[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) y[j] = value(kept(x[j], first + j) ? x[j] : -kInfinity) * factor;
      writer.write(y, first);
    });
  }
  /// The same where everything is kept.
  template <class Out, class Value>
  __device__ void write_all(Out* output, const Value& value, float factor) const {
    const RowWriter<Out, kVec> writer(output, reader.row());
    for_each([&](const float(&x)[kVec], int first) {
      float y[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) y[j] = value(x[j]) * factor;
      writer.write(y, first);
    });
  }
  template <class Out>
  __device__ void fill(Out* output, float value) const {
    const RowWriter<Out, kVec> writer(output, reader.row());
    for_each([&](const float(&)[kVec], int first) {
      float y[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) y[j] = value;
      writer.write(y, first);
    });
  }
};

}  // namespace flashinfer::gpu
