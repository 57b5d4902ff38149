#include <bindings/attention_inputs.hpp>

#include <cmath>
#include <cstring>

namespace flashinfer::bindings {
namespace {

/// What a scale is on the host: a number, or a tensor of one element, which is read.
float number_of(const char* op, const char* argument, nb::handle scale) {
  const auto finite = [&](double value) {
    Check(op).that(std::isfinite(value), argument, "a finite number", [&] { return std::to_string(value); });
    return float(value);
  };
  if (PyFloat_CheckExact(scale.ptr())) return finite(PyFloat_AS_DOUBLE(scale.ptr()));
  nb::object number = nb::hasattr(scale, "item") ? scale.attr("item")() : nb::borrow(scale);
  const double value = PyFloat_AsDouble(number.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw nb::type_error((std::string(op) + ": " + argument + ": expected a number or a tensor of float32").c_str());
  }
  return finite(value);
}

TensorView without_dim(const TensorView& t, int dim, int64_t index) {
  TensorView view = t;
  view.data = t.as<char>() + index * t.strides[dim] * size_of(t.dtype);
  for (int i = dim; i + 1 < t.ndim; ++i) view.shape[i] = t.shape[i + 1], view.strides[i] = t.strides[i + 1];
  --view.ndim;
  return view;
}

TensorView swapped(TensorView t, int a, int b) {
  std::swap(t.shape[a], t.shape[b]);
  std::swap(t.strides[a], t.strides[b]);
  return t;
}

/// As [num_pages, page_size, num_kv_heads, head_dim]; caches of page size 1 may lack that dimension.
TensorView paged_view(TensorView t, bool hnd) {
  if (t.ndim == 3) return with_dim(t, 1);
  return hnd && t.ndim == 4 ? swapped(t, 1, 2) : t;
}

/// A scale: None, a number, which multiplies `factor`, or a tensor that the kernels read where it lies. One element on the host, or of
/// another dtype than float32, is a number too.
TensorView scale_of(Call& call, const char* op, const char* argument, nb::handle scale, float& factor) {
  if (scale.is_none()) return {};
  if (nb::hasattr(scale, "__dlpack__")) {
    const TensorView t = call.anywhere(argument, Tensor{nb::borrow(scale)});
    if (t.numel() != 1 || (t.dtype == DType::f32 && !t.is_cpu() && !call.is_on_cpu())) return t;
  }
  factor *= number_of(op, argument, scale);
  return {};
}

/// Scales of tokens, shaped as a cache without its last dimension, in the order of the NHD layout.
TensorView paged_scales(const TensorView& t, bool hnd, int32_t page_size) {
  if (t.ndim == 2 && page_size == 1) return with_dim(t, 1);
  return hnd && t.ndim == 3 ? swapped(t, 1, 2) : t;
}
TensorView ragged_scales(const TensorView& t, bool hnd) { return hnd && t.ndim == 2 ? swapped(t, 0, 1) : t; }

}  // namespace

DType dtype_of(const char* op, const char* argument, const std::string& name) {
  for (DType dtype : {DType::f16, DType::bf16, DType::f32, DType::e4m3, DType::e5m2})
    if (name == flashinfer::name_of(dtype)) return dtype;
  Check(op).fail(argument, "float16, bfloat16, float32, float8_e4m3fn or float8_e5m2", name);
}

TensorView with_dim(const TensorView& t, int dim) {
  TensorView view = t;
  for (int i = t.ndim; i > dim; --i) view.shape[i] = t.shape[i - 1], view.strides[i] = t.strides[i - 1];
  view.shape[dim] = 1, view.strides[dim] = dim + 1 <= t.ndim ? view.shape[dim + 1] * view.strides[dim + 1] : 1;
  ++view.ndim;
  return view;
}

TensorView flattened(const Check& check, const char* argument, const TensorView& t) {
  check.contiguous(argument, t);
  return TensorView(t.data, t.dtype, {t.numel()}, t.device);
}

void refuse_fp4(const char* op, const TensorView& k, const TensorView& v) {
  if (k.dtype == DType::u8 || v.dtype == DType::u8)
    throw Unsupported(std::string(op) + ": k: no kernel reads an NVFP4 (uint8) KV cache yet");
}

KeysValues paged_caches(Call& call, nb::handle caches, bool hnd) {
  KeysValues kv;
  if (PyTuple_Check(caches.ptr()) || PyList_Check(caches.ptr())) {
    if (PyObject_Length(caches.ptr()) != 2)
      Check("run").fail("paged_kv_cache", "a pair (k_cache, v_cache)", std::to_string(PyObject_Length(caches.ptr())) + " tensors");
    kv = {call.in("k", Tensor{nb::borrow(caches[0])}), call.in("v", Tensor{nb::borrow(caches[1])})};
  } else {
    TensorView both;
    try {
      both = call.in("paged_kv_cache", Tensor{nb::borrow(caches)});
    } catch (nb::builtin_exception& error) {  // TypeError: no tensor
      const std::string type = nb::cast<std::string>(nb::repr(nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(caches.ptr())))));
      throw nb::key_error(
          ("Unrecognized paged_kv_cache type " + type + ", expect a single tensor or a tuple of tensor. " + error.what()).c_str());
    }
    const Check check("run");
    check.rank("paged_kv_cache", both, 4, 5);
    check.that(both.shape[1] == 2, "paged_kv_cache", "keys and values stacked on dimension 1", [&] { return "shape " + shape_of(both); });
    kv = {without_dim(both, 1, 0), without_dim(both, 1, 1)};
  }
  refuse_fp4("run", kv.k, kv.v);
  return {paged_view(kv.k, hnd), paged_view(kv.v, hnd)};
}

TensorView ragged_view(const TensorView& t, bool hnd) { return hnd && t.ndim == 3 ? swapped(t, 0, 1) : t; }

void Scales::read(Call& call, const char* op, const char* q_name, AttentionArguments& args, bool hnd, int32_t page_size) const {
  const auto of_cache = [&](const TensorView& t) { return page_size ? paged_scales(t, hnd, page_size) : ragged_scales(t, hnd); };
  args.q_scale = scale_of(call, op, q_name, q, args.variant.sm_scale);
  args.k_scale = of_cache(scale_of(call, op, "k_scale", k, args.variant.sm_scale));
  args.v_scale = of_cache(scale_of(call, op, "v_scale", v, args.out_scale));
}

Variant::Variant(nb::handle given, AttentionArguments& args) {
  if (given.is_none()) return;
  const Check check("run");
  const auto text = [&](const char* key) -> std::string {
    nb::object value = nb::isinstance<nb::dict>(given) ? given.attr("get")(key) : nb::none();
    if (!nb::isinstance<nb::str>(value))
      check.fail("variant", R"({"name": str, "source": str, "functor": str, "params": bytes})", nb::cast<std::string>(nb::repr(given)));
    return nb::cast<std::string>(value);
  };
  user = {text("name"), text("source"), text("functor")};
  const nb::object params = given.attr("get")("params", nb::bytes("", 0));
  if (!nb::isinstance<nb::bytes>(params)) check.fail("variant", "params as bytes", nb::cast<std::string>(nb::repr(params)));
  const nb::bytes bytes = nb::borrow<nb::bytes>(params);
  check.that(bytes.size() <= sizeof(args.variant.user), "variant", "at most 96 bytes of params",
             [&] { return std::to_string(bytes.size()); });
  std::memcpy(args.variant.user, bytes.c_str(), bytes.size());
  args.user_variant = &user;
}

void set_numbers(const char* op, VariantParams& variant, int32_t head_dim_qk, bool rope, std::optional<double> sm_scale,
                 std::optional<double> soft_cap, std::optional<double> rope_scale, std::optional<double> rope_theta) {
  const Check check(op);
  variant.sm_scale = float(sm_scale ? *sm_scale : 1.0 / std::sqrt(double(max(head_dim_qk, int32_t(1)))));
  variant.soft_cap = float(soft_cap.value_or(0.0));
  const double scale = rope_scale.value_or(1.0), theta = rope_theta.value_or(1e4);
  check.that(scale > 0 && std::isfinite(scale), "rope_scale", "a positive number", [&] { return std::to_string(scale); });
  check.that(theta > 1 && std::isfinite(theta), "rope_theta", "a number above 1", [&] { return std::to_string(theta); });
  variant.rope_rcp_scale = float(1.0 / scale);
  variant.rope_log2_theta = rope ? float(std::log2(theta)) : 0.0f;
  check_variant(check, variant);
}

}  // namespace flashinfer::bindings
