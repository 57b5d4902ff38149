"""Attention over unions of key sets, and of a batch whose requests share prefixes."""

from ._attention import is_jax, refuse
from ._flashinfer import merge_state, merge_state_in_place, merge_states
from ._prefill import count
from .decode import BatchDecodeWithPagedKVCacheWrapper
from .prefill import BatchPrefillWithPagedKVCacheWrapper, single_prefill_with_kv_cache_return_lse

__all__ = [
    "BatchDecodeWithSharedPrefixPagedKVCacheWrapper",
    "BatchPrefillWithSharedPrefixPagedKVCacheWrapper",
    "MultiLevelCascadeAttentionWrapper",
    "merge_state",
    "merge_state_in_place",
    "merge_states",
]


def _take_in(v, s, v_other, s_other):
    """merge_state_in_place where v and s can be written, else merge_state."""
    if is_jax(v):
        return merge_state(v, s, v_other, s_other)
    merge_state_in_place(v, s, v_other, s_other)
    return v, s


class MultiLevelCascadeAttentionWrapper:
    """Attention of requests to the keys of several levels, from the widest shared prefix (level 0) to a request's own keys (the
    last level): each level is one paged attention whose queries are the tokens of all requests below an entry, and the levels'
    states are merged. Causal masks the last level only: its queries follow all keys of the levels above.

    qo_indptr_arr[l], paged_kv_indptr_arr[l], paged_kv_indices_arr[l], paged_kv_last_page_len[l] are those of
    BatchPrefillWithPagedKVCacheWrapper for level l; all levels split the same queries and read the same cache.
    """

    def __init__(self, num_levels, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, qo_indptr_buf_arr=None,
                 paged_kv_indptr_buf_arr=None, paged_kv_indices_buf_arr=None, paged_kv_last_page_len_buf_arr=None):  # fmt: skip
        if not isinstance(num_levels, int) or num_levels < 1:
            raise refuse("MultiLevelCascadeAttentionWrapper", "num_levels", f"num_levels: expected at least 1, got {num_levels!r}")
        buffers = (qo_indptr_buf_arr, paged_kv_indptr_buf_arr, paged_kv_indices_buf_arr, paged_kv_last_page_len_buf_arr)
        for name, of_levels in zip(("qo_indptr", "paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len"), buffers):
            if use_cuda_graph and (of_levels is None or len(of_levels) != num_levels):
                text = f"{name}_buf_arr: expected a buffer for each of {num_levels} levels in cudagraph mode"
                raise refuse("MultiLevelCascadeAttentionWrapper", f"{name}_buf_arr", text)
        levels = zip(*buffers) if use_cuda_graph else [(None,) * 4] * num_levels
        # One workspace serves all: levels run one after the other, and what must outlive a run lies in each plan's own memory.
        self._wrappers = [BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout, use_cuda_graph, *level) for level in levels]

    @property
    def is_cuda_graph_enabled(self):
        return self._wrappers[0].is_cuda_graph_enabled

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffers):
        for wrapper, int_workspace_buffer in zip(self._wrappers, int_workspace_buffers, strict=True):
            wrapper.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def plan(self, qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len, num_qo_heads, num_kv_heads, head_dim,
             page_size, causal=False, pos_encoding_mode="NONE", use_fp16_qk_reduction=False, sm_scale=None, window_left=-1,
             logits_soft_cap=None, rope_scale=None, rope_theta=None, q_data_type="float16", kv_data_type=None):  # fmt: skip
        arrays = (qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len)
        for name, array in zip(("qo_indptr_arr", "paged_kv_indptr_arr", "paged_kv_indices_arr", "paged_kv_last_page_len"), arrays):
            if count("plan", name, array) != len(self._wrappers):
                raise refuse("plan", name, f"{name}: expected an array for each of {len(self._wrappers)} levels, got {len(array)}")
        last = self._wrappers[-1]
        for wrapper, *level in zip(self._wrappers, *arrays):
            wrapper.plan(*level, num_qo_heads, num_kv_heads, head_dim, page_size, causal=causal and wrapper is last, pos_encoding_mode=pos_encoding_mode,
                         use_fp16_qk_reduction=use_fp16_qk_reduction, sm_scale=sm_scale, window_left=window_left, logits_soft_cap=logits_soft_cap,
                         rope_scale=rope_scale, rope_theta=rope_theta, q_data_type=q_data_type, kv_data_type=kv_data_type)  # fmt: skip

    begin_forward = plan

    def run(self, q, paged_kv_cache):
        out, lse = self._wrappers[-1].run(q, paged_kv_cache, return_lse=True)
        for wrapper in self._wrappers[:-1]:
            out, lse = _take_in(out, lse, *wrapper.run(q, paged_kv_cache, return_lse=True))
        return out

    forward = run


class _SharedPrefix:
    """Two levels, the older form: keys shared by all requests in a tensor [kv_len, num_kv_heads, head_dim], each request's own in pages."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD"):
        self._kv_layout = kv_layout
        self._unique = self._wrapper(float_workspace_buffer, kv_layout)

    def begin_forward(self, *args, **options):
        """plan() of the requests' own keys."""
        self._unique.plan(*args, **options)

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        self._unique.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def end_forward(self):
        """Nothing is left to do."""

    def _merged(self, q, k_shared, v_shared, unique, **options):
        out, lse = single_prefill_with_kv_cache_return_lse(q, k_shared, v_shared, causal=False, kv_layout=self._kv_layout, **options)
        return _take_in(out, lse, *unique)[0]


class BatchDecodeWithSharedPrefixPagedKVCacheWrapper(_SharedPrefix):
    _wrapper = BatchDecodeWithPagedKVCacheWrapper

    def begin_forward(self, unique_kv_indptr, unique_kv_indices, unique_kv_last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
                      data_type="float16"):  # fmt: skip
        super().begin_forward(unique_kv_indptr, unique_kv_indices, unique_kv_last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
                              q_data_type=data_type, kv_data_type=data_type)  # fmt: skip

    def forward(self, q, k_shared, v_shared, unique_kv_cache):
        return self._merged(q, k_shared, v_shared, self._unique.run(q, unique_kv_cache, return_lse=True))


class BatchPrefillWithSharedPrefixPagedKVCacheWrapper(_SharedPrefix):
    _wrapper = BatchPrefillWithPagedKVCacheWrapper

    def forward(self, q, k_shared, v_shared, unique_kv_cache, causal=False, use_fp16_qk_reduction=False, sm_scale=None, rope_scale=None, rope_theta=None):
        options = dict(sm_scale=sm_scale, rope_scale=rope_scale, rope_theta=rope_theta)
        return self._merged(q, k_shared, v_shared, self._unique.forward_return_lse(q, unique_kv_cache, causal=causal, **options), **options)
