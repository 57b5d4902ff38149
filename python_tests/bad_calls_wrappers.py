"""Wrong arguments of the other names of attention, for test_bad_calls.py: mixed batches, prefill beside decode, blocks, levels."""

import numpy as np
import torch

import flashinfer


def half(*shape):
    return torch.ones(shape, dtype=torch.float16)


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def workspace():
    return torch.zeros(1 << 20, dtype=torch.uint8)


def caches():
    return half(5, 16, 2, 64), half(5, 16, 2, 64)


MIXED, POD, BATCH_POD = "BatchAttention", "PODWithPagedKVCacheWrapper", "BatchPODWithPagedKVCacheWrapper"
BLOCKS, VARIABLE, LEVELS = "BlockSparseAttentionWrapper", "VariableBlockSparseAttentionWrapper", "MultiLevelCascadeAttentionWrapper"
HEADS = dict(num_qo_heads=8, num_kv_heads=2)
DECODE_LENGTHS = dict(indptr=i32(0, 2, 3), indices=i32(4, 0, 2), last_page_len=i32(4, 5))


def wrapper(kind):
    if kind == MIXED:
        return flashinfer.BatchAttention(device="cpu")
    return getattr(flashinfer, kind)(*([2] if kind == LEVELS else []), workspace())


def planned(kind):
    call = good(kind + ".plan")
    type(call["self"]).plan(**call)
    return call["self"]


def plan_of(kind):
    if kind == MIXED:
        lengths = dict(qo_indptr=i32(0, 3, 7), kv_indptr=i32(0, 2, 3), kv_indices=i32(4, 0, 2), kv_len_arr=i32(20, 5))
        return dict(**lengths, **HEADS, head_dim_qk=64, head_dim_vo=64, page_size=16, q_data_type="float16", kv_data_type="float16")
    if kind == POD:
        return dict(**DECODE_LENGTHS, **HEADS, head_dim=64, page_size=16)
    if kind == BATCH_POD:
        lengths = dict(kv_indptr=i32(0, 2, 3), kv_indices=i32(4, 0, 2), last_page_len=i32(4, 5))
        prefill = {name + "_p": value for name, value in dict(qo_indptr=i32(0, 3, 7), **lengths).items()}
        decode = {name + "_d": value for name, value in dict(qo_indptr=i32(0, 1, 2), **lengths).items()}
        return dict(**prefill, **decode, **HEADS, head_dim=64, page_size=16)
    if kind == BLOCKS:
        return dict(indptr=i32(0, 1, 3), indices=i32(0, 0, 1), M=8, N=16, R=4, C=8, **HEADS, head_dim=64)
    if kind == VARIABLE:
        sizes = dict(block_row_sz=i32(4, 4, 6, 2).view(2, 2), block_col_sz=i32(8, 8, 4, 12).view(2, 2))
        return dict(block_mask_map=torch.ones(2, 2, 2, dtype=torch.bool), **sizes, **HEADS, head_dim=64)
    arrays = dict(qo_indptr_arr=[i32(0, 7), i32(0, 3, 7)], paged_kv_indptr_arr=[i32(0, 1), i32(0, 1, 2)])
    arrays.update(paged_kv_indices_arr=[i32(0), i32(1, 2)], paged_kv_last_page_len=[i32(16), i32(3, 3)])
    return dict(**arrays, **HEADS, head_dim=64, page_size=16)


def run_of(kind):
    if kind == MIXED:
        return dict(q=half(7, 8, 64), kv_cache=caches())
    if kind == POD:
        return dict(q_p=half(7, 8, 64), k_p=half(20, 2, 64), v_p=half(20, 2, 64), q_d=half(2, 8, 64), paged_kv_cache_d=caches())
    if kind == BATCH_POD:
        return dict(q_p=half(7, 8, 64), paged_kv_cache_p=caches(), q_d=half(2, 8, 64), paged_kv_cache_d=caches())
    if kind == BLOCKS:
        return dict(q=half(8, 8, 64), k=half(16, 2, 64), v=half(16, 2, 64))
    if kind == VARIABLE:
        return dict(q=half(8, 8, 64), k=half(2, 16, 64), v=half(2, 16, 64))
    return dict(q=half(7, 8, 64), paged_kv_cache=caches())


def good(op):
    kind, _, method = op.partition(".")
    if method == "plan":
        return dict(self=wrapper(kind), **plan_of(kind))
    if method == "run":
        return dict(self=planned(kind), **run_of(kind))
    assert kind == LEVELS
    return dict(num_levels=2, float_workspace_buffer=workspace())


CALLS = []


def bad(op, argument, *changes):
    CALLS.extend((op, argument, change) for change in changes)


for kind in (MIXED, POD, BATCH_POD, BLOCKS, VARIABLE, LEVELS):
    bad(kind + ".run", "plan", lambda call, kind=kind: {"self": wrapper(kind)})

bad(MIXED + ".plan", "kv_len_arr", {"kv_len_arr": i32(40, 5)}, {"kv_len_arr": i32(10, 5)}, {"kv_len_arr": i32(-12, 5)}, {"kv_len_arr": i32(20)}, {"kv_len_arr": [20, 5]})
bad(MIXED + ".plan", "kv_len_arr", {"page_size": 0}, {"kv_len_arr": None})
bad(MIXED + ".plan", "kv_indptr", {"kv_indptr": None}, {"kv_indptr": torch.tensor(3)})
bad(MIXED + ".run", "logits_soft_cap", {"logits_soft_cap": 1.0})

bad(BLOCKS + ".plan", "indices", {"indices": i32(0, 0, 2)}, {"indices": i32(0, 0, -1)})
bad(BLOCKS + ".plan", "indptr", {"indptr": i32()}, {"indptr": i32(0, 1, 3)[None]}, {"indptr": i32(0, 3, 1)}, {"indptr": i32(0, 1, 4)})
bad(BLOCKS + ".plan", "M", {"M": 9}, {"M": -1})
bad(BLOCKS + ".plan", "N", {"N": 20})
bad(BLOCKS + ".plan", "R", {"R": 0})
bad(BLOCKS + ".plan", "C", {"C": 0}, {"C": -8})
bad(BLOCKS + ".plan", "mask", *({"mask": torch.ones(shape, dtype=torch.bool)} for shape in ((3, 32), (3, 8, 4), (2, 4, 8))), {"mask": np.ones((4, 4, 8), bool)})
bad(BLOCKS + ".plan", "block_mask", {"block_mask": torch.ones(2, 2)})
for name in ("k", "v"):
    bad(BLOCKS + ".run", name, {name: half(24, 2, 64)}, {name: None}, {name: half(16, 128)})
    bad(VARIABLE + ".run", name, {name: half(2, 20, 64)}, {name: half(16, 2, 64)}, {name: None})
bad(VARIABLE + ".run", "q", {"q": half(4, 16, 64)}, {"q": half(8, 8, 32)}, {"q": half(8, 512)})
bad(VARIABLE + ".run", "out", {"out": half(2, 8, 8, 64)})
bad(VARIABLE + ".run", "lse", {"lse": torch.ones(8)})
bad(VARIABLE + ".plan", "num_qo_heads", {"num_qo_heads": 9})
bad(VARIABLE + ".plan", "block_mask_map", {"block_mask_map": torch.ones(2, 2)}, {"block_mask_map": torch.ones(2, 2, 3)})
bad(VARIABLE + ".plan", "block_row_sz", *({"block_row_sz": sizes} for sizes in (i32(4, 4), i32(-4, 12, 4, 4).view(2, 2), i32(4, 5, 4, 4).view(2, 2), i32(4, 4)[None])))
bad(VARIABLE + ".plan", "block_col_sz", {"block_col_sz": i32(8, 8, 8, 7).view(2, 2)})

bad(LEVELS, "num_levels", {"num_levels": 0}, {"num_levels": -1}, {"num_levels": "2"})
bad(LEVELS, "qo_indptr_buf_arr", {"use_cuda_graph": True}, {"use_cuda_graph": True, "qo_indptr_buf_arr": [i32(0)]})
for name in ("qo_indptr_arr", "paged_kv_indptr_arr", "paged_kv_indices_arr", "paged_kv_last_page_len"):
    bad(LEVELS + ".plan", name, {name: None}, {name: [i32(0, 7)]})
