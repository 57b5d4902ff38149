"""Wrong arguments of the samplers and the filters of rows, for test_bad_calls.py."""

import torch

SAMPLERS = {
    "sampling_from_logits": {},
    "sampling_from_probs": {},
    "top_p_sampling_from_probs": {"top_p": 0.9},
    "top_k_sampling_from_probs": {"top_k": 10},
    "min_p_sampling_from_probs": {"min_p": 0.1},
    "top_k_top_p_sampling_from_logits": {"top_k": 10, "top_p": 0.9},
    "top_k_top_p_sampling_from_probs": {"top_k": 10, "top_p": 0.9},
}
FILTERS = {"softmax": {"temperature": 0.5}, "top_p_renorm_probs": {"top_p": 0.9}, "top_k_renorm_probs": {"top_k": 10}, "top_k_mask_logits": {"top_k": 10}}
SPECULATIVE = "chain_speculative_sampling"


def rows(*shape):
    return torch.full(shape, 0.01)


def name_of(op):
    return "logits" if "logits" in op or op == "softmax" else "probs"


def good(op):
    if op == SPECULATIVE:
        return {"draft_probs": rows(4, 2, 100), "draft_token_ids": torch.zeros(4, 2, dtype=torch.int32), "target_probs": rows(4, 3, 100), "seed": 1,
                "maybe_output_accepted_token_num": torch.zeros(4, dtype=torch.int32), "maybe_output_emitted_draft_token_num": torch.zeros(4, dtype=torch.int32)}
    call = {name_of(op): rows(4, 100), **{**SAMPLERS, **FILTERS}[op]}
    if op in SAMPLERS:
        call["seed"] = 1
    return call


CALLS = []
for op in [*SAMPLERS, *FILTERS]:
    x = name_of(op)
    CALLS += [
        (op, x, {x: None}),
        (op, x, {x: [[0.5, 0.5]]}),
        (op, x, {x: rows(100)}),
        (op, x, {x: rows(2, 4, 100)}),
        (op, x, {x: rows(4, 100).double()}),
        (op, x, {x: rows(4, 100).int()}),
        (op, x, {x: rows(4, 200)[:, ::2]}),
        (op, x, {x: rows(100, 4).t()}),
        (op, x, {x: rows(4, 0)}),
        (op, x, {x: rows(4, 100).to("meta")}),
    ]
    for parameter in {**SAMPLERS, **FILTERS}[op]:
        dtype = torch.int32 if parameter == "top_k" else torch.float32
        CALLS += [
            (op, parameter, {parameter: "much"}),
            (op, parameter, {parameter: -1}),
            (op, parameter, {parameter: torch.ones(3, dtype=dtype)}),
            (op, parameter, {parameter: torch.ones(4, 1, dtype=dtype)}),
            (op, parameter, {parameter: torch.tensor(1, dtype=dtype)}),
            (op, parameter, {parameter: torch.ones(4, dtype=torch.bool)}),
            (op, parameter, {parameter: torch.ones(8, dtype=dtype)[::2]}),
            (op, parameter, {parameter: torch.ones(4, dtype=dtype, device="meta")}),
        ]
        if parameter == "top_k":
            CALLS += [(op, "top_k", {"top_k": 0}), (op, "top_k", {"top_k": 1.5}), (op, "top_k", {"top_k": torch.ones(4)})]
        else:
            CALLS += [(op, parameter, {parameter: float("nan")})]
        if parameter == "min_p":
            CALLS += [(op, "min_p", {"min_p": 1.5})]
    if "top_k_top_p" in op:
        CALLS += [(op, "filter_apply_order", {"filter_apply_order": "top_p_first"}), (op, "min_p", {"min_p": -0.5})]
    if op in SAMPLERS:
        if x == "logits":
            CALLS += [(op, "temperature", {"temperature": -1.0}), (op, "temperature", {"temperature": torch.ones(5)})]
        for random in ("seed", "offset"):
            CALLS += [
                (op, random, {random: 1.5}),
                (op, random, {random: "seed"}),
                (op, random, {random: torch.ones(3, dtype=torch.int64)}),
                (op, random, {random: torch.ones(4, 1, dtype=torch.int64)}),
                (op, random, {random: torch.ones(4, dtype=torch.int32)}),
                (op, random, {random: torch.ones(4)}),
                (op, random, {random: torch.ones(8, dtype=torch.int64)[::2]}),
                (op, random, {random: torch.ones(4, dtype=torch.int64, device="meta")}),
            ]
        CALLS += [
            (op, "indices", {"indices": [0, 1]}),
            (op, "indices", {"indices": torch.zeros(3)}),
            (op, "indices", {"indices": torch.zeros(3, 1, dtype=torch.int32)}),
            (op, "indices", {"indices": torch.zeros(6, dtype=torch.int32)[::2]}),
            (op, "indices", {"indices": torch.zeros(3, dtype=torch.int32, device="meta")}),
            (op, "indices", {x: rows(0, 100), "indices": torch.zeros(3, dtype=torch.int32), **{name: 1 for name in SAMPLERS[op]}}),
            (op, x, {x: rows(4, 100) * float("nan"), "check_nan": True}),
            (op, "num_top_logprobs", {"num_top_logprobs": -1}),
            (op, "num_top_logprobs", {"num_top_logprobs": 101}),
            (op, "num_top_logprobs", {x: rows(4, 1000), "num_top_logprobs": 129}),
        ]
    else:
        CALLS += [
            (op, "out", {"out": [0.0]}),
            (op, "out", {"out": rows(4, 99)}),
            (op, "out", {"out": rows(3, 100)}),
            (op, "out", {"out": rows(100)}),
            (op, "out", {"out": rows(4, 100).int()}),
            (op, "out", {"out": rows(4, 100).half()}),
            (op, "out", {"out": rows(1, 100).expand(4, 100)}),
            (op, "out", {"out": rows(100, 4).t()}),
            (op, "out", {"out": rows(4, 100).to("meta")}),
            (op, "out", lambda call, x=x: {x: (y := rows(5, 100))[:4], "out": y[1:]}),
        ]
for argument in ("draft_probs", "target_probs"):
    steps = 2 if argument == "draft_probs" else 3
    CALLS += [
        (SPECULATIVE, argument, {argument: None}),
        (SPECULATIVE, argument, {argument: rows(4, steps, 100).half()}),
        (SPECULATIVE, argument, {argument: rows(4, steps, 200)[..., ::2]}),
        (SPECULATIVE, argument, {argument: rows(4, 100)}),
    ]
CALLS += [
    (SPECULATIVE, "target_probs", {"target_probs": rows(4, 2, 100)}),
    (SPECULATIVE, "target_probs", {"target_probs": rows(4, 3, 99)}),
    (SPECULATIVE, "target_probs", {"target_probs": rows(3, 3, 100)}),
    (SPECULATIVE, "draft_probs", {"draft_probs": rows(4, 128, 100)}),
    (SPECULATIVE, "draft_token_ids", {"draft_token_ids": torch.zeros(4, 3, dtype=torch.int32)}),
    (SPECULATIVE, "draft_token_ids", {"draft_token_ids": torch.zeros(4, 2)}),
    (SPECULATIVE, "draft_token_ids", {"draft_token_ids": torch.zeros(2, 4, dtype=torch.int32).t()}),
    (SPECULATIVE, "seed", {"seed": torch.zeros(2, dtype=torch.int64)}),
    (SPECULATIVE, "offset", {"offset": torch.zeros(4)}),
]
for argument in ("maybe_output_accepted_token_num", "maybe_output_emitted_draft_token_num"):
    CALLS += [
        (SPECULATIVE, argument, {argument: torch.zeros(3, dtype=torch.int32)}),
        (SPECULATIVE, argument, {argument: torch.zeros(4, dtype=torch.int64)}),
        (SPECULATIVE, argument, {argument: torch.zeros(1, dtype=torch.int32).expand(4)}),
        (SPECULATIVE, argument, {argument: 3}),
    ]
CALLS += [(SPECULATIVE, "maybe_output_emitted_draft_token_num", lambda call: {"maybe_output_emitted_draft_token_num": call["maybe_output_accepted_token_num"]})]
