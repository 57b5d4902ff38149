"""Wrong arguments of the norms, for test_bad_calls.py."""

import torch

NORMS = ["rmsnorm", "gemma_rmsnorm"]
FUSED = ["fused_add_rmsnorm", "gemma_fused_add_rmsnorm"]
QUANT = ["norm.rmsnorm_quant", "norm.fused_add_rmsnorm_quant", "norm.layernorm_quant"]
LAYERNORMS = ["layernorm", "norm.layernorm_quant"]
ALL = [*NORMS, *FUSED, "norm.rmsnorm_quant", "norm.fused_add_rmsnorm_quant", *LAYERNORMS]


def half(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


def fp8(*shape):
    return torch.zeros(shape, dtype=torch.float8_e4m3fn)


def good(op):
    name = op.split(".")[-1]
    call = {"input": half(4, 64), "eps": 1e-6}
    if "layernorm" in name:
        call.update(gemma=torch.ones(64), beta=torch.ones(64))
    else:
        call.update(weight=half(64))
    if "fused_add" in name:
        call.update(residual=half(4, 64))
    if "quant" in name:
        call.update(out=fp8(4, 64), scale=torch.ones(1))
    return call


def meta(t):
    return t.to("meta")


CALLS = []
for op in ALL:
    out = fp8(4, 64) if "quant" in op else half(4, 64)
    CALLS += [
        (op, "input", {"input": [1.0, 2.0]}),
        (op, "input", {"input": None}),
        (op, "input", {"input": half(64)}),
        (op, "input", {"input": half(2, 2, 1, 64)}),
        (op, "input", {"input": half(4, 64).int()}),
        (op, "input", {"input": half(4, 64).double()}),
        (op, "input", {"input": half(64, 4).t()}),
        (op, "input", {"input": half(4, 128)[:, ::2]}),
        (op, "input", {"input": meta(half(4, 64))}),
        (op, "eps", {"eps": -1.0}),
        (op, "eps", {"eps": float("nan")}),
        (op, "eps", {"eps": "small"}),
    ]
    for weight in ("gemma", "beta") if "layernorm" in op else ("weight",):
        CALLS += [
            (op, weight, {weight: None}),
            (op, weight, {weight: half(63)}),
            (op, weight, {weight: half(1)}),
            (op, weight, {weight: half(1, 64)}),
            (op, weight, {weight: half(64).double()}),
            (op, weight, {weight: (torch.ones(128) if "layernorm" in op else half(128))[::2]}),
            (op, weight, {weight: meta(half(64))}),
        ]
    if op not in FUSED:
        CALLS += [
            (op, "out", {"out": [0.0]}),
            (op, "out", {"out": out[:3]}),
            (op, "out", {"out": out[0]}),
            (op, "out", {"out": half(4, 64).float()}),
            (op, "out", {"out": half(4, 64) if "quant" in op else fp8(4, 64)}),
            (op, "out", {"out": out[:1].expand(4, 64)}),
            (op, "out", {"out": out.t().contiguous().t()}),
            (op, "out", {"out": torch.empty(4 * 64, dtype=out.dtype).as_strided((4, 64), (32, 1))}),
            (op, "out", {"out": meta(out)}),
        ]
    if op in ("rmsnorm", "gemma_rmsnorm", "layernorm"):
        CALLS += [
            (op, "out", lambda call: {"input": (x := half(5, 64))[:4], "out": x[1:]}),
            (op, "out", lambda call: {"input": (x := half(4, 96))[:, :64], "out": x[:, 32:]}),
        ]
    if op in NORMS:
        CALLS += [(op, "out", lambda call: {"weight": (x := half(4, 64))[0], "out": x})]
    if "fused_add" in op:
        CALLS += [
            (op, "residual", {"residual": None}),
            (op, "residual", {"residual": half(3, 64)}),
            (op, "residual", {"residual": half(4, 2, 32)}),
            (op, "residual", {"residual": half(4, 64).float()}),
            (op, "residual", {"residual": half(64, 4).t()}),
            (op, "residual", {"residual": half(1, 64).expand(4, 64)}),
            (op, "residual", {"residual": meta(half(4, 64))}),
            (op, "residual", lambda call: {"residual": call["input"]}),
            (op, "residual", lambda call: {"weight": (x := half(4, 64))[2], "residual": x}),
        ]
    if op in FUSED:
        CALLS += [(op, "out", {"input": half(1, 64).expand(4, 64)})]
    if op in QUANT:
        CALLS += [
            (op, "scale", {"scale": None}),
            (op, "scale", {"scale": "1"}),
            (op, "scale", {"scale": 0.0}),
            (op, "scale", {"scale": -1.0}),
            (op, "scale", {"scale": torch.ones(2)}),
            (op, "scale", {"scale": torch.ones(1, 1)}),
            (op, "scale", {"scale": torch.ones(1, dtype=torch.float64)}),
            (op, "scale", {"scale": meta(torch.ones(1))}),
        ]
CALLS += [("layernorm", "beta", {"gemma": half(64), "beta": torch.ones(64)})]
