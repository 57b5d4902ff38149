"""Samplers and top-k selection of whichever package is called flashinfer: this one, or FlashInfer itself, by the same code on one GPU.

    PYTHONPATH=OURS    python benchmarks/grid.py --cases sampling --out ours.json
    PYTHONPATH=THEIRS  python benchmarks/grid.py --cases sampling --out peer.json
    python benchmarks/grid.py --merge ours.json peer.json COMMIT > benchmarks/results/GPU/DATE-sampling-grid.json

Two times of a call, of sixteen. In a CUDA graph, which is the GPU's work alone: seeds are given, for FlashInfer's samplers cannot be captured
without, and offsets, one a call, for how often a row races again is chance. And from Python, as an engine makes it: seeds come from torch's
generator. Inputs are several sets larger than twice the L2.
"""

import argparse
import json
import math
import re
import statistics
import sys
import time
from datetime import date

TWICE_L2 = 2 * 64 << 20
VOCAB_SIZE = 128256
CALLS = 16

# name -> (reads and writes of the row, call(flashinfer, logits, probs, seed))
SAMPLING = {
    "from_probs": (1, lambda f, logits, probs, seed: f.sampling.sampling_from_probs(probs, **seed)),
    "from_logits": (1, lambda f, logits, probs, seed: f.sampling.sampling_from_logits(logits, **seed)),
    "top_p0.9": (1, lambda f, logits, probs, seed: f.sampling.top_p_sampling_from_probs(probs, 0.9, **seed)),
    "min_p0.1": (1, lambda f, logits, probs, seed: f.sampling.min_p_sampling_from_probs(probs, 0.1, **seed)),
    "top_k50": (1, lambda f, logits, probs, seed: f.sampling.top_k_sampling_from_probs(probs, 50, **seed)),
    "top_k50_top_p0.9": (
        1,
        lambda f, logits, probs, seed: f.sampling.top_k_top_p_sampling_from_probs(probs, 50, 0.9, filter_apply_order="joint", **seed),
    ),
    "top_k50_top_p0.9_from_logits": (1, lambda f, logits, probs, seed: f.sampling.top_k_top_p_sampling_from_logits(logits, 50, 0.9, **seed)),
    "softmax": (2, lambda f, logits, probs, seed: f.sampling.softmax(logits, temperature=0.7)),
    "top_p_renorm0.9": (2, lambda f, logits, probs, seed: f.sampling.top_p_renorm_probs(probs, 0.9)),
    "top_k_renorm50": (2, lambda f, logits, probs, seed: f.sampling.top_k_renorm_probs(probs, 50)),
    "top_k_mask50": (2, lambda f, logits, probs, seed: f.sampling.top_k_mask_logits(logits, 50)),
    "topk64": (1, lambda f, logits, probs, seed: f.top_k(logits, 64)),
}
# name -> call(flashinfer, scores, pages, lengths, k): what selects the keys of sparse attention
TOPK = {
    "top_k": lambda f, scores, pages, lengths, k: f.top_k(scores, k),
    "page_table": lambda f, scores, pages, lengths, k: f.top_k_page_table_transform(scores, pages, lengths, k, page_size=64),
    "ragged": lambda f, scores, pages, lengths, k: f.top_k_ragged_transform(scores, lengths, lengths, k),
}


def sampling_cases():
    """(name, bytes, make() -> inputs, call(flashinfer, inputs, seed))"""
    import torch

    for batch_size in (1, 16, 128, 512):

        def make(batch_size=batch_size):
            logits = torch.randn(batch_size, VOCAB_SIZE, device="cuda") * 3
            return logits, torch.softmax(logits, -1)

        for name, (passes, op) in SAMPLING.items():
            yield (f"sampling/{name}/bs{batch_size}/v{VOCAB_SIZE}", passes * batch_size * VOCAB_SIZE * 4, make,
                   lambda f, inputs, seed, op=op: op(f, *inputs, seed))  # fmt: skip


def topk_cases():
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        for width, k in (8192, 512), (32768, 2048), (131072, 2048):
            for num_rows in (1, 16, 64, 128, 512):

                def make(dtype=dtype, width=width, num_rows=num_rows):
                    pages = torch.randint(1 << 20, (num_rows, width // 64), dtype=torch.int32, device="cuda")
                    lengths = torch.full((num_rows,), width, dtype=torch.int32, device="cuda")
                    return torch.randn(num_rows, width, device="cuda", dtype=dtype), pages, lengths

                for name, op in TOPK.items():
                    yield (f"topk/{name}{k}/bs{num_rows}/v{width}/{str(dtype)[6:]}", num_rows * width * dtype.itemsize, make,
                           lambda f, inputs, seed, op=op, k=k: op(f, *inputs, k))  # fmt: skip


def in_a_graph(calls, seconds):
    """Seconds of one call: the median over replays of a graph of all of them."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < stop:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / len(calls))
    return statistics.median(times)


def from_python(calls, seconds):
    """Seconds of one call made after another without waiting: the host's time or the GPU's, whichever is longer."""
    import torch

    def turn():
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(rounds):
            for call in calls:
                call()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / (rounds * len(calls))

    rounds = 1
    turn()
    rounds = math.ceil(seconds / 10 / (turn() * len(calls)))
    return statistics.median(turn() for _ in range(10))


def measure(wanted, seconds):
    import torch

    import flashinfer

    cases, made = {}, None
    for name, num_bytes, make, op in [*sampling_cases(), *topk_cases()]:
        if not re.search(wanted, name):
            continue
        if make is not made:
            torch.manual_seed(0)
            sets = None  # before there are others
            sets, made = [make()], make
            while len(sets) * sets[0][0].nbytes < TWICE_L2 and len(sets) < CALLS:
                sets.append(make())
        case = cases[name] = {"bytes": num_bytes}
        for timing, is_seeded in (in_a_graph, True), (from_python, False):
            seeds = [dict(seed=2026, offset=4 * i) if is_seeded else {} for i in range(CALLS)]
            calls = [lambda inputs=sets[i % len(sets)], seed=seed: op(flashinfer, inputs, seed) for i, seed in enumerate(seeds)]
            try:
                begin = time.perf_counter()
                calls[0]()
                torch.cuda.synchronize()
                case.setdefault("first", time.perf_counter() - begin)
                case[timing.__name__] = timing(calls, seconds)
            except Exception as error:
                case[f"{timing.__name__}_error"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(f"{name:55s}", *(f"{key} {value * 1e6:.2f} us" if isinstance(value, float) else f"{key} {value}" for key, value in case.items()), flush=True)
    return {"package": f"flashinfer {getattr(flashinfer, '__version__', '?')}", "gpu": torch.cuda.get_device_name(), "cases": cases}


def merge(ours, peer, commit):
    """Both results in the one file that benchmarks/tables.py reads, in microseconds."""
    assert ours["gpu"] == peer["gpu"]
    cases = {}
    for name, case in ours["cases"].items():
        cases[name] = {"bytes": case["bytes"]}
        for side, times in ("ours", case), ("peer", peer["cases"].get(name, {})):
            for timing, suffix in ("in_a_graph", "us"), ("from_python", "python_us"):
                if timing in times:
                    cases[name][f"{side}_{suffix}"] = round(times[timing] * 1e6, 2)
    script = "benchmarks/grid.py"
    return {"date": str(date.today()), "commit": commit, "gpu": ours["gpu"], "script": script, "peer": peer["package"], "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="a regular expression")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement")
    parser.add_argument("--out")
    parser.add_argument("--merge", nargs=3, metavar=("OURS", "PEER", "COMMIT"))
    args = parser.parse_args()
    if args.merge:
        ours, peer = (json.load(open(path)) for path in args.merge[:2])
        json.dump(merge(ours, peer, args.merge[2]), sys.stdout, indent=1)
        print()
    else:
        json.dump(measure(args.cases, args.seconds), open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
