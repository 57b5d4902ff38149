"""Attention of one query token, or a few, of each request over its keys: decode.

FlashInfer's names, arguments and errors. Beyond them: K and V may have different strides; any group of heads and any head dimension
that is a multiple of 8 up to 512; sinks everywhere; batch_invariant=True, whose results do not depend on a request's neighbours;
num_sms. plan() reads lengths where they lie: those on the host are checked and planned there, those on the device are planned on the
device, without a copy back, so that plan() can be captured in a CUDA graph.
"""

import functools
import warnings

from . import _flashinfer
from ._attention import Wrapper, alibi_slopes, call, check_kv_layout, check_pos_encoding_mode, cut_of, dtype_names, is_tensor, refuse
from ._flashinfer import Unsupported

__all__ = [
    "BatchDecodeWithPagedKVCacheWrapper",
    "CUDAGraphBatchDecodeWithPagedKVCacheWrapper",
    "fast_decode_plan",
    "single_decode_with_kv_cache",
]


def single_decode_with_kv_cache(
    q,
    k,
    v,
    kv_layout="NHD",
    pos_encoding_mode="NONE",
    use_tensor_cores=False,
    q_scale=None,
    k_scale=None,
    v_scale=None,
    window_left=-1,
    logits_soft_cap=None,
    sm_scale=None,
    rope_scale=None,
    rope_theta=None,
    return_lse=False,
    *,
    sinks=None,
):
    """softmax(q k^T * sm_scale) v of one query token: out [num_qo_heads, head_dim], and with return_lse its log2-sum-exp [num_qo_heads].

    q [num_qo_heads, head_dim]; k, v [kv_len, num_kv_heads, head_dim] (NHD) or [num_kv_heads, kv_len, head_dim] (HND).
    sm_scale is 1 / sqrt(head_dim) unless given. q_scale, k_scale, v_scale: numbers, or float32 arrays of heads (of q, of k and v) or, for
    k and v in FP8, of tokens and heads, shaped as k without its last dimension.
    """
    check_pos_encoding_mode("single_decode_with_kv_cache", pos_encoding_mode)
    check_kv_layout("single_decode_with_kv_cache", kv_layout)
    return call(
        "single_decode_with_kv_cache",
        _flashinfer._single_attention,
        "single_decode_with_kv_cache",
        q,
        k,
        v,
        hnd=kv_layout == "HND",
        window_left=window_left,
        rope=pos_encoding_mode == "ROPE_LLAMA",
        alibi_slopes=alibi_slopes(pos_encoding_mode, q.shape[0], q) if pos_encoding_mode == "ALIBI" and is_tensor(q) else None,
        sm_scale=sm_scale,
        logits_soft_cap=logits_soft_cap,
        rope_scale=rope_scale,
        rope_theta=rope_theta,
        q_scale=q_scale,
        k_scale=k_scale,
        v_scale=v_scale,
        sinks=sinks,
        return_lse=return_lse,
    )


# The optional arguments of plan() in the order in which old callers pass them.
_OLD_ORDER = (
    "pos_encoding_mode window_left logits_soft_cap q_data_type kv_data_type o_data_type data_type sm_scale rope_scale rope_theta "
    "non_blocking block_tables seq_lens fixed_split_size disable_split_kv q_len_per_req"
).split()


def _name_positional(name, args, options):
    if len(args) > len(_OLD_ORDER):
        most = len(_OLD_ORDER)
        raise TypeError(f"{name}.plan() accepts at most {most} deprecated optional positional arguments after page_size; got {len(args)}")
    warnings.warn(
        f"Passing optional arguments to {name}.plan() positionally is deprecated; pass them as keyword arguments.",
        DeprecationWarning,
        stacklevel=3,
    )
    named = dict(zip(_OLD_ORDER, args))
    for key in named:
        if key in options:
            raise TypeError(f"{name}.plan() got multiple values for argument {key!r}")
    return {**options, **named}


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    """Decode attention of a batch over a paged KV cache: plan() once per batch, run() once per layer.

    float_workspace_buffer: scratch on the device of the tensors, of any size: keys are cut among fewer workers where it is small.
    use_cuda_graph: the three buffers [max_batch_size + 1], [max_num_pages] and [max_batch_size] are what captured kernels read. plan()
    copies into them, and may be called between replays, for any batch up to their size; requests behind it are empty, their rows
    are 0.
    backend: "decode" or "generic" pins a kernel of ours; "auto" and FlashInfer's names leave the choice (see .kernel).
    """

    def __init__(
        self,
        float_workspace_buffer,
        kv_layout="NHD",
        use_cuda_graph=False,
        use_tensor_cores=False,
        paged_kv_indptr_buffer=None,
        paged_kv_indices_buffer=None,
        paged_kv_last_page_len_buffer=None,
        backend="auto",
        jit_args=None,
    ):
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, jit_args)
        if use_cuda_graph:
            self._buffers_in_graph(
                "cudagraph",
                paged_kv_indptr_buffer=paged_kv_indptr_buffer,
                paged_kv_indices_buffer=paged_kv_indices_buffer,
                paged_kv_last_page_len_buffer=paged_kv_last_page_len_buffer,
            )
            self._fixed_batch_size = len(paged_kv_last_page_len_buffer)
            if len(paged_kv_indptr_buffer) != self._fixed_batch_size + 1:
                raise refuse(type(self).__name__, "paged_kv_indptr_buffer", "The size of paged_kv_indptr_buffer should be batch_size + 1")
        self._paged_kv_indptr_buf = paged_kv_indptr_buffer
        self._paged_kv_indices_buf = paged_kv_indices_buffer
        self._paged_kv_last_page_len_buf = paged_kv_last_page_len_buffer
        self._use_tensor_cores = use_tensor_cores or backend in ("trtllm-gen", "cute-dsl")
        self._backend = backend
        self._q_len_per_req = None

    @property
    def use_tensor_cores(self):
        return self._use_tensor_cores

    def workspace_size(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *args, **options):
        """(float_bytes, int_bytes) that plan() with these arguments uses at most. By position they come as in plan(), without non_blocking."""
        options.update(zip([name for name in _OLD_ORDER if name != "non_blocking"], args, strict=False))
        return self._plan_batch(indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, size_only=True, **options)

    def plan(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *args, **options):
        """Plans a batch. Request i has the pages indices[indptr[i] : indptr[i + 1]], of which the last holds last_page_len[i] tokens.

        indptr [batch_size + 1], indices [num_indices], last_page_len [batch_size]: int32 on the device, int32 or int64 on the host.
        Options: pos_encoding_mode="NONE" ("ROPE_LLAMA", "ALIBI"), window_left=-1, logits_soft_cap=None, q_data_type="float16",
        kv_data_type=None (q's), o_data_type=None (q's), sm_scale=None, rope_scale=None, rope_theta=None, q_len_per_req=1,
        fixed_split_size=None (pages of one partial result) or disable_split_kv=True: batch-invariant, batch_invariant=False,
        num_sms=None. q_len_per_req above 1 is causal within a request's tokens; it needs use_tensor_cores=True as in FlashInfer,
        and lengths on the device are read back to check that every request has that many tokens: fast_decode_plan does not.
        """
        asked = (num_qo_heads, num_kv_heads, head_dim, page_size) + args
        made = self._plan
        if made is not None and made.again(None, indptr, indices, last_page_len, asked, options):
            if not self._use_cuda_graph:
                self._paged_kv_indptr_buf, self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf = indptr, indices, last_page_len
            return
        named = _name_positional(type(self).__name__, args, options) if args else options
        self._plan_batch(indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, **named)
        self._plan.remember(asked, options)

    begin_forward = plan

    def _plan_batch(
        self,
        indptr,
        indices,
        last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim,
        page_size,
        *,
        pos_encoding_mode="NONE",
        window_left=-1,
        window_right=0,
        logits_soft_cap=None,
        q_data_type="float16",
        kv_data_type=None,
        o_data_type=None,
        data_type=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
        non_blocking=True,
        block_tables=None,
        seq_lens=None,
        fixed_split_size=None,
        disable_split_kv=False,
        q_len_per_req=1,
        batch_invariant=False,
        num_sms=None,
        size_only=False,
        in_place=False,
    ):
        check_pos_encoding_mode("plan", pos_encoding_mode)
        if window_right != 0:
            raise Unsupported("plan: window_right is 0: keys behind a query's own position are masked")
        self._check_q_len(q_len_per_req)
        q_data_type = data_type if q_data_type is None else q_data_type
        kv_data_type = data_type if kv_data_type is None else kv_data_type
        dtypes = dtype_names(q_data_type, kv_data_type, o_data_type)
        batch_invariant, cut_len = cut_of(batch_invariant, fixed_split_size, disable_split_kv, page_size)
        homes = {}
        if self._use_cuda_graph and not size_only:
            if self._q_len_per_req not in (None, q_len_per_req):
                raise refuse(
                    "plan",
                    "q_len_per_req",
                    f"q_len_per_req is part of the frozen cudagraph shape: this wrapper was planned with {self._q_len_per_req}, "
                    f"got {q_len_per_req}",
                )
            if len(last_page_len) > self._fixed_batch_size:
                raise refuse(
                    "plan",
                    "last_page_len",
                    f"The batch size should be fixed in cudagraph mode, the runtime batch size {len(last_page_len)}  mismatches the "
                    f"batch size set during initialization {self._fixed_batch_size}",
                )
            homes = dict(
                kv_indptr_home=self._paged_kv_indptr_buf,
                kv_indices_home=self._paged_kv_indices_buf,
                last_page_len_home=self._paged_kv_last_page_len_buf,
            )
            if not in_place:
                indices = self._fill(self._paged_kv_indices_buf, indices, "indices")
                indptr = self._fill(self._paged_kv_indptr_buf, indptr, "indptr")
                last_page_len = self._fill(self._paged_kv_last_page_len_buf, last_page_len, "last_page_len")
        made = self._make(
            size_only,
            kv_indptr=indptr,
            kv_indices=indices,
            last_page_len=last_page_len,
            **homes,
            **dtypes,
            num_qo_heads=num_qo_heads,
            num_kv_heads=num_kv_heads,
            head_dim_qk=head_dim,
            head_dim_vo=head_dim,
            page_size=page_size,
            causal=q_len_per_req > 1,
            # Tokens that are verified lie in the cache already.
            least_kv_len=0 if q_len_per_req == 1 or in_place else q_len_per_req,
            window_left=window_left,
            max_qo_len=q_len_per_req,
            uniform_qo_len=q_len_per_req,
            batch_invariant=batch_invariant,
            cut_len=cut_len,
            rope=pos_encoding_mode == "ROPE_LLAMA",
            alibi_slopes=alibi_slopes(pos_encoding_mode, num_qo_heads, self._float_workspace_buffer),
            sm_scale=sm_scale,
            logits_soft_cap=logits_soft_cap,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            num_sms=num_sms or 0,
        )
        if size_only:
            return made
        if not self._use_cuda_graph:
            self._paged_kv_indptr_buf, self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf = indptr, indices, last_page_len
        if self._backend == "auto":
            self._backend = "fa2"  # one kernel family: the name that callers ask for
        self._num_qo_heads, self._num_kv_heads = num_qo_heads, num_kv_heads
        self._q_len_per_req = q_len_per_req
        self._remember(q_len_per_req > 1, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)

    def _check_q_len(self, q_len_per_req):
        if q_len_per_req < 1:
            raise refuse("plan", "q_len_per_req", f"q_len_per_req must be >= 1, got {q_len_per_req}")
        if q_len_per_req > 1 and not self._use_tensor_cores:
            raise refuse("plan", "q_len_per_req", "q_len_per_req > 1 requires tensor-core decode (use_tensor_cores=True)")
        if q_len_per_req > 1 and self._backend == "fa3":
            raise Unsupported("q_len_per_req > 1 is currently only supported on the fa2 tensor-core backend.")

    def forward(
        self,
        q,
        paged_kv_cache,
        pos_encoding_mode="NONE",
        q_scale=None,
        k_scale=None,
        v_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run(), whose options replace those of plan()."""
        self._change(self._q_len_per_req != 1, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale)

    def forward_return_lse(
        self,
        q,
        paged_kv_cache,
        pos_encoding_mode="NONE",
        q_scale=None,
        k_scale=None,
        v_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        sm_scale=None,
        rope_scale=None,
        rope_theta=None,
    ):
        """The old run_return_lse(), whose options replace those of plan()."""
        self._change(self._q_len_per_req != 1, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale, return_lse=True)

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
        q_len_per_req=None,
        skip_softmax_threshold_scale_factor=None,
        kv_cache_sf=None,
        variant=None,
    ):
        """out [batch_size * q_len_per_req, num_qo_heads, head_dim]; with return_lse also log2-sum-exp, float32 [.., num_qo_heads].

        q [batch_size * q_len_per_req, num_qo_heads, head_dim]. paged_kv_cache: (k_cache, v_cache), each [num_pages, page_size,
        num_kv_heads, head_dim] (NHD) or [num_pages, num_kv_heads, page_size, head_dim] (HND), or both stacked on dimension 1; with
        page size 1 that dimension may be missing. q_scale, k_scale, v_scale: what q and the caches are multiplied by, numbers or float32
        arrays: of heads, [num_qo_heads] for q, [num_kv_heads] for k and v, or of tokens and heads of an FP8 cache, shaped as it without
        its last dimension. sinks: float32 [num_qo_heads], logits that join the softmax without a value.
        variant: {"name", "source", "functor", "params"}, a functor as in flashinfer/attention/variant.hpp, its C++ source, and the
        bytes that it finds in VariantParams::user (GPU alone).
        """
        asks = window_left is not None or q_len_per_req is not None or kv_cache_sf is not None
        if args or asks or skip_softmax_threshold_scale_factor is not None:
            self._check_rare(window_left, skip_softmax_threshold_scale_factor, kv_cache_sf)
            if args:
                q_scale, k_scale, v_scale, sinks = self._positional(args, q_scale, k_scale, v_scale, sinks)
            if q_len_per_req is not None:
                warnings.warn("q_len_per_req of run() is deprecated: pass it to plan()", DeprecationWarning, stacklevel=2)
                if q.shape[0] != self._batch_size * q_len_per_req:
                    expected = f"batch_size * q_len_per_req ({self._batch_size} * {q_len_per_req})"
                    raise refuse("run", "q", f"q.shape[0] ({q.shape[0]}) does not match {expected}")
        plan = self._plan or self._planned()
        return plan.run_paged(q, paged_kv_cache, out, lse, return_lse, q_scale, k_scale, v_scale, sinks, enable_pdl, variant)

    run_return_lse = functools.partialmethod(run, return_lse=True)


class CUDAGraphBatchDecodeWithPagedKVCacheWrapper(BatchDecodeWithPagedKVCacheWrapper):
    """BatchDecodeWithPagedKVCacheWrapper in CUDA-graph mode."""

    def __init__(self, workspace_buffer, indptr_buffer, indices_buffer, last_page_len_buffer, kv_layout="NHD", use_tensor_cores=False):
        super().__init__(workspace_buffer, kv_layout, True, use_tensor_cores, indptr_buffer, indices_buffer, last_page_len_buffer)


def fast_decode_plan(
    self,
    indptr,
    indices,
    last_page_len,
    num_qo_heads,
    num_kv_heads,
    head_dim,
    page_size,
    pos_encoding_mode="NONE",
    window_left=-1,
    logits_soft_cap=None,
    q_data_type=None,
    kv_data_type=None,
    data_type=None,
    sm_scale=None,
    rope_scale=None,
    rope_theta=None,
    non_blocking=True,
    fixed_split_size=None,
    disable_split_kv=False,
    q_len_per_req=1,
    global_override_indptr_cpu=None,
):
    """plan() that neither copies nor reads back: in CUDA-graph mode the buffers already hold the batch. It can be captured.

    global_override_indptr_cpu is not needed: lengths on the device are planned there.
    """
    if q_len_per_req > 1 and self._use_tensor_cores and self._backend == "auto":
        raise refuse("fast_decode_plan", "q_len_per_req", "fast_decode_plan with q_len_per_req > 1 requires a prior plan() call")
    options = dict(
        pos_encoding_mode=pos_encoding_mode,
        window_left=window_left,
        logits_soft_cap=logits_soft_cap,
        q_data_type=q_data_type,
        kv_data_type=kv_data_type,
        data_type=data_type,
        sm_scale=sm_scale,
        rope_scale=rope_scale,
        rope_theta=rope_theta,
        fixed_split_size=fixed_split_size,
        disable_split_kv=disable_split_kv,
        q_len_per_req=q_len_per_req,
        in_place=True,
    )
    arrays = indptr, indices, last_page_len
    if self._use_cuda_graph:
        homes = self._paged_kv_indptr_buf, self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf
        if last_page_len is not homes[2] and len(last_page_len) > self._fixed_batch_size:
            text = f"The batch size should be fixed in cudagraph mode: {len(last_page_len)} requests, {self._fixed_batch_size} at most"
            raise refuse("plan", "last_page_len", text)
        if indices is not homes[1] and len(indices) > len(homes[1]):
            raise refuse("plan", "indices", "The size of indices should be less than or equal to the allocated buffer")
        arrays = homes
    asked = num_qo_heads, num_kv_heads, head_dim, page_size
    if not self._again(None, *arrays, asked, options):
        self._plan_batch(*arrays, *asked, **options)
        self._plan.remember(asked, options)
    elif not self._use_cuda_graph:
        self._paged_kv_indptr_buf, self._paged_kv_indices_buf, self._paged_kv_last_page_len_buf = arrays
