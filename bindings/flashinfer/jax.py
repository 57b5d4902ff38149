"""Ops for jax.jit, and functional forms of those that FlashInfer's API does in place: JAX arrays are immutable.

The functions of `flashinfer` itself take JAX arrays too, outside of jit. These run in both, on the stream and in the memory of XLA:
what they write they return. With donated arguments (jax.jit(donate_argnums=)) a cache is updated without a copy. Attention takes its
lengths as arrays and plans on their device in the same call, so that one compiled function serves every batch of a size.
They cannot be differentiated; vmap calls them once an entry.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp

from . import _flashinfer
from ._attention import check_kv_layout, refuse

__all__ = [
    "append_paged_kv_cache",
    "apply_llama31_rope",
    "apply_llama31_rope_pos_ids",
    "apply_rope",
    "apply_rope_pos_ids",
    "apply_rope_with_cos_sin_cache",
    "batch_decode_with_paged_kv_cache",
    "batch_prefill_with_paged_kv_cache",
    "batch_prefill_with_ragged_kv_cache",
    "fused_add_rmsnorm",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "gemma_fused_add_rmsnorm",
    "gemma_rmsnorm",
    "get_batch_indices_positions",
    "get_seq_lens",
    "layernorm",
    "merge_state",
    "merge_states",
    "rmsnorm",
    "silu_and_mul",
    "single_decode_with_kv_cache",
    "single_prefill_with_kv_cache",
]


@functools.lru_cache(maxsize=None)
def _register():
    header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    major, minor = (int(re.search(rf"#define XLA_FFI_API_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR"))
    for target, platform, handler in _flashinfer._xla_handlers(major, minor):
        jax.ffi.register_ffi_target(target, handler, platform=platform)


def _call(op, inputs, like, aliases=None, scratch=False, **numbers):
    """Results are as the arrays or shapes `like`; result aliases[i] lies in the memory of input i."""
    _register()
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like]
    call = jax.ffi.ffi_call("flashinfer_scratch" if scratch else "flashinfer", shapes, vmap_method="sequential", input_output_aliases=aliases)
    return call(*inputs, op=op, **numbers)


def _jit(*static):
    """Compiled once for each value of the static arguments: outside of jit a call costs what JAX's own ops cost."""
    return functools.partial(jax.jit, static_argnames=static)


def _rows(name):
    def function(input, weight, eps=1e-6):
        return _call(name, (input, weight), (input,), eps=float(eps))[0]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"flashinfer.{name}."
    return _jit("eps")(function)


def _rows_after_add(name):
    def function(input, residual, weight, eps=1e-6):
        return tuple(_call(name, (input, residual, weight), (input, residual), {0: 0, 1: 1}, eps=float(eps)))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"(input, residual) after flashinfer.{name}."
    return _jit("eps")(function)


def _gated(name):
    def function(input):
        half = jax.ShapeDtypeStruct((*input.shape[:-1], input.shape[-1] // 2), input.dtype)
        return _call(name, (input,), (half,))[0]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"flashinfer.{name}."
    return jax.jit(function)


rmsnorm, gemma_rmsnorm = _rows("rmsnorm"), _rows("gemma_rmsnorm")
fused_add_rmsnorm, gemma_fused_add_rmsnorm = _rows_after_add("fused_add_rmsnorm"), _rows_after_add("gemma_fused_add_rmsnorm")
silu_and_mul, gelu_and_mul, gelu_tanh_and_mul = _gated("silu_and_mul"), _gated("gelu_and_mul"), _gated("gelu_tanh_and_mul")


@_jit("eps")
def layernorm(input, gemma, beta, eps=1e-6):
    """flashinfer.layernorm."""
    return _call("layernorm", (input, gemma, beta), (input,), eps=float(eps))[0]


_ROPE = ("rotary_dim", "interleave", "rope_scale", "rope_theta")
_LLAMA31 = (*_ROPE, "low_freq_factor", "high_freq_factor", "old_context_len")


def _rope(op, q, k, where, rotary_dim, interleave, rope_scale, rope_theta, llama31=False, low=1.0, high=4.0, length=8192.0):
    numbers = dict(rotary_dim=int(rotary_dim or 0), interleave=bool(interleave), rope_scale=float(rope_scale), rope_theta=float(rope_theta))
    numbers |= dict(llama31=llama31, low_freq_factor=float(low), high_freq_factor=float(high), old_context_len=float(length))
    return tuple(_call(op, (q, k, *where), (q, k), **numbers))


@_jit(*_ROPE)
def apply_rope(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=1.0, rope_theta=1e4):
    """flashinfer.apply_rope."""
    return _rope("apply_rope", q, k, (indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta)


@_jit(*_ROPE)
def apply_rope_pos_ids(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=1.0, rope_theta=1e4):
    """flashinfer.apply_rope_pos_ids."""
    return _rope("apply_rope_pos_ids", q, k, (pos_ids,), rotary_dim, interleave, rope_scale, rope_theta)


@_jit(*_LLAMA31)
def apply_llama31_rope(q, k, indptr, offsets, rotary_dim=None, interleave=False, rope_scale=8.0, rope_theta=5e5, low_freq_factor=1.0,
                       high_freq_factor=4.0, old_context_len=8192.0):  # fmt: skip
    """flashinfer.apply_llama31_rope."""
    llama31 = True, low_freq_factor, high_freq_factor, old_context_len
    return _rope("apply_rope", q, k, (indptr, offsets), rotary_dim, interleave, rope_scale, rope_theta, *llama31)


@_jit(*_LLAMA31)
def apply_llama31_rope_pos_ids(q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=8.0, rope_theta=5e5, low_freq_factor=1.0,
                               high_freq_factor=4.0, old_context_len=8192.0):  # fmt: skip
    """flashinfer.apply_llama31_rope_pos_ids."""
    llama31 = True, low_freq_factor, high_freq_factor, old_context_len
    return _rope("apply_rope_pos_ids", q, k, (pos_ids,), rotary_dim, interleave, rope_scale, rope_theta, *llama31)


@_jit("head_size", "is_neox")
def apply_rope_with_cos_sin_cache(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    """flashinfer.apply_rope_with_cos_sin_cache."""
    heads = [x.reshape(x.shape[0], -1, head_size) for x in (query, key)]
    rotated = _call("apply_rope_with_cos_sin_cache", (positions, *heads, cos_sin_cache), heads, interleave=not is_neox)
    return tuple(x.reshape(y.shape) for x, y in zip(rotated, (query, key)))


@_jit("kv_layout")
def append_paged_kv_cache(append_key, append_value, batch_indices, positions, paged_kv_cache, kv_indices, kv_indptr, kv_last_page_len,
                          kv_layout="NHD"):  # fmt: skip
    """The pair (k_cache, v_cache) after flashinfer.append_paged_kv_cache; paged_kv_cache is such a pair. Donate it, or it is copied."""
    check_kv_layout("append_paged_kv_cache", kv_layout)
    k_cache, v_cache = _pair("append_paged_kv_cache", paged_kv_cache)
    inputs = (append_key, append_value, batch_indices, positions, k_cache, v_cache, kv_indices, kv_indptr, kv_last_page_len)
    return tuple(_call("append_paged_kv_cache", inputs, (k_cache, v_cache), {4: 0, 5: 1}, hnd=kv_layout == "HND"))


@_jit("nnz")
def get_batch_indices_positions(append_indptr, seq_lens, nnz):
    """flashinfer.get_batch_indices_positions."""
    like = jax.ShapeDtypeStruct((nnz,), jnp.int32)
    return tuple(_call("get_batch_indices_positions", (append_indptr, seq_lens), (like, like)))


@_jit("page_size")
def get_seq_lens(kv_indptr, kv_last_page_len, page_size):
    """flashinfer.get_seq_lens."""
    return _call("get_seq_lens", (kv_indptr, kv_last_page_len), (kv_last_page_len,), page_size=int(page_size))[0]


@jax.jit
def merge_state(v_a, s_a, v_b, s_b):
    """flashinfer.merge_state."""
    return tuple(_call("merge_state", (v_a, s_a, v_b, s_b), (v_a, s_a)))


@jax.jit
def merge_states(v, s):
    """flashinfer.merge_states."""
    return tuple(_call("merge_states", (v, s), (v[:, 0], s[:, 0])))


def _pair(op, paged_kv_cache):
    if not isinstance(paged_kv_cache, (tuple, list)) or len(paged_kv_cache) != 2:
        raise refuse(op, "paged_kv_cache", "paged_kv_cache: expected a pair (k_cache, v_cache): a part of a JAX array would be copied")
    return paged_kv_cache


_OPTIONS = ("kv_layout", "window_left", "logits_soft_cap", "sm_scale", "return_lse")


def _attention(op, inputs, head_dim_vo, kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, causal, **numbers):
    check_kv_layout(op, kv_layout)
    q = inputs[0]
    out = jax.ShapeDtypeStruct((*q.shape[:-1], head_dim_vo), q.dtype)
    lse = jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32)
    numbers |= dict(hnd=kv_layout == "HND", causal=bool(causal), window_left=int(window_left))
    numbers |= dict(logits_soft_cap=float(logits_soft_cap or 0.0), sm_scale=float("nan") if sm_scale is None else float(sm_scale))
    results = _call(op, inputs, (out, lse) if return_lse else (out,), scratch=True, **numbers)
    return tuple(results) if return_lse else results[0]


@_jit(*_OPTIONS)
def single_decode_with_kv_cache(q, k, v, kv_layout="NHD", window_left=-1, logits_soft_cap=None, sm_scale=None, return_lse=False):
    """flashinfer.single_decode_with_kv_cache."""
    return _attention("single_attention", (q, k, v), v.shape[-1], kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, False)


@_jit(*_OPTIONS, "causal")
def single_prefill_with_kv_cache(q, k, v, causal=False, kv_layout="NHD", window_left=-1, logits_soft_cap=None, sm_scale=None, return_lse=False):
    """flashinfer.single_prefill_with_kv_cache."""
    return _attention("single_attention", (q, k, v), v.shape[-1], kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, causal)


@_jit(*_OPTIONS, "q_len_per_req")
def batch_decode_with_paged_kv_cache(q, paged_kv_cache, kv_indptr, kv_indices, kv_last_page_len, kv_layout="NHD", window_left=-1,
                                     logits_soft_cap=None, sm_scale=None, return_lse=False, q_len_per_req=1):  # fmt: skip
    """plan() and run() of BatchDecodeWithPagedKVCacheWrapper. paged_kv_cache: (k_cache, v_cache); lengths: int32.

    q [batch_size * q_len_per_req, num_qo_heads, head_dim]; with more than one row a request is causal in them.
    """
    k, v = _pair("batch_decode_with_paged_kv_cache", paged_kv_cache)
    inputs = (q, k, v, kv_indptr, kv_indices, kv_last_page_len)
    return _attention("paged_attention", inputs, v.shape[-1], kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, q_len_per_req > 1,
                      qo_len=int(q_len_per_req))  # fmt: skip


@_jit(*_OPTIONS, "causal", "max_qo_len")
def batch_prefill_with_paged_kv_cache(q, paged_kv_cache, qo_indptr, kv_indptr, kv_indices, kv_last_page_len, causal=False, kv_layout="NHD",
                                      window_left=-1, logits_soft_cap=None, sm_scale=None, return_lse=False, max_qo_len=0):  # fmt: skip
    """plan() and run() of BatchPrefillWithPagedKVCacheWrapper. paged_kv_cache: (k_cache, v_cache); lengths: int32. Rows of q behind
    qo_indptr's last entry belong to no request; theirs of the result are undefined. max_qo_len: the longest request, if known: it picks the kernel.
    """
    k, v = _pair("batch_prefill_with_paged_kv_cache", paged_kv_cache)
    inputs = (q, k, v, kv_indptr, kv_indices, kv_last_page_len, qo_indptr)
    return _attention("paged_attention", inputs, v.shape[-1], kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, causal,
                      qo_len=int(max_qo_len))  # fmt: skip


@_jit(*_OPTIONS, "causal", "max_qo_len")
def batch_prefill_with_ragged_kv_cache(q, k, v, qo_indptr, kv_indptr, causal=False, kv_layout="NHD", window_left=-1, logits_soft_cap=None,
                                       sm_scale=None, return_lse=False, max_qo_len=0):  # fmt: skip
    """plan() and run() of BatchPrefillWithRaggedKVCacheWrapper; lengths: int32. As batch_prefill_with_paged_kv_cache."""
    inputs = (q, k, v, qo_indptr, kv_indptr)
    return _attention("ragged_attention", inputs, v.shape[-1], kv_layout, window_left, logits_soft_cap, sm_scale, return_lse, causal,
                      qo_len=int(max_qo_len))  # fmt: skip
