"""Attention to blocks of keys: a row of blocks is a request of paged prefill, whose pages are the blocks that it sees."""

from ._attention import refuse
from .prefill import BatchPrefillWithPagedKVCacheWrapper

__all__ = ["BlockSparseAttentionWrapper", "VariableBlockSparseAttentionWrapper", "convert_bsr_mask_layout"]


def _host(array):
    """A NumPy array with the values of any array; one on a device is read back."""
    import numpy

    for name in ("cpu", "get"):  # torch, CuPy
        if hasattr(array, name) and not isinstance(array, numpy.ndarray):
            array = getattr(array, name)()
    return numpy.asarray(array)


def _check(holds, op, argument, expected, given):
    if not holds:
        raise refuse(op, argument, f"{argument}: expected {expected}, got {given}")


def _check_shape(op, argument, array, shape):
    given = getattr(array, "shape", None)
    _check(given is not None and tuple(given) == shape, op, argument, f"shape {list(shape)}", type(array).__name__ if given is None else list(given))


def convert_bsr_mask_layout(mask, indptr):
    """The mask of every row of blocks as [R, columns], flattened, from mask bool [nnz, R, C]."""
    block = mask.shape[1] * mask.shape[2]
    flat = mask.reshape(-1) & False
    bounds = _host(indptr).tolist()
    for begin, end in zip(bounds, bounds[1:]):
        flat[begin * block : end * block] = mask[begin:end].swapaxes(0, 1).reshape(-1)
    return flat


class BlockSparseAttentionWrapper:
    """Attention whose mask is a block-sparse-row matrix of R x C blocks: plan() once per matrix, run() as often as wanted.

    float_workspace_buffer: scratch, as in BatchPrefillWithPagedKVCacheWrapper.
    """

    def __init__(self, float_workspace_buffer, backend="auto"):
        self._wrapper = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, backend=backend)

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer, vector_sparse_indices_buffer=None, vector_sparse_indptr_buffer=None):
        self._wrapper.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def plan(self, indptr, indices, M, N, R, C, num_qo_heads, num_kv_heads, head_dim, mask=None, packed_mask=None, causal=False,
             pos_encoding_mode="NONE", use_fp16_qk_reduction=False, logits_soft_cap=None, sm_scale=None, rope_scale=None, rope_theta=None,
             q_data_type="float16", kv_data_type=None, o_data_type=None, non_blocking=True, block_mask=None):  # fmt: skip
        """Row i of blocks, query rows i * R to (i + 1) * R of M, sees the blocks of C keys of N that
        indices[indptr[i] : indptr[i + 1]] name. mask: bool [nnz, R, C] inside the blocks, or packed_mask, its bits in the layout of
        convert_bsr_mask_layout, little-endian, each row of blocks from a byte of its own. The bounds are read back."""
        _check(block_mask is None, "plan", "block_mask", "None, for this is not one of FlashInfer's vsa backends", "a mask")
        import numpy

        for name, size in {"R": R, "C": C}.items():
            _check(size >= 1, "plan", name, "blocks of at least 1", size)
        _check(N % C == 0, "plan", "N", f"a multiple of C={C}", N)
        bounds, blocks = _host(indptr), _host(indices)
        _check(bounds.ndim == 1 and bounds.size > 0, "plan", "indptr", "one dimension, a bound more than rows of blocks", f"shape {list(bounds.shape)}")
        rises = bounds[0] == 0 and bounds[-1] <= blocks.size and (numpy.diff(bounds) >= 0).all()
        _check(rises, "plan", "indptr", f"bounds that rise from 0 to at most len(indices)={blocks.size}", bounds.tolist())
        _check(blocks.min(initial=0) >= 0, "plan", "indices", "blocks of 0 or more", blocks.min(initial=0))
        if blocks.size and (int(blocks.max()) + 1) * C > N:
            raise refuse("plan", "indices", f"indices out of bound: block {int(blocks.max())} of {C} keys ends behind N={N}")
        num_rows = len(bounds) - 1
        _check(0 <= M <= R * num_rows, "plan", "M", f"at most R * {num_rows} = {R * num_rows} query rows", M)
        if mask is not None and packed_mask is None:
            _check_shape("plan", "mask", mask, (len(blocks), R, C))
        qo_indptr = numpy.minimum(numpy.arange(len(bounds), dtype=numpy.int32) * R, M).astype(numpy.int32)
        self._wrapper.plan(qo_indptr, bounds, indices, numpy.full(len(bounds) - 1, C, numpy.int32), num_qo_heads, num_kv_heads, head_dim, C,
                           custom_mask=None if mask is None or packed_mask is not None else convert_bsr_mask_layout(mask, bounds),
                           packed_custom_mask=packed_mask, causal=causal, pos_encoding_mode=pos_encoding_mode, logits_soft_cap=logits_soft_cap,
                           sm_scale=sm_scale, rope_scale=rope_scale, rope_theta=rope_theta, q_data_type=q_data_type, kv_data_type=kv_data_type,
                           o_data_type=o_data_type)  # fmt: skip
        self._shape = N, C

    begin_forward = plan

    def run(self, q, k, v, scale_q=None, scale_k=None, scale_v=None, out=None, lse=None, return_lse=False, enable_pdl=None):
        """out [M, num_qo_heads, head_dim], with return_lse also its log2-sum-exp. q [M, num_qo_heads, head_dim]; k, v [N, num_kv_heads, head_dim]."""
        self._wrapper._planned()
        n, c = self._shape
        for name, x in {"k": k, "v": v}.items():
            given = getattr(x, "shape", None)
            _check(given and given[0] == n, "run", name, f"N={n} keys", type(x).__name__ if given is None else f"shape {list(given)}")
        pages = tuple(x.reshape(n // c, c, *x.shape[1:]) for x in (k, v))
        # Scales of tokens come in pages, as the tokens.
        scale_k, scale_v = (x.reshape(n // c, c, -1) if getattr(x, "ndim", 0) == 2 and x.shape[0] == n else x for x in (scale_k, scale_v))
        return self._wrapper.run(q, pages, q_scale=scale_q, k_scale=scale_k, v_scale=scale_v, out=out, lse=lse, return_lse=return_lse, enable_pdl=enable_pdl)

    def forward(self, q, k, v, scale_q=None, scale_k=None, scale_v=None, pos_encoding_mode="NONE", use_fp16_qk_reduction=False, logits_soft_cap=None,
                sm_scale=None, rope_scale=None, rope_theta=None):  # fmt: skip
        """The old run(), whose options replace those of plan()."""
        w = self._wrapper
        w._planned()
        w._change(w._causal, pos_encoding_mode, -1, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        return self.run(q, k, v, scale_q, scale_k, scale_v)

    def end_forward(self):
        """Kept for old callers; does nothing."""


class VariableBlockSparseAttentionWrapper:
    """Block-sparse attention whose blocks differ in size, and whose masks differ from KV head to KV head. Heads come first:
    q, out [num_qo_heads, qo_len, head_dim], k, v [num_kv_heads, kv_len, head_dim], lse [num_qo_heads, qo_len]."""

    def __init__(self, float_workspace_buffer, backend="auto"):
        self._wrapper = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, backend=backend)

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        self._wrapper.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def plan(self, block_mask_map, block_row_sz, block_col_sz, num_qo_heads, num_kv_heads, head_dim, causal=False, pos_encoding_mode="NONE",
             use_fp16_qk_reduction=False, logits_soft_cap=None, sm_scale=None, rope_scale=None, rope_theta=None, non_blocking=True, q_data_type="float16",
             kv_data_type=None):  # fmt: skip
        """block_mask_map: bool [num_kv_heads, MB, NB], which blocks a row of blocks sees. block_row_sz [num_kv_heads, MB] and block_col_sz
        [num_kv_heads, NB]: query rows and keys of the blocks; each head's sum to qo_len and kv_len. They are read back."""
        import numpy

        _check(num_kv_heads >= 1 and num_qo_heads % num_kv_heads == 0, "plan", "num_qo_heads", f"a multiple of num_kv_heads={num_kv_heads}", num_qo_heads)
        mask, rows, columns = _host(block_mask_map).astype(bool), _host(block_row_sz), _host(block_col_sz)
        lens = []
        for name, sizes in {"block_row_sz": rows, "block_col_sz": columns}.items():
            _check(sizes.ndim == 2 and sizes.shape[0] == num_kv_heads, "plan", name, f"shape [num_kv_heads={num_kv_heads}, blocks]", list(sizes.shape))
            _check((sizes >= 0).all(), "plan", name, "sizes of 0 or more", sizes.min(initial=0))
            sums = sizes.sum(1)
            _check((sums == sums[0]).all(), "plan", name, "blocks of every head that sum to one length", sums.tolist())
            lens.append(int(sums[0]))
        qo_len, kv_len = lens
        _check_shape("plan", "block_mask_map", mask, (num_kv_heads, rows.shape[1], columns.shape[1]))
        indices, counts = [], []
        for head in range(num_kv_heads):
            visible = mask[head][:, numpy.repeat(numpy.arange(columns.shape[1]), columns[head])]  # [MB, kv_len]
            indices.append(numpy.nonzero(visible)[1] + head * kv_len)
            counts.append(visible.sum(1))
        indptr = lambda lens: numpy.concatenate([[0], numpy.concatenate(lens).cumsum()]).astype(numpy.int32)
        # A row of blocks of one KV head is a request, a key of one head a page.
        self._wrapper.plan(indptr(list(rows)), indptr(counts), numpy.concatenate(indices).astype(numpy.int32), numpy.ones(rows.size, numpy.int32),
                           num_qo_heads // num_kv_heads, 1, head_dim, 1, causal=causal, pos_encoding_mode=pos_encoding_mode,
                           logits_soft_cap=logits_soft_cap, sm_scale=sm_scale, rope_scale=rope_scale, rope_theta=rope_theta, q_data_type=q_data_type,
                           kv_data_type=kv_data_type)  # fmt: skip
        self._sizes = num_qo_heads, num_kv_heads, qo_len, kv_len, head_dim

    begin_forward = plan

    def run(self, q, k, v, out=None, lse=None, return_lse=False, enable_pdl=None):
        """The output, with return_lse also its log2-sum-exp."""
        self._wrapper._planned()
        num_qo_heads, num_kv_heads, qo_len, kv_len, dim = self._sizes
        _check_shape("run", "q", q, (num_qo_heads, qo_len, dim))
        for name, x in {"k": k, "v": v}.items():
            _check_shape("run", name, x, (num_kv_heads, kv_len, dim))
        if out is not None:
            _check_shape("run", "out", out, (num_qo_heads, qo_len, dim))
        if lse is not None:
            _check_shape("run", "lse", lse, (num_qo_heads, qo_len))
        group = num_qo_heads // num_kv_heads
        tokens = q.reshape(num_kv_heads, group, qo_len, dim).swapaxes(1, 2).reshape(num_kv_heads * qo_len, group, dim)
        pages = tuple(x.reshape(-1, 1, x.shape[-1]) for x in (k, v))
        result, result_lse = self._wrapper.run(tokens, pages, return_lse=True, enable_pdl=enable_pdl)
        result = result.reshape(num_kv_heads, qo_len, group, -1).swapaxes(1, 2).reshape(num_qo_heads, qo_len, -1)
        result_lse = result_lse.reshape(num_kv_heads, qo_len, group).swapaxes(1, 2).reshape(num_qo_heads, qo_len)
        if out is not None:
            out[...] = result
            result = out
        if lse is not None:
            lse[...] = result_lse
            result_lse = lse
        return (result, result_lse) if return_lse else result

    forward = run

    def end_forward(self):
        """Kept for old callers; does nothing."""
