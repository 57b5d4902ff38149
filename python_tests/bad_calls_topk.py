"""Wrong arguments of top-k selection, for test_bad_calls.py."""

import torch


def ints(*shape, value=0):
    return torch.full(shape, value, dtype=torch.int32)


def good(op):
    call = {
        "top_k": lambda: {"input": torch.ones(4, 64), "k": 8},
        "top_k_page_table_transform": lambda: {"input": torch.ones(4, 64), "src_page_table": ints(4, 64), "lengths": ints(4, value=64), "k": 8},
        "top_k_ragged_transform": lambda: {"input": torch.ones(4, 64), "offsets": ints(4), "lengths": ints(4, value=64), "k": 8},
        "top_k_varlen": lambda: {"logits": torch.ones(4, 64), "seq_lens": ints(4, value=64), "top_k": 8},
    }
    return call[op]()


CALLS = []
for op in ("top_k", "top_k_page_table_transform", "top_k_ragged_transform", "top_k_varlen"):
    x, k = ("logits", "top_k") if op == "top_k_varlen" else ("input", "k")
    CALLS += [
        (op, x, {x: None}),
        (op, x, {x: torch.ones(64)}),
        (op, x, {x: torch.ones(2, 2, 64)}),
        (op, x, {x: ints(4, 64)}),
        (op, x, {x: torch.ones(4, 64, dtype=torch.float64)}),
        (op, x, {x: torch.ones(64, 4).t()}),
        (op, x, {x: torch.ones(4, 64, device="meta")}),
        (op, k, {k: 0}),
        (op, k, {k: -1}),
        (op, k, {k: 1 << 40}),
        (op, k, {k: "8"}),
    ]
    if op != "top_k_varlen":
        CALLS += [(op, "tie_break", {"tie_break": 3}), (op, "tie_break", {"tie_break": -1})]
    arrays = {
        "top_k_page_table_transform": ["lengths", "row_to_batch", "row_starts", "page_table_row_starts"],
        "top_k_ragged_transform": ["offsets", "lengths", "row_starts"],
        "top_k_varlen": ["seq_lens"],
    }
    for name in arrays.get(op, []):
        CALLS += [
            (op, name, {name: ints(3)}),
            (op, name, {name: ints(4, 1)}),
            (op, name, {name: ints(4).long()}),
            (op, name, {name: ints(8)[::2]}),
            (op, name, {name: ints(4).to("meta")}),
        ]
PAGES = "top_k_page_table_transform"
CALLS += [
    (PAGES, "src_page_table", {"src_page_table": ints(4)}),
    (PAGES, "src_page_table", {"src_page_table": ints(3, 64)}),
    (PAGES, "src_page_table", {"src_page_table": ints(4, 64).long()}),
    (PAGES, "src_page_table", {"src_page_table": ints(64, 4).t()}),
    (PAGES, "src_page_table", {"src_page_table": ints(4, 0)}),
    (PAGES, "page_size", {"page_size": 0}),
    (PAGES, "page_size", {"page_size": 48}),
    (PAGES, "page_size", {"page_size": 1 << 31}),
    (PAGES, "page_table_row_starts", {"page_size": 2, "row_starts": ints(4)}),
    (PAGES, "row_to_batch", {"row_to_batch": ints(4, value=4)}),
    (PAGES, "row_to_batch", {"row_to_batch": ints(4, value=-1)}),
    (PAGES, "row_starts", {"row_starts": ints(4, value=65)}),
    ("top_k_ragged_transform", "row_starts", {"row_starts": ints(4, value=-1)}),
    ("top_k_varlen", "next_n", {"next_n": 0}),
    ("top_k_varlen", "logits", {"next_n": 3}),
    ("top_k_varlen", "compress_ratio", {"compress_ratio": 0}),
    ("top_k_varlen", "backend", {"backend": "radix_cutedsl"}),
]
for op, name, also in ((PAGES, "out", {}), (PAGES, "out_raw_indices", {}), ("top_k_varlen", "out_indices", {}), ("top_k_varlen", "out_values", {"return_values": True})):
    make = (lambda *shape: torch.zeros(shape)) if name == "out_values" else ints
    CALLS += [
        (op, name, {**also, name: make(4, 7)}),
        (op, name, {**also, name: make(32)}),
        (op, name, {**also, name: make(4, 8).long()}),
        (op, name, {**also, name: make(4, 9)[:, :8]}),
        (op, name, {**also, name: make(1, 8).expand(4, 8)}),
    ]
CALLS += [(PAGES, "out_raw_indices", lambda call: {"out": (out := ints(4, 8)), "out_raw_indices": out})]
