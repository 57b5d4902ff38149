"""Time and bandwidth of packbits, on a CPU also of segment_packbits (on a GPU it waits for indptr), against torch and NumPy.

    python benchmarks/packbits.py [--device cpu|cuda]
"""

import argparse

import timing
import torch

import flashinfer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
    for n in (1 << 16, 1 << 22, 1 << 26):
        x = torch.rand(n, device=device) < 0.5
        indptr = torch.arange(0, n + 1, n // 64, device=device)
        calls = {
            "ours": lambda _: flashinfer.packbits(x, "little"),
            "torch": lambda _: (x.view(-1, 8) * weights).sum(1, dtype=torch.uint8),
        }
        if device == "cpu":
            import numpy as np

            calls["segments"] = lambda _: flashinfer.segment_packbits(x, indptr, "little")
            calls["numpy"] = lambda _: np.packbits(x.numpy(), bitorder="little")
        timing.report(f"packbits {n}", timing.compare(calls, device, repetitions=5, calls=3), n + n // 8)


if __name__ == "__main__":
    main()
