"""What the wrappers of paged and of ragged prefill share."""

from ._attention import Wrapper, alibi_slopes, check_pos_encoding_mode, cut_of, is_tensor, refuse
from ._flashinfer import Unsupported


def count(op, argument, array):
    """len(array), where it has one."""
    try:
        return len(array)
    except TypeError:
        raise refuse(op, argument, f"{argument}: expected an array of one dimension, got {array!r}") from None


class PrefillWrapper(Wrapper):
    """A wrapper that plans prefill: masks, the limits of CUDA graphs, options of plan()."""

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
