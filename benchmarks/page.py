"""Time and bandwidth of append_paged_kv_cache, get_batch_indices_positions and get_seq_lens, against torch, in one run.

    python benchmarks/page.py [--device cpu|cuda] [--dtype bfloat16]
"""

import argparse

import timing
import torch

import flashinfer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    device, dtype = args.device, getattr(torch, args.dtype)
    gpu = device == "cuda"

    for heads, dim, page_size in ((8, 128, 16), (8, 128, 1), (4, 64, 64), (1, 576, 64)):
        for num_tokens in (1, 64, 512, 8192) if gpu else (1, 64, 512):
            num_bytes = 4 * num_tokens * heads * dim * dtype.itemsize
            num_pages = 2 * -(-num_tokens // page_size)
            count = min(20, max(1, int(3 * 60e6 // num_bytes))) if gpu else 1

            def make():
                key, value = (torch.randn(num_tokens, heads, dim, device=device).to(dtype) for _ in range(2))
                return key, value, *(torch.zeros(num_pages, page_size, heads, dim, dtype=dtype, device=device) for _ in range(2))

            sets = [make() for _ in range(count)]
            indices = torch.randperm(num_pages, device=device).int()
            indptr = torch.tensor([0, num_pages], dtype=torch.int32, device=device)
            last = torch.tensor([page_size], dtype=torch.int32, device=device)
            batch_indices = torch.zeros(num_tokens, dtype=torch.int32, device=device)
            positions = torch.arange(num_tokens, dtype=torch.int32, device=device)

            def ours(key, value, k, v):
                flashinfer.append_paged_kv_cache(key, value, batch_indices, positions, (k, v), indices, indptr, last)

            def torch_append(key, value, k, v):
                pages, rows = indices[positions // page_size], positions % page_size
                k[pages, rows], v[pages, rows] = key, value

            calls = {name: lambda i, op=op, sets=sets: op(*sets[i % len(sets)]) for name, op in {"ours": ours, "torch": torch_append}.items()}
            timing.report(f"append_paged_kv_cache {num_tokens}x{heads}x{dim} page {page_size}", timing.compare(calls, device), num_bytes)

    for batch_size, new in ((1, 8192), (64, 1), (256, 32)):
        append_indptr = torch.arange(batch_size + 1, dtype=torch.int32, device=device) * new
        lens = torch.full((batch_size,), 5000, dtype=torch.int32, device=device)
        outs = [torch.empty(batch_size * new, dtype=torch.int32, device=device) for _ in range(2)]

        def torch_positions(_):
            requests = torch.arange(batch_size, dtype=torch.int32, device=device).repeat_interleave(new)
            return requests, torch.arange(batch_size * new, device=device) + (lens - append_indptr[1:])[requests]

        calls = {"ours": lambda _: flashinfer.get_batch_indices_positions(append_indptr, lens, batch_size * new, *outs), "torch": torch_positions}
        timing.report(f"get_batch_indices_positions {batch_size}x{new}", timing.compare(calls, device), 8 * batch_size * new)

    indptr, last = torch.arange(257, dtype=torch.int32, device=device) * 30, torch.ones(256, dtype=torch.int32, device=device)
    calls = {"ours": lambda _: flashinfer.get_seq_lens(indptr, last, 16), "torch": lambda _: (indptr[1:] - indptr[:-1] - 1).clamp(min=0) * 16 + last}
    timing.report("get_seq_lens 256", timing.compare(calls, device), 12 * 256)


if __name__ == "__main__":
    main()
