"""Time and bandwidth of merge_state, merge_state_in_place and merge_states, against torch, in one run.

    python benchmarks/cascade.py [--device cpu|cuda] [--dtype bfloat16]
"""

import argparse

import timing
import torch

import flashinfer


def torch_merge_states(v, s):
    total = torch.logsumexp(s * 0.6931471805599453, 1) * 1.4426950408889634
    return (torch.exp2(s - total[:, None])[..., None] * v).sum(1).to(v.dtype), total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    options = dict(device=args.device, dtype=getattr(torch, args.dtype))
    gpu = args.device == "cuda"

    for num_states, num_tokens in ((2, 1), (2, 64), (2, 512), (2, 8192), (8, 64), (8, 2048)):
        if not gpu and num_tokens > 512:
            continue
        for heads, dim in ((32, 128), (128, 512)):
            num_bytes = num_tokens * heads * (num_states + 1) * (dim * torch.empty(0, **options).itemsize + 4)
            count = min(20, max(1, int(3 * 60e6 // num_bytes))) if gpu else 1
            sets = [
                (torch.randn(num_tokens, num_states, heads, dim, **options), torch.randn(num_tokens, num_states, heads, device=args.device))
                for _ in range(count)
            ]
            calls = {"merge_states": flashinfer.merge_states, "torch": torch_merge_states}
            if num_states == 2:
                calls = {
                    "merge_state": lambda v, s: flashinfer.merge_state(v[:, 0], s[:, 0], v[:, 1], s[:, 1]),
                    "in_place": lambda v, s: flashinfer.merge_state_in_place(v[:, 0], s[:, 0], v[:, 1], s[:, 1]),
                    **calls,
                }
            calls = {name: lambda i, op=op, sets=sets: op(*sets[i % len(sets)]) for name, op in calls.items()}
            timing.report(f"merge_state {num_tokens}x{num_states}x{heads}x{dim}", timing.compare(calls, args.device), num_bytes)


if __name__ == "__main__":
    main()
