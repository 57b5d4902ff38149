"""Attention of mixed batches in one plan, and with sinks: other names of paged prefill, whose plan takes any mix of requests."""

from . import _flashinfer
from ._attention import is_tensor, refuse
from ._prefill import count
from .prefill import BatchPrefillWithPagedKVCacheWrapper

__all__ = ["BatchAttention", "BatchAttentionWithAttentionSinkWrapper"]

_WORKSPACE_BYTES = 64 << 20  # room for the partial results of two blocks on each of 200 SMs; where it is short, less is cut


class BatchAttention:
    """Prefill, append and decode requests in one batch over a paged KV cache; the scratch is its own, made by torch."""

    def __init__(self, kv_layout="NHD", device="cuda"):
        import torch

        self._wrapper = BatchPrefillWithPagedKVCacheWrapper(torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device), kv_layout)

    def plan(self, qo_indptr, kv_indptr, kv_indices, kv_len_arr, num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, page_size, causal=False,
             sm_scale=None, logits_soft_cap=None, q_data_type="bfloat16", kv_data_type="bfloat16", use_profiler=False, **options):  # fmt: skip
        """Request i has the query rows qo_indptr[i] to qo_indptr[i + 1] and kv_len_arr[i] keys, in the pages
        kv_indices[kv_indptr[i] : kv_indptr[i + 1]]. Further options are those of BatchPrefillWithPagedKVCacheWrapper.plan."""
        if count("plan", "kv_len_arr", kv_len_arr) != count("plan", "kv_indptr", kv_indptr) - 1:
            raise refuse("plan", "kv_len_arr", f"kv_len_arr: expected batch_size={len(kv_indptr) - 1} entries, got {len(kv_len_arr)}")
        for name, array in {"kv_indptr": kv_indptr, "kv_len_arr": kv_len_arr}.items():
            if not is_tensor(array):
                raise TypeError(f"plan: {name}: expected a tensor, got {type(array).__name__}")
        pages = kv_indptr[1:] - kv_indptr[:-1]
        last_page_len = kv_len_arr - (pages - 1) * page_size
        if _flashinfer.describe(last_page_len)["device"] == "cpu":
            for request, (kv_len, num_pages, last) in enumerate(zip(kv_len_arr.tolist(), pages.tolist(), last_page_len.tolist())):
                if kv_len < 0 or (num_pages if kv_len == 0 else not 1 <= last <= page_size):
                    expected = f"lengths that end in the last of a request's pages, {num_pages} of {page_size} tokens"
                    raise refuse("plan", "kv_len_arr", f"kv_len_arr: expected {expected}, got {kv_len} for request {request}")
        self._planned_cap = logits_soft_cap or 0.0
        self._wrapper.plan(qo_indptr, kv_indptr, kv_indices, last_page_len, num_qo_heads, num_kv_heads, head_dim_qk, page_size, head_dim_vo, causal=causal,
                           sm_scale=sm_scale, logits_soft_cap=logits_soft_cap, q_data_type=q_data_type, kv_data_type=kv_data_type, **options)  # fmt: skip

    def run(self, q, kv_cache, out=None, lse=None, k_scale=None, v_scale=None, logits_soft_cap=0.0, profiler_buffer=None, kv_cache_sf=None):
        """(out, lse), as BatchPrefillWithPagedKVCacheWrapper.run_return_lse. logits_soft_cap is the one that counts; plan() must
        have had one too."""
        w = self._wrapper
        w._planned()
        if logits_soft_cap > 0.0 and self._planned_cap <= 0.0:
            raise refuse("run", "logits_soft_cap", "logits_soft_cap used in kernel run but not provided in plan()")
        w._change(w._causal, "NONE", -1, logits_soft_cap, w._sm_scale, None, None)
        return w.run(q, kv_cache, out=out, lse=lse, return_lse=True, k_scale=k_scale, v_scale=v_scale, kv_cache_sf=kv_cache_sf)


class BatchAttentionWithAttentionSinkWrapper(BatchPrefillWithPagedKVCacheWrapper):
    """Paged prefill and decode with attention sinks: run(q, paged_kv_cache, sink, sm_scale). sink: float32 [num_qo_heads], logits of
    keys without a value. What else the constructor takes is said again, and decided, by plan()."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, qo_indptr_buf=None, paged_kv_indptr_buf=None,
                 paged_kv_indices_buf=None, paged_kv_last_page_len_buf=None, custom_mask_buf=None, mask_indptr_buf=None, backend="auto",
                 pos_encoding_mode="NONE", use_fp16_qk_reduction=False, q_data_type="bfloat16", kv_data_type="bfloat16", head_dim_qk=128,
                 head_dim_vo=128, window_left=-1):  # fmt: skip
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf,
                         paged_kv_last_page_len_buf, custom_mask_buf, mask_indptr_buf, backend)  # fmt: skip
        self._takes_sink = True
