"""Wrong arguments of the merging of states, for test_bad_calls.py."""

import torch


def half(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


def good(op):
    v, s = half(4, 2, 8), torch.zeros(4, 2)
    return {
        "merge_state": lambda: {"v_a": v, "s_a": s, "v_b": half(4, 2, 8), "s_b": torch.ones(4, 2)},
        "merge_state_in_place": lambda: {"v": v, "s": s, "v_other": half(4, 2, 8), "s_other": torch.ones(4, 2)},
        "merge_states": lambda: {"v": half(4, 3, 2, 8), "s": torch.zeros(4, 3, 2)},
    }[op]()


CALLS = []
for op, v, s, v_other, s_other in (("merge_state", "v_a", "s_a", "v_b", "s_b"), ("merge_state_in_place", "v", "s", "v_other", "s_other")):
    CALLS += [
        (op, v, {v: None}),
        (op, v, {v: half(4, 16)}),
        (op, v, {v: half(4, 2, 8).int()}),
        (op, v, {v: half(4, 2, 8).to(torch.float8_e4m3fn)}),
        (op, v, {v: half(4, 8, 2).transpose(1, 2)}),
        (op, v, {v: half(4, 2, 8).to("meta")}),
        (op, s, {s: torch.zeros(4)}),
        (op, s, {s: torch.zeros(3, 2)}),
        (op, s, {s: torch.zeros(4, 3)}),
        (op, s, {s: half(4, 2)}),
        (op, v_other, {v_other: half(3, 2, 8)}),
        (op, v_other, {v_other: half(4, 2, 16)}),
        (op, v_other, {v_other: half(4, 2, 8).half()}),
        (op, v_other, {v_other: half(4, 2, 16)[..., ::2]}),
        (op, s_other, {s_other: None}),
        (op, s_other, {s_other: torch.zeros(4, 1)}),
        (op, s_other, {s_other: torch.zeros(4, 2, dtype=torch.float64)}),
        (op, s_other, {s_other: torch.zeros(4, 2).to("meta")}),
    ]
op = "merge_state_in_place"
CALLS += [
    (op, "v", {"v": half(1, 2, 8).expand(4, 2, 8)}),
    (op, "s", {"s": torch.zeros(4, 1).expand(4, 2)}),
    (op, "v_other", lambda call: {"v": (x := half(5, 2, 8))[:4], "v_other": x[1:]}),
    (op, "s_other", lambda call: {"s": (x := torch.zeros(5, 2))[:4], "s_other": x[1:]}),
    (op, "mask", {"mask": torch.ones(5, dtype=torch.bool)}),
    (op, "mask", {"mask": torch.ones(4)}),
    (op, "mask", {"mask": torch.ones(4, 1, dtype=torch.bool)}),
    (op, "mask", {"mask": torch.ones(8, dtype=torch.bool)[::2]}),
    (op, "mask", {"mask": [True] * 4}),
]
op = "merge_states"
CALLS += [
    (op, "v", {"v": None}),
    (op, "v", {"v": half(4, 3, 16)}),
    (op, "v", {"v": half(4, 3, 2, 8).int()}),
    (op, "v", {"v": half(4, 3, 2, 16)[..., ::2]}),
    (op, "v", {"v": half(4, 3, 2, 8).to("meta")}),
    (op, "s", {"s": torch.zeros(4, 2, 3)}),
    (op, "s", {"s": torch.zeros(4, 3)}),
    (op, "s", {"s": half(4, 3, 2)}),
    (op, "s", {"s": None}),
]
