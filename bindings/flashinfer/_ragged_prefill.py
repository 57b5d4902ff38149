"""Prefill over keys that lie one request after another; prefill.py has its name."""

import functools

from ._attention import dtype_names, refuse
from ._prefill import PrefillWrapper, count


class BatchPrefillWithRaggedKVCacheWrapper(PrefillWrapper):
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
