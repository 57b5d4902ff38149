"""Attention of the query tokens of each request over its keys: prefill, append, and mixed batches.

FlashInfer's names, arguments and errors; decode.py's first lines say what is added. plan() takes max_qo_len besides: the longest run of
queries of one request, which chooses the kernel where qo_indptr lies on the device, and is not read back. Without it run() takes the decode
kernel where the rows of q divide evenly among the requests, a few for each, as in speculative decoding; lengths may still differ.
"""

import functools

from . import _flashinfer
from ._attention import (
    alibi_slopes,
    call,
    check_kv_layout,
    check_no_fp4,
    check_pos_encoding_mode,
    dtype_name,
    dtype_names,
    is_tensor,
    refuse,
)
from ._prefill import PrefillWrapper, count
from ._ragged_prefill import BatchPrefillWithRaggedKVCacheWrapper

__all__ = [
    "BatchPrefillWithPagedKVCacheWrapper",
    "BatchPrefillWithRaggedKVCacheWrapper",
    "single_prefill_with_kv_cache",
    "single_prefill_with_kv_cache_return_lse",
]


def single_prefill_with_kv_cache(
    q,
    k,
    v,
    scale_q=None,
    scale_k=None,
    scale_v=None,
    o_dtype=None,
    custom_mask=None,
    packed_custom_mask=None,
    causal=False,
    kv_layout="NHD",
    pos_encoding_mode="NONE",
    use_fp16_qk_reduction=False,
    sm_scale=None,
    window_left=-1,
    logits_soft_cap=None,
    rope_scale=None,
    rope_theta=None,
    backend="auto",
    return_lse=False,
    kv_cache_sf=None,
    k_scale=None,
    v_scale=None,
    *,
    sinks=None,
):
    """softmax(q k^T * sm_scale) v of one request: out [qo_len, num_qo_heads, head_dim_vo], and with return_lse its log2-sum-exp.

    q [qo_len, num_qo_heads, head_dim_qk]; k, v [kv_len, num_kv_heads, head_dim] (NHD) or [num_kv_heads, kv_len, head_dim] (HND).
    The last query is aligned with the last key. custom_mask: bool [qo_len, kv_len], or its bits, in place of causal. Scales as in
    BatchDecodeWithPagedKVCacheWrapper.run; those of tokens are [kv_len, num_kv_heads] (NHD). Sums are always float32.
    """
    check_pos_encoding_mode("single_prefill_with_kv_cache", pos_encoding_mode)
    check_kv_layout("single_prefill_with_kv_cache", kv_layout)
    check_no_fp4("single_prefill_with_kv_cache", kv_cache_sf)
    if scale_k is not None and k_scale is not None or scale_v is not None and v_scale is not None:
        text = "scale_k and scale_v are other names of k_scale and v_scale: give one of each"
        raise refuse("single_prefill_with_kv_cache", "k_scale", text)
    k_scale, v_scale = scale_k if k_scale is None else k_scale, scale_v if v_scale is None else v_scale
    return call(
        "single_prefill_with_kv_cache",
        _flashinfer._single_attention,
        "single_prefill_with_kv_cache",
        q,
        k,
        v,
        hnd=kv_layout == "HND",
        custom_mask=custom_mask if packed_custom_mask is None else None,
        packed_custom_mask=packed_custom_mask,
        causal=causal,
        window_left=window_left,
        rope=pos_encoding_mode == "ROPE_LLAMA",
        alibi_slopes=alibi_slopes(pos_encoding_mode, q.shape[1], q) if pos_encoding_mode == "ALIBI" and is_tensor(q) else None,
        sm_scale=sm_scale,
        logits_soft_cap=logits_soft_cap,
        rope_scale=rope_scale,
        rope_theta=rope_theta,
        q_scale=scale_q,
        k_scale=k_scale,
        v_scale=v_scale,
        sinks=sinks,
        o_data_type=None if o_dtype is None else dtype_name("o_dtype", o_dtype, "single_prefill_with_kv_cache"),
        return_lse=return_lse,
    )


single_prefill_with_kv_cache_return_lse = functools.partial(single_prefill_with_kv_cache, return_lse=True)


class BatchPrefillWithPagedKVCacheWrapper(PrefillWrapper):
    """Attention of a batch over a paged KV cache: plan() once per batch, run() once per layer.

    float_workspace_buffer: scratch on the device of the tensors, of any size: keys are cut among fewer workers where it is small.
    use_cuda_graph: the buffers [max_batch_size + 1], [max_batch_size + 1], [max_num_pages] and [max_batch_size] are what captured
    kernels read. plan() copies into them, and may be called between replays, for any batch up to their size and up to the rows of
    the first one. With a custom mask, custom_mask_buf holds its bits.
    """

    def __init__(
        self,
        float_workspace_buffer,
        kv_layout="NHD",
        use_cuda_graph=False,
        qo_indptr_buf=None,
        paged_kv_indptr_buf=None,
        paged_kv_indices_buf=None,
        paged_kv_last_page_len_buf=None,
        custom_mask_buf=None,
        mask_indptr_buf=None,
        backend="auto",
        jit_args=None,
        jit_kwargs=None,
    ):
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, custom_mask_buf, mask_indptr_buf, backend, jit_args)
        if use_cuda_graph:
            self._buffers_in_graph(
                "CUDA graph",
                qo_indptr_buf=qo_indptr_buf,
                paged_kv_indptr_buf=paged_kv_indptr_buf,
                paged_kv_indices_buf=paged_kv_indices_buf,
                paged_kv_last_page_len_buf=paged_kv_last_page_len_buf,
            )
            self._fixed_batch_size = len(qo_indptr_buf) - 1
            if len(paged_kv_indptr_buf) != self._fixed_batch_size + 1:
                raise refuse(type(self).__name__, "paged_kv_indptr_buf", "The length of paged_kv_indptr_buf should be batch_size + 1.")
            if len(paged_kv_last_page_len_buf) != self._fixed_batch_size:
                text = "The length of paged_kv_last_page_len_buf should be batch_size."
                raise refuse(type(self).__name__, "paged_kv_last_page_len_buf", text)
        self._qo_indptr_buf = qo_indptr_buf
        self._paged_kv_indptr_buf = paged_kv_indptr_buf
        self._paged_kv_indices_buf = paged_kv_indices_buf
        self._paged_kv_last_page_len_buf = paged_kv_last_page_len_buf

    def plan(
        self,
        qo_indptr,
        paged_kv_indptr,
        paged_kv_indices,
        paged_kv_last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim_qk,
        page_size,
        head_dim_vo=None,
        custom_mask=None,
        packed_custom_mask=None,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        sm_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        rope_scale=None,
        rope_theta=None,
        q_data_type="float16",
        kv_data_type=None,
        o_data_type=None,
        non_blocking=True,
        prefix_len_ptr=None,
        token_pos_in_items_ptr=None,
        token_pos_in_items_len=0,
        max_item_len_ptr=None,
        seq_lens=None,
        seq_lens_q=None,
        block_tables=None,
        max_token_per_sequence=None,
        max_sequence_kv=None,
        fixed_split_size=None,
        disable_split_kv=False,
        *,
        batch_invariant=False,
        max_qo_len=None,
        num_sms=None,
        _size_only=False,
    ):
        """Plans a batch. Request i has the query rows qo_indptr[i] to qo_indptr[i + 1], the pages paged_kv_indices[paged_kv_indptr[i] :
        paged_kv_indptr[i + 1]], and paged_kv_last_page_len[i] tokens in the last of them; its last query is aligned with its last key.

        Lengths: int32 on the device, int32 or int64 on the host. custom_mask: bool, each request's [qo_len, kv_len] flattened, one
        after another, in place of causal; packed_custom_mask: its bits, little-endian, each request from a byte of its own. A mask
        needs the lengths on the host: those on the device are read back. fixed_split_size (pages of one partial result), disable_split_kv=True
        or batch_invariant=True: results do not depend on a request's neighbours.
        """
        # All but the batch, and what is ignored.
        asked = (
            *(num_qo_heads, num_kv_heads, head_dim_qk, page_size, head_dim_vo, custom_mask, packed_custom_mask, causal, pos_encoding_mode),
            *(sm_scale, window_left, logits_soft_cap, rope_scale, rope_theta, q_data_type, kv_data_type, o_data_type, prefix_len_ptr),
            *(token_pos_in_items_ptr, max_item_len_ptr, max_token_per_sequence, fixed_split_size, disable_split_kv, batch_invariant),
            *(max_qo_len, num_sms, _size_only),
        )
        arrays = qo, indptr, indices, last = qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len
        if qo is not None and not self._use_cuda_graph and self._again(*arrays, asked):
            self._qo_indptr_buf, self._paged_kv_indptr_buf, self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf = arrays
            return
        if count("plan", "qo_indptr", qo) != count("plan", "paged_kv_indptr", indptr):
            text = f"The length of qo_indptr and paged_kv_indptr should be the same: {len(qo)} and {len(indptr)}"
            raise refuse("plan", "paged_kv_indptr", text)
        homes = {}
        if self._use_cuda_graph and not _size_only:
            self._check_batch(len(qo) - 1)
            if count("plan", "paged_kv_indices", indices) > len(self._paged_kv_indices_buf):
                raise refuse("plan", "paged_kv_indices", "The length of paged_kv_indices exceeds the allocated buffer size.")
            homes = dict(
                qo_indptr_home=self._qo_indptr_buf,
                kv_indptr_home=self._paged_kv_indptr_buf,
                kv_indices_home=self._paged_kv_indices_buf,
                last_page_len_home=self._paged_kv_last_page_len_buf,
            )
            qo = self._fill(self._qo_indptr_buf, qo, "qo_indptr")
            indptr = self._fill(self._paged_kv_indptr_buf, indptr, "kv_indptr")
            indices = self._fill(self._paged_kv_indices_buf, indices, "indices")
            last = self._fill(self._paged_kv_last_page_len_buf, last, "last_page_len")
        made = self._plan_prefill(
            _size_only,
            qo,
            homes=homes,
            kv=dict(kv_indptr=indptr, kv_indices=indices, last_page_len=last),
            page_size=page_size,
            heads=(num_qo_heads, num_kv_heads),
            head_dims=(head_dim_qk, head_dim_vo),
            dtypes=dtype_names(q_data_type, kv_data_type, o_data_type),
            custom_mask=custom_mask,
            packed_custom_mask=packed_custom_mask,
            causal=causal,
            pos_encoding_mode=pos_encoding_mode,
            window_left=window_left,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            fixed_split_size=fixed_split_size,
            disable_split_kv=disable_split_kv,
            batch_invariant=batch_invariant,
            max_qo_len=max_qo_len or max_token_per_sequence,
            num_sms=num_sms,
            unsupported=dict(
                prefix_len_ptr=prefix_len_ptr,
                token_pos_in_items_ptr=token_pos_in_items_ptr,
                max_item_len_ptr=max_item_len_ptr,
            ),
        )
        if not self._use_cuda_graph and not _size_only:
            self._qo_indptr_buf, self._paged_kv_indptr_buf = qo, indptr
            self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf = indices, last
            self._plan.remember(asked, {})
        return made

    begin_forward = plan

    def workspace_size(self, *args, **options):
        """(float_bytes, int_bytes) that plan() with these arguments uses at most."""
        return self.plan(*args, **options, _size_only=True)

    def forward(
        self,
        q,
        paged_kv_cache,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        k_scale=None,
        v_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run(), whose options replace those of plan()."""
        self._change(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale)

    def forward_return_lse(
        self,
        q,
        paged_kv_cache,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        k_scale=None,
        v_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run_return_lse(), whose options replace those of plan()."""
        self._change(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale, return_lse=True)

    def run(
        self,
        q,
        paged_kv_cache,
        *args,
        q_scale=None,
        k_scale=None,
        v_scale=None,
        out=None,
        lse=None,
        return_lse=False,
        enable_pdl=None,
        window_left=None,
        sinks=None,
        kv_cache_sf=None,
        skip_softmax_threshold_scale_factor=None,
        use_fp16_softmax=None,
        uses_spcompress=None,
        variant=None,
    ):
        """out [qo_indptr[-1], num_qo_heads, head_dim_vo]; with return_lse also log2-sum-exp, float32 [qo_indptr[-1], num_qo_heads].

        q [qo_indptr[-1], num_qo_heads, head_dim_qk]. paged_kv_cache, scales, sinks and variant as in BatchDecodeWithPagedKVCacheWrapper.run.
        """
        if args or window_left is not None or kv_cache_sf is not None or skip_softmax_threshold_scale_factor is not None:
            self._check_rare(window_left, skip_softmax_threshold_scale_factor, kv_cache_sf)
            if args:
                q_scale, k_scale, v_scale, sinks = self._positional(args, q_scale, k_scale, v_scale, sinks)
        plan = self._plan or self._planned()
        return plan.run_paged(q, paged_kv_cache, out, lse, return_lse, q_scale, k_scale, v_scale, sinks, enable_pdl, variant)

    run_return_lse = functools.partialmethod(run, return_lse=True)
