// What Python hands to attention, as the arguments of attention.hpp: caches in any layout, scales, variants. Checked as far as it is
// Python's; shapes and dtypes are the C++ API's to check.
#pragma once

#include <optional>
#include <string>

#include <bindings/module.hpp>
#include <flashinfer/attention/attention.hpp>

namespace flashinfer::bindings {

using OptionalTensor = std::optional<Tensor>;

DType dtype_of(const char* op, const char* argument, const std::string& name);

/// The tensor with a dimension of one element more.
TensorView with_dim(const TensorView& t, int dim);
/// The elements of a contiguous tensor, in one dimension.
TensorView flattened(const Check& check, const char* argument, const TensorView& t);

struct KeysValues {
  TensorView k, v;
};
/// (k, v) or one tensor stacked on dimension 1, as [num_pages, page_size, num_kv_heads, head_dim]. `hnd`: they have heads before tokens.
KeysValues paged_caches(Call& call, nb::handle caches, bool hnd);
/// As [num_tokens, num_kv_heads, head_dim].
TensorView ragged_view(const TensorView& t, bool hnd);
void refuse_fp4(const char* op, const TensorView& k, const TensorView& v);

/// What the caller gave for q, k and v.
struct Scales {
  nb::handle q, k, v;

  /// page_size: 0 for keys that are not in pages.
  void read(Call& call, const char* op, const char* q_name, AttentionArguments& args, bool hnd, int32_t page_size) const;
};

/// {"name": of the file in compile errors, "source": C++ text, "functor": its type, "params": its bytes}.
struct Variant {
  gpu::UserVariant user;

  Variant(nb::handle given, AttentionArguments& args);
};

/// The numbers of a variant, in the units of the Python API.
void set_numbers(const char* op, VariantParams& variant, int32_t head_dim_qk, bool rope, std::optional<double> sm_scale,
                 std::optional<double> soft_cap, std::optional<double> rope_scale, std::optional<double> rope_theta);

}  // namespace flashinfer::bindings
