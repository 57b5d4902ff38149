"""Time of top_k and of its page table transform against torch.topk, in one run.

    python benchmarks/topk.py [--device cpu|cuda] [--dtype float32]
"""

import argparse

import timing
import torch

import flashinfer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    options = dict(device=args.device, dtype=getattr(torch, args.dtype))
    gpu = args.device == "cuda"

    shapes = [(b, 128256, 64) for b in ((1, 16, 64, 128, 512) if gpu else (1, 16))]
    shapes += [(b, 131072, k) for k in (512, 2048) for b in ((1, 16, 128) if gpu else (1,))]
    for batch_size, width, k in shapes:
        num_bytes = batch_size * width * torch.empty(0, dtype=options["dtype"]).itemsize
        # On a GPU enough inputs to leave none in L2.
        sets = [torch.randn(batch_size, width, **options) for _ in range(min(20, max(2, int(180e6 // num_bytes))) if gpu else 2)]
        pages = torch.randint(0, 1 << 20, (batch_size, width // 64 + 1), dtype=torch.int32, device=args.device)
        lengths = torch.full((batch_size,), width, dtype=torch.int32, device=args.device)
        calls = {
            "ours": lambda i: flashinfer.top_k(sets[i % len(sets)], k),
            "ours sorted": lambda i: flashinfer.top_k(sets[i % len(sets)], k, sorted=True),
            "ours pages": lambda i: flashinfer.top_k_page_table_transform(sets[i % len(sets)], pages, lengths, k, page_size=64),
            "torch": lambda i: torch.topk(sets[i % len(sets)], k),
        }
        timing.report(f"top_k {batch_size}x{width} k={k}", timing.compare(calls, args.device), num_bytes)


if __name__ == "__main__":
    main()
