"""Time and bandwidth of rope in all its forms, in place, against torch, in one run.

    python benchmarks/rope.py [--device cpu|cuda] [--dtype bfloat16]
"""

import argparse

import timing
import torch

import flashinfer


def torch_rope(q, k, cos, sin):
    """Half split, from a table of this batch's own positions."""
    for x in (q, k):
        a, b = x.chunk(2, -1)
        x.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], -1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    options = dict(device=args.device, dtype=getattr(torch, args.dtype))
    gpu = args.device == "cuda"

    for q_heads, k_heads, head_dim, rotary_dim in ((32, 8, 128, 128), (64, 8, 64, 64), (128, 1, 576, 64)):
        for num_tokens in (1, 64, 512, 8192) if gpu else (1, 64, 512):
            heads = q_heads + k_heads
            num_bytes = 2 * num_tokens * heads * rotary_dim * torch.empty(0, **options).itemsize
            # On a GPU enough inputs to leave none in L2: q and k are slices of a packed qkv.
            count = min(20, max(1, int(3 * 60e6 // num_bytes))) if gpu else 1
            packed = [torch.randn(num_tokens, heads + k_heads, head_dim, **options) for _ in range(count)]
            sets = [(x[:, :q_heads], x[:, q_heads:heads]) for x in packed]
            positions = torch.arange(1000, 1000 + num_tokens, device=args.device)
            indptr = torch.tensor([0, num_tokens], dtype=torch.int32, device=args.device)
            offsets = torch.tensor([1000], dtype=torch.int32, device=args.device)
            cache = torch.randn(1000 + num_tokens, rotary_dim, device=args.device)
            cos, sin = (x[:, None].to(options["dtype"]) for x in cache[positions].chunk(2, -1))
            calls = {
                "pos_ids": lambda q, k: flashinfer.apply_rope_pos_ids_inplace(q, k, positions, rotary_dim),
                "offsets": lambda q, k: flashinfer.apply_rope_inplace(q, k, indptr, offsets, rotary_dim),
                "llama31": lambda q, k: flashinfer.apply_llama31_rope_pos_ids_inplace(q, k, positions, rotary_dim),
                "cache": lambda q, k: flashinfer.apply_rope_with_cos_sin_cache_inplace(positions, q, k, head_dim, cache),
                "torch": lambda q, k: torch_rope(q[..., :rotary_dim], k[..., :rotary_dim], cos, sin),
            }
            calls = {name: lambda i, op=op, sets=sets: op(*sets[i % len(sets)]) for name, op in calls.items()}
            timing.report(f"rope {num_tokens}x({q_heads}+{k_heads})x{rotary_dim}/{head_dim}", timing.compare(calls, args.device), num_bytes)


if __name__ == "__main__":
    main()
