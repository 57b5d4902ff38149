"""Milliseconds of the first call of each op in a fresh process: with an empty kernel cache (NVRTC compiles) and with a full one.

    python benchmarks/first_call.py [--out FILE.json] [OPS...]
Needs a GPU. "llama" is every kernel of one Llama layer: norms, RoPE, append, prefill, decode, activation. Samplers, filters and top_k have
16 rows of 128256 floats.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

SETUP = """
import time, torch, flashinfer as fi
d = dict(device="cuda", dtype=torch.bfloat16)
logits = torch.randn(16, 128256, device="cuda")
probs = torch.softmax(logits, -1)
x, w = torch.randn(64, 4096, **d), torch.randn(4096, **d)
q, k, v = (torch.randn(64, h, 128, **d) for h in (32, 8, 8))
pos = torch.arange(64, dtype=torch.int32, device="cuda")
cache = torch.randn(64, 2, 16, 8, 128, **d)
i32 = lambda *a: torch.tensor(a, dtype=torch.int32, device="cuda")
indptr, indices, last = i32(0, 4), i32(0, 1, 2, 3), i32(16)
workspace = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
prefill = fi.BatchPrefillWithPagedKVCacheWrapper(workspace)
decode = fi.BatchDecodeWithPagedKVCacheWrapper(workspace, use_tensor_cores=True)
half = dict(q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
def paged_prefill():
    prefill.plan(i32(0, 64), indptr, indices, last, 32, 8, 128, 16, causal=True, **half)
    prefill.run(q, cache)
def paged_decode():
    decode.plan(indptr, indices, last, 32, 8, 128, 16, **half)
    decode.run(q[:1], cache)
ops = dict(
    rmsnorm=lambda: fi.rmsnorm(x, w), fused_add_rmsnorm=lambda: fi.fused_add_rmsnorm(x, x.clone(), w),
    rope=lambda: fi.apply_llama31_rope_pos_ids_inplace(q, k, pos),
    append=lambda: fi.append_paged_kv_cache(k, v, i32(*[0] * 64), pos, cache, indices, indptr, last),
    prefill=paged_prefill, decode=paged_decode, silu_and_mul=lambda: fi.silu_and_mul(x),
    single_prefill=lambda: fi.single_prefill_with_kv_cache(q, k, v, causal=True), single_decode=lambda: fi.single_decode_with_kv_cache(q[0], k, v),
    merge_state=lambda: fi.merge_state(q, q[..., 0].float(), q, q[..., 0].float()),
    from_probs=lambda: fi.sampling.sampling_from_probs(probs), from_logits=lambda: fi.sampling.sampling_from_logits(logits),
    top_p=lambda: fi.sampling.top_p_sampling_from_probs(probs, 0.9), min_p=lambda: fi.sampling.min_p_sampling_from_probs(probs, 0.1),
    top_k_sampling=lambda: fi.sampling.top_k_sampling_from_probs(probs, 50),
    joint=lambda: fi.sampling.top_k_top_p_sampling_from_logits(logits, 50, 0.9, filter_apply_order="joint"),
    softmax=lambda: fi.sampling.softmax(logits), top_p_renorm=lambda: fi.sampling.top_p_renorm_probs(probs, 0.9),
    top_k_renorm=lambda: fi.sampling.top_k_renorm_probs(probs, 50), top_k_mask=lambda: fi.sampling.top_k_mask_logits(logits, 50),
    top_k=lambda: fi.top_k(logits, 64))
torch.cuda.synchronize()
def first(names):
    begin = time.perf_counter()
    for name in names: ops[name]()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3
LLAMA = ["rmsnorm", "fused_add_rmsnorm", "rope", "append", "prefill", "decode", "silu_and_mul"]
print(first(NAMES))
"""

OPS = """llama rmsnorm rope append prefill decode silu_and_mul single_prefill single_decode merge_state
    from_probs from_logits top_p min_p top_k_sampling joint softmax top_p_renorm top_k_renorm top_k_mask top_k""".split()


def measure(names, cache):
    source = f"NAMES = {names!r}\n" + SETUP.replace("first(NAMES)", "first(LLAMA if NAMES == ['llama'] else NAMES)")
    ran = subprocess.run([sys.executable, "-c", source], env={**os.environ, "FLASHINFER_CACHE_DIR": cache}, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return float(ran.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("ops", nargs="*", help="some of: " + " ".join(OPS))
    args = parser.parse_args()
    results = {}
    for name in args.ops or OPS:
        with tempfile.TemporaryDirectory() as cache:
            cold = measure([name], cache)
            results[name] = {"cold_ms": cold, "warm_ms": measure([name], cache)}
        print(f"{name:16s} cold {results[name]['cold_ms']:8.1f} ms   warm {results[name]['warm_ms']:8.2f} ms", flush=True)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
