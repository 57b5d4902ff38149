"""Wrong arguments of RoPE, for test_bad_calls.py."""

import torch

OFFSETS = ["apply_rope", "apply_rope_inplace", "apply_llama31_rope", "apply_llama31_rope_inplace"]
POS_IDS = ["apply_rope_pos_ids", "apply_rope_pos_ids_inplace", "apply_llama31_rope_pos_ids", "apply_llama31_rope_pos_ids_inplace"]
CACHED = ["apply_rope_with_cos_sin_cache", "apply_rope_with_cos_sin_cache_inplace"]


def half(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def good(op):
    if op in CACHED:
        return {"positions": ints(0, 1, 2, 3), "query": half(4, 256), "key": half(4, 128), "head_size": 64, "cos_sin_cache": torch.ones(10, 64)}
    call = {"q": half(4, 4, 64), "k": half(4, 2, 64)}
    call.update({"pos_ids": ints(0, 1, 2, 3)} if op in POS_IDS else {"indptr": ints(0, 3, 4), "offsets": ints(0, 7)})
    return call


CALLS = []
for op in [*OFFSETS, *POS_IDS]:
    CALLS += [
        (op, "q", {"q": None}),
        (op, "q", {"q": half(4, 256)}),
        (op, "q", {"q": half(1, 4, 4, 64)}),
        (op, "q", {"q": half(4, 4, 64).int()}),
        (op, "q", {"q": half(4, 4, 64).double()}),
        (op, "q", {"q": half(4, 64, 4).transpose(1, 2)}),
        (op, "q", {"q": half(4, 4, 64).to("meta")}),
        (op, "k", {"k": [1.0]}),
        (op, "k", {"k": half(3, 2, 64)}),
        (op, "k", {"k": half(4, 2, 32)}),
        (op, "k", {"k": half(4, 128)}),
        (op, "k", {"k": half(4, 2, 64).half()}),
        (op, "k", {"k": half(4, 2, 128)[..., ::2]}),
        (op, "rotary_dim", {"rotary_dim": 0}),
        (op, "rotary_dim", {"rotary_dim": -2}),
        (op, "rotary_dim", {"rotary_dim": 33}),
        (op, "rotary_dim", {"rotary_dim": 66}),
        (op, "rotary_dim", {"rotary_dim": "64"}),
        (op, "interleave", {"interleave": "yes"}),
        (op, "rope_scale", {"rope_scale": 0.0}),
        (op, "rope_scale", {"rope_scale": float("nan")}),
        (op, "rope_theta", {"rope_theta": -1.0}),
        (op, "rope_theta", {"rope_theta": "large"}),
    ]
    if "inplace" in op:
        CALLS += [
            (op, "q", {"q": half(4, 1, 64).expand(4, 4, 64)}),
            (op, "k", {"k": torch.ones(4 * 32 + 64, dtype=torch.bfloat16).as_strided((4, 2, 64), (32, 32, 1))}),
        ]
    if "llama31" in op:
        CALLS += [
            (op, "high_freq_factor", {"high_freq_factor": 1.0}),
            (op, "high_freq_factor", {"low_freq_factor": 4.0}),
            (op, "old_context_len", {"old_context_len": 0}),
            (op, "old_context_len", {"old_context_len": "long"}),
        ]
for op in OFFSETS:
    CALLS += [
        (op, "indptr", {"indptr": ints(0, 4)}),
        (op, "indptr", {"indptr": ints(0, 3, 4)[None]}),
        (op, "indptr", {"indptr": ints(0, 4, 3)}),
        (op, "indptr", {"indptr": ints(1, 3, 4)}),
        (op, "indptr", {"indptr": torch.tensor([0.0, 3.0, 4.0])}),
        (op, "indptr", {"indptr": torch.arange(6, dtype=torch.int32)[::2]}),
        (op, "offsets", {"offsets": None}),
        (op, "offsets", {"offsets": torch.tensor([0, 7])}),
        (op, "offsets", {"offsets": ints(0, 7)[None]}),
        (op, "offsets", {"offsets": ints(0, 7).to("meta")}),
    ]
for op in POS_IDS:
    CALLS += [
        (op, "pos_ids", {"pos_ids": None}),
        (op, "pos_ids", {"pos_ids": ints(0, 1, 2)}),
        (op, "pos_ids", {"pos_ids": ints(0, 1, 2, 3)[None]}),
        (op, "pos_ids", {"pos_ids": ints(0, 1, 2, 3).float()}),
        (op, "pos_ids", {"pos_ids": torch.arange(8)[::2]}),
    ]
for op in CACHED:
    CALLS += [
        (op, "query", {"query": None}),
        (op, "query", {"query": half(256)}),
        (op, "query", {"query": half(4, 250)}),
        (op, "query", {"query": half(4, 8, 32)}),
        (op, "query", {"query": half(4, 256).int()}),
        (op, "query", {"query": half(4, 512)[:, ::2]}),
        (op, "key", {"key": half(4, 100)}),
        (op, "key", {"key": half(3, 128)}),
        (op, "key", {"key": half(4, 128).float()}),
        (op, "head_size", {"head_size": 0}),
        (op, "head_size", {"head_size": -64}),
        (op, "head_size", {"head_size": 64.0}),
        (op, "cos_sin_cache", {"cos_sin_cache": None}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(64)}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(10, 128)}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(10, 63)}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(10, 0)}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(64, 10).t()}),
        (op, "cos_sin_cache", {"cos_sin_cache": half(10, 64)}),
        (op, "cos_sin_cache", {"cos_sin_cache": torch.ones(10, 64, dtype=torch.float64)}),
        (op, "positions", {"positions": ints(0, 1, 2, 10)}),
        (op, "positions", {"positions": torch.tensor([0, -1, 2, 3])}),
        (op, "positions", {"positions": ints(0, 1, 2)}),
        (op, "positions", {"positions": ints(0, 1, 2, 3).float()}),
        (op, "is_neox", {"is_neox": "neox"}),
    ]
CALLS += [("apply_rope_with_cos_sin_cache_inplace", "query", {"query": half(1, 256).expand(4, 256)})]
