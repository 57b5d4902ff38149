// packbits and segment_packbits: booleans to bits, in one run or in segments that each begin a new byte.
// Attention reads its custom masks in this form (BitOrder::little).
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/quantization/cpu/packbits.hpp>
#include <flashinfer/quantization/gpu/packbits.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

/// output[i] = bits of x[8i : 8i + 8]; the bits behind the last element are 0.
///   x       [n]                boolean or u8 (any value but 0 is true), contiguous
///   output  [packed_size(n)]   u8, contiguous
inline void packbits(const TensorView& x, const TensorView& output, BitOrder order = BitOrder::big, const Context& context = {}) {
  const Check check("packbits");
  check.rank("x", x, 1);
  check.dtype("x", x, {DType::boolean, DType::u8});
  check.contiguous("x", x);
  check.device("x", x, context.device);
  check.shape("output", output, {{"(n + 7) / 8", packed_size(x.size(0))}});
  check.dtype("output", output, DType::u8);
  check.contiguous("output", output);
  check.device("output", output, context.device);
  check.that(!overlap(x, output), "output", "memory of its own", "memory that x lies in");

  PackbitsParams params;
  params.input = x.as<const uint8_t>();
  params.output = output.as<uint8_t>();
  params.num_bits = x.size(0);
  params.output_size = output.size(0);
  if (context.device.type == DeviceType::cpu) return cpu::packbits(params, order);
  gpu::packbits(params, order, context);
}

/// Segment s, x[indptr[s] : indptr[s + 1]], packed by itself into output[packed_indptr[s] : packed_indptr[s + 1]].
///   x              [n]                  boolean or u8, contiguous
///   indptr         [num_segments + 1]   i32 or i64, rising from 0 to at most n, contiguous
///   output         [size]               u8, contiguous. What packed_indptr's last entry needs, or any upper bound of it such as
///                                       n / 8 + num_segments: entries behind are left alone, and nothing is written past size
///   packed_indptr  [num_segments + 1]   i32, contiguous, written: sums of packed_size(segment's length)
inline void segment_packbits(const TensorView& x, const TensorView& indptr, const TensorView& output, const TensorView& packed_indptr,
                             BitOrder order = BitOrder::big, const Context& context = {}) {
  const Check check("segment_packbits");
  check.rank("x", x, 1);
  check.dtype("x", x, {DType::boolean, DType::u8});
  check.contiguous("x", x);
  check.device("x", x, context.device);
  check.rank("indptr", indptr, 1);
  check.dtype("indptr", indptr, {DType::i32, DType::i64});
  check.that(indptr.size(0) >= 1, "indptr", "num_segments + 1 entries", "none");
  check.contiguous("indptr", indptr);
  check.device("indptr", indptr, context.device);
  check.rank("output", output, 1);
  check.dtype("output", output, DType::u8);
  check.contiguous("output", output);
  check.device("output", output, context.device);
  check.shape("packed_indptr", packed_indptr, {{"num_segments + 1", indptr.size(0)}});
  check.dtype("packed_indptr", packed_indptr, DType::i32);
  check.contiguous("packed_indptr", packed_indptr);
  check.device("packed_indptr", packed_indptr, context.device);
  check.that(!overlap(x, output), "output", "memory of its own", "memory that x lies in");
  check.that(!overlap(indptr, packed_indptr), "packed_indptr", "memory of its own", "memory that indptr lies in");

  PackbitsParams params;
  params.input = x.as<const uint8_t>();
  params.output = output.as<uint8_t>();
  params.num_bits = x.size(0);
  params.output_size = output.size(0);
  params.indptr = indptr.data;
  params.packed_indptr = packed_indptr.as<int32_t>();
  params.num_segments = int32_t(indptr.size(0) - 1);
  if (context.device.type == DeviceType::cpu) return cpu::segment_packbits(params, order, indptr.dtype);
  gpu::segment_packbits(params, order, indptr.dtype, context);
}

}  // namespace flashinfer
