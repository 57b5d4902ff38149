"""Time and bandwidth of rmsnorm, fused_add_rmsnorm, QK-norm, rmsnorm_quant and layernorm, against torch, in one run.

    python benchmarks/norm.py [--device cpu|cuda] [--dtype bfloat16]
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
    options = dict(device=args.device, dtype=getattr(torch, args.dtype))
    gpu = args.device == "cuda"

    def run(name, make, num_bytes, alternatives):
        # On a GPU enough inputs to leave none in L2; on a CPU one set, as in a layer whose input was just written.
        sets = [make() for _ in range(min(20, max(1, int(3 * 60e6 // num_bytes))) if gpu else 1)]
        calls = {key: lambda i, op=op: op(*sets[i % len(sets)]) for key, op in alternatives.items()}
        timing.report(name, timing.compare(calls, args.device), num_bytes)

    for hidden_size in (4096, 8192):
        weight = torch.randn(hidden_size, **options)
        weight32 = weight.float()
        for num_rows in (1, 64, 1024, 16384) if gpu else (1, 64, 1024):
            shape = (num_rows, hidden_size)
            size = num_rows * hidden_size * weight.itemsize
            label = f"{num_rows}x{hidden_size}"

            def make():
                return torch.randn(shape, **options), torch.empty(shape, **options)

            run(f"rmsnorm {label}", make, 2 * size, {
                "ours": lambda x, y: flashinfer.rmsnorm(x, weight, out=y),
                "torch": lambda x, y: torch.nn.functional.rms_norm(x, (hidden_size,), weight, 1e-6)})
            run(f"layernorm {label}", make, 2 * size, {
                "ours": lambda x, y: flashinfer.layernorm(x, weight32, weight32, out=y),
                "torch": lambda x, y: torch.nn.functional.layer_norm(x, (hidden_size,), weight, weight, 1e-6)})

            def torch_fused_add(x, residual):
                residual += x
                return torch.nn.functional.rms_norm(residual, (hidden_size,), weight, 1e-6)

            run(f"fused_add_rmsnorm {label}", make, 4 * size, {
                "ours": lambda x, residual: flashinfer.fused_add_rmsnorm(x, residual, weight),
                "torch": torch_fused_add})
            fp8 = torch.empty(shape, dtype=torch.float8_e4m3fn, device=args.device)
            run(f"rmsnorm_quant {label}", make, size + size // weight.itemsize, {
                "ours": lambda x, _: flashinfer.rmsnorm_quant(fp8, x, weight, 0.5),
                "torch": lambda x, _: (torch.nn.functional.rms_norm(x, (hidden_size,), weight, 1e-6) * 2).to(torch.float8_e4m3fn)})

    for num_tokens, num_heads, head_dim in ((64, 40, 128), (4608, 48, 128), (27030, 24, 128)) if gpu else ((64, 40, 128), (1024, 40, 128)):
        weight = torch.randn(head_dim, **options)
        run(f"rmsnorm of heads {num_tokens}x{num_heads}x{head_dim}",
            lambda: (torch.randn(num_tokens, num_heads + 16, head_dim, **options)[:, :num_heads],),
            2 * num_tokens * num_heads * head_dim * weight.itemsize, {
                "ours": lambda x: flashinfer.rmsnorm(x, weight),
                "torch": lambda x: torch.nn.functional.rms_norm(x, (head_dim,), weight, 1e-6)})


if __name__ == "__main__":
    main()
