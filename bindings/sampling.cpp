// Sampling, softmax over the vocabulary, filters of rows and chain speculative sampling, bound under FlashInfer's names and argument
// orders. What this library adds to them are keyword arguments at the end.
#include <bindings/module.hpp>
#include <flashinfer/sampling/renorm.hpp>
#include <flashinfer/sampling/sampling.hpp>
#include <flashinfer/sampling/softmax.hpp>
#include <flashinfer/sampling/speculative.hpp>

#include <nanobind/stl/tuple.h>

#include <tuple>

namespace flashinfer::bindings {
namespace {

/// As another dtype, in the tensor's own framework: for parameters that callers keep in the dtype that was at hand.
nb::object converted(nb::handle tensor, DType dtype) {
  const char* name = dtype == DType::f32 ? "float32" : "int32";
  if (nb::hasattr(tensor, "astype")) return tensor.attr("astype")(name);
  return tensor.attr("to")(nb::module_::import_("torch").attr(name));
}

/// A parameter of the rows: None (`otherwise`), a number, or a tensor of one a row.
template <class T>
RowArgument<T> read_parameter(Call& call, const char* op, const char* argument, const nb::object& object, T otherwise, nb::object& keep) {
  const Check check(op);
  if (object.is_none()) return otherwise;
  if constexpr (is_same_v<T, int32_t>) {
    if (PyLong_Check(object.ptr())) {
      int overflow = 0;
      const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
      check.that(overflow >= 0 && value >= (overflow > 0 ? value : 1), argument, "a number from 1 up", [&] { return text_of(object); });
      return overflow > 0 || value > INT32_MAX ? INT32_MAX : int32_t(value);
    }
  } else if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) {
    return float(PyFloat_AsDouble(object.ptr()));
  }
  TensorView view = call.in(argument, Tensor{object});
  constexpr DType kWanted = is_same_v<T, int32_t> ? DType::i32 : DType::f32;
  const bool integer = view.dtype == DType::i32 || view.dtype == DType::i64;
  const bool number = integer || view.dtype == DType::f64 || view.dtype == DType::f16 || view.dtype == DType::bf16;
  if (view.ndim == 1 && view.dtype != kWanted && (is_same_v<T, int32_t> ? integer : number)) {
    keep = converted(object, kWanted);
    view = call.in(argument, Tensor{keep});
  }
  return view;
}

/// What drawing seeds needs of torch, looked up once it has been imported; names that need not be made for every call.
struct Torch {
  nb::object tensor_type, default_generator, cuda, empty, int64;
  nb::str default_generators{"default_generators"}, get_offset{"get_offset"}, set_offset{"set_offset"}, initial_seed{"initial_seed"};

  static const Torch* get() {
    static const Torch* torch = nullptr;
    if (torch) return torch;
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
    if (!module) return nullptr;
    const nb::handle t(module);
    return torch = new Torch{t.attr("Tensor"), t.attr("default_generator"), t.attr("cuda"), t.attr("empty"), t.attr("int64")};
  }
};

/// What a call draws its seed from: None where neither a generator is given nor the tensors are torch's.
struct Generator {
  nb::object object;
  bool cuda = false;

  Generator(const Context& context, nb::handle input, const nb::object& given) : object(given) {
    const Torch* torch = Torch::get();
    if (!given.is_none()) {
      cuda = text_of(given.attr("device").attr("type")) == "cuda";
    } else if (torch && nb::isinstance(input, torch->tensor_type)) {
      cuda = context.device.type != DeviceType::cpu;
      object = cuda ? nb::object(torch->cuda.attr(torch->default_generators)[context.device.index]) : torch->default_generator;
    }
  }

  /// (seed, offset) of one call. A CUDA generator gives its seed and offset, and its offset moves on. Of a CPU generator, which has no
  /// offset, and of Python's where there is none, 63 random bits become the seed.
  std::pair<uint64_t, uint64_t> next() const {
    if (object.is_none()) return {nb::cast<uint64_t>(nb::module_::import_("random").attr("getrandbits")(63)), 0};
    const Torch* torch = Torch::get();
    if (cuda) {
      const uint64_t offset = nb::cast<uint64_t>(call(torch->get_offset));
      call(torch->set_offset, nb::int_(offset + 4).ptr());  // torch wants multiples of 4
      return {nb::cast<uint64_t>(call(torch->initial_seed)), offset};
    }
    const nb::object bits = torch->empty(nb::make_tuple(), "dtype"_a = torch->int64, "device"_a = "cpu");
    bits.attr("random_")("generator"_a = object);
    return {nb::cast<uint64_t>(bits.attr("item")()), 0};
  }

 private:
  /// A method, which no bound object is made for.
  nb::object call(const nb::str& method, PyObject* argument = nullptr) const {
    PyObject* result =
        argument ? PyObject_CallMethodOneArg(object.ptr(), method.ptr(), argument) : PyObject_CallMethodNoArgs(object.ptr(), method.ptr());
    if (!result) throw nb::python_error();
    return nb::steal(result);
  }
};

RowArgument<uint64_t> read_random(Call& call, const char* argument, const nb::object& object) {
  if (PyLong_Check(object.ptr())) {
    const uint64_t value = PyLong_AsUnsignedLongLongMask(object.ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    return value;
  }
  const TensorView view = call.anywhere(argument, Tensor{object});
  if (view.ndim == 0 && view.is_cpu() && view.dtype == DType::i64) return *view.as<uint64_t>();
  return view;
}

/// What a call draws with, and the tensor that it lies in, if it is torch's.
struct Random : SamplingSeed {
  nb::object tensor;
};

/// The seed and offset given, else those of the generator given, else those of the default one. While a CUDA graph is captured a generator
/// does not tell its offset, for every replay has another: then a kernel of torch's draws the seed.
Random read_seed(Call& call, nb::handle input, const nb::object& generator, const nb::object& seed, const nb::object& offset) {
  Random random;
  if (!seed.is_none()) {
    random.seed = read_random(call, "seed", seed);
    if (!offset.is_none()) random.offset = read_random(call, "offset", offset);
    return random;
  }
  const Generator source(call.context(), input, generator);
  try {
    const auto [next_seed, next_offset] = source.next();
    random.seed = next_seed, random.offset = next_offset;
  } catch (const nb::python_error&) {
    const Torch* torch = Torch::get();
    if (!torch || !nb::cast<bool>(torch->cuda.attr("is_current_stream_capturing")())) throw;
    random.tensor = torch->empty(nb::make_tuple(1), "dtype"_a = torch->int64, "device"_a = source.object.attr("device"));
    random.tensor.attr("random_")("generator"_a = source.object);
    random.seed = read_random(call, "seed", random.tensor);
  }
  if (!offset.is_none()) random.offset = read_random(call, "offset", offset);
  return random;
}

/// What is drawn from with what, and what else is asked for. Returns the tokens, or a tuple of them and of valid, logprobs, top_tokens and
/// top_logprobs, probs.
nb::object draw(const char* op, bool from_logits, const Tensor& input, const nb::object& temperature, const nb::object& top_k,
                const nb::object& top_p, const nb::object& min_p, const std::string& order, const std::optional<Tensor>& indices_given,
                const nb::object& generator, bool check_nan, const nb::object& seed, const nb::object& offset, bool return_valid,
                bool return_logprobs, int64_t num_top_logprobs, bool raw_logprobs, bool return_probs) {
  const Check check(op);
  if (order != "joint" && order != "top_k_first")
    throw InvalidArgument(op, "filter_apply_order", "Invalid filter_apply_order: " + order + ", expected 'top_k_first' or 'joint'");
  const RowValues values = from_logits ? RowValues::logits : RowValues::probs;
  const char* input_name = from_logits ? "logits" : "probs";
  Call call(op);
  const TensorView x = call.in(input_name, input), indices = call.in("indices", indices_given);
  check_rows(check, input_name, x, x.device);
  if (indices) check.rank("indices", indices, 1);
  nb::object keep[4];
  SamplingFilters filters;
  filters.temperature = read_parameter<float>(call, op, "temperature", temperature, 1.0f, keep[0]);
  filters.top_k = read_parameter<int32_t>(call, op, "top_k", top_k, 0, keep[1]);
  filters.top_p = read_parameter<float>(call, op, "top_p", top_p, 1.0f, keep[2]);
  filters.min_p = read_parameter<float>(call, op, "min_p", min_p, 0.0f, keep[3]);
  filters.joint = order == "joint";
  if (check_nan && nb::cast<bool>(nb::bool_(input.object.attr("__ne__")(input.object).attr("any")())))
    throw InvalidArgument(op, input_name, std::string("Input ") + input_name + " contains NaN.");
  check.in_range("num_top_logprobs", num_top_logprobs, int64_t(0), min(int64_t(kMaxTopLogprobs), x.shape[1]));

  const int64_t num_rows = indices ? indices.shape[0] : x.shape[0];
  SamplingOutputs views;
  Output outputs[6];
  int count = 0;
  const auto output = [&](DType dtype, std::initializer_list<int64_t> shape) {
    outputs[count] = call.out("samples", {}, dtype, shape);
    return outputs[count++].view;
  };
  views.tokens = output(indices && indices.dtype == DType::i64 ? DType::i64 : DType::i32, {num_rows});
  if (return_valid) views.valid = output(DType::boolean, {num_rows});
  if (return_logprobs) views.logprobs = output(DType::f32, {num_rows});
  if (num_top_logprobs > 0) {
    views.top_tokens = output(DType::i32, {num_rows, num_top_logprobs});
    views.top_logprobs = output(DType::f32, {num_rows, num_top_logprobs});
  }
  if (return_probs) views.probs = output(DType::f32, {num_rows, x.shape[1]});
  views.raw_logprobs = raw_logprobs;
  // Last: a call that is refused before leaves the generator as it was.
  const Random random = read_seed(call, input.object, generator, seed, offset);
  call.run([&](const Context& context) { flashinfer::sampling(values, x, indices, filters, random, views, context, op); });

  if (count == 1) return outputs[0].result().object;
  nb::object results = nb::steal(PyTuple_New(count));
  for (int i = 0; i < count; ++i) PyTuple_SET_ITEM(results.ptr(), i, outputs[i].result().object.release().ptr());
  return results;
}

Tensor softmax(const Tensor& logits, const nb::object& temperature, std::optional<bool> enable_pdl, const std::optional<Tensor>& out) {
  Call call("softmax", enable_pdl);
  const TensorView x = call.in("logits", logits);
  check_rows(Check("softmax"), "logits", x, x.device);
  nb::object keep;
  const RowArgument<float> t = read_parameter<float>(call, "softmax", "temperature", temperature, 1.0f, keep);
  const Output y = call.out("out", out, DType::f32, x.shape, x.ndim);
  call.run([&](const Context& context) { flashinfer::softmax(x, t, y.view, context); });
  return y.result();
}

Tensor top_p_renorm_probs(const Tensor& probs, const nb::object& top_p, bool, const std::optional<Tensor>& out) {
  Call call("top_p_renorm_probs");
  const TensorView x = call.in("probs", probs);
  check_rows(Check("top_p_renorm_probs"), "probs", x, x.device);
  nb::object keep;
  const RowArgument<float> p = read_parameter<float>(call, "top_p_renorm_probs", "top_p", top_p, 1.0f, keep);
  const Output y = call.out("out", out, DType::f32, x.shape, x.ndim);
  call.run([&](const Context& context) { flashinfer::top_p_renorm_probs(x, p, y.view, context); });
  return y.result();
}

using FilterTopK = void (*)(const TensorView& input, const RowArgument<int32_t>& top_k, const TensorView& output, const Context& context);

Tensor filter_top_k(const char* op, FilterTopK f, const char* input_name, const Tensor& input, const nb::object& top_k,
                    const std::optional<Tensor>& out) {
  Call call(op);
  const TensorView x = call.in(input_name, input);
  check_rows(Check(op), input_name, x, x.device);
  nb::object keep;
  const RowArgument<int32_t> k = read_parameter<int32_t>(call, op, "top_k", top_k, 0, keep);
  const Output y = call.out("out", out, x);
  call.run([&](const Context& context) { f(x, k, y.view, context); });
  return y.result();
}

std::tuple<Tensor, Tensor, Tensor> chain_speculative_sampling(const Tensor& draft_probs, const Tensor& draft_token_ids,
                                                              const Tensor& target_probs, const std::optional<Tensor>& accepted,
                                                              const std::optional<Tensor>& emitted, bool, const nb::object& generator,
                                                              const nb::object& seed, const nb::object& offset) {
  const char* op = "chain_speculative_sampling";
  const Check check(op);
  Call call(op);
  const TensorView draft = call.in("draft_probs", draft_probs), tokens = call.in("draft_token_ids", draft_token_ids),
                   target = call.in("target_probs", target_probs);
  check.rank("draft_probs", draft, 3);
  const int64_t batch_size = draft.shape[0];
  const Output out = call.out("output_token_ids", {}, DType::i32, {batch_size, draft.shape[1] + 1});
  Output counts[2] = {call.out("maybe_output_accepted_token_num", accepted, DType::i32, {batch_size}),
                      call.out("maybe_output_emitted_draft_token_num", emitted, DType::i32, {batch_size})};
  if (!accepted) counts[0].object.attr("__imul__")(0);
  if (!emitted) counts[1].object.attr("__imul__")(0);
  const Random random = read_seed(call, draft_probs.object, generator, seed, offset);
  call.run([&](const Context& context) {
    flashinfer::chain_speculative_sampling(draft, tokens, target, random, out.view, counts[0].view, counts[1].view, context);
  });
  return {out.result(), counts[0].result(), counts[1].result()};
}

const Family family{[](nb::module_& m) {
  m.def("_draw", &draw, "op"_a, "from_logits"_a, "input"_a.none(), "temperature"_a.none(), "top_k"_a.none(), "top_p"_a.none(),
        "min_p"_a.none(), "filter_apply_order"_a, "indices"_a.none(), "generator"_a.none(), "check_nan"_a, "seed"_a.none(),
        "offset"_a.none(), "return_valid"_a, "return_logprobs"_a, "num_top_logprobs"_a, "raw_logprobs"_a, "return_probs"_a);
  m.def("softmax", &softmax, "logits"_a, "temperature"_a = nb::none(), "enable_pdl"_a = nb::none(), "out"_a = nb::none(),
        R"(softmax(logits / temperature) over the last dimension, in float32.

logits: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. temperature: a number or [batch_size]; 0 gives all to
the largest logit, of equal ones to the first. out: float32, may be the logits themselves; made if None. A row of -inf gives zeros.)");
  m.def("top_p_renorm_probs", &top_p_renorm_probs, "probs"_a, "top_p"_a.none(), "is_deterministic"_a = false, "out"_a = nb::none(),
        R"(Keeps the smallest set of most probable tokens whose mass reaches top_p of the row's, and renormalises it, in float32.

probs: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. top_p: a number or [batch_size]. Of equal probabilities
the lower index is kept first. out: float32 or probs' dtype; made if None. The result never depends on timing or the batch.)");
  m.def(
      "top_k_renorm_probs",
      [](const Tensor& probs, const nb::object& top_k, const std::optional<Tensor>& out) {
        return filter_top_k("top_k_renorm_probs", flashinfer::top_k_renorm_probs, "probs", probs, top_k, out);
      },
      "probs"_a, "top_k"_a.none(), "out"_a = nb::none(),
      R"(Keeps the top_k most probable tokens of each row, exactly that many, and renormalises them, in probs' dtype.

probs: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. top_k: a number or [batch_size], of which 0 and less
keeps all. Of equal probabilities the lower index is kept first. out: may be probs itself; made if None.)");
  m.def(
      "top_k_mask_logits",
      [](const Tensor& logits, const nb::object& top_k, const std::optional<Tensor>& out) {
        return filter_top_k("top_k_mask_logits", flashinfer::top_k_mask_logits, "logits", logits, top_k, out);
      },
      "logits"_a, "top_k"_a.none(), "out"_a = nb::none(),
      R"(Keeps the top_k largest logits of each row, exactly that many, and makes the rest -inf.

As top_k_renorm_probs. NaN counts as the smallest of all and becomes -inf.)");
  m.def("chain_speculative_sampling", &chain_speculative_sampling, "draft_probs"_a, "draft_token_ids"_a, "target_probs"_a,
        "maybe_output_accepted_token_num"_a = nb::none(), "maybe_output_emitted_draft_token_num"_a = nb::none(), "deterministic"_a = true,
        "generator"_a = nb::none(), "seed"_a = nb::none(), "offset"_a = nb::none(),
        R"((output_token_ids, accepted_token_num, emitted_draft_token_num): which drafted tokens the target model accepts.

draft_probs: [batch_size, n, vocab_size] and target_probs: [batch_size, n + 1, vocab_size], float32. draft_token_ids: [batch_size, n],
int32 or int64, drawn from draft_probs. Token i is accepted with probability min(1, target / draft). output_token_ids, int32
[batch_size, n + 1], has the tokens before the first rejection, one more (from max(target - draft, 0), or from the last target), then
-1: tokens distributed as the target's own. The counts, int32 [batch_size], are added to where given: steps that accept by themselves,
and tokens before the first rejection. seed, offset, generator: as in sampling_from_probs.)");
}};

const Tuned sampling_kernels{"sampling", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_sampling(arch, add); }};
const Tuned softmax_kernels{"softmax", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_softmax(arch, add); }};
const Tuned renorm_kernels{"renorm", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_renorm(arch, add); }};
const Tuned speculative_kernels{"speculative", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_speculative(arch, add); }};

}  // namespace
}  // namespace flashinfer::bindings
