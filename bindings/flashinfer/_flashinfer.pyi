"""The functions of flashinfer that are bound from C++. Written by python_tests/test_api.py --update."""

from typing import Any, TypeAlias

# Of torch, NumPy, CuPy, JAX, tvm-ffi or any other library with __dlpack__. Results are of the library of the inputs.
Tensor: TypeAlias = Any

__version__: str

class InvalidArgument(ValueError):
    op: str
    argument: str

class Unsupported(NotImplementedError): ...
class CompileError(RuntimeError): ...
class CudaError(RuntimeError): ...

def describe(tensor: Tensor, writable: bool = False) -> dict:
    """
    Shape, strides in elements, dtype, device and address, as the kernels see them.
    """

def top_k(input: Tensor, k: int, sorted: bool = False, deterministic: bool = False, tie_break: int = 0, dsa_graph_safe: bool = False) -> tuple[Tensor, Tensor]:
    """
    (values, indices) of the k largest of each row: from the largest on if sorted, or k <= 512 without tie_break 2, else by rising index.

    input: [num_rows, width], float32, float16 or bfloat16, rows at any stride. values: [num_rows, k], input's dtype; indices: [num_rows, k],
    int64. Of equal elements those of lower index are chosen, and come first, with tie_break 2 those of higher index; +0 and -0 are equal,
    NaN comes behind -inf. Places behind the last element of a row hold -inf and -1. Every call is deterministic and can be captured in
    a CUDA graph, whatever deterministic and dsa_graph_safe say.
    """

def top_k_page_table_transform(input: Tensor, src_page_table: Tensor, lengths: Tensor, k: int, row_to_batch: Tensor | None = None, deterministic: bool = False, tie_break: int = 0, dsa_graph_safe: bool = False, row_starts: Tensor | None = None, page_table_row_starts: Tensor | None = None, *, page_size: int = 1, out: Tensor | None = None, out_raw_indices: Tensor | None = None) -> Tensor:
    """
    The slots in a paged cache of the k largest of each row, in the order of their indices: page * page_size + i % page_size for element i,
    whose page is src_page_table[row_to_batch[row], page_table_row_starts[row] + i // page_size].

    input: [num_rows, max_len], float32, float16 or bfloat16; row r's elements are the lengths[r] from row_starts[r] on. src_page_table:
    [batch_size, max_pages]; lengths, row_to_batch (None: row r's is r), row_starts (None: 0), page_table_row_starts (None: row_starts):
    [num_rows], int32. out, out_raw_indices (i itself): [num_rows, k], int32; places behind a row's last element hold -1.
    """

def top_k_ragged_transform(input: Tensor, offsets: Tensor, lengths: Tensor, k: int, deterministic: bool = False, tie_break: int = 0, dsa_graph_safe: bool = False, row_starts: Tensor | None = None) -> Tensor:
    """
    The indices of the k largest of each row, in rising order, plus the row's offset.

    input: [num_rows, max_len], float32, float16 or bfloat16; row r's elements are the lengths[r] from row_starts[r] (None: 0) on, where
    indices begin. offsets, lengths, row_starts: [num_rows], int32. The result is [num_rows, k], int32; places behind a row's last
    element hold -1.
    """

def softmax(logits: Tensor, temperature: object | None = None, enable_pdl: bool | None = None, out: Tensor | None = None) -> Tensor:
    """
    softmax(logits / temperature) over the last dimension, in float32.

    logits: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. temperature: a number or [batch_size]; 0 gives all to
    the largest logit, of equal ones to the first. out: float32, may be the logits themselves; made if None. A row of -inf gives zeros.
    """

def top_p_renorm_probs(probs: Tensor, top_p: object | None, is_deterministic: bool = False, out: Tensor | None = None) -> Tensor:
    """
    Keeps the smallest set of most probable tokens whose mass reaches top_p of the row's, and renormalises it, in float32.

    probs: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. top_p: a number or [batch_size]. Of equal probabilities
    the lower index is kept first. out: float32 or probs' dtype; made if None. The result never depends on timing or the batch.
    """

def top_k_renorm_probs(probs: Tensor, top_k: object | None, out: Tensor | None = None) -> Tensor:
    """
    Keeps the top_k most probable tokens of each row, exactly that many, and renormalises them, in probs' dtype.

    probs: [batch_size, vocab_size], float32, float16 or bfloat16, row stride free. top_k: a number or [batch_size], of which 0 and less
    keeps all. Of equal probabilities the lower index is kept first. out: may be probs itself; made if None.
    """

def top_k_mask_logits(logits: Tensor, top_k: object | None, out: Tensor | None = None) -> Tensor:
    """
    Keeps the top_k largest logits of each row, exactly that many, and makes the rest -inf.

    As top_k_renorm_probs. NaN counts as the smallest of all and becomes -inf.
    """

def chain_speculative_sampling(draft_probs: Tensor, draft_token_ids: Tensor, target_probs: Tensor, maybe_output_accepted_token_num: Tensor | None = None, maybe_output_emitted_draft_token_num: Tensor | None = None, deterministic: bool = True, generator: object | None = None, seed: object | None = None, offset: object | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """
    (output_token_ids, accepted_token_num, emitted_draft_token_num): which drafted tokens the target model accepts.

    draft_probs: [batch_size, n, vocab_size] and target_probs: [batch_size, n + 1, vocab_size], float32. draft_token_ids: [batch_size, n],
    int32 or int64, drawn from draft_probs. Token i is accepted with probability min(1, target / draft). output_token_ids, int32
    [batch_size, n + 1], has the tokens before the first rejection, one more (from max(target - draft, 0), or from the last target), then
    -1: tokens distributed as the target's own. The counts, int32 [batch_size], are added to where given: steps that accept by themselves,
    and tokens before the first rejection. seed, offset, generator: as in sampling_from_probs.
    """

def apply_rope(q: Tensor, k: Tensor, indptr: Tensor, offsets: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 1.0, rope_theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """
    Rotates pairs of q and k by position * rope_theta^(-2i / rotary_dim) / rope_scale; token indptr[r] + i is at position offsets[r] + i.

    q: [num_tokens, num_qo_heads, head_dim], k: [num_tokens, num_kv_heads, head_dim], float16, bfloat16 or float32; all strides but
    the innermost are free. indptr: [batch_size + 1], offsets: [batch_size], int32 or int64. Pairs are (i, i + rotary_dim / 2), or
    (2i, 2i + 1) if interleave; dimensions from rotary_dim (None: head_dim) on are copied. Angles are exact at any position.
    """

def apply_rope_inplace(q: Tensor, k: Tensor, indptr: Tensor, offsets: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 1.0, rope_theta: float = 10000.0) -> None:
    """
    As apply_rope, written into q and k, which may be slices of one tensor.
    """

def apply_rope_pos_ids(q: Tensor, k: Tensor, pos_ids: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 1.0, rope_theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """
    As apply_rope, token t at position pos_ids[t]. pos_ids: [num_tokens], int32 or int64.
    """

def apply_rope_pos_ids_inplace(q: Tensor, k: Tensor, pos_ids: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 1.0, rope_theta: float = 10000.0) -> None:
    """As apply_rope_pos_ids, written into q and k."""

def apply_llama31_rope(q: Tensor, k: Tensor, indptr: Tensor, offsets: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 8.0, rope_theta: float = 500000.0, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0, old_context_len: float = 8192.0) -> tuple[Tensor, Tensor]:
    """
    As apply_rope, with the frequencies of Llama 3.1.

    Wavelengths above old_context_len / low_freq_factor are stretched by rope_scale, those below old_context_len / high_freq_factor are
    kept, and those between are blended.
    """

def apply_llama31_rope_inplace(q: Tensor, k: Tensor, indptr: Tensor, offsets: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 8.0, rope_theta: float = 500000.0, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0, old_context_len: float = 8192.0) -> None:
    """As apply_llama31_rope, written into q and k."""

def apply_llama31_rope_pos_ids(q: Tensor, k: Tensor, pos_ids: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 8.0, rope_theta: float = 500000.0, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0, old_context_len: float = 8192.0) -> tuple[Tensor, Tensor]:
    """As apply_llama31_rope, token t at position pos_ids[t]."""

def apply_llama31_rope_pos_ids_inplace(q: Tensor, k: Tensor, pos_ids: Tensor, rotary_dim: int | None = None, interleave: bool = False, rope_scale: float = 8.0, rope_theta: float = 500000.0, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0, old_context_len: float = 8192.0) -> None:
    """As apply_llama31_rope_pos_ids, written into q and k."""

def apply_rope_with_cos_sin_cache(positions: Tensor, query: Tensor, key: Tensor, head_size: int, cos_sin_cache: Tensor, is_neox: bool = True) -> tuple[Tensor, Tensor]:
    """
    RoPE from a table: row p holds the rotary_dim / 2 cosines of position p, then its sines.

    positions: [num_tokens], int32 or int64. query: [num_tokens, num_qo_heads * head_size], key: [num_tokens, num_kv_heads * head_size],
    float16, bfloat16 or float32. cos_sin_cache: [max_pos, rotary_dim], float32. is_neox: pairs (i, i + rotary_dim / 2), else (2i, 2i + 1).
    """

def apply_rope_with_cos_sin_cache_inplace(positions: Tensor, query: Tensor, key: Tensor, head_size: int, cos_sin_cache: Tensor, is_neox: bool = True) -> None:
    """As apply_rope_with_cos_sin_cache, written into query and key."""

def append_paged_kv_cache(append_key: Tensor, append_value: Tensor, batch_indices: Tensor, positions: Tensor, paged_kv_cache: object, kv_indices: Tensor, kv_indptr: Tensor, kv_last_page_len: Tensor, kv_layout: str = 'NHD') -> None:
    """
    Copies new keys and values to their places in a paged KV cache: token t is the positions[t]-th of request batch_indices[t].

    append_key: [num_tokens, num_kv_heads, head_dim], append_value: [num_tokens, num_kv_heads, head_dim_vo]. paged_kv_cache: a pair of
    [num_pages, page_size, num_kv_heads, head_dim] (NHD) or [num_pages, num_kv_heads, page_size, head_dim] (HND), or both stacked in
    dimension 1, of append_key's dtype; all strides but the innermost are free, and V's are its own. batch_indices, positions:
    [num_tokens], kv_indices, kv_indptr: [batch_size + 1], kv_last_page_len: [batch_size], int32. Negative batch indices are padding.
    """

def append_paged_mla_kv_cache(append_ckv: Tensor, append_kpe: Tensor, batch_indices: Tensor, positions: Tensor, ckv_cache: Tensor, kpe_cache: Tensor, kv_indices: Tensor, kv_indptr: Tensor, kv_last_page_len: Tensor) -> None:
    """
    As append_paged_kv_cache, for the cache of multi-head latent attention, which has no heads.

    append_ckv: [num_tokens, ckv_dim], append_kpe: [num_tokens, kpe_dim], ckv_cache: [num_pages, page_size, ckv_dim], kpe_cache:
    [num_pages, page_size, kpe_dim].
    """

def get_batch_indices_positions(append_indptr: Tensor, seq_lens: Tensor, nnz: int, batch_indices: Tensor | None = None, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """
    (batch_indices, positions) of new tokens: request r's, append_indptr[r] to append_indptr[r + 1] - 1, are the last of its seq_lens[r].

    append_indptr: [batch_size + 1], seq_lens: [batch_size], int32 or int64. Results: [nnz], int32; entries behind append_indptr's last
    become -1 and 0.
    """

def get_seq_lens(kv_indptr: Tensor, kv_last_page_len: Tensor, page_size: int) -> Tensor:
    """
    Tokens of each request in a paged KV cache: max(pages - 1, 0) * page_size + kv_last_page_len.

    kv_indptr: [batch_size + 1], kv_last_page_len: [batch_size], each int32 or int64; the result is as kv_last_page_len.
    """

def packbits(x: Tensor, bitorder: str = 'big') -> Tensor:
    """
    Eight booleans a byte, as numpy.packbits: the first goes into the highest bit, or the lowest if bitorder is "little".

    x: [n], bool, or uint8 of which any value but 0 is true. Returns uint8, [(n + 7) / 8].
    """

def segment_packbits(x: Tensor, indptr: Tensor, bitorder: str = 'big') -> tuple[Tensor, Tensor]:
    """
    (y, new_indptr): segments x[indptr[i]:indptr[i + 1]], each packed by itself into y[new_indptr[i]:new_indptr[i + 1]].

    indptr: [num_segments + 1], int32 or int64. new_indptr is int32. On a GPU this waits for indptr, for the length of y depends on it.
    """

def rmsnorm(input: Tensor, weight: Tensor, eps: float = 1e-06, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """
    input / sqrt(mean(input^2) + eps) * weight over the last dimension, computed in float32.

    input: [num_rows, hidden_size] or [num_tokens, num_heads, head_dim], float32, float16 or bfloat16. weight: [hidden_size],
    input's dtype or float32. out: as input, may be input itself; made if None. All strides but the innermost are free.
    """

def gemma_rmsnorm(input: Tensor, weight: Tensor, eps: float = 1e-06, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """As rmsnorm, times weight + 1."""

def fused_add_rmsnorm(input: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    residual += input; input = rmsnorm(residual). The norm is that of the sum in float32, before it is rounded into residual.
    """

def gemma_fused_add_rmsnorm(input: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """As fused_add_rmsnorm, times weight + 1."""

def rmsnorm_quant(out: Tensor, input: Tensor, weight: Tensor, scale: float | Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    out = rmsnorm(input) / scale, in FP8 (e4m3 or e5m2), saturating. scale: a number, or a float32 tensor of one element.
    """

def fused_add_rmsnorm_quant(out: Tensor, input: Tensor, residual: Tensor, weight: Tensor, scale: float | Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    residual += input; out = rmsnorm(residual) / scale, in FP8. The input keeps its values.
    """

def layernorm(input: Tensor, gemma: Tensor, beta: Tensor, eps: float = 1e-06, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """
    (input - mean) / sqrt(variance + eps) * gemma + beta over the last dimension, computed in float32.

    input: [num_rows, hidden_size] or [num_tokens, num_heads, head_dim], float32, float16 or bfloat16. gemma, beta: [hidden_size],
    input's dtype or float32. out: as input, may be input itself; made if None. All strides but the innermost are free.
    """

def layernorm_quant(out: Tensor, input: Tensor, gemma: Tensor, beta: Tensor, scale: float | Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    out = layernorm(input) / scale, in FP8 (e4m3 or e5m2), saturating; layernorm(input) is rounded to input's dtype first.
    """

def merge_state(v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor) -> tuple[Tensor, Tensor]:
    """
    (v, s) of attention over two disjoint key sets together: s = log2(2^s_a + 2^s_b), v = 2^(s_a - s) v_a + 2^(s_b - s) v_b.

    v_a, v_b: [num_tokens, num_heads, head_dim], float16, bfloat16 or float32. s_a, s_b: [num_tokens, num_heads], float32, base-2 LSE.
    An empty set has s = -inf; two of them give v = 0, s = -inf.
    """

def merge_state_in_place(v: Tensor, s: Tensor, v_other: Tensor, s_other: Tensor, mask: Tensor | None = None) -> None:
    """
    As merge_state, written into v and s.

    mask: [num_tokens], bool: tokens whose entry is False are left alone.
    """

def merge_states(v: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """
    As merge_state, for any number of states.

    v: [num_tokens, num_states, num_heads, head_dim], s: [num_tokens, num_states, num_heads], float32.
    """

def silu_and_mul(input: Tensor, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """
    silu(input[..., :dim]) * input[..., dim:], computed in float32.

    input: [..., 2 * dim], float32, float16 or bfloat16, rows of a multiple of 16 bytes; the innermost stride is 1, others are free.
    out: [..., dim], may be a half of input itself; made if None.
    """

def gelu_and_mul(input: Tensor, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """As silu_and_mul, with gelu(x) = x (1 + erf(x / sqrt(2))) / 2."""

def gelu_tanh_and_mul(input: Tensor, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """
    As silu_and_mul, with gelu(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """

class JaxBuffer:
    """Memory of JAX's on a GPU that the library writes."""

    def __dlpack_device__(self) -> tuple: ...

    def __dlpack__(self, stream: object | None = None, **kwargs) -> object: ...

class AttentionPlan:
    """
    A plan of attention: a value. It keeps alive the buffers that it lies in.
    """

    def run_paged(self, q: Tensor, paged_kv_cache: object | None, out: Tensor | None, lse: Tensor | None, return_lse: bool, q_scale: object | None, k_scale: object | None, v_scale: object | None, sinks: Tensor | None, enable_pdl: bool | None, variant: object | None) -> object: ...

    def run_ragged(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor | None, lse: Tensor | None, return_lse: bool, q_scale: object | None, k_scale: object | None, v_scale: object | None, sinks: Tensor | None, enable_pdl: bool | None, variant: object | None) -> object: ...

    def again(self, qo_indptr: object | None, kv_indptr: object | None, kv_indices: object | None, last_page_len: object | None, arguments: tuple, by_name: dict) -> bool: ...

    def remember(self, arguments: tuple, by_name: dict) -> None: ...

    def set_options(self, causal: bool, window_left: int, rope: bool, alibi_slopes: Tensor | None, sm_scale: float | None, logits_soft_cap: float | None, rope_scale: float | None, rope_theta: float | None) -> None: ...

    @property
    def info(self) -> list: ...

    @property
    def backend(self) -> str: ...

    @property
    def kernel(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def total_qo_len(self) -> int: ...

    @property
    def max_qo_len(self) -> int: ...

    @property
    def tile_qo_len(self) -> int: ...

    @property
    def sm_scale(self) -> float: ...

    @property
    def int_workspace(self) -> object: ...
