"""Wrong arguments of the gated activations, for test_bad_calls.py."""

import torch


def half(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


def good(op):
    return {"input": half(4, 64)}


CALLS = []
for op in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
    CALLS += [
        (op, "input", {"input": None}),
        (op, "input", {"input": 3.0}),
        (op, "input", {"input": torch.tensor(1.0)}),
        (op, "input", {"input": half(4, 60)}),
        (op, "input", {"input": half(4, 65)}),
        (op, "input", {"input": half(4, 64).int()}),
        (op, "input", {"input": half(4, 64).double()}),
        (op, "input", {"input": half(64, 4).t()}),
        (op, "input", {"input": half(2, 3, 4, 5, 128)[..., :64].transpose(0, 2)}),
        (op, "input", {"input": half(4, 64).to("meta")}),
        (op, "out", {"out": 1}),
        (op, "out", {"out": half(4, 64)}),
        (op, "out", {"out": half(3, 32)}),
        (op, "out", {"out": half(4, 1, 32)}),
        (op, "out", {"out": half(4, 32).half()}),
        (op, "out", {"out": half(32, 4).t()}),
        (op, "out", {"out": half(1, 32).expand(4, 32)}),
        (op, "out", {"out": half(4, 32).to("meta")}),
        (op, "out", lambda call: {"out": call["input"][:, 16:48]}),
        (op, "out", lambda call: {"out": call["input"].view(8, 32)[:4]}),
    ]
