"""Wrong arguments of attention, for test_bad_calls.py: of one request, of plan(), of run() and of the wrappers themselves."""

import numpy as np
import torch

from flashinfer.decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper

SINGLE_DECODE, SINGLE_PREFILL = "single_decode_with_kv_cache", "single_prefill_with_kv_cache"
DECODE, PAGED, RAGGED = "BatchDecodeWithPagedKVCacheWrapper", "BatchPrefillWithPagedKVCacheWrapper", "BatchPrefillWithRaggedKVCacheWrapper"


def half(*shape):
    return torch.ones(shape, dtype=torch.float16)


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def workspace(size=1 << 20):
    return torch.zeros(size, dtype=torch.uint8)


def planned(kind):
    """Two requests of 20 and 5 keys in pages of 16, 8 over 2 heads of 64; the prefill ones of 3 and 4 query tokens."""
    wrapper = kind(workspace())
    call = good(kind.__name__ + ".plan")
    call["self"] = wrapper
    kind.plan(**call)
    return wrapper


def good(op):
    if op == SINGLE_DECODE:
        return dict(q=half(8, 64), k=half(20, 2, 64), v=half(20, 2, 64))
    if op == SINGLE_PREFILL:
        return dict(q=half(7, 8, 64), k=half(20, 2, 64), v=half(20, 2, 64))
    shape = dict(num_qo_heads=8, num_kv_heads=2, q_data_type="float16")
    if op == DECODE + ".plan":
        kind = BatchDecodeWithPagedKVCacheWrapper(workspace())
        return dict(self=kind, indptr=i32(0, 2, 3), indices=i32(4, 0, 2), last_page_len=i32(4, 5), head_dim=64, page_size=16, **shape)
    if op == PAGED + ".plan":
        kind = BatchPrefillWithPagedKVCacheWrapper(workspace())
        lengths = dict(qo_indptr=i32(0, 3, 7), paged_kv_indptr=i32(0, 2, 3), paged_kv_indices=i32(4, 0, 2), paged_kv_last_page_len=i32(4, 5))
        return dict(self=kind, **lengths, head_dim_qk=64, page_size=16, **shape)
    if op == RAGGED + ".plan":
        return dict(self=BatchPrefillWithRaggedKVCacheWrapper(workspace()), qo_indptr=i32(0, 3, 7), kv_indptr=i32(0, 20, 25), head_dim_qk=64, **shape)
    if op == DECODE + ".run":
        return dict(self=planned(BatchDecodeWithPagedKVCacheWrapper), q=half(2, 8, 64), paged_kv_cache=(half(5, 16, 2, 64), half(5, 16, 2, 64)))
    if op == PAGED + ".run":
        return dict(self=planned(BatchPrefillWithPagedKVCacheWrapper), q=half(7, 8, 64), paged_kv_cache=(half(5, 16, 2, 64), half(5, 16, 2, 64)))
    if op == RAGGED + ".run":
        return dict(self=planned(BatchPrefillWithRaggedKVCacheWrapper), q=half(7, 8, 64), k=half(25, 2, 64), v=half(25, 2, 64))
    if op in (DECODE, PAGED, RAGGED):
        return dict(float_workspace_buffer=workspace())
    raise KeyError(op)


CALLS = []


def bad(op, argument, *changes):
    CALLS.extend((op, argument, change) for change in changes)


# One request.
for op in (SINGLE_DECODE, SINGLE_PREFILL):
    bad(op, "q", {"q": half(64)}, {"q": half(1, 7, 8, 64)}, {"q": None}, {"q": "q"}, {"q": half(8, 64).to("meta")}, {"q": torch.ones(8, 64, dtype=torch.int32)})
    bad(op, "k", {"k": half(20, 64)}, {"k": None}, {"k": half(20, 2, 64).bfloat16().long()}, {"k": half(20, 2, 128)[..., ::2]}, {"k": half(20, 2, 72)})
    bad(op, "v", {"v": half(19, 2, 64)}, {"v": half(20, 2, 128)[..., ::2]}, {"v": half(20, 3, 64)}, {"v": half(20, 2, 64).bfloat16()}, {"v": half(20, 64)})
    bad(op, "num_qo_heads", {"k": half(20, 3, 64), "v": half(20, 3, 64)})
    bad(op, "head_dim_qk", {"q": half(8, 68) if op == SINGLE_DECODE else half(7, 8, 68), "k": half(20, 2, 68)}, {"q": half(8, 520) if op == SINGLE_DECODE else half(7, 8, 520)})
    bad(op, "head_dim_vo", {"v": half(20, 2, 60)}, {"v": half(20, 2, 640)})
    bad(op, "window_left", {"window_left": -2})
    bad(op, "sm_scale", {"sm_scale": float("nan")}, {"sm_scale": float("inf")})
    bad(op, "logits_soft_cap", {"logits_soft_cap": float("nan")})
    bad(op, "rope_scale", {"rope_scale": 0.0}, {"rope_scale": -1.0})
    bad(op, "rope_theta", {"rope_theta": 1.0}, {"rope_theta": float("inf")})
    bad(op, "kv_layout", {"kv_layout": "NDH"})
    bad(op, "pos_encoding_mode", {"pos_encoding_mode": "ROPE"})
    bad(op, "sinks", {"sinks": torch.ones(7)}, {"sinks": half(8)}, {"sinks": torch.ones(8, 1)}, {"sinks": torch.ones(16)[::2]})
    for scale in ("q_scale", "k_scale", "v_scale") if op == SINGLE_DECODE else ("scale_q", "k_scale", "v_scale"):
        bad(op, scale, {scale: float("nan")}, {scale: torch.tensor(float("inf"))})
    bad(op, "window_left", {"window_left": 2**31}, {"window_left": "1"})
    bad(op, "sm_scale", {"sm_scale": "1"})
bad(SINGLE_DECODE, "q", {"q": half(7, 8, 64)})
bad(SINGLE_PREFILL, "q", {"q": half(8, 64)}, {"q": [1.0], "pos_encoding_mode": "ALIBI"})
bad(SINGLE_PREFILL, "causal", {"causal": "yes"})
bad(SINGLE_PREFILL, "scale_q", {"scale_q": torch.ones(3)})
bad(SINGLE_PREFILL, "v_scale", {"v_scale": torch.ones(3)}, {"scale_v": torch.ones(16)})
bad(SINGLE_PREFILL, "k_scale", {"k_scale": torch.ones(3)}, {"scale_k": torch.ones(19, 2)}, {"k_scale": torch.ones(2, 20)}, {"k_scale": half(2)})
bad(SINGLE_DECODE, "q_scale", {"q_scale": torch.ones(2)}, {"q_scale": half(8)})
bad(SINGLE_DECODE, "v_scale", {"v_scale": torch.ones(20, 3)}, {"v_scale": np.ones(2)})
bad(SINGLE_DECODE, "q_scale", {"q_scale": "1"})
bad(SINGLE_PREFILL, "k_scale", {"k_scale": 1.0, "scale_k": 1.0})
bad(SINGLE_PREFILL, "v_scale", {"v_scale": object()})
bad(
    SINGLE_PREFILL,
    "custom_mask",
    {"custom_mask": torch.ones(139, dtype=torch.bool)},
    {"custom_mask": torch.ones(20, 7, dtype=torch.bool).T},
    {"custom_mask": torch.ones(20, 7, dtype=torch.bool)},
    {"packed_custom_mask": torch.ones(17, dtype=torch.uint8)},
    {"packed_custom_mask": torch.ones(18, dtype=torch.int32)},
)
bad(SINGLE_PREFILL, "packed_custom_mask", {"packed_custom_mask": torch.ones(36, dtype=torch.uint8)[::2]}, {"packed_custom_mask": np.ones(18, np.uint8)[::-1]})
bad(SINGLE_PREFILL, "o_dtype", {"o_dtype": "int8"}, {"o_dtype": torch.int32})

# Plans.
for op in (DECODE + ".plan", PAGED + ".plan", RAGGED + ".plan"):
    dim = "head_dim" if op.startswith(DECODE) else "head_dim_qk"
    bad(op, "num_qo_heads", {"num_qo_heads": 7}, {"num_qo_heads": 0})
    bad(op, "num_qo_heads", {"num_qo_heads": 8.0}, {"num_qo_heads": "8"}, {"num_qo_heads": None}, {"num_qo_heads": 2**31})
    bad(op, "num_sms", {"num_sms": -1}, {"num_sms": "1"})
    bad(op, "fixed_split_size", {"fixed_split_size": "1"})
    bad(op, "num_kv_heads", {"num_kv_heads": 0}, {"num_kv_heads": -2})
    bad(op, "head_dim_qk", {dim: 60}, {dim: 0}, {dim: 520})
    bad(op, "q_data_type", {"q_data_type": "int8"}, {"q_data_type": torch.int32}, {"q_data_type": {}})
    bad(op, "kv_data_type", {"kv_data_type": "float12"})
    bad(op, "o_data_type", {"o_data_type": torch.int64})
    bad(op, "window_left", {"window_left": -5})
    bad(op, "pos_encoding_mode", {"pos_encoding_mode": "alibi"})
    bad(op, "sm_scale", {"sm_scale": float("nan")})
    bad(op, "rope_theta", {"rope_theta": 0.5})
    bad(op, "logits_soft_cap", {"logits_soft_cap": float("inf")})
decode_names, paged_names = ("indptr", "indices", "last_page_len"), ("paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len")
for op, (indptr, indices, last) in ((DECODE + ".plan", decode_names), (PAGED + ".plan", paged_names)):
    bad(op, "kv_indptr", {indptr: i32(1, 2, 3)}, {indptr: i32(0, 3, 2)}, {indptr: i32(0, 2, 4)}, {indptr: torch.tensor([0, 2, 1 << 40])})
    bad(op, "kv_indptr", {indptr: torch.tensor([0.0, 2.0, 3.0])}, {indptr: i32(0, 2, 3)[None]} if op.startswith(DECODE) else {indptr: half(3)})
    bad(op, "kv_indices", {indices: i32(4, -1, 2)}, {indices: i32(4, 0, 2)[:, None]}, {indices: half(3)}, {indices: torch.tensor([4, 0, 1 << 33])})
    bad(op, "last_page_len", {last: i32(0, 5)}, {last: i32(17, 5)}, {last: i32(4, -1)}, {last: i32(4, 5, 6)}, {last: half(2)})
    bad(op, "page_size", {"page_size": -1}, {"page_size": 0})
    bad(op, "int_workspace", lambda call: {"self": call["self"].reset_workspace_buffer(x := workspace(), x) or call["self"]})
    bad(op, "int_workspace", lambda call: {"self": call["self"].reset_workspace_buffer(workspace(), workspace(16)) or call["self"]})
bad(DECODE + ".plan", "q_len_per_req", {"q_len_per_req": 0}, {"q_len_per_req": 2})
bad(PAGED + ".plan", "qo_indptr", {"qo_indptr": i32(0, 4, 3)}, {"qo_indptr": i32(1, 2, 3)}, {"qo_indptr": half(3)})
bad(PAGED + ".plan", "paged_kv_indptr", {"paged_kv_indptr": i32(0, 2)}, {"qo_indptr": i32(0, 3)})
bad(PAGED + ".plan", "custom_mask", {"custom_mask": torch.ones(79, dtype=torch.bool)}, {"custom_mask": torch.ones(80, 2, dtype=torch.bool)[:, 0]})
bad(PAGED + ".plan", "packed_custom_mask", {"packed_custom_mask": torch.ones(10, dtype=torch.uint8)}, {"packed_custom_mask": torch.ones(11)})
bad(PAGED + ".plan", "packed_custom_mask", {"packed_custom_mask": torch.ones(24, dtype=torch.uint8)[::2]})
bad(PAGED + ".plan", "max_qo_len", {"max_qo_len": -1})
bad(RAGGED + ".plan", "qo_indptr", {"qo_indptr": i32(0, 4, 3)}, {"qo_indptr": i32(2, 2, 3)})
bad(RAGGED + ".plan", "kv_indptr", {"kv_indptr": i32(0, 20)}, {"kv_indptr": i32(0, 20, 19)}, {"kv_indptr": i32(3, 20, 25)}, {"kv_indptr": half(3)})

# Runs.
for op in (DECODE + ".run", PAGED + ".run", RAGGED + ".run"):
    rows = 2 if op.startswith(DECODE) else 7
    bad(op, "q", {"q": half(rows + 1, 8, 64)}, {"q": half(rows, 7, 64)}, {"q": half(rows, 8, 72)}, {"q": half(rows, 8, 64).bfloat16()}, {"q": half(rows, 512)})
    bad(op, "q", {"q": half(rows, 8, 128)[..., ::2]}, {"q": None})
    bad(op, "out", {"out": half(rows, 8, 72)}, {"out": torch.ones(rows, 8, 64)}, {"out": half(rows, 1, 64).expand(rows, 8, 64)}, {"out": half(rows, 8, 128)[..., ::2]})
    bad(op, "out", lambda call: {"out": call["q"]}, {"out": half(rows, 8, 64).to("meta")})
    bad(op, "lse", {"lse": torch.ones(rows, 9)}, {"lse": half(rows, 8)}, {"lse": torch.ones(rows, 1).expand(rows, 8)})
    bad(op, "lse", lambda call: {"lse": call["q"].view(-1)[: 16 * len(call["q"])].view(torch.float32).view(-1, 8)})
    bad(op, "lse", lambda call: {"out": (x := half(*call["q"].shape)), "lse": x.view(-1)[-16 * len(x) :].view(torch.float32).view(-1, 8)})
    bad(op, "sinks", {"sinks": torch.ones(7)}, {"sinks": half(8)})
    bad(op, "k_scale", {"k_scale": object()}, {"k_scale": float("nan")})
    bad(op, "v_scale", {"v_scale": float("nan")}, {"v_scale": torch.tensor(float("inf"))})
    bad(op, "q_scale", {"q_scale": torch.ones(2)}, {"q_scale": torch.ones(1, 8)}, {"q_scale": half(8)}, {"q_scale": torch.ones(8).to("meta")}, {"q_scale": [1.0]})
    for name in ("k_scale", "v_scale"):
        bad(op, name, {name: torch.ones(3)}, {name: torch.ones(8)}, {name: half(2)}, {name: torch.ones(2, dtype=torch.float64)}, {name: torch.ones(2, 2)})
        bad(op, name, {name: torch.ones(5, 2, 16)}, {name: torch.ones(4, 16, 2)}, {name: torch.ones(5, 16, 2, 1)}, {name: torch.ones(24, 2)}, {name: torch.ones(0)})
    bad(op, "plan", lambda call: {"self": type(call["self"])(workspace())})
for op in (DECODE + ".run", PAGED + ".run"):
    caches = lambda k=half(5, 16, 2, 64), v=half(5, 16, 2, 64): {"paged_kv_cache": (k, v)}
    bad(op, "k", caches(k=half(5, 8, 2, 64)), caches(k=half(5, 16, 3, 64)), caches(k=half(5, 16, 2, 72)), caches(k=half(5, 16, 128)), caches(k=half(5, 16, 2, 64).bfloat16()))
    bad(op, "v", caches(v=half(4, 16, 2, 64)), caches(v=half(5, 16, 2, 128)[..., ::2]), caches(v=half(5, 16, 2, 72)), caches(v=half(5, 16, 2, 64).float()))
    bad(op, "kv_indices", caches(k=half(4, 16, 2, 64), v=half(4, 16, 2, 64)))
    bad(op, "paged_kv_cache", {"paged_kv_cache": (half(5, 16, 2, 64),)}, {"paged_kv_cache": half(5, 3, 16, 2, 64)}, {"paged_kv_cache": half(5, 64)})
    bad(op, "window_left", {"window_left": 7})
    bad(op, "variant", {"variant": "source"}, {"variant": {"name": "x", "source": "", "functor": "X", "params": b"0" * 97}})
bad(RAGGED + ".run", "k", {"k": half(24, 2, 64), "v": half(24, 2, 64)}, {"k": half(25, 3, 64)}, {"k": half(25, 128)}, {"k": half(2, 25, 64)})
bad(RAGGED + ".run", "v", {"v": half(24, 2, 64)}, {"v": half(25, 2, 72)})

# Wrappers.
for op in (DECODE, PAGED, RAGGED):
    bad(op, "float_workspace_buffer", {"float_workspace_buffer": None}, {"float_workspace_buffer": workspace(100)[1:]})
    bad(op, "kv_layout", {"kv_layout": "nhd"}, {"kv_layout": None})
bad(DECODE, "paged_kv_indptr_buffer", {"use_cuda_graph": True}, dict(use_cuda_graph=True, paged_kv_indptr_buffer=i32(0), paged_kv_indices_buffer=i32(0), paged_kv_last_page_len_buffer=i32(0)))
bad(PAGED, "qo_indptr_buf", {"use_cuda_graph": True})
bad(RAGGED, "kv_indptr_buf", {"use_cuda_graph": True, "qo_indptr_buf": i32(0, 0)}, {"use_cuda_graph": True, "qo_indptr_buf": i32(0, 0), "kv_indptr_buf": i32(0)})
