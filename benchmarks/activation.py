"""Time and bandwidth of the gated activations (act_and_mul), against torch, in one run.

    python benchmarks/activation.py [--device cpu|cuda] [--dtype bfloat16]
"""

import argparse

import timing
import torch

import flashinfer

ACTIVATIONS = {
    "silu_and_mul": torch.nn.functional.silu,
    "gelu_and_mul": torch.nn.functional.gelu,
    "gelu_tanh_and_mul": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    options = dict(device=args.device, dtype=getattr(torch, args.dtype))
    gpu = args.device == "cuda"

    for op, activation in ACTIVATIONS.items():
        for dim in (4864, 14336):
            for num_rows in (1, 64, 512, 4096) if gpu else (1, 64, 512):
                num_bytes = 3 * num_rows * dim * torch.empty(0, **options).itemsize
                count = min(20, max(1, int(3 * 60e6 // num_bytes))) if gpu else 1
                sets = [(torch.randn(num_rows, 2 * dim, **options), torch.empty(num_rows, dim, **options)) for _ in range(count)]

                def ours(i, sets=sets, op=op):
                    x, y = sets[i % len(sets)]
                    getattr(flashinfer, op)(x, out=y)

                def torch_ops(i, sets=sets, activation=activation, dim=dim):
                    x, y = sets[i % len(sets)]
                    torch.mul(activation(x[:, :dim]), x[:, dim:], out=y)

                timing.report(f"{op} {num_rows}x{dim}", timing.compare({"ours": ours, "torch": torch_ops}, args.device), num_bytes)


if __name__ == "__main__":
    main()
