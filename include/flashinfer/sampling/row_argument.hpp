// Host only. What sampling ops take one of for all rows, or one a row: temperature, top_k, top_p, min_p, seed, offset.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

/// A value, or a dense tensor [batch_size] on the op's device (f32; i32 for top_k; i64 for seed and offset), read when the kernel runs.
/// The texts of errors are FlashInfer's, which callers match.
template <class T>
struct RowArgument {
  T value{};
  TensorView tensor;

  RowArgument(T value) : value(value) {}
  RowArgument(const TensorView& tensor) : tensor(tensor) {}

  /// A filter's parameter. With `indices`, num_inputs entries belong to the rows of the input where num_rows would be another number.
  RowParam<T> param(const Check& check, const char* argument, int64_t num_rows, int64_t num_inputs, Device device) const {
    static_assert(is_same_v<T, float> || is_same_v<T, int32_t>);
    RowParam<T> p;
    p.value = value;
    if (!tensor) return p;
    const std::string of = std::string(" for the sampling parameter ") + argument + ", but got a ";
    if (tensor.ndim == 0)
      throw InvalidArgument(check.op, argument, "Expected a 1D tensor of shape (batch_size,) or scalar" + of + "0-dimensional tensor");
    if (tensor.ndim > 1)
      throw InvalidArgument(check.op, argument, "Expected a 1D tensor or scalar" + of + std::to_string(tensor.ndim) + "D tensor");
    const int64_t length = tensor.shape[0];
    if (length != num_rows && length != num_inputs)
      throw InvalidArgument(check.op, argument,
                            std::string("Sampling parameter tensor batch size mismatch: ") + argument + " has " + std::to_string(length) +
                                " entries, the batch " + std::to_string(num_rows));
    check.dtype(argument, tensor, is_same_v<T, float> ? DType::f32 : DType::i32);
    check.inner_stride(argument, tensor);
    check.device(argument, tensor, device);
    p.values = tensor.as<const T>();
    p.of_input = length != num_rows;
    return p;
  }
  /// A seed or an offset: one entry, or one a row.
  RowParam<T> random(const Check& check, const char* argument, int64_t num_rows, Device device) const {
    static_assert(is_same_v<T, uint64_t>);
    RowParam<T> p;
    p.value = value;
    if (!tensor) return p;
    const std::string name = std::string(argument) + " tensor ";
    if (tensor.device != device)
      throw InvalidArgument(check.op, argument, name + "must be on " + to_string(device) + ", it is on " + to_string(tensor.device));
    if (tensor.dtype != DType::i64)
      throw InvalidArgument(check.op, argument, name + "must be int64/uint64, it is " + to_string(tensor.dtype));
    if (tensor.ndim != 1) throw InvalidArgument(check.op, argument, name + "must be 1D, it has shape " + shape_of(tensor));
    if (tensor.shape[0] != 1 && tensor.shape[0] != num_rows)
      throw InvalidArgument(check.op, argument,
                            name + "length must be 1 or " + std::to_string(num_rows) + ", it is " + std::to_string(tensor.shape[0]));
    check.inner_stride(argument, tensor);
    p.values = tensor.as<const T>();
    p.one_for_all = tensor.shape[0] == 1 && num_rows != 1;
    return p;
  }
};

/// The rows of logits or probabilities that an op reads.
inline void check_rows(const Check& check, const char* argument, const TensorView& t, Device device) {
  check.rank(argument, t, 2);
  check.dtype(argument, t, {DType::f32, DType::f16, DType::bf16});
  check.inner_stride(argument, t);
  check.device(argument, t, device);
  check.that(t.shape[0] <= INT32_MAX, argument, "at most 2^31 - 1 rows", [&] { return std::to_string(t.shape[0]); });
  check.that(t.shape[1] >= 1 && t.shape[1] <= kMaxVocabSize, argument, "a vocabulary of 1 to 2^22 tokens",
             [&] { return std::to_string(t.shape[1]); });
}
/// Rows of the same shape that an op writes, over the input itself or to memory of their own.
inline void check_out_rows(const Check& check, const char* argument, const TensorView& t, const char* input_name, const TensorView& input) {
  check.same_shape(argument, t, input_name, input);
  check.inner_stride(argument, t);
  check.writable(argument, t);
  check.device(argument, t, input.device);
  check.that(same_memory(input, t) || !overlap(input, t), argument, "the input itself or memory of its own",
             "memory that overlaps the input");
}

}  // namespace flashinfer
