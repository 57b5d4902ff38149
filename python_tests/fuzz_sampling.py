"""Random rows, shapes, filters and seeds: whether a GPU gives what the CPU gives, bit for bit, for as long as one likes.

    python python_tests/fuzz_sampling.py [--seconds 60] [--seed 0] [--races]
    FLASHINFER_CPU_ISA=avx2 python python_tests/fuzz_sampling.py --calls 300

Tests draw some thousand rows; what goes wrong in one of a hundred thousand shows here. Ends with 1 at the first difference, and says how
to see it again. --races: top_p and min_p alone, of smaller batches, many draws of each row. A number of calls goes to the CPU alone, whose
results end in a digest: it is the same on all CPUs.
"""

import argparse
import hashlib
import random
import sys
import time

import torch

import flashinfer
from flashinfer import sampling, topk


def make_rows(choose, generator, most_elements):
    """Logits as a model, or a mask, might make them; sometimes rows of a larger tensor, which begin anywhere."""
    vocab_size = choose.choice([choose.randint(1, 300), choose.randint(300, 9000), choose.randint(9000, 70000), 32000, 50257, 128256, 128257, 151936,
                                choose.randint(100000, 262144)])  # fmt: skip
    num_rows = min(choose.choice([1, 2, 5, choose.randint(3, 20), choose.randint(17, 140), choose.randint(130, 1000)]), max(1, most_elements // vocab_size))
    ahead, behind = (choose.randint(0, 9), choose.randint(0, 5)) if choose.random() < 0.4 else (0, 0)
    rows = torch.randn(num_rows, ahead + vocab_size + behind, generator=generator)
    rows *= choose.choice([0.003, 0.05, 0.3, 1, 1, 2, 3, 3, 5, 10])
    kind = choose.choice(["normal", "normal", "normal", "rounded", "few", "together", "tied", "spikes", "rising"])
    if kind == "rounded":
        rows = rows.mul(choose.choice([1, 4, 16])).round()
    if kind == "few":
        rows[torch.rand(rows.shape, generator=generator) > choose.choice([1e-4, 1e-3, 0.05, 0.5])] = -torch.inf
    if kind == "together":
        start = choose.randrange(vocab_size)
        rows[:, :ahead + start] = -torch.inf
        rows[:, ahead + start + choose.randint(1, 6000):] = -torch.inf
    if kind == "tied":
        rows.zero_()[torch.rand(rows.shape, generator=generator) < choose.choice([0, 0.5, 0.99])] = -torch.inf
    if kind == "spikes":
        rows[torch.rand(rows.shape, generator=generator) < 3 / vocab_size] += 15
    if kind == "rising":
        rows = rows.sort(-1, descending=choose.random() < 0.5).values
    return rows, ahead, vocab_size, kind


def make_call(choose, generator, races):
    """(description, call(device) -> tensors)"""
    rows, ahead, vocab_size, kind = make_rows(choose, generator, 6_000_000 if races else 24_000_000)
    dtype = choose.choice([torch.float32, torch.float32, torch.float16, torch.bfloat16])
    from_logits = choose.random() < 0.5
    values = (rows if from_logits else torch.softmax(rows, -1)).to(dtype)
    num_rows = rows.shape[0]

    def of_rows(value, low, high, whole=False):
        """A number, or one for each row around it."""
        if choose.random() < 0.6:
            return value
        spread = torch.rand(num_rows, generator=generator) * (high - low) + low
        return spread.int() if whole else spread

    def moved(value, device):
        return value.to(device) if isinstance(value, torch.Tensor) else value

    def on(device):
        return values.to(device)[:, ahead:ahead + vocab_size]

    top_k = of_rows(choose.choice([1, 2, 20, 50, 64, 200, 513, 3000, vocab_size // 2 + 1]), 1, 600, whole=True)
    top_p = of_rows(choose.choice([0.0, 0.05, 0.3, 0.5, 0.8, 0.9, 0.95, 0.999, 0.9999999]), 0.01, 1)
    name = "sample" if races else choose.choice(["sample"] * 6 + ["softmax", "top_p_renorm_probs", "top_k_renorm_probs", "top_k_mask_logits", "top_k"])
    what = f"{name} of {num_rows} x {vocab_size} {kind} {dtype}, {'logits' if from_logits else 'probs'} {ahead} ahead, top_k {top_k if isinstance(top_k, int) else 'of rows'}, top_p {top_p if isinstance(top_p, float) else 'of rows'}"
    if name == "softmax":
        return what, lambda device: [flashinfer.softmax(on(device), temperature=0.7)]
    if name in ("top_k_renorm_probs", "top_k_mask_logits"):
        return what, lambda device: [getattr(sampling, name)(on(device), moved(top_k, device))]
    if name == "top_p_renorm_probs":
        return what, lambda device: [sampling.top_p_renorm_probs(on(device), moved(top_p, device))]
    if name == "top_k":
        k = choose.choice([1, 7, 64, 300, 2048])
        return f"{what}, k {k}", lambda device: list(topk.top_k(on(device), min(k, vocab_size), sorted=True))

    filters = dict(
        top_k=choose.choice([None, None, top_k]), top_p=choose.choice([None, top_p, top_p]), min_p=choose.choice([None, None, of_rows(0.05, 0, 0.5)]),
        filter_apply_order=choose.choice(["joint", "top_k_first"]), seed=choose.randrange(2**40), offset=choose.randrange(2**20))  # fmt: skip
    more = choose.choice([{}, {}, {}, dict(return_valid=True, return_logprobs=True), dict(return_logprobs=True, num_top_logprobs=3, raw_logprobs=True), dict(num_top_logprobs=choose.choice([1, 20, 100]), return_probs=True)])
    if choose.random() < 0.2:
        more["indices"] = torch.randint(num_rows, (choose.randint(1, 40),), generator=generator, dtype=torch.int32)
    if races:
        filters |= dict(top_k=None, top_p=top_p)
        more = {}
    if "num_top_logprobs" in more:
        more["num_top_logprobs"] = min(more["num_top_logprobs"], vocab_size)
    draw = sampling.top_k_top_p_sampling_from_logits if from_logits else sampling.top_k_top_p_sampling_from_probs

    def call(device):
        results, rows = [], on(device)
        for i in range(24 if races else 1 if "return_probs" in more else 8):
            arguments = filters | more | dict(offset=filters["offset"] + i)
            got = draw(rows, **{key: moved(value, device) for key, value in arguments.items()})
            results += got if isinstance(got, tuple) else [got]
        return results

    told = {key: "of rows" if isinstance(value, torch.Tensor) else value for key, value in (filters | more).items()}
    return f"{what}; {told}", call


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--calls", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--races", action="store_true")
    args = parser.parse_args()
    began, seed, num_rows, digest = time.monotonic(), args.seed, 0, hashlib.sha256()
    while seed < args.seed + args.calls if args.calls else time.monotonic() - began < args.seconds:
        what, call = make_call(random.Random(seed), torch.Generator().manual_seed(seed), args.races)
        expected = call("cpu")
        for i, (a, b) in enumerate(zip(expected, expected if args.calls else call("cuda"), strict=True)):
            a, b = a.float().nan_to_num(7), b.cpu().float().nan_to_num(7)
            if not torch.equal(a, b):
                rows = (a != b).reshape(len(a), -1).any(-1).nonzero().flatten().tolist()
                print(f"--seed {seed}: result {i} differs in {len(rows)} rows of {what}\n  rows {rows[:8]}\n  CPU {a[rows[0]]}\n  GPU {b[rows[0]]}")
                return 1
            digest.update(a.numpy().tobytes())
        num_rows += sum(len(a) for a in expected if a.dim() == 1)
        seed += 1
    print(f"{seed - args.seed} calls, {num_rows} tokens, log-probabilities and flags, seeds {args.seed} to {seed - 1}" + (f": {digest.hexdigest()[:16]}" if args.calls else ": the same"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
