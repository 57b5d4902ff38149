"""Host microseconds of plan() and run() of the batch wrappers, from host and from device arrays.

    python benchmarks/plan_time.py [--device cuda] [--out FILE.json]
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

import flashinfer


def per_call(call, device, bursts=20, calls=20):
    """Median over bursts short enough that the launch queue never fills."""
    times = []
    for _ in range(bursts):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) / calls * 1e6)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out")
    args = parser.parse_args()
    device, results = args.device, {}
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=device)
    for batch_size in (1, 64, 1024):
        pages = np.random.default_rng(0).integers(1, 64, batch_size)
        indptr = np.concatenate([[0], pages.cumsum()]).astype(np.int32)
        indices = np.random.default_rng(1).permutation(int(indptr[-1])).astype(np.int32)
        last = np.full(batch_size, 7, np.int32)
        on_device = torch.from_numpy(indices).to(device)
        cache = torch.randn(len(indices), 2, 16, 2, 128, device=device, dtype=torch.bfloat16) if device == "cuda" else None
        types = dict(q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        for where in ("host", "device"):
            arrays = [torch.from_numpy(a) for a in (indptr, indices, last)]
            arrays = [arrays[0], on_device, arrays[2]] if where == "host" else [a.to(device) for a in arrays]
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, use_tensor_cores=True)
            plan = lambda: wrapper.plan(*arrays, 8, 2, 128, 16, **types)
            plan()
            entry = {"plan_us": per_call(plan, device)}
            if cache is not None:
                q = torch.randn(batch_size, 8, 128, device=device, dtype=torch.bfloat16)
                out = torch.empty_like(q)
                wrapper.run(q, cache, out=out)
                entry["run_us"] = per_call(lambda: wrapper.run(q, cache, out=out), device)
            results[f"batch {batch_size}, {where} arrays"] = entry
            print(f"batch {batch_size:5d}, {where:6s} arrays: " + ", ".join(f"{k} {v:.1f}" for k, v in entry.items()), flush=True)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
