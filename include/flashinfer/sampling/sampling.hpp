// Draws one token for each row of logits or probabilities, with filters, and what engines ask about the draw, in one pass over the row.
//
//   values        logits [num_inputs, vocab_size], or probabilities, which need not sum to 1     f32, f16 or bf16, row stride free
//   indices       [num_rows]: row r draws from input row indices[r]; without it from row r       i32 or i64, optional
//   tokens        [num_rows]                                                                     i32 or i64
//
// What is kept, drawn and reported, ties, NaN and empty rows included, is defined in sampling_params.hpp: the same on every machine,
// whatever the batch. Outputs are memory of their own.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/cpu/sampling.hpp>
#include <flashinfer/sampling/gpu/sampling.hpp>
#include <flashinfer/sampling/row_argument.hpp>

namespace flashinfer {

struct SamplingFilters {
  RowArgument<float> temperature = 1.0f;  // of logits; 0 draws the first of the order
  RowArgument<int32_t> top_k = 0;         // 0: off
  RowArgument<float> top_p = 1.0f;
  RowArgument<float> min_p = 0.0f;
  bool joint = false;  // top_p of the whole row's mass; otherwise of what top_k and min_p keep
};

/// The draw is a function of these, the token and, unless every row has its own seed, the number of the row.
struct SamplingSeed {
  RowArgument<uint64_t> seed = uint64_t(0), offset = uint64_t(0);
};

struct SamplingOutputs {
  TensorView tokens;
  // Each may be left out:
  TensorView valid = {};     // [num_rows] boolean: no NaN in the row, and something to draw from; if not, the token is 0
  TensorView logprobs = {};  // [num_rows] f32: of the token drawn
  TensorView top_tokens = {}, top_logprobs = {};  // [num_rows, n] i32, f32: the n most probable tokens of the row, in order; both or none
  TensorView probs = {};                          // [num_rows, vocab_size] f32: the distribution drawn from
  bool raw_logprobs = false;                      // log-probabilities of the row before filters
};

inline void sampling(RowValues values, const TensorView& input, const TensorView& indices, const SamplingFilters& filters,
                     const SamplingSeed& random, const SamplingOutputs& outputs, const Context& context = {}, const char* op = "sampling") {
  const Check check(op);
  const char* input_name = values == RowValues::logits ? "logits" : "probs";
  const Device device = context.device;
  check_rows(check, input_name, input, device);
  const int64_t num_inputs = input.shape[0], vocab_size = input.shape[1];
  if (indices) {
    check.rank("indices", indices, 1);
    check.dtype("indices", indices, {DType::i32, DType::i64});
    check.inner_stride("indices", indices);
    check.device("indices", indices, device);
    check.that(num_inputs > 0 || indices.shape[0] == 0, "indices", "rows of the input", "no such row: it is empty");
    check.that(indices.shape[0] <= INT32_MAX, "indices", "at most 2^31 - 1 entries", [&] { return std::to_string(indices.shape[0]); });
  }
  const int64_t num_rows = indices ? indices.shape[0] : num_inputs;

  SamplingParams p;
  p.temperature = filters.temperature.param(check, "temperature", num_rows, num_inputs, device);
  p.top_k = filters.top_k.param(check, "top_k", num_rows, num_inputs, device);
  p.top_p = filters.top_p.param(check, "top_p", num_rows, num_inputs, device);
  p.min_p = filters.min_p.param(check, "min_p", num_rows, num_inputs, device);
  check.that(filters.temperature.value >= 0, "temperature", "a number from 0 up",
             [&] { return std::to_string(filters.temperature.value); });
  check.that(filters.top_k.value >= 0, "top_k", "a number from 1 up, or 0 for none", [&] { return std::to_string(filters.top_k.value); });
  check.that(filters.top_p.value >= 0, "top_p", "a number from 0 to 1", [&] { return std::to_string(filters.top_p.value); });
  check.that(filters.min_p.value >= 0 && filters.min_p.value <= 1, "min_p", "a number from 0 to 1",
             [&] { return std::to_string(filters.min_p.value); });
  p.seed = random.seed.random(check, "seed", num_rows, device);
  p.offset = random.offset.random(check, "offset", num_rows, device);

  check.shape("samples", outputs.tokens, {{"batch_size", num_rows}});
  check.dtype("samples", outputs.tokens, {DType::i32, DType::i64});
  check.contiguous("samples", outputs.tokens);
  check.device("samples", outputs.tokens, device);
  const auto optional = [&](const char* name, const TensorView& t, DType dtype, std::initializer_list<Extent> shape, bool dense = true) {
    if (!t) return;
    check.shape(name, t, shape);
    check.dtype(name, t, dtype);
    dense ? check.contiguous(name, t) : (check.inner_stride(name, t), check.writable(name, t));
    check.device(name, t, device);
    check.that(!overlap(t, input), name, "memory of its own", "memory that the input lies in");
  };
  optional("valid", outputs.valid, DType::boolean, {{"batch_size", num_rows}});
  optional("logprobs", outputs.logprobs, DType::f32, {{"batch_size", num_rows}});
  check.that(bool(outputs.top_tokens) == bool(outputs.top_logprobs), "top_logprobs", "top_tokens and top_logprobs, or neither",
             "one of them");
  if (outputs.top_tokens) {
    check.rank("top_tokens", outputs.top_tokens, 2);
    check.in_range("top_logprobs", outputs.top_tokens.shape[1], int64_t(0), min(int64_t(kMaxTopLogprobs), vocab_size));
    optional("top_tokens", outputs.top_tokens, DType::i32, {{"batch_size", num_rows}, {"n"}});
    optional("top_logprobs", outputs.top_logprobs, DType::f32, {{"batch_size", num_rows}, {"n", outputs.top_tokens.shape[1]}});
  }
  optional("probs_out", outputs.probs, DType::f32, {{"batch_size", num_rows}, {"vocab_size", vocab_size}}, false);
  if (num_rows == 0) return;

  p.input = input.data;
  p.input_stride = input.strides[0];
  p.num_rows = num_rows;
  p.num_inputs = num_inputs;
  p.vocab_size = int32_t(vocab_size);
  if (indices) {
    p.indices = indices.data;
    p.indices_64 = indices.dtype == DType::i64;
  }
  p.joint = filters.joint;
  p.tokens = outputs.tokens.data;
  p.tokens_64 = outputs.tokens.dtype == DType::i64;
  p.valid = outputs.valid.as<bool>();
  p.logprob = outputs.logprobs.as<float>();
  if (outputs.top_tokens) {
    p.num_top = int32_t(outputs.top_tokens.shape[1]);
    p.top_tokens = outputs.top_tokens.as<int32_t>();
    p.top_logprobs = outputs.top_logprobs.as<float>();
  }
  if (outputs.probs) {
    p.probs = outputs.probs.as<float>();
    p.probs_stride = outputs.probs.strides[0];
  }
  p.raw_logprobs = outputs.raw_logprobs;

  if (device.type == DeviceType::cpu) return cpu::sampling(p, values, input.dtype);
  gpu::sampling(p, values, input.dtype, context);
}

}  // namespace flashinfer
