// Host only. The steps of CPU attention that touch every element, on one tile of packed rows and keys, for every ISA of cpu/isa.hpp.
// Both products are c[rows, columns] (+)= a[rows, depth] b[depth, columns], where b is the keys, transposed and packed, or the
// values, packed where many rows share them. Every sum runs along depth in order in its own lane: what a row computes depends
// neither on the rows beside it nor on how many there are, bit for bit.
//
// A number of a or b is a float, or ("pairs") two bf16 that AVX-512 BF16 multiplies exactly and adds in fp32: half the
// instructions. Pairs need queries that bf16 holds, and probabilities rounded to bf16 as on tensor cores.
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

/// Can elements of T be numbers of a or b?
template <bool kPairs, class T>
inline constexpr bool kOperand = !kPairs || is_same_v<T, bf16> || sizeof(T) == 1;

/// b is stored in panels of the microkernel's width, each [depth, width], so that a block reads it front to back; columns that
/// do not fill a panel come in panels of one vector.
template <class Isa>
struct Panels {
  static constexpr int kWidth = Isa::kLanes * kBlockVectors<Isa>;
  float* b;
  int depth, columns;  // columns: a multiple of kLanes

  /// Steps of the microkernel's inner loop for so many rows.
  int steps(int rows) const { return depth * ceil_div(columns, kWidth) * ceil_div(rows, kBlockRows); }
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

/// Rows that will be needed, brought into L2 between the steps of what is computed meanwhile: memory has work all the time, where a
/// burst would fill the core's miss buffers, stop it, and leave memory idle afterwards. L2, not L1: on Zen 4 head rows prefetched
/// into L1 arrive at 10 GB/s a core, into L2 at 18 GB/s.
class Ahead {
 public:
  /// `count` rows, each with `heads` parts of `bytes`, head_stride bytes apart.
  Ahead(const void* const* rows, int count, int heads, int64_t head_stride, int bytes)
      : rows_(rows), left_(count * heads), heads_(heads), bytes_(bytes), head_stride_(head_stride) {}
  /// What is left is spread over so many steps.
  void spread(int steps) { rate_ = ceil_div(left_ * kWhole, max(steps, 1)); }
  void step() {
    for (due_ += rate_; due_ >= kWhole; due_ -= kWhole) {
      if (left_ == 0) return;
      --left_;
      const char* part = static_cast<const char*>(*rows_) + offset_;
      for (int i = 0; i < bytes_; i += 64) __builtin_prefetch(part + i, 0, 2);
      offset_ += head_stride_;
      if (++head_ == heads_) head_ = 0, offset_ = 0, ++rows_;
    }
  }

 private:
  static constexpr int kWhole = 256;  // a part, in the unit of rate_ and due_
  const void* const* rows_;
  int left_, heads_, bytes_, rate_ = 0, due_ = 0, head_ = 0;
  int64_t head_stride_, offset_ = 0;
};

/// sum + x y, of floats or of pairs.
template <class Isa, bool kPairs>
typename Isa::F multiply_add(const typename Isa::F& x, const typename Isa::F& y, const typename Isa::F& sum) {
  if constexpr (kPairs) {
    return Isa::dot_pairs(sum, x, y);
  } else {
    return Isa::fma(x, y, sum);
  }
}

/// kVectors neighbouring columns of b, packed.
template <class Isa, int kVectors>
struct PackedColumns {
  const float* b;
  void operator()(int i, typename Isa::F (&x)[kVectors]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = Isa::load(b + (int64_t(i) * kVectors + v) * Isa::kLanes);
  }
};

/// Columns with a step of prefetching each.
template <class Columns>
struct SteppingColumns {
  Columns columns;
  Ahead& ahead;
  template <class X>
  void operator()(int i, X& x) const {
    ahead.step();
    columns(i, x);
  }
};

/// The same columns of the values where they are: b[key, i] = rows[key][i], or for pairs b[j, i] = (rows[2j][i], rows[2j + 1][i]).
/// Columns past head_dim are zeros.
template <class Isa, bool kPairs, class T, int kVectors>
struct ValueColumns {
  const void* const* rows;
  int column, head_dim;
  void operator()(int i, typename Isa::F (&x)[kVectors]) const {
    if constexpr (kPairs) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v += 2) {
        const int d = column + v * Isa::kLanes, count = head_dim - d;
        const T *even = static_cast<const T*>(rows[2 * i]) + d, *odd = static_cast<const T*>(rows[2 * i + 1]) + d;
        typename Isa::F high;
        if (count >= 2 * Isa::kLanes) [[likely]]
          Isa::zip(Isa::load_pairs(even), Isa::load_pairs(odd), x[v], high);
        else
          Isa::zip(Isa::load_pairs(even, count), Isa::load_pairs(odd, count), x[v], high);
        if constexpr (kVectors > 1) x[v + 1] = high;
      }
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) x[v] = load_part<Isa>(static_cast<const T*>(rows[i]), column + v * Isa::kLanes, head_dim);
    }
  }
};

/// The microkernel: kRows of c by the columns that `columns` yields.
template <class Isa, bool kPairs, int kRows, int kVectors, class Columns>
void multiply_block(const float* a, int64_t a_stride, const Columns& columns, int depth, float* c, int64_t c_stride, bool accumulate) {
  using F = typename Isa::F;
  constexpr int kLanes = Isa::kLanes;
  F sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = accumulate ? Isa::load(c + r * c_stride + v * kLanes) : Isa::set(0.0f);
  for (int i = 0; i < depth; ++i) {
    F x[kVectors];
    columns(i, x);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const F y = Isa::set(a[r * a_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add<Isa, kPairs>(x[v], y, sum[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Isa::store(c + r * c_stride + v * kLanes, sum[r][v]);
}

/// c (+)= a b, kRows at a time: rows are padded to a multiple of it. Panels outside, rows inside: a panel stays in L1.
/// columns_at(column, vectors) gives the columns from one on, vectors of them as a constant.
template <class Isa, bool kPairs, int kRows, class ColumnsAt>
void multiply(const float* a, int64_t a_stride, int rows, const Panels<Isa>& b, float* c, int64_t c_stride, bool accumulate,
              const ColumnsAt& columns_at) {
  for (int column = 0; column < b.columns; column += b.width(column))
    for (int r = 0; r < rows; r += kRows) {
      float* to = c + r * c_stride + column;
      if (b.width(column) > Isa::kLanes)
        multiply_block<Isa, kPairs, kRows, kBlockVectors<Isa>>(
            a + r * a_stride, a_stride, columns_at.template operator()<kBlockVectors<Isa>>(column), b.depth, to, c_stride, accumulate);
      else
        multiply_block<Isa, kPairs, kRows, 1>(a + r * a_stride, a_stride, columns_at.template operator()<1>(column), b.depth, to, c_stride,
                                              accumulate);
    }
}

/// Packs keys, transposed: b[i, key] = number i of rows[key]. `rows` has b.columns entries, b.depth is a multiple of kLanes.
/// Even for a single row this is no slower than sums across lanes: 19 clocks of Zen 4 a key of 128 bf16, of 100 that DRAM takes.
template <class Isa, bool kPairs, class T>
void pack_keys(const void* const* rows, int head_dim, const Panels<Isa>& b, Ahead& ahead) {
  constexpr int kLanes = Isa::kLanes, kElements = kPairs ? 2 : 1;
  for (int key = 0; key < b.columns; key += kLanes) {
    const int width = b.width(key);
    float* to = b.at(key);
    for (int i = 0; i < b.depth; i += kLanes) {
      ahead.step();
      typename Isa::F x[kLanes];
      const int count = head_dim - i * kElements;
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        const T* from = static_cast<const T*>(rows[key + j]) + i * kElements;
        if constexpr (kPairs) {
          x[j] = count >= 2 * kLanes ? Isa::load_pairs(from) : Isa::load_pairs(from, count);
        } else {
          x[j] = count >= kLanes ? Isa::load(from) : Isa::load(from, count);
        }
      }
      Isa::transpose(x);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j, to += width) Isa::store(to, x[j]);
    }
  }
}

/// Packs values: what ValueColumns yields.
template <class Isa, bool kPairs, class T>
void pack_values(const void* const* rows, int head_dim, const Panels<Isa>& b, Ahead& ahead) {
  auto pack = [&]<int kVectors>(int column) {
    float* to = b.at(column);
    for (int i = 0; i < b.depth; ++i) {
      ahead.step();
      typename Isa::F x[kVectors];
      ValueColumns<Isa, kPairs, T, kVectors>{rows, column, head_dim}(i, x);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v, to += Isa::kLanes) Isa::store(to, x[v]);
    }
  };
  for (int column = 0; column < b.columns; column += b.width(column)) {
    if (b.width(column) > Isa::kLanes)
      pack.template operator()<kBlockVectors<Isa>>(column);
    else
      pack.template operator()<1>(column);
  }
}

/// scores = q k^T of packed keys. Few rows leave time to prefetch.
template <class Isa, bool kPairs>
void score(const float* q, int64_t q_stride, int rows, const Panels<Isa>& keys, float* scores, int64_t scores_stride, bool few,
           Ahead& ahead) {
  const auto packed = [&]<int kVectors>(int column) { return PackedColumns<Isa, kVectors>{keys.at(column)}; };
  const auto stepping = [&]<int kVectors>(int column) { return SteppingColumns<PackedColumns<Isa, kVectors>>{{keys.at(column)}, ahead}; };
  if (rows == 1) return multiply<Isa, kPairs, 1>(q, q_stride, rows, keys, scores, scores_stride, false, stepping);
  if (few) return multiply<Isa, kPairs, kBlockRows>(q, q_stride, rows, keys, scores, scores_stride, false, stepping);
  multiply<Isa, kPairs, kBlockRows>(q, q_stride, rows, keys, scores, scores_stride, false, packed);
}

/// out += p v. Few rows take the values where they are, which costs less than to pack them.
template <class Isa, bool kPairs, class T>
void add_values_in_place(const float* p, int64_t p_stride, int rows, const void* const* values, const Panels<Isa>& shape, int head_dim,
                         float* out, int64_t out_stride, Ahead& ahead) {
  const auto columns = [&]<int kVectors>(int column) {
    return SteppingColumns<ValueColumns<Isa, kPairs, T, kVectors>>{{values, column, head_dim}, ahead};
  };
  if (rows == 1) return multiply<Isa, kPairs, 1>(p, p_stride, rows, shape, out, out_stride, true, columns);
  multiply<Isa, kPairs, kBlockRows>(p, p_stride, rows, shape, out, out_stride, true, columns);
}
template <class Isa, bool kPairs>
void add_values(const float* p, int64_t p_stride, int rows, const Panels<Isa>& values, float* out, int64_t out_stride) {
  const auto packed = [&]<int kVectors>(int column) { return PackedColumns<Isa, kVectors>{values.at(column)}; };
  multiply<Isa, kPairs, kBlockRows>(p, p_stride, rows, values, out, out_stride, true, packed);
}

/// One row of a from a query row, zeros up to a whole vector.
template <class Isa, bool kPairs, class T>
void pack_query(const T* from, int head_dim, float* to) {
  if constexpr (kPairs) {
    for (int d = 0; d < head_dim; d += 2 * Isa::kLanes, to += Isa::kLanes)
      Isa::store(to, d + 2 * Isa::kLanes <= head_dim ? Isa::load_pairs(from + d) : Isa::load_pairs(from + d, head_dim - d));
  } else {
    for (int d = 0; d < head_dim; d += Isa::kLanes) Isa::store(to + d, load_part<Isa>(from, d, head_dim));
  }
}

/// The softmax that is under way, one row: weights exp2(s - max), their sum, and the values they weigh.
struct Softmax {
  float max, sum;  // max in the log2 domain
};

/// s *= scale, and times the scale of each column where there are such.
template <class Isa>
void scale_row(float* s, int columns, float scale, const float* column_scales) {
  for (int i = 0; i < columns; i += Isa::kLanes) {
    const typename Isa::F x = Isa::load(s + i) * Isa::set(scale);
    Isa::store(s + i, column_scales ? x * Isa::load(column_scales + i) : x);
  }
}

/// s = q.k of one row, `columns` of them, of which [begin, end) are visible, becomes the row of a for the values:
/// p = exp2(s * scale - max), times the scales of the values where there are such: the sum has none. The accumulators o follow a new
/// maximum.
template <class Isa, bool kPairs>
void softmax_row(float* s, int columns, int begin, int end, float scale, const float* value_scales, Softmax& state, float* o,
                 int o_columns) {
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
    F p = exp2<Isa>(Isa::load(s + i) - subtract);
    sum = sum + p;
    if (value_scales) p = p * Isa::load(value_scales + i);
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

/// to += from * weight; `to` is padded to whole vectors, `from` is not.
template <class Isa>
void add_row(float* to, const float* from, int head_dim, float weight) {
  for (int d = 0; d < head_dim; d += Isa::kLanes)
    Isa::store(to + d, Isa::fma(load_part<Isa>(from, d, head_dim), Isa::set(weight), Isa::load(to + d)));
}

/// to = from * scale in the type of the output.
template <class Isa, class T>
void write_row(T* to, const float* from, int head_dim, float scale) {
  for (int d = 0; d < head_dim; d += Isa::kLanes) {
    const typename Isa::F x = Isa::load(from + d) * Isa::set(scale);
    if (d + Isa::kLanes <= head_dim)
      Isa::store(to + d, x);
    else
      Isa::store(to + d, x, head_dim - d);
  }
}

}  // namespace flashinfer::cpu::tile
