"""Attention of the query tokens of each request over its keys: prefill, append, and mixed batches.

FlashInfer's names, arguments and errors; decode.py's first lines say what is added. plan() takes max_qo_len besides: the longest run of
queries of one request, which chooses the kernel where qo_indptr lies on the device, and is not read back. Without it run() takes the decode
kernel where the rows of q divide evenly among the requests, a few for each, as in speculative decoding; lengths may still differ.
"""

import functools

from . import _flashinfer
from ._attention import (
    Wrapper,
    alibi_slopes,
    call,
    check_kv_layout,
    check_no_fp4,
    check_pos_encoding_mode,
    cut_of,
    dtype_name,
    dtype_names,
    is_tensor,
    refuse,
)
from ._flashinfer import Unsupported

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


def count(op, argument, array):
    """len(array), where it has one."""
    try:
        return len(array)
    except TypeError:
        raise refuse(op, argument, f"{argument}: expected an array of one dimension, got {array!r}") from None


class _PrefillWrapper(Wrapper):
    """What paged and ragged prefill share: masks, the limits of CUDA graphs, options of plan()."""

    def __init__(self, float_workspace_buffer, kv_layout, use_cuda_graph, custom_mask_buf, mask_indptr_buf, backend, jit_args):
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, jit_args)
        self._custom_mask_buf = custom_mask_buf
        self._mask_indptr_buf = mask_indptr_buf
        self._backend = backend
        self._max_total_num_rows = None
        self._max_qo_len = None

    def _plan_prefill(
        self,
        size_only,
        qo_indptr,
        *,
        homes,
        kv,
        page_size,
        heads,
        head_dims,
        dtypes,
        custom_mask,
        packed_custom_mask,
        causal,
        pos_encoding_mode,
        window_left,
        logits_soft_cap,
        sm_scale,
        rope_scale,
        rope_theta,
        fixed_split_size,
        disable_split_kv,
        batch_invariant,
        max_qo_len,
        num_sms,
        unsupported,
    ):
        check_pos_encoding_mode("plan", pos_encoding_mode)
        for name, value in unsupported.items():
            if value is not None:
                raise Unsupported(f"plan: {name} is not supported")
        batch_invariant, cut_len = cut_of(batch_invariant, fixed_split_size, disable_split_kv, page_size)
        custom_mask = custom_mask if packed_custom_mask is None else None
        masked = custom_mask is not None or packed_custom_mask is not None
        graph = self._use_cuda_graph and not size_only
        if graph and masked:
            for name in ("custom_mask_buf", "mask_indptr_buf"):
                if not is_tensor(getattr(self, "_" + name)):
                    text = f"{name} must be initialized with a torch.Tensor in cuda graph mode if we use custom mask in attention computation."
                    raise refuse("plan", name, text)
            homes["custom_mask_home"] = self._custom_mask_buf
            if packed_custom_mask is not None:  # captured kernels read the buffer
                size = count("plan", "packed_custom_mask", packed_custom_mask)
                if size > len(self._custom_mask_buf):
                    text = f"custom_mask_buf: expected {size} bytes or more, got {len(self._custom_mask_buf)}"
                    raise refuse("plan", "custom_mask_buf", text)
                self._custom_mask_buf[:size] = packed_custom_mask
                packed_custom_mask = self._custom_mask_buf[:size]
        tile_qo_len = 0
        if graph and self._max_qo_len is not None:
            max_qo_len, tile_qo_len = self._max_qo_len, self._tile_qo_len  # captured kernels have the first plan's tile and sizes
        previous = self._plan
        made = self._make(
            size_only,
            qo_indptr=qo_indptr,
            **kv,
            **(homes if graph else {}),
            **dtypes,
            custom_mask=custom_mask,
            packed_custom_mask=packed_custom_mask,
            num_qo_heads=heads[0],
            num_kv_heads=heads[1],
            head_dim_qk=head_dims[0],
            head_dim_vo=head_dims[0] if head_dims[1] is None else head_dims[1],
            page_size=page_size,
            causal=causal,
            window_left=window_left,
            max_qo_len=max_qo_len or 0,
            tile_qo_len=tile_qo_len,
            batch_invariant=batch_invariant,
            cut_len=cut_len,
            rope=pos_encoding_mode == "ROPE_LLAMA",
            alibi_slopes=alibi_slopes(pos_encoding_mode, heads[0], self._float_workspace_buffer),
            sm_scale=sm_scale,
            logits_soft_cap=logits_soft_cap,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            num_sms=num_sms or 0,
        )
        if size_only:
            return made
        rows = self._plan.total_qo_len
        if self._use_cuda_graph:
            if self._max_total_num_rows is None:
                self._max_total_num_rows = rows
                self._max_qo_len, self._tile_qo_len = self._plan.max_qo_len, self._plan.tile_qo_len
            elif rows > self._max_total_num_rows >= 0:
                self._plan = previous
                raise refuse(
                    "plan",
                    "qo_indptr",
                    f"The total number of rows in qo_indptr {rows} in cuda graph mode cannot exceed the number of rows set during "
                    f"initialization {self._max_total_num_rows}.",
                )
        self._num_qo_heads, self._num_kv_heads = heads
        if self._backend == "auto":
            self._backend = "fa2"  # one kernel family: the name that callers ask for
        self._remember(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)

    @property
    def _qo_indptr_last(self):
        return None if self._plan is None else self._plan.total_qo_len

    def _check_batch(self, batch_size):
        if batch_size > self._fixed_batch_size:
            raise refuse(
                "plan",
                "qo_indptr",
                f"The batch size should be fixed during the lifecycle of the wrapper in cuda graph mode, the runtime batch size {batch_size} "
                f"mismatches the batch size {self._fixed_batch_size} set during initialization.",
            )


class BatchPrefillWithPagedKVCacheWrapper(_PrefillWrapper):
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


class BatchPrefillWithRaggedKVCacheWrapper(_PrefillWrapper):
    """Attention of a batch whose keys lie one request after another: plan() once per batch, run() once per layer.

    Buffers and CUDA graphs as in BatchPrefillWithPagedKVCacheWrapper, without pages.
    """

    def __init__(
        self,
        float_workspace_buffer,
        kv_layout="NHD",
        use_cuda_graph=False,
        qo_indptr_buf=None,
        kv_indptr_buf=None,
        custom_mask_buf=None,
        mask_indptr_buf=None,
        backend="auto",
        jit_args=None,
        jit_kwargs=None,
    ):
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, custom_mask_buf, mask_indptr_buf, backend, jit_args)
        if use_cuda_graph:
            self._buffers_in_graph("cuda graph", qo_indptr_buf=qo_indptr_buf, kv_indptr_buf=kv_indptr_buf)
            self._fixed_batch_size = len(qo_indptr_buf) - 1
            if len(kv_indptr_buf) != self._fixed_batch_size + 1:
                raise refuse(type(self).__name__, "kv_indptr_buf", "The length of kv_indptr_buf should be batch_size + 1.")
        self._qo_indptr_buf = qo_indptr_buf
        self._kv_indptr_buf = kv_indptr_buf

    def plan(
        self,
        qo_indptr,
        kv_indptr,
        num_qo_heads,
        num_kv_heads,
        head_dim_qk,
        head_dim_vo=None,
        custom_mask=None,
        packed_custom_mask=None,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
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
        fixed_split_size=None,
        disable_split_kv=False,
        seq_lens=None,
        seq_lens_q=None,
        max_token_per_sequence=None,
        max_sequence_kv=None,
        v_indptr=None,
        o_indptr=None,
        *,
        batch_invariant=False,
        max_qo_len=None,
        num_sms=None,
        _size_only=False,
    ):
        """Plans a batch. Request i has the query rows qo_indptr[i] to qo_indptr[i + 1] and the keys kv_indptr[i] to kv_indptr[i + 1].

        Options as in BatchPrefillWithPagedKVCacheWrapper.plan; fixed_split_size counts tokens. The output of an 8-bit q_data_type is
        bfloat16 unless o_data_type says otherwise.
        """
        asked = (
            *(num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, custom_mask, packed_custom_mask, causal, pos_encoding_mode, window_left),
            *(logits_soft_cap, sm_scale, rope_scale, rope_theta, q_data_type, kv_data_type, o_data_type, prefix_len_ptr),
            *(token_pos_in_items_ptr, max_item_len_ptr, fixed_split_size, disable_split_kv, max_token_per_sequence, v_indptr, o_indptr),
            *(batch_invariant, max_qo_len, num_sms, _size_only),
        )
        if qo_indptr is not None and not self._use_cuda_graph and self._again(qo_indptr, kv_indptr, None, None, asked):
            self._qo_indptr_buf, self._kv_indptr_buf = qo_indptr, kv_indptr
            return
        if count("plan", "kv_indptr", kv_indptr) != count("plan", "qo_indptr", qo_indptr):
            text = f"The kv_indptr length should be equal to mask_indptr length: expected {len(qo_indptr)}, got {len(kv_indptr)}"
            raise refuse("plan", "kv_indptr", text)
        dtypes = dtype_names(q_data_type, kv_data_type, o_data_type)
        if o_data_type is None and dtypes["o_data_type"] in ("e4m3", "e5m2"):
            dtypes["o_data_type"] = "bf16"
        homes = {}
        qo, kv = qo_indptr, kv_indptr
        if self._use_cuda_graph and not _size_only:
            self._check_batch(len(qo) - 1)
            homes = dict(qo_indptr_home=self._qo_indptr_buf, kv_indptr_home=self._kv_indptr_buf)
            qo = self._fill(self._qo_indptr_buf, qo, "qo_indptr")
            kv = self._fill(self._kv_indptr_buf, kv, "kv_indptr")
        made = self._plan_prefill(
            _size_only,
            qo,
            homes=homes,
            kv=dict(kv_indptr=kv),
            page_size=0,
            heads=(num_qo_heads, num_kv_heads),
            head_dims=(head_dim_qk, head_dim_vo),
            dtypes=dtypes,
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
                v_indptr=v_indptr,
                o_indptr=o_indptr,
            ),
        )
        if not self._use_cuda_graph and not _size_only:
            self._qo_indptr_buf, self._kv_indptr_buf = qo, kv
            self._plan.remember(asked, {})
        return made

    begin_forward = plan

    def workspace_size(self, *args, **options):
        """(float_bytes, int_bytes) that plan() with these arguments uses at most."""
        return self.plan(*args, **options, _size_only=True)

    def forward(
        self,
        q,
        k,
        v,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run(), whose options replace those of plan()."""
        self._change(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, k, v)

    def forward_return_lse(
        self,
        q,
        k,
        v,
        causal=False,
        pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run_return_lse(), whose options replace those of plan()."""
        self._change(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, k, v, return_lse=True)

    def run(
        self,
        q,
        k,
        v,
        *args,
        q_scale=None,
        k_scale=None,
        v_scale=None,
        o_scale=None,
        out=None,
        lse=None,
        return_lse=False,
        enable_pdl=None,
        kv_cache_sf=None,
        sinks=None,
        variant=None,
    ):
        """out [qo_indptr[-1], num_qo_heads, head_dim_vo]; with return_lse also log2-sum-exp, float32 [qo_indptr[-1], num_qo_heads].

        q [qo_indptr[-1], num_qo_heads, head_dim_qk]; k, v [kv_indptr[-1], num_kv_heads, head_dim] (NHD) or [num_kv_heads,
        kv_indptr[-1], head_dim] (HND). Scales and sinks as in BatchDecodeWithPagedKVCacheWrapper.run; those of tokens are [kv_indptr[-1],
        num_kv_heads] (NHD). o_scale divides the output.
        """
        if args or kv_cache_sf is not None or o_scale is not None:
            self._check_rare(None, None, kv_cache_sf)
            if args:
                q_scale, k_scale, v_scale, sinks = self._positional(args, q_scale, k_scale, v_scale, sinks)
            if o_scale is not None:
                if float(o_scale) == 0.0:
                    raise refuse("run", "o_scale", "o_scale: expected a number other than 0, which divides the output, got 0")
                v_scale = (1.0 if v_scale is None else v_scale) / float(o_scale)
        plan = self._plan or self._planned()
        return plan.run_ragged(q, k, v, out, lse, return_lse, q_scale, k_scale, v_scale, sinks, enable_pdl, variant)

    run_return_lse = functools.partialmethod(run, return_lse=True)
