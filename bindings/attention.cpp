// Attention: AttentionPlan, a value that holds a plan and what it needs of the caller's memory, and attention of one request.
// The classes of decode.py and prefill.py are names and defaults over it: their run() is one call of AttentionPlan.run.
#include <bindings/attention_inputs.hpp>

#include <optional>
#include <string>
#include <vector>

#include <flashinfer/attention/attention.hpp>
#include <flashinfer/quantization/packbits.hpp>

namespace flashinfer::bindings {
namespace {

/// Are these arguments of plan() those of last time? Numbers and strings by value, None and dtypes by identity.
bool same(PyObject* a, PyObject* b) {
  if (a == b) return true;
  if (Py_TYPE(a) != Py_TYPE(b) || !(PyLong_CheckExact(a) || PyFloat_CheckExact(a) || PyUnicode_CheckExact(a))) return false;
  return PyObject_RichCompareBool(a, b, Py_EQ) == 1;
}
bool same_arguments(nb::tuple a, nb::tuple b) {
  const Py_ssize_t n = PyTuple_GET_SIZE(a.ptr());
  if (n != PyTuple_GET_SIZE(b.ptr())) return false;
  for (Py_ssize_t i = 0; i < n; ++i)
    if (!same(PyTuple_GET_ITEM(a.ptr(), i), PyTuple_GET_ITEM(b.ptr(), i))) return false;
  return true;
}
bool same_arguments(nb::dict a, nb::dict b) {
  if (PyDict_Size(a.ptr()) != PyDict_Size(b.ptr())) return false;
  Py_ssize_t position = 0;
  for (PyObject *key, *value; PyDict_Next(a.ptr(), &position, &key, &value);) {
    PyObject* other = PyDict_GetItem(b.ptr(), key);
    if (!other || !same(value, other)) return false;
  }
  return true;
}

/// The length arrays of a batch, as Python gave them.
struct Arrays {
  nb::object qo_indptr, kv_indptr, kv_indices, last_page_len;

  AttentionLengths read(Call& call, int32_t uniform_qo_len) const {
    const auto view = [&](const char* argument, const nb::object& o) {
      return o.is_valid() && !o.is_none() ? call.anywhere(argument, Tensor{o}) : TensorView();
    };
    AttentionLengths lengths;
    lengths.qo_indptr = view("qo_indptr", qo_indptr);
    lengths.kv_indptr = view("kv_indptr", kv_indptr);
    lengths.kv_indices = view("kv_indices", kv_indices);
    lengths.last_page_len = view("last_page_len", last_page_len);
    lengths.uniform_qo_len = uniform_qo_len;
    return lengths;
  }
};

struct Plan {
  PlannedAttention planned;
  mutable int64_t rows = 0;  // of q in the last run, for kernel()
  AttentionArguments args;   // sm_scale before q_scale and k_scale
  bool hnd = false;
  nb::object int_workspace;
  std::vector<nb::object> held;  // whose memory the plan reads
  Arrays arrays;                 // these too
  // What again() keeps of plan().
  AttentionProblem problem;
  AttentionPlanOptions options;
  AttentionLengths homes;
  int32_t uniform_qo_len = 1;
  nb::object float_workspace;
  bool grow_int_workspace = true;
  std::vector<int32_t> filled[3];
  bool remembers = false;
  nb::tuple asked;
  nb::dict asked_by_name;

  /// Host lengths of fewer requests than a captured buffer holds: requests without queries and keys follow.
  static void fill(TensorView& t, const TensorView& home, bool is_indptr, std::vector<int32_t>& memory) {
    if (!t || !home || !t.is_cpu() || t.ndim != 1 || home.ndim != 1 || t.shape[0] >= home.shape[0]) return;
    if (t.dtype != DType::i32 && t.dtype != DType::i64) return;
    int32_t last = is_indptr ? 0 : 1;
    memory.resize(size_t(home.shape[0]));
    for (int64_t i = 0; i < home.shape[0]; ++i) {
      const int64_t at = i * t.strides[0];
      if (i >= t.shape[0]) {
        memory[size_t(i)] = last;
        continue;
      }
      const int64_t value = t.dtype == DType::i32 ? t.as<const int32_t>()[at] : t.as<const int64_t>()[at];
      if (value != int32_t(value)) return;  // refused where all lengths are checked
      memory[size_t(i)] = int32_t(value);
      if (is_indptr) last = int32_t(value);
    }
    t = TensorView(memory.data(), DType::i32, {home.shape[0]});
  }

  /// Plans a batch. The plan at hand stays as it is where that fails.
  void make(Call& call, const TensorView& floats, Arrays&& given) {
    AttentionLengths lengths = given.read(call, uniform_qo_len);
    fill(lengths.qo_indptr, homes.qo_indptr, true, filled[0]);
    fill(lengths.kv_indptr, homes.kv_indptr, true, filled[1]);
    fill(lengths.last_page_len, homes.last_page_len, false, filled[2]);
    const Context& context = call.context();
    nb::object workspace = int_workspace;
    const auto int_workspace_of = [&](int64_t bytes) {
      nb::gil_scoped_acquire gil;
      if (workspace.is_valid()) {
        const TensorView mine = call.out("int_workspace", Tensor{workspace});
        if (!grow_int_workspace || mine.numel() * size_of(mine.dtype) >= bytes) return mine;
      }
      int64_t size = 1 << 14;
      while (size < bytes) size *= 2;  // so that growing batches seldom ask for more
      Output grown = call.out("int_workspace", {}, DType::u8, {size});
      workspace = grown.object;
      return grown.view;
    };
    PlannedAttention made;
    {
      nb::gil_scoped_release release;
      made = plan_attention(problem, lengths, homes, floats, int_workspace_of, options, context);
    }
    planned = made;
    rows = 0;
    int_workspace = std::move(workspace);
    arrays = std::move(given);
  }

  /// Do arrays on the device lie where captured kernels read them? Others are copied there first.
  bool in_place(Call& call, const Arrays& given) const {
    const AttentionLengths lengths = given.read(call, uniform_qo_len);
    const auto here = [](const TensorView& t, const TensorView& home) {
      return !t || t.is_cpu() || !home || (t.data == home.data && t.shape[0] == home.shape[0]);
    };
    return here(lengths.qo_indptr, homes.qo_indptr) && here(lengths.kv_indptr, homes.kv_indptr) &&
           here(lengths.kv_indices, homes.kv_indices) && here(lengths.last_page_len, homes.last_page_len);
  }

  /// From now on again() may plan for these arguments. What can change behind our back is not remembered.
  void remember(nb::tuple arguments, nb::dict by_name) {
    forget();
    const auto may_change = [](nb::handle x) { return nb::hasattr(x, "__dlpack__") || nb::hasattr(x, "__array__"); };
    for (nb::handle x : arguments)
      if (may_change(x)) return;
    for (auto [key, x] : by_name)
      if (may_change(x)) return;
    asked = arguments, asked_by_name = by_name;
    remembers = true;
    if (options.reusable) grow_int_workspace = false;  // captured kernels have its address
  }
  void forget() { remembers = false; }

  /// Another batch for the arguments of last time: nothing is parsed, looked up or allocated. False where they are not the same, or where
  /// the batch is refused: the plan is as it was, and plan() tells why.
  bool again(nb::handle qo_indptr, nb::handle kv_indptr, nb::handle kv_indices, nb::handle last_page_len, nb::tuple arguments,
             nb::dict by_name) {
    if (kv_indptr.is_none() || !remembers || !same_arguments(arguments, asked) || !same_arguments(by_name, asked_by_name)) return false;
    Call call("plan");
    const TensorView floats = call.out("float_workspace", Tensor{float_workspace});
    Arrays given{nb::borrow(qo_indptr), nb::borrow(kv_indptr), nb::borrow(kv_indices), nb::borrow(last_page_len)};
    if (options.reusable && !in_place(call, given)) return false;
    try {
      make(call, floats, std::move(given));
    } catch (const InvalidArgument&) {
      return false;
    } catch (const nb::builtin_exception&) {  // TypeError: no tensor
      return false;
    }
    return true;
  }

  /// In place of what plan() said, for the old forward(): numbers, and the mask, for which the plan is made again.
  void set_options(bool causal, int32_t window_left, bool rope, const OptionalTensor& alibi_slopes, std::optional<double> sm_scale,
                   std::optional<double> logits_soft_cap, std::optional<double> rope_scale, std::optional<double> rope_theta) {
    forget();
    Call call("forward");
    call.out("int_workspace", Tensor{int_workspace});
    if (rope && planned.backend == AttentionBackend::decode) {  // the generic kernel has RoPE
      problem.flags.rope = true, problem.backend = AttentionBackend::generic;
      make(call, call.out("float_workspace", Tensor{float_workspace}), Arrays(arrays));
    }
    args.alibi_slopes = call.in("alibi_slopes", alibi_slopes);
    if (alibi_slopes) held.push_back(alibi_slopes->object);
    set_numbers("forward", args.variant, planned.problem.head_dim_qk, rope, sm_scale, logits_soft_cap, rope_scale, rope_theta);
    call.run([&](const Context& context) { plan_mask(planned, causal, window_left, context); });
  }

  nb::object run_with(Call& call, const KeysValues& kv, const TensorView& q, const OptionalTensor& out, const OptionalTensor& lse,
                      bool return_lse, const Scales& scales, const OptionalTensor& sinks, nb::handle variant) const {
    const AttentionProblem& p = planned.problem;
    Check("run").rank("q", q, 3);
    AttentionArguments now = args;

    const char* const op = now.op = "run";
    scales.read(call, op, "q_scale", now, hnd, p.page_size);
    now.sinks = call.in("sinks", sinks);
    const Variant user(variant, now);
    Output output = call.out("out", out, p.out, {q.shape[0], p.num_qo_heads, p.head_dim_vo});
    Output logsumexp;
    if (lse || return_lse) logsumexp = call.out("lse", lse, DType::f32, {q.shape[0], p.num_qo_heads});
    rows = q.shape[0];
    const PlannedAttention mine = planned;  // another thread may plan again, once Python's lock is not held
    call.run([&](const Context& context) { attention(mine, q, kv.k, kv.v, output.view, logsumexp.view, now, context); });
    if (!return_lse) return output.result().object;
    return nb::make_tuple(output.result(), logsumexp.result());
  }

  nb::object run_paged(const Tensor& q, nb::handle paged_kv_cache, const OptionalTensor& out, const OptionalTensor& lse, bool return_lse,
                       nb::handle q_scale, nb::handle k_scale, nb::handle v_scale, const OptionalTensor& sinks,
                       std::optional<bool> enable_pdl, nb::handle variant) const {
    Call call("run", enable_pdl);
    const TensorView queries = call.in("q", q);
    return run_with(call, paged_caches(call, paged_kv_cache, hnd), queries, out, lse, return_lse, {q_scale, k_scale, v_scale}, sinks,
                    variant);
  }

  nb::object run_ragged(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& out, const OptionalTensor& lse,
                        bool return_lse, nb::handle q_scale, nb::handle k_scale, nb::handle v_scale, const OptionalTensor& sinks,
                        std::optional<bool> enable_pdl, nb::handle variant) const {
    Call call("run", enable_pdl);
    const TensorView queries = call.in("q", q), keys = call.in("k", k), values = call.in("v", v);
    refuse_fp4("run", keys, values);
    return run_with(call, {ragged_view(keys, hnd), ragged_view(values, hnd)}, queries, out, lse, return_lse, {q_scale, k_scale, v_scale},
                    sinks, variant);
  }

  /// What the last run took, or one of long queries would.
  const PlannedKernel& ran() const { return args.variant.rope_log2_theta > 0.0f ? planned : kernel_for(planned, rows); }
  /// The kernel that runs on a GPU, as errors and the cache name it.
  std::string kernel() const {
    if (planned.device.type == DeviceType::cpu) return "cpu";
    return ran().backend == AttentionBackend::decode ? text_of(ran().decode) : text_of(ran().config);
  }

  /// [.., .., .., q_tile, ...]: FlashInfer's callers look at the fourth.
  nb::list info() const {
    const AttentionPlan& p = planned.plan;
    nb::list list;
    for (int64_t x : {int64_t(p.batch_size), planned.total_qo_len, int64_t(p.max_workers), int64_t(p.q_tile), int64_t(p.kv_tile),
                      int64_t(p.max_slots), int64_t(p.batch_invariant), int64_t(p.cut_tiles)})
      list.append(x);
    return list;
  }
};

/// FlashInfer's names leave the choice to us: its kernels are not these.
AttentionBackend backend_of(const std::string& name) {
  for (AttentionBackend backend : {AttentionBackend::generic, AttentionBackend::decode})
    if (name == flashinfer::name_of(backend)) return backend;
  return AttentionBackend::automatic;
}

AttentionProblem problem_of(const std::string& q_dtype, const std::string& kv_dtype, const std::string& o_dtype, int32_t num_qo_heads,
                            int32_t num_kv_heads, int32_t head_dim_qk, int32_t head_dim_vo, int32_t page_size, bool causal,
                            int32_t window_left, int32_t max_qo_len, bool batch_invariant, int32_t cut_len, bool soft_cap, bool alibi,
                            bool custom_mask, bool rope, const std::string& backend) {
  AttentionProblem p;
  p.backend = backend_of(backend);
  if (kv_dtype == "u8") throw Unsupported("plan: kv_data_type: no kernel reads an NVFP4 (uint8) KV cache yet");
  p.q = dtype_of("plan", "q_data_type", q_dtype), p.kv = dtype_of("plan", "kv_data_type", kv_dtype);
  p.out = dtype_of("plan", "o_data_type", o_dtype);
  p.num_qo_heads = num_qo_heads, p.num_kv_heads = num_kv_heads;
  p.head_dim_qk = head_dim_qk, p.head_dim_vo = head_dim_vo;
  p.page_size = page_size;
  p.causal = causal, p.window_left = window_left;
  p.max_qo_len = max_qo_len;
  p.batch_invariant = batch_invariant, p.cut_len = cut_len;
  p.flags = {.soft_cap = soft_cap, .alibi = alibi, .custom_mask = custom_mask, .rope = rope};
  return p;
}

/// A plan, or with `workspace_only` the bytes (float, int) that it takes.
nb::object plan(const Tensor& float_workspace, const OptionalTensor& int_workspace, bool grow_int_workspace,
                const OptionalTensor& qo_indptr, const Tensor& kv_indptr, const OptionalTensor& kv_indices,
                const OptionalTensor& last_page_len, const OptionalTensor& qo_indptr_home, const OptionalTensor& kv_indptr_home,
                const OptionalTensor& kv_indices_home, const OptionalTensor& last_page_len_home, const OptionalTensor& custom_mask,
                const OptionalTensor& packed_custom_mask, const OptionalTensor& custom_mask_home, const std::string& q_data_type,
                const std::string& kv_data_type, const std::string& o_data_type, int32_t num_qo_heads, int32_t num_kv_heads,
                int32_t head_dim_qk, int32_t head_dim_vo, int32_t page_size, bool hnd, bool causal, int32_t window_left, int32_t max_qo_len,
                int32_t uniform_qo_len, bool batch_invariant, int32_t cut_len, bool rope, const OptionalTensor& alibi_slopes,
                std::optional<double> sm_scale, std::optional<double> logits_soft_cap, std::optional<double> rope_scale,
                std::optional<double> rope_theta, int32_t num_sms, bool reusable, int32_t least_kv_len, int32_t tile_qo_len,
                const std::string& backend, bool workspace_only) {
  Call call("plan");
  const Check check("plan");
  const TensorView floats = call.out("float_workspace", float_workspace);
  const auto object_of = [](const OptionalTensor& t) { return t ? t->object : nb::object(); };
  Arrays arrays{object_of(qo_indptr), kv_indptr.object, object_of(kv_indices), object_of(last_page_len)};
  const auto home = [&](const char* argument, const OptionalTensor& t) { return t ? call.out(argument, *t) : TensorView(); };
  AttentionLengths homes;
  homes.qo_indptr = home("qo_indptr_buf", qo_indptr_home);
  homes.kv_indptr = home("paged_kv_indptr_buf", kv_indptr_home);
  homes.kv_indices = home("paged_kv_indices_buf", kv_indices_home);
  homes.last_page_len = home("paged_kv_last_page_len_buf", last_page_len_home);
  const bool masked = custom_mask || packed_custom_mask;
  check.that(page_size > 0 || !kv_indices, "page_size", "at least 1", [&] { return std::to_string(page_size); });
  const AttentionProblem problem = problem_of(q_data_type, kv_data_type, o_data_type, num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo,
                                              page_size, causal, window_left, max_qo_len, batch_invariant, cut_len,
                                              logits_soft_cap.value_or(0.0) > 0.0, bool(alibi_slopes), masked, rope, backend);

  Plan made;
  made.hnd = hnd;
  set_numbers("plan", made.args.variant, head_dim_qk, rope, sm_scale, logits_soft_cap, rope_scale, rope_theta);
  made.args.alibi_slopes = call.in("alibi_slopes", alibi_slopes);
  const Context& context = call.context();
  const AttentionPlanOptions options{num_sms, reusable, least_kv_len, tile_qo_len, "plan"};
  if (workspace_only) {
    const AttentionWorkspace size = workspace_size(problem, arrays.read(call, uniform_qo_len), homes, options, context);
    // Never nothing: callers hand in the buffer that they allocate by it.
    return nb::make_tuple(max(size.float_bytes, WorkspaceLayout::kAlignment), size.int_bytes);
  }
  made.problem = problem, made.options = options, made.homes = homes, made.uniform_qo_len = uniform_qo_len;
  made.float_workspace = float_workspace.object, made.int_workspace = object_of(int_workspace);
  made.grow_int_workspace = grow_int_workspace;
  made.make(call, floats, std::move(arrays));
  prefetch(made.planned, context);  // a model that has just started has other kernels to build before attention

  if (masked) {
    const PlannedAttention& planned = made.planned;
    Output packed;
    if (packed_custom_mask) {
      packed.view = flattened(check, "packed_custom_mask", call.in("packed_custom_mask", *packed_custom_mask)),
      packed.object = packed_custom_mask->object;
      check.dtype("packed_custom_mask", packed.view, DType::u8);
      check.that(
          packed.view.numel() >= planned.mask_bytes, "packed_custom_mask",
          [&] { return std::to_string(planned.mask_bytes) + " bytes or more"; }, [&] { return std::to_string(packed.view.numel()); });
    } else {
      const TensorView mask = call.in("custom_mask", *custom_mask);
      check.that(
          mask.numel() == planned.mask_bits, "custom_mask",
          [&] { return "sum of qo_len * kv_len = " + std::to_string(planned.mask_bits) + " elements"; },
          [&] { return "shape " + shape_of(mask); });
      const TensorView target = home("custom_mask_buf", custom_mask_home);
      packed = custom_mask_home ? Output{flattened(check, "custom_mask_buf", target), custom_mask_home->object}
                                : call.out("custom_mask", {}, DType::u8, {planned.mask_bytes});
      check.dtype("custom_mask_buf", packed.view, DType::u8);
      check.that(
          packed.view.numel() >= planned.mask_bytes, "custom_mask_buf",
          [&] { return std::to_string(planned.mask_bytes) + " bytes or more"; }, [&] { return std::to_string(packed.view.numel()); });
      const int64_t entries = planned.plan.batch_size + 1;
      const TensorView elements(const_cast<int64_t*>(planned.mask_elements), DType::i64, {entries}, planned.device);
      const TensorView bytes(const_cast<int32_t*>(planned.mask_indptr), DType::i32, {entries}, planned.device);
      nb::gil_scoped_release release;
      segment_packbits(flattened(check, "custom_mask", mask), elements, packed.view, bytes, BitOrder::little, context);
    }
    made.args.custom_mask = packed.view;
    made.held.push_back(packed.object);
  }
  for (const OptionalTensor* t : {&qo_indptr_home, &kv_indptr_home, &kv_indices_home, &last_page_len_home, &alibi_slopes})
    if (*t) made.held.push_back((*t)->object);
  return nb::cast(std::move(made));
}

nb::object single(const std::string& op_name, const Tensor& q_tensor, const Tensor& k_tensor, const Tensor& v_tensor, bool hnd,
                  const OptionalTensor& custom_mask, const OptionalTensor& packed_custom_mask, bool causal, int32_t window_left, bool rope,
                  const OptionalTensor& alibi_slopes, std::optional<double> sm_scale, std::optional<double> logits_soft_cap,
                  std::optional<double> rope_scale, std::optional<double> rope_theta, nb::handle q_scale, nb::handle k_scale,
                  nb::handle v_scale, const OptionalTensor& sinks, const std::optional<std::string>& o_data_type, bool return_lse,
                  const OptionalTensor& out, const OptionalTensor& lse) {
  const char* const op = op_name.c_str();
  Call call(op);
  const Check check(op);
  TensorView q = call.in("q", q_tensor);
  const TensorView keys = call.in("k", k_tensor), values = call.in("v", v_tensor);
  const bool decode = op_name == "single_decode_with_kv_cache";
  check.rank("q", q, decode ? 2 : 3);
  check.rank("k", keys, 3);
  check.rank("v", values, 3);
  refuse_fp4(op, keys, values);
  for (const auto& [argument, t] :
       std::initializer_list<std::pair<const char*, const TensorView*>>{{"q", &q}, {"k", &keys}, {"v", &values}})
    check.dtype(argument, *t, {DType::f16, DType::bf16, DType::f32, DType::e4m3, DType::e5m2});
  if (decode) q = with_dim(q, 0);
  const TensorView k = ragged_view(keys, hnd), v = ragged_view(values, hnd);
  check.that(keys.shape[0] <= INT32_MAX && keys.shape[1] <= INT32_MAX && q.shape[0] <= INT32_MAX && q.shape[1] <= INT32_MAX, "k",
             "fewer than 2^31 tokens", [&] { return "shape " + shape_of(keys); });
  AttentionProblem p;
  p.q = q.dtype, p.kv = k.dtype;
  p.out = o_data_type ? dtype_of(op, "o_dtype", *o_data_type) : q.dtype;
  p.num_qo_heads = int32_t(q.shape[1]), p.num_kv_heads = int32_t(k.shape[1]);
  p.head_dim_qk = int32_t(min(q.shape[2], int64_t(INT32_MAX))), p.head_dim_vo = int32_t(min(v.shape[2], int64_t(INT32_MAX)));
  p.page_size = 0;
  p.causal = causal, p.window_left = window_left;
  p.max_qo_len = int32_t(max(q.shape[0], int64_t(1)));
  const bool masked = custom_mask || packed_custom_mask;
  p.flags = {.soft_cap = logits_soft_cap.value_or(0.0) > 0.0,
             .alibi = bool(alibi_slopes),
             .custom_mask = masked,
             .sinks = bool(sinks),
             .rope = rope};

  AttentionArguments args;
  args.op = op;
  set_numbers(op, args.variant, p.head_dim_qk, rope, sm_scale, logits_soft_cap, rope_scale, rope_theta);
  const char* const q_name = decode ? "q_scale" : "scale_q";
  Scales{q_scale, k_scale, v_scale}.read(call, op, q_name, args, hnd, 0);
  if (args.q_scale && args.q_scale.numel() != 1) check.shape(q_name, args.q_scale, {{"num_qo_heads", p.num_qo_heads}});
  args.alibi_slopes = call.in("alibi_slopes", alibi_slopes);
  args.sinks = call.in("sinks", sinks);
  const Context& context = call.context();
  // Before anything is allocated: the sizes depend on it.
  const AttentionWorkspace size = single_attention_workspace(p, int32_t(k.shape[0]), context, op);

  Output packed;
  if (packed_custom_mask) {
    packed.view = flattened(check, "packed_custom_mask", call.in("packed_custom_mask", *packed_custom_mask));
  } else if (custom_mask) {
    const TensorView mask = call.in("custom_mask", *custom_mask);
    check.that(
        mask.numel() == q.shape[0] * k.shape[0] && (mask.ndim != 2 || mask.shape[1] == k.shape[0]), "custom_mask",
        [&] {
          return "shape [qo_len=" + std::to_string(q.shape[0]) + ", kv_len=" + std::to_string(k.shape[0]) +
                 "], or its elements in one dimension";
        },
        [&] { return "shape " + shape_of(mask); });
    packed = call.out("custom_mask", {}, DType::u8, {packed_size(mask.numel())});
    packbits(flattened(check, "custom_mask", mask), packed.view, BitOrder::little, context);
  }
  args.custom_mask = packed.view;
  Output output, logsumexp;
  TensorView out_view, lse_view;
  const int64_t rows = q.shape[0], heads = q.shape[1], dim = v.shape[2];
  if (decode) {
    output = call.out("out", out, p.out, {heads, dim});
    if (out) check_output(check, "out", output.view, {heads, dim}, p.out, q.device);
    out_view = with_dim(output.view, 0);
  } else {
    output = call.out("out", out, p.out, {rows, heads, dim});
    out_view = output.view;
  }
  if (return_lse || lse) {
    if (decode) {
      logsumexp = call.out("lse", lse, DType::f32, {heads});
      if (lse) check_output(check, "lse", logsumexp.view, {heads}, DType::f32, q.device);
      lse_view = with_dim(logsumexp.view, 0);
    } else {
      logsumexp = call.out("lse", lse, DType::f32, {rows, heads});
      lse_view = logsumexp.view;
    }
  }
  const Output workspace = call.out("workspace", {}, DType::u8, {size.int_bytes + size.float_bytes});
  call.run([&](const Context& c) { single_attention(p, q, k, v, out_view, lse_view, args, workspace.view, c); });
  if (!return_lse) return output.result().object;
  return nb::make_tuple(output.result(), logsumexp.result());
}

/// ALiBi's slopes of num_heads heads, in the framework and on the device of `like`. Not for use inside a stream capture.
Tensor alibi_slopes(int32_t num_heads, const Tensor& like) {
  Call call("get_alibi_slopes");
  const Check check("get_alibi_slopes");
  check.in_range("n_heads", num_heads, 1, 1 << 20);
  call.in("like", like);
  std::vector<float> slopes;
  const int n = 1 << int(std::floor(std::log2(num_heads)));
  for (int i = 0; i < n; ++i) slopes.push_back(float(std::pow(2.0, -8.0 * (i + 1) / n)));
  for (int i = 0; i < num_heads - n; ++i) slopes.push_back(float(std::pow(2.0, -4.0 * (2 * i + 1) / n)));
  const Output output = call.out("slopes", {}, DType::f32, {num_heads});
  const Context& context = call.context();
  const size_t bytes = slopes.size() * sizeof(float);
  if (context.device.type == DeviceType::cpu)
    std::memcpy(output.view.data, slopes.data(), bytes);
  else
    context.kernels->copy_to_device(output.view.data, slopes.data(), bytes, context);
  return output.result();
}

const Tuned attention_kernels{"attention", [](Arch arch, const Tuned::Add& add) {
                                gpu::for_each_tuned_attention(arch, add);
                                gpu::for_each_tuned_decode(arch, add);
                                add(gpu::AttentionPlanConfig{});
                              }};

const Family family{[](nb::module_& m) {
  nb::class_<Plan>(m, "AttentionPlan", "A plan of attention: a value. It keeps alive the buffers that it lies in.")
      .def("run_paged", &Plan::run_paged, "q"_a, "paged_kv_cache"_a.none(), "out"_a.none(), "lse"_a.none(), "return_lse"_a,
           "q_scale"_a.none(), "k_scale"_a.none(), "v_scale"_a.none(), "sinks"_a.none(), "enable_pdl"_a.none(), "variant"_a.none())
      .def("run_ragged", &Plan::run_ragged, "q"_a, "k"_a, "v"_a, "out"_a.none(), "lse"_a.none(), "return_lse"_a, "q_scale"_a.none(),
           "k_scale"_a.none(), "v_scale"_a.none(), "sinks"_a.none(), "enable_pdl"_a.none(), "variant"_a.none())
      .def("again", &Plan::again, "qo_indptr"_a.none(), "kv_indptr"_a.none(), "kv_indices"_a.none(), "last_page_len"_a.none(),
           "arguments"_a, "by_name"_a)
      .def("remember", &Plan::remember, "arguments"_a, "by_name"_a)
      .def("set_options", &Plan::set_options, "causal"_a, "window_left"_a, "rope"_a, "alibi_slopes"_a.none(), "sm_scale"_a.none(),
           "logits_soft_cap"_a.none(), "rope_scale"_a.none(), "rope_theta"_a.none())
      .def_prop_ro("info", &Plan::info)
      .def_prop_ro("backend", [](const Plan& p) { return flashinfer::name_of(p.ran().backend); })
      .def_prop_ro("kernel", &Plan::kernel)
      .def_prop_ro("batch_size", [](const Plan& p) { return p.planned.plan.batch_size; })
      .def_prop_ro("total_qo_len", [](const Plan& p) { return p.planned.total_qo_len; })
      .def_prop_ro("max_qo_len", [](const Plan& p) { return p.planned.problem.max_qo_len; })
      .def_prop_ro("tile_qo_len", [](const Plan& p) { return p.planned.tile_qo_len; })
      .def_prop_ro("sm_scale", [](const Plan& p) { return p.args.variant.sm_scale; })
      .def_prop_ro("int_workspace", [](const Plan& p) { return p.int_workspace; });
  m.def("_plan_attention", &plan, "float_workspace"_a, nb::kw_only(), "int_workspace"_a.none() = nb::none(), "grow_int_workspace"_a = true,
        "qo_indptr"_a.none() = nb::none(), "kv_indptr"_a, "kv_indices"_a.none() = nb::none(), "last_page_len"_a.none() = nb::none(),
        "qo_indptr_home"_a.none() = nb::none(), "kv_indptr_home"_a.none() = nb::none(), "kv_indices_home"_a.none() = nb::none(),
        "last_page_len_home"_a.none() = nb::none(), "custom_mask"_a.none() = nb::none(), "packed_custom_mask"_a.none() = nb::none(),
        "custom_mask_home"_a.none() = nb::none(), "q_data_type"_a, "kv_data_type"_a, "o_data_type"_a, "num_qo_heads"_a, "num_kv_heads"_a,
        "head_dim_qk"_a, "head_dim_vo"_a, "page_size"_a, "hnd"_a, "causal"_a = false, "window_left"_a = -1, "max_qo_len"_a = 0,
        "uniform_qo_len"_a = 1, "batch_invariant"_a = false, "cut_len"_a = 0, "rope"_a = false, "alibi_slopes"_a.none() = nb::none(),
        "sm_scale"_a.none() = nb::none(), "logits_soft_cap"_a.none() = nb::none(), "rope_scale"_a.none() = nb::none(),
        "rope_theta"_a.none() = nb::none(), "num_sms"_a = 0, "reusable"_a = false, "least_kv_len"_a = 0, "tile_qo_len"_a = 0,
        "backend"_a = "auto", "workspace_only"_a = false);
  m.def("_single_attention", &single, "op"_a, "q"_a.none(), "k"_a.none(), "v"_a.none(), nb::kw_only(), "hnd"_a = false,
        "custom_mask"_a.none() = nb::none(), "packed_custom_mask"_a.none() = nb::none(), "causal"_a = false, "window_left"_a = -1,
        "rope"_a = false, "alibi_slopes"_a.none() = nb::none(), "sm_scale"_a.none() = nb::none(), "logits_soft_cap"_a.none() = nb::none(),
        "rope_scale"_a.none() = nb::none(), "rope_theta"_a.none() = nb::none(), "q_scale"_a.none() = nb::none(),
        "k_scale"_a.none() = nb::none(), "v_scale"_a.none() = nb::none(), "sinks"_a.none() = nb::none(),
        "o_data_type"_a.none() = nb::none(), "return_lse"_a = false, "out"_a.none() = nb::none(), "lse"_a.none() = nb::none());
  m.def("_alibi_slopes", &alibi_slopes, "n_heads"_a, "like"_a);
}};

}  // namespace
}  // namespace flashinfer::bindings
