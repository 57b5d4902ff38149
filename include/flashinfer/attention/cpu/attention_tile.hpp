// Host only. The steps of CPU attention that touch every element, on one tile of packed rows and keys, for every ISA of cpu/isa.hpp.
// Both products are one microkernel, c[rows, columns] (+)= a[rows, depth] b[depth, columns]: keys are transposed into b, values
// copied into it, both widened once per tile. What a row computes does not depend on the rows beside it.
//
// A number of a or b is a float, or ("pairs") two bf16 that AVX-512 BF16 multiplies exactly and adds in fp32: half the
// instructions. Pairs need bf16 queries, and probabilities rounded to bf16 as on tensor cores.
#pragma once

#include <cmath>

#include <flashinfer/core/math.hpp>
#include <flashinfer/cpu/vec.hpp>

namespace flashinfer::cpu::tile {

/// Rows and vectors of columns that the microkernel holds in registers: 16 accumulators of AVX-512's 32, 8 of the others' 16.
inline constexpr int kBlockRows = 4;
template <class Isa>
inline constexpr int kBlockVectors = Isa::kLanes == 16 ? 4 : 2;

/// Has the ISA products of pairs?
template <class Isa>
inline constexpr bool kHasPairs = requires(const typename Isa::F& x) { Isa::dot_pairs(x, x, x); };

/// b is stored in panels of the microkernel's width, each [depth, width], so that a block reads it front to back; columns that
/// do not fill a panel come in panels of one vector.
template <class Isa>
struct Panels {
  static constexpr int kWidth = Isa::kLanes * kBlockVectors<Isa>;
  float* b;
  int depth, columns;  // columns: a multiple of kLanes

  int width(int column) const { return column / kWidth * kWidth + kWidth <= columns ? kWidth : Isa::kLanes; }
  /// Of depth 0, at a column that starts a vector.
  float* at(int column) const {
    const int panel = column / width(column) * width(column);
    return b + int64_t(panel) * depth + (column - panel);
  }
};

/// Elements from d on of a row that ends at head_dim, zeros behind it.
template <class Isa, class T>
typename Isa::F load_part(const T* row, int d, int head_dim) {
  return d + Isa::kLanes <= head_dim ? Isa::load(row + d) : Isa::load(row + d, head_dim - d);
}

/// Brings a row into L2, not L1: on Zen 4 prefetching head rows to L1 reads 10 GB/s a core, to L2 18 GB/s (L1 has fewer misses in flight).
inline void prefetch(const void* row, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(row) + i, 0, 2);
}

template <class Isa, bool kPairs, int kRows, int kVectors>
void multiply_block(const float* a, int64_t a_stride, const float* b, int depth, float* c, int64_t c_stride, bool accumulate) {
  using F = typename Isa::F;
  constexpr int kLanes = Isa::kLanes;
  F sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = accumulate ? Isa::load(c + r * c_stride + v * kLanes) : Isa::set(0.0f);
  for (int i = 0; i < depth; ++i, b += kVectors * kLanes) {
    F x[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = Isa::load(b + v * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const F y = Isa::set(a[r * a_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kPairs) {
          sum[r][v] = Isa::dot_pairs(sum[r][v], x[v], y);
        } else {
          sum[r][v] = Isa::fma(x[v], y, sum[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Isa::store(c + r * c_stride + v * kLanes, sum[r][v]);
}

/// c (+)= a b. Panels outside, rows inside: a panel stays in L1 for all rows.
template <class Isa, bool kPairs>
void multiply(const float* a, int64_t a_stride, int rows, const Panels<Isa>& b, float* c, int64_t c_stride, bool accumulate) {
  for (int column = 0; column < b.columns;) {
    const int width = b.width(column);
    const float* panel = b.at(column);
    auto block = [&]<int kRows>(int row) {
      if (width > Isa::kLanes)
        multiply_block<Isa, kPairs, kRows, kBlockVectors<Isa>>(a + row * a_stride, a_stride, panel, b.depth, c + row * c_stride + column, c_stride, accumulate);
      else
        multiply_block<Isa, kPairs, kRows, 1>(a + row * a_stride, a_stride, panel, b.depth, c + row * c_stride + column, c_stride, accumulate);
    };
    int row = 0;
    for (; row + kBlockRows <= rows; row += kBlockRows) block.template operator()<kBlockRows>(row);
    switch (rows - row) {
      case 3: block.template operator()<3>(row); break;
      case 2: block.template operator()<2>(row); break;
      case 1: block.template operator()<1>(row); break;
      default: break;
    }
    column += width;
  }
}

/// b[i, key] = number i of rows[key]: a transpose. `rows` has b.columns entries; those of `next` are prefetched on the way.
template <class Isa, bool kPairs, class T>
void pack_keys(const void* const* rows, int head_dim, const Panels<Isa>& b, const void* const* next) {
  using F = typename Isa::F;
  constexpr int kLanes = Isa::kLanes;
  constexpr int kStep = kPairs ? 2 * kLanes : kLanes;  // elements of a vector
  for (int key = 0; key < b.columns; key += kLanes) {
    const int width = b.width(key);
    float* to = b.at(key);
    int ahead = 0;
    for (int d = 0; d < head_dim; d += kStep) {
      // The rows ahead spread over the steps, whole rows each: neighbouring lines share a DRAM page.
      for (const int until = kLanes * min(d + kStep, head_dim) / head_dim; ahead < until; ++ahead) prefetch(next[key + ahead], head_dim * int(sizeof(T)));
      const int count = min(kStep, head_dim - d);
      F x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const T* from = static_cast<const T*>(rows[key + i]) + d;
        if constexpr (kPairs) {
          x[i] = count == kStep ? Isa::load_pairs(from) : Isa::load_pairs(from, count);
        } else {
          x[i] = count == kStep ? Isa::load(from) : Isa::load(from, count);
        }
      }
      Isa::transpose(x);
      if (count == kStep) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) Isa::store(to + i * width, x[i]);
        to += kLanes * width;
      } else {
        for (int i = 0; i < count / (kStep / kLanes); ++i) Isa::store(to + i * width, x[i]);
      }
    }
  }
}

/// b[key, i] = rows[key][i], or for pairs b[j, i] = (rows[2j][i], rows[2j + 1][i]); columns past head_dim are zeros.
template <class Isa, bool kPairs, class T>
void pack_values(const void* const* rows, int head_dim, const Panels<Isa>& b, const void* const* next) {
  using F = typename Isa::F;
  constexpr int kLanes = Isa::kLanes;
  const auto vector = [&](const void* row, int d) -> F { return load_part<Isa>(static_cast<const T*>(row), d, head_dim); };
  for (int column = 0; column < b.columns;) {
    const int width = b.width(column);
    float* to = b.at(column);
    for (int i = 0; i < b.depth; ++i, to += width) {
      if (column == 0)
        for (int j = i * (kPairs ? 2 : 1); j < (i + 1) * (kPairs ? 2 : 1); ++j) prefetch(next[j], head_dim * int(sizeof(T)));
      for (int d = 0; d < width; d += kLanes) {
        if constexpr (kPairs) {
          Isa::store(to + d, Isa::interleave(vector(rows[2 * i], column + d), vector(rows[2 * i + 1], column + d)));
        } else {
          Isa::store(to + d, vector(rows[i], column + d));
        }
      }
    }
    column += width;
  }
}

/// One row of a from a query row.
template <class Isa, bool kPairs, class T>
void pack_query(const T* from, int head_dim, float* to) {
  if constexpr (kPairs) {
    __builtin_memcpy(to, from, size_t(head_dim) * sizeof(T));
  } else {
    int d = 0;
    for (; d + Isa::kLanes <= head_dim; d += Isa::kLanes) Isa::store(to + d, Isa::load(from + d));
    if (d < head_dim) Isa::store(to + d, Isa::load(from + d, head_dim - d), head_dim - d);
  }
}

/// The softmax that is under way, one row: weights exp2(s - max), their sum, and the values they weigh.
struct Softmax {
  float max, sum;  // max in the log2 domain
};

/// s = q.k of one row, `columns` of them, of which [begin, end) are visible, becomes the row of a for the values:
/// p = exp2(s * scale - max). The accumulators o follow a new maximum.
template <class Isa, bool kPairs>
void softmax_row(float* s, int columns, int begin, int end, float scale, Softmax& state, float* o, int o_columns) {
  using F = typename Isa::F;
  constexpr int kLanes = Isa::kLanes;
  const F hidden = Isa::set(-kInfinity);
  F greatest = hidden;
  for (int i = 0; i < columns; i += kLanes) {
    F x = Isa::load(s + i) * Isa::set(scale);
    if (i < begin) x = Isa::select(Isa::first(min(begin - i, kLanes)), hidden, x);
    if (i + kLanes > end) x = Isa::select(Isa::first(max(end - i, 0)), x, hidden);
    greatest = Isa::max(greatest, x);
    Isa::store(s + i, x);
  }
  const float largest = max(state.max, Isa::max_of(greatest));
  // A row that has seen no key yet keeps max -inf, and exp2(-inf - 0) gives it weights of 0.
  const F subtract = Isa::set(largest == -kInfinity ? 0.0f : largest);
  if (largest != state.max) {
    const float rescale = std::exp2(state.max - largest);
    for (int i = 0; i < o_columns; i += kLanes) Isa::store(o + i, Isa::load(o + i) * Isa::set(rescale));
    state = {largest, state.sum * rescale};
  }
  F sum = Isa::set(0.0f);
  for (int i = 0; i < columns; i += kLanes) {
    const F p = exp2<Isa>(Isa::load(s + i) - subtract);
    sum = sum + p;
    if constexpr (kPairs) {
      Isa::store_bf16(reinterpret_cast<bf16*>(s) + i, p);  // behind what is still to be read
    } else {
      Isa::store(s + i, p);
    }
  }
  state.sum += Isa::sum(sum);
}

/// Logits of the built-in variants: s * sm_scale + slope * (distance + column), then cap * tanh(x / cap) where cap > 0.
template <class Isa>
void transform_row(float* s, int columns, float sm_scale, float slope, float distance, float cap) {
  using F = typename Isa::F;
  for (int i = 0; i < columns; i += Isa::kLanes) {
    F x = Isa::fma(Isa::set(slope), Isa::iota() + Isa::set(distance + float(i)), Isa::load(s + i) * Isa::set(sm_scale));
    if (cap > 0.0f) x = Isa::set(cap) * tanh<Isa>(x / Isa::set(cap));
    Isa::store(s + i, x);
  }
}

/// to = to * keep + from * weight; `to` is padded to whole vectors, `from` is not.
template <class Isa>
void blend_row(float* to, const float* from, int head_dim, float keep, float weight) {
  for (int d = 0; d < head_dim; d += Isa::kLanes)
    Isa::store(to + d, Isa::fma(load_part<Isa>(from, d, head_dim), Isa::set(weight), Isa::load(to + d) * Isa::set(keep)));
}

/// to = from * scale in the type of the output.
template <class Isa, class T>
void write_row(T* to, const float* from, int head_dim, float scale) {
  for (int d = 0; d < head_dim; d += Isa::kLanes) {
    const typename Isa::F x = Isa::load(from + d) * Isa::set(scale);
    if (d + Isa::kLanes <= head_dim) Isa::store(to + d, x);
    else
      Isa::store(to + d, x, head_dim - d);
  }
}

}  // namespace flashinfer::cpu::tile
