// Host only. Attention on a GPU by one of its kernels, generic or decode: one launch of the plan's workers, and one to make a plan where
// the lengths are.
#pragma once

#include <string>

#include <flashinfer/attention/gpu/attention_tuning.hpp>
#include <flashinfer/attention/gpu/decode_tuning.hpp>
#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

/// A user's variant: C++ source that defines a functor with the members of BuiltinVariant (attention/variant.hpp). It is compiled in
/// front of the kernel; its own parameters are the bytes of VariantParams::user.
struct UserVariant {
  std::string name;  // what compile errors call the source
  std::string text;
  std::string functor;  // the type, as the kernel's template argument
};

namespace detail {

/// Elements of keys and values that are copied at a time.
inline int64_t kv_vector(const AttentionConfig&) { return 8; }
inline int64_t kv_vector(const DecodeConfig& c) { return 16 / size_of(c.kv); }

/// Rows are copied in vectors: why that can not be, or null.
template <class Config>
const char* why_unaligned(const AttentionParams& p, const Config& c) {
  const auto unaligned = [](const void* data, int64_t element_bytes, int64_t vector_bytes, std::initializer_list<int64_t> strides) {
    bool odd = uintptr_t(data) % uintptr_t(vector_bytes) != 0;
    for (int64_t stride : strides) odd = odd || stride * element_bytes % vector_bytes != 0;
    return odd;
  };
  const int64_t q = size_of(c.q), kv = size_of(c.kv), out = size_of(c.out);
  if (unaligned(p.q, q, 8 * q, {p.q_stride_token, p.q_stride_head})) return "q: address and strides must be multiples of 8 elements";
  if (unaligned(p.kv.k, kv, kv_vector(c) * kv, {p.kv.k_stride_page, p.kv.k_stride_token, p.kv.k_stride_head}))
    return kv_vector(c) == 8 ? "k: address and strides must be multiples of 8 elements"
                             : "k: address and strides must be multiples of 16 elements";
  if (unaligned(p.kv.v, kv, kv_vector(c) * kv, {p.kv.v_stride_page, p.kv.v_stride_token, p.kv.v_stride_head}))
    return kv_vector(c) == 8 ? "v: address and strides must be multiples of 8 elements"
                             : "v: address and strides must be multiples of 16 elements";
  if (unaligned(p.out, out, 4 * out, {p.out_stride_token, p.out_stride_head}))
    return "out: address and strides must be multiples of 4 elements";
  return nullptr;
}

/// The decode kernel tells places in the cache apart by 32 bits: why that can not be, or null.
inline const char* why_too_far(const AttentionParams&, const AttentionConfig&) { return nullptr; }
inline const char* why_too_far(const AttentionParams& p, const DecodeConfig& c) {
  const int64_t page_size = max(p.plan.page_size, int32_t(0)), bytes = size_of(c.kv);
  const auto last = [&](int64_t page, int64_t token) {
    return page_size ? p.kv.num_pages * page + page_size * token : p.kv.num_pages * token;
  };
  const int64_t span = max(last(p.kv.k_stride_page, p.kv.k_stride_token), last(p.kv.v_stride_page, p.kv.v_stride_token)) * bytes;
  return span / stride_unit(p.kv, int32_t(bytes)) >> 32 ? "k: the cache spans more than 2^32 multiples of what its strides have in common"
                                                        : nullptr;
}

/// Names Kernel<config, functor>.
template <class Config>
struct UserKernel {
  const Config* config;
  const UserVariant* variant;

  KernelId id() const {
    KernelId id = kernel_id(*config);
    id.hash = mix(mix(id.hash, hash_text(variant->text.c_str())), hash_text(variant->functor.c_str()));
    id.config = this;
    id.text = [](const void* p) -> KernelText {
      const UserKernel& kernel = *static_cast<const UserKernel*>(p);
      return {Config::kHeader, std::string(Config::kKernel) + "<" + text_of(*kernel.config) + ", " + kernel.variant->functor + ">",
              kernel.variant->name, kernel.variant->text};
    };
    return id;
  }
};

}  // namespace detail

/// Why a kernel can not read or write tensors that lie like these, or null.
template <class Config>
const char* why_unfit(const AttentionParams& params, const Config& config) {
  if (const char* reason = detail::why_unaligned(params, config)) return reason;
  return detail::why_too_far(params, config);
}

/// Runs a plan. The plan was made for this config: its q_tile, kv_tile and number of output parts. `variant` replaces the built-in one.
/// Throws Unsupported for rows that are not aligned to the vectors that they are copied in.
template <class Config>
void attention(const AttentionParams& params, const Config& config, const Context& context, const UserVariant* variant = nullptr) {
  const AttentionPlan& plan = params.plan;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  if (const char* reason = why_invalid(config, device))
    throw Unsupported("attention: " + std::string(reason) + " (" + text_of(config) + " on " + to_string(device.arch) + ")");
  if (plan.q_tile != config.q_tile || plan.kv_tile != config.kv_tile || plan.num_vo_tiles != vo_tiles(config) ||
      (plan.page_size > 0) != config.paged)
    throw InvalidArgument("attention", "plan", "one made for " + text_of(config),
                          "q_tile " + std::to_string(plan.q_tile) + ", kv_tile " + std::to_string(plan.kv_tile) + ", num_vo_tiles " +
                              std::to_string(plan.num_vo_tiles) + ", page_size " + std::to_string(plan.page_size));
  if (const char* reason = why_unfit(params, config)) throw Unsupported("attention: " + std::string(reason));
  if (plan.max_workers <= 0) return;
  const LaunchShape shape = {
      {uint32_t(num_blocks(plan, config))}, {uint32_t(num_threads(config))}, smem_bytes(config), {blocks_of_cluster(config)}, context.pdl};
  if (variant) {
    context.kernels->launch(detail::UserKernel<Config>{&config, variant}.id(), shape, &params, sizeof(params), context);
  } else {
    launch(config, shape, params, context);
  }
}

/// Plans from lengths in device memory: fills header, starts and counters as plan_work() does, bit for bit. One block a plan, capture-safe.
inline void plan_on_device(const AttentionPlans& plans, int32_t num_plans, const Context& context) {
  const AttentionPlanConfig config;
  launch(config, LaunchShape{{uint32_t(num_plans)}, {uint32_t(config.threads)}, 0, {}, context.pdl}, plans, context);
}

}  // namespace flashinfer::gpu
