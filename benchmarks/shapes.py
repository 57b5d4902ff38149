"""Whether a row's values change what it costs: us of each sampler, filter and selection on rows of unusual kinds, as a multiple of normal
ones. Filters that keep everything (top_k = V, top_p = 1) stand beside.

    python benchmarks/shapes.py [--batch-sizes 1,16,128,512] [--vocab-size 128256] [--out FILE.json]
Needs a GPU.
"""

import argparse
import datetime
import json
import subprocess

import timing
import torch

import flashinfer
from flashinfer import sampling

CALLS = 8  # of a graph, each of other rows and with other draws: together they are more than L2 holds, and some rows take longer


def logits_of(kind, batch_size, vocab_size):
    normal = torch.randn(batch_size, vocab_size, device="cuda") * 3
    if kind == "zipf":  # a language model's
        return -1.2 * torch.log(torch.rand_like(normal).argsort(-1) + 1.0) + normal * 0.03
    if kind == "flat":
        return normal * 0.007
    if kind == "tied":
        return torch.zeros_like(normal)
    if kind == "rounded":
        return normal.round()
    if kind == "mostly tied":
        return normal.where(torch.rand_like(normal) < 0.1, 0)
    if kind == "masked":
        return normal.where(torch.rand_like(normal) < 0.001, -torch.inf)
    if kind == "falling":
        return normal.sort(-1, descending=True).values
    return normal


KINDS = ["normal", "zipf", "flat", "tied", "rounded", "mostly tied", "masked", "falling"]
OF_LOGITS = {
    "from_logits": lambda x, draw: sampling.sampling_from_logits(x, **draw),
    "top_p 0.9 of logits": lambda x, draw: sampling.top_k_top_p_sampling_from_logits(x, None, 0.9, **draw),
    "joint of logits": lambda x, draw: sampling.top_k_top_p_sampling_from_logits(x, 50, 0.9, filter_apply_order="joint", **draw),
    "top_k = V, top_p = 1": lambda x, draw: sampling.top_k_top_p_sampling_from_logits(x, x.shape[1], 1.0, filter_apply_order="joint", **draw),
    "softmax": lambda x, _: sampling.softmax(x),
    "top_k_mask 50": lambda x, _: sampling.top_k_mask_logits(x, 50),
    "top_k 64": lambda x, _: flashinfer.top_k(x, 64),
}
OF_PROBS = {
    "from_probs": lambda x, draw: sampling.sampling_from_probs(x, **draw),
    "top_p 0.9": lambda x, draw: sampling.top_p_sampling_from_probs(x, 0.9, **draw),
    "top_p 1": lambda x, draw: sampling.top_p_sampling_from_probs(x, 1.0, **draw),
    "min_p 0.1": lambda x, draw: sampling.min_p_sampling_from_probs(x, 0.1, **draw),
    "top_k 50": lambda x, draw: sampling.top_k_sampling_from_probs(x, 50, **draw),
    "top_k = V": lambda x, draw: sampling.top_k_sampling_from_probs(x, x.shape[1], **draw),
    "top_p_renorm 0.9": lambda x, _: sampling.top_p_renorm_probs(x, 0.9),
    "top_k_renorm 50": lambda x, _: sampling.top_k_renorm_probs(x, 50),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", default="1,16,128,512")
    parser.add_argument("--vocab-size", type=int, default=128256)
    parser.add_argument("--out")
    parser.add_argument("--commit", help="which is measured, if this is not a checkout")
    args = parser.parse_args()
    torch.manual_seed(0)
    times = {}
    for batch_size in map(int, args.batch_sizes.split(",")):
        for kind in KINDS:
            logits = [logits_of(kind, batch_size, args.vocab_size) for _ in range(CALLS)]
            probs = [x.softmax(-1) for x in logits]
            for ops, inputs in ((OF_LOGITS, logits), (OF_PROBS, probs)):
                calls = {name: lambda i, op=op, inputs=inputs: op(inputs[i], dict(seed=1, offset=i)) for name, op in ops.items()}
                for name, us in timing.compare(calls, "cuda", repetitions=9, calls=CALLS).items():
                    times.setdefault(f"{name}/bs{batch_size}", {})[kind] = round(us, 2)
    print(f"{'':30s} {'normal':>8s}   times as long: {' '.join(f'{kind:>11s}' for kind in KINDS[1:])}")
    for name, us in times.items():
        print(f"{name:30s} {us['normal']:8.2f}                  {' '.join(f'{us[kind] / us[KINDS[0]]:11.2f}' for kind in KINDS[1:])}")
    if args.out:
        commit = args.commit or subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
        result = {"gpu": torch.cuda.get_device_name(), "date": str(datetime.date.today()), "commit": commit, "us": times}
        with open(args.out, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
