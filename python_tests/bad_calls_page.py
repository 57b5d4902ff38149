"""Wrong arguments of the page ops and of packbits, for test_bad_calls.py."""

import torch


def half(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def pages():
    return {"kv_indices": ints(3, 0, 1), "kv_indptr": ints(0, 2, 3), "kv_last_page_len": ints(1, 2)}


def good(op):
    tokens = {"batch_indices": ints(0, 0, 1), "positions": ints(0, 3, 1)}
    return {
        "append_paged_kv_cache": lambda: {"append_key": half(3, 2, 8), "append_value": half(3, 2, 8), "paged_kv_cache": half(4, 2, 2, 2, 8), **tokens, **pages()},
        "append_paged_mla_kv_cache": lambda: {"append_ckv": half(3, 16), "append_kpe": half(3, 8), "ckv_cache": half(4, 2, 16), "kpe_cache": half(4, 2, 8), **tokens, **pages()},
        "get_batch_indices_positions": lambda: {"append_indptr": ints(0, 2, 5), "seq_lens": ints(4, 3), "nnz": 5},
        "get_seq_lens": lambda: {"kv_indptr": ints(0, 2, 5), "kv_last_page_len": ints(4, 3), "page_size": 4},
        "packbits": lambda: {"x": torch.ones(20, dtype=torch.bool)},
        "segment_packbits": lambda: {"x": torch.ones(20, dtype=torch.bool), "indptr": ints(0, 7, 20)},
    }[op]()


CALLS = []
op = "append_paged_kv_cache"
CALLS += [
    (op, "append_key", {"append_key": None}),
    (op, "append_key", {"append_key": half(3, 16)}),
    (op, "append_key", {"append_key": half(3, 2, 0)}),
    (op, "append_key", {"append_key": half(3, 2, 8).double()}),
    (op, "append_key", {"append_key": half(3, 8, 2).transpose(1, 2)}),
    (op, "append_value", {"append_value": half(2, 2, 8)}),
    (op, "append_value", {"append_value": half(3, 1, 8)}),
    (op, "append_value", {"append_value": half(3, 2, 8).half()}),
    (op, "append_value", {"append_value": half(3, 2, 16)[..., ::2]}),
    (op, "append_value", {"append_value": half(3, 2, 8).to("meta")}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 1, 2, 2, 8)}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 8)}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 2, 2, 16)}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 2, 3, 8)}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 0, 2, 8)}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 2, 2, 8).half()}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(4, 2, 2, 2, 16)[..., ::2]}),
    (op, "paged_kv_cache", {"paged_kv_cache": half(1, 2, 2, 2, 8).expand(4, 2, 2, 2, 8)}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8),)}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8), half(5, 2, 2, 8))}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8), half(4, 1, 2, 8))}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8), half(4, 2, 2, 16))}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8), half(4, 2, 2, 8).to(torch.float8_e4m3fn))}),
    (op, "paged_kv_cache", {"paged_kv_cache": (half(4, 2, 2, 8), None)}),
    (op, "kv_layout", {"kv_layout": 0}),
]
op = "append_paged_mla_kv_cache"
CALLS += [
    (op, "append_ckv", {"append_ckv": half(3, 1, 16)}),
    (op, "append_ckv", {"append_ckv": half(3, 16).int()}),
    (op, "append_kpe", {"append_kpe": half(2, 8)}),
    (op, "append_kpe", {"append_kpe": half(3, 8).float()}),
    (op, "append_kpe", {"append_kpe": None}),
    (op, "ckv_cache", {"ckv_cache": half(4, 2, 1, 16)}),
    (op, "ckv_cache", {"ckv_cache": half(4, 2, 8)}),
    (op, "ckv_cache", {"ckv_cache": half(4, 2, 16).float()}),
    (op, "kpe_cache", {"kpe_cache": half(4, 3, 8)}),
    (op, "kpe_cache", {"kpe_cache": half(4, 2, 16)}),
    (op, "kpe_cache", {"kpe_cache": half(4, 1, 8).expand(4, 2, 8)}),
]
for op in ("append_paged_kv_cache", "append_paged_mla_kv_cache"):
    CALLS += [
        (op, "batch_indices", {"batch_indices": None}),
        (op, "batch_indices", {"batch_indices": ints(0, 0)}),
        (op, "batch_indices", {"batch_indices": torch.tensor([0, 0, 1])}),
        (op, "batch_indices", {"batch_indices": ints(0, 0, 1)[None]}),
        (op, "positions", {"positions": ints(0, 1, 2, 3)}),
        (op, "positions", {"positions": ints(0, 1, 2).float()}),
        (op, "positions", {"positions": torch.zeros(6, dtype=torch.int32)[::2]}),
        (op, "kv_indices", {"kv_indices": ints(4, 0, 1)}),
        (op, "kv_indices", {"kv_indices": ints(3, -1, 1)}),
        (op, "kv_indices", {"kv_indices": ints(3, 0, 1).long()}),
        (op, "kv_indptr", {"kv_indptr": ints(0, 3)}),
        (op, "kv_indptr", {"kv_indptr": ints(0, 2, 3).float()}),
        (op, "kv_indptr", {"kv_indptr": ints(0, 2, 3).to("meta")}),
        (op, "kv_last_page_len", {"kv_last_page_len": ints(1, 2).long()}),
        (op, "kv_last_page_len", {"kv_last_page_len": ints(1, 2)[None]}),
    ]
op = "get_batch_indices_positions"
CALLS += [
    (op, "append_indptr", {"append_indptr": None}),
    (op, "append_indptr", {"append_indptr": ints(0, 5)}),
    (op, "append_indptr", {"append_indptr": ints(0, 2, 5).float()}),
    (op, "append_indptr", {"append_indptr": torch.arange(6)[::2]}),
    (op, "append_indptr", {"append_indptr": ints(1, 2, 5)}),
    (op, "append_indptr", {"append_indptr": ints(0, 5, 2)}),
    (op, "append_indptr", {"append_indptr": torch.tensor([0, 2**40, 5])}),
    (op, "seq_lens", {"seq_lens": ints(4, 2)}),
    (op, "seq_lens", {"seq_lens": torch.tensor([4, 2**31])}),
    (op, "seq_lens", {"seq_lens": ints(4, 3)[None]}),
    (op, "seq_lens", {"seq_lens": ints(4, 3).float()}),
    (op, "nnz", {"nnz": -1}),
    (op, "nnz", {"nnz": "5"}),
    (op, "nnz", {"nnz": 2**31}),
    (op, "batch_indices", lambda call: {"batch_indices": (x := torch.tensor([0, 2, 5, 5, 5], dtype=torch.int32)), "append_indptr": x[:3]}),
    (op, "positions", lambda call: {"positions": (x := torch.tensor([4, 3, 0, 0, 0], dtype=torch.int32)), "seq_lens": x[:2]}),
    (op, "batch_indices", {"batch_indices": ints(0, 0, 0, 0)}),
    (op, "batch_indices", {"batch_indices": torch.zeros(5, dtype=torch.int64)}),
    (op, "positions", {"positions": torch.zeros(6, dtype=torch.int32)}),
    (op, "positions", {"positions": torch.zeros(5)}),
    (op, "positions", {"positions": torch.zeros(10, dtype=torch.int32)[::2]}),
    (op, "positions", lambda call: {"batch_indices": (x := torch.zeros(5, dtype=torch.int32)), "positions": x}),
]
op = "get_seq_lens"
CALLS += [
    (op, "kv_indptr", {"kv_indptr": ints(0, 5)}),
    (op, "kv_indptr", {"kv_indptr": ints(0, 2, 5).float()}),
    (op, "kv_indptr", {"kv_indptr": ints(0, 2, 5)[None]}),
    (op, "kv_indptr", {"kv_indptr": ints(0, 5, 2)}),
    (op, "kv_indptr", {"kv_indptr": ints(0, 2**31 - 1, -(2**31))}),
    (op, "kv_indptr", {"kv_indptr": ints(3, 5, 7)}),
    (op, "kv_last_page_len", {"kv_last_page_len": torch.tensor([4.0, 3.0])}),
    (op, "kv_last_page_len", {"kv_last_page_len": None}),
    (op, "kv_last_page_len", {"kv_last_page_len": torch.zeros(4, dtype=torch.int32)[::2]}),
    (op, "page_size", {"page_size": 0}),
    (op, "page_size", {"page_size": 2**31}),
    (op, "page_size", {"page_size": 1.5}),
]
for op in ("packbits", "segment_packbits"):
    CALLS += [
        (op, "x", {"x": None}),
        (op, "x", {"x": torch.ones(20)}),
        (op, "x", {"x": torch.ones(20, 1, dtype=torch.bool)}),
        (op, "x", {"x": torch.ones(40, dtype=torch.bool)[::2]}),
        (op, "bitorder", {"bitorder": "middle"}),
        (op, "bitorder", {"bitorder": 1}),
    ]
op = "segment_packbits"
CALLS += [
    (op, "indptr", {"indptr": None}),
    (op, "indptr", {"indptr": ints()}),
    (op, "indptr", {"indptr": ints(0, 7, 20).float()}),
    (op, "indptr", {"indptr": ints(0, 7, 20)[None]}),
    (op, "indptr", {"indptr": torch.zeros(6, dtype=torch.int32)[::2]}),
    (op, "indptr", {"indptr": ints(0, 7, 21)}),
    (op, "indptr", {"indptr": ints(1, 7, 20)}),
    (op, "indptr", {"indptr": ints(0, 7, 5)}),
    (op, "indptr", {"indptr": torch.tensor([0, 2**40])}),
]
