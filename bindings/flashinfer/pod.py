"""Prefill and decode requests of one step together. Here they are two launches of one stream; one batch of
BatchPrefillWithPagedKVCacheWrapper takes both kinds of requests in one launch, where all keys are paged."""

from ._flashinfer import Unsupported
from .decode import BatchDecodeWithPagedKVCacheWrapper
from .prefill import BatchPrefillWithPagedKVCacheWrapper, single_prefill_with_kv_cache

__all__ = ["BatchPODWithPagedKVCacheWrapper", "PODWithPagedKVCacheWrapper"]


class PODWithPagedKVCacheWrapper:
    """One prefill request with keys of its own, and a batch of decode requests over a paged KV cache."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, paged_kv_indptr_buffer=None, paged_kv_indices_buffer=None,
                 paged_kv_last_page_len_buffer=None, jit_args=None):  # fmt: skip
        self._decode = BatchDecodeWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout, use_cuda_graph, False, paged_kv_indptr_buffer,
                                                          paged_kv_indices_buffer, paged_kv_last_page_len_buffer, jit_args=jit_args)  # fmt: skip

    @property
    def is_cuda_graph_enabled(self):
        return self._decode.is_cuda_graph_enabled

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        self._decode.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def plan(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode="NONE", window_left=-1,
             q_data_type="float16", kv_data_type=None, data_type=None, sm_scale=None, rope_scale=None, rope_theta=None, non_blocking=True):  # fmt: skip
        """Plans the decode requests, as BatchDecodeWithPagedKVCacheWrapper.plan."""
        self._decode.plan(indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode=pos_encoding_mode,
                          window_left=window_left, q_data_type=q_data_type, kv_data_type=kv_data_type, data_type=data_type, sm_scale=sm_scale,
                          rope_scale=rope_scale, rope_theta=rope_theta)  # fmt: skip

    begin_forward = plan

    def run(self, q_p, k_p, v_p, q_d, paged_kv_cache_d, custom_mask_p=None, packed_custom_mask_p=None, causal_p=False, kv_layout_p="NHD",
            pos_encoding_mode_p="NONE", sm_scale_p=None, window_left_p=-1, rope_scale_p=None, rope_theta_p=None, return_lse_p=False,
            custom_mask_d=None, packed_custom_mask_d=None, causal_d=False, kv_layout_d="NHD", pos_encoding_mode_d="NONE", sm_scale_d=None,
            window_left_d=-1, rope_scale_d=None, rope_theta_d=None, q_scale=None, k_scale=None, v_scale=None, return_lse_d=False,
            use_fp16_qk_reduction=False, enable_pdl=None, *args):  # fmt: skip
        """(out_p, out_d). The options of the decode requests are those of plan(), as in FlashInfer; the scales are theirs."""
        for name, mask in {"custom_mask_d": custom_mask_d, "packed_custom_mask_d": packed_custom_mask_d}.items():
            if mask is not None:
                raise Unsupported(f"run: {name}: decode requests have no mask; plan them by BatchPrefillWithPagedKVCacheWrapper with it")
        self._decode._planned()
        out_p = single_prefill_with_kv_cache(q_p, k_p, v_p, custom_mask=custom_mask_p, packed_custom_mask=packed_custom_mask_p, causal=causal_p,
                                             kv_layout=kv_layout_p, pos_encoding_mode=pos_encoding_mode_p, sm_scale=sm_scale_p, window_left=window_left_p,
                                             rope_scale=rope_scale_p, rope_theta=rope_theta_p)  # fmt: skip
        return out_p, self._decode.run(q_d, paged_kv_cache_d, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale, enable_pdl=enable_pdl)

    forward = run

    def end_forward(self):
        """Kept for old callers; does nothing."""


class BatchPODWithPagedKVCacheWrapper:
    """A batch of prefill requests and a batch of decode requests, each over a paged KV cache."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD"):
        # The two run one after the other: one scratch serves both.
        self._prefill = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)
        self._decode = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)

    @property
    def is_cuda_graph_enabled(self):
        return self._prefill.is_cuda_graph_enabled

    def plan(self, qo_indptr_p, kv_indptr_p, kv_indices_p, last_page_len_p, qo_indptr_d, kv_indptr_d, kv_indices_d, last_page_len_d, num_qo_heads,
             num_kv_heads, head_dim, page_size, pos_encoding_mode="NONE", window_left=-1, q_data_type="float16", kv_data_type=None, data_type=None,
             sm_scale=None, rope_scale=None, rope_theta=None, non_blocking=True):  # fmt: skip
        """Plans both batches, as BatchPrefillWithPagedKVCacheWrapper.plan."""
        options = dict(pos_encoding_mode=pos_encoding_mode, window_left=window_left, q_data_type=q_data_type, sm_scale=sm_scale,
                       kv_data_type=data_type if kv_data_type is None else kv_data_type, rope_scale=rope_scale, rope_theta=rope_theta)  # fmt: skip
        shape = (num_qo_heads, num_kv_heads, head_dim, page_size)
        self._prefill.plan(qo_indptr_p, kv_indptr_p, kv_indices_p, last_page_len_p, *shape, **options)
        self._decode.plan(qo_indptr_d, kv_indptr_d, kv_indices_d, last_page_len_d, *shape, max_qo_len=1, **options)

    begin_forward = plan

    def run(self, q_p, paged_kv_cache_p, q_d, paged_kv_cache_d, custom_mask_p=None, packed_custom_mask_p=None, causal_p=False, q_scale=None, k_scale=None,
            v_scale=None, return_lse=False, use_fp16_qk_reduction=False, enable_pdl=None):  # fmt: skip
        """(out_p, out_d), or ((out_p, out_d), (lse_p, lse_d)) with return_lse."""
        if custom_mask_p is not None or packed_custom_mask_p is not None:
            raise Unsupported("run: custom_mask_p: plan the prefill batch with its mask by BatchPrefillWithPagedKVCacheWrapper")
        w, scales = self._prefill, dict(q_scale=q_scale, k_scale=k_scale, v_scale=v_scale)
        w._planned()
        w._change(causal_p, *w._options[1:])
        out_p, lse_p = w.run(q_p, paged_kv_cache_p, return_lse=True, enable_pdl=enable_pdl, **scales)
        out_d, lse_d = self._decode.run(q_d, paged_kv_cache_d, return_lse=True, enable_pdl=enable_pdl, **scales)
        return ((out_p, out_d), (lse_p, lse_d)) if return_lse else (out_p, out_d)

    def end_forward(self):
        """Kept for old callers; does nothing."""
