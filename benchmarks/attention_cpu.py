"""Attention on the CPU: paged decode and causal prefill against torch, and decode against the DRAM of this machine, in one run.

    python benchmarks/attention_cpu.py [--repetitions 15]

torch has no paged attention: its time is that of gathering the pages and scaled_dot_product_attention(enable_gqa=True), and, beside it,
of the attention alone on keys that were gathered before. Every call takes other tensors, which together fit no cache. The machine may
be shared, so alternatives take turns; the least time counts, the median is in brackets.
"""

import argparse
import statistics
import time

import torch

import flashinfer

LEAST_BYTES = 256 << 20  # of keys and values in all: no cache holds them


def milliseconds(call, *args):
    begin = time.perf_counter()
    call(*args)
    return (time.perf_counter() - begin) * 1e3


def compare(alternatives, num_sets, repetitions):
    """{name: call(i)} -> {name: (least, median) ms of one call}, in turns."""
    times = {name: [] for name in alternatives}
    for call in alternatives.values():
        call(0)
    for repetition in range(repetitions):
        for name, call in alternatives.items():
            times[name].append(milliseconds(call, repetition % num_sets))
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def report(name, times, num_bytes=0, operations=0):
    ours, *others = times
    least, median = times[ours]
    line = f"{name:44s} {least:8.2f} ms ({median:8.2f})"
    line += f" {num_bytes / least / 1e6:6.1f} GB/s" if num_bytes else ""
    line += f" {operations / least / 1e6:6.0f} GFLOP/s" if operations else ""
    for other in others:
        line += f"   {other} {times[other][0]:8.2f} ms ({times[other][1]:8.2f}): {times[other][0] / least:5.1f}x, median {times[other][1] / median:5.1f}x"
    print(line, flush=True)


def paged_cache(batch_size, kv_len, kv_heads, head_dim, page_size, dtype):
    """Caches of several layers, and the page table they share."""
    pages = -(-kv_len // page_size)
    row_bytes = 2 * batch_size * pages * page_size * kv_heads * head_dim * torch.empty(0, dtype=dtype).itemsize
    shape = (batch_size * pages, 2, page_size, kv_heads, head_dim)
    caches = [torch.randn(shape).to(dtype) for _ in range(max(1, LEAST_BYTES // row_bytes))]
    indptr = torch.arange(batch_size + 1, dtype=torch.int32) * pages
    indices = torch.randperm(batch_size * pages).to(torch.int32)
    last_page_len = torch.full((batch_size,), (kv_len - 1) % page_size + 1, dtype=torch.int32)
    return caches, indptr, indices, last_page_len


def decode(batch_size, kv_len, qo_heads, kv_heads, head_dim, repetitions, page_size=16, dtype=torch.bfloat16):
    caches, indptr, indices, last_page_len = paged_cache(batch_size, kv_len, kv_heads, head_dim, page_size, dtype)
    q = torch.randn(batch_size, qo_heads, head_dim).to(dtype)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.empty(32 << 20, dtype=torch.uint8))
    wrapper.plan(indptr, indices, last_page_len, qo_heads, kv_heads, head_dim, page_size, q_data_type=dtype, kv_data_type=dtype)
    rows = indices.view(batch_size, -1).long()

    def gather(cache):
        k, v = (cache[rows, i].flatten(1, 2)[:, :kv_len].transpose(1, 2) for i in (0, 1))  # [batch_size, kv_heads, kv_len, head_dim]
        return k, v

    def attend(k, v):
        return torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)[:, :, 0]

    gathered = [gather(cache) for cache in caches]
    expected = attend(*(x.float() for x in gathered[0])) if dtype == torch.float32 else torch.nn.functional.scaled_dot_product_attention(
        q.float()[:, :, None], gathered[0][0].float(), gathered[0][1].float(), enable_gqa=True
    )[:, :, 0]
    error = (wrapper.run(q, caches[0]).float() - expected).norm() / expected.norm()
    assert error < 5e-3, error
    times = compare(
        {
            "flashinfer": lambda i: wrapper.run(q, caches[i]),
            "gather + SDPA": lambda i: attend(*gather(caches[i])),
            "SDPA alone": lambda i: attend(*gathered[i]),
        },
        len(caches),
        repetitions,
    )
    report(f"decode {batch_size} x {kv_len}, {qo_heads}/{kv_heads} heads of {head_dim}", times, caches[0].nbytes)


def prefill(qo_len, qo_heads, kv_heads, head_dim, repetitions, dtype=torch.bfloat16):
    q, k, v = (torch.randn(qo_len, heads, head_dim).to(dtype) for heads in (qo_heads, kv_heads, kv_heads))
    tq, tk, tv = (x.transpose(0, 1)[None].contiguous() for x in (q, k, v))
    times = compare(
        {
            "flashinfer": lambda i: flashinfer.single_prefill_with_kv_cache(q, k, v, causal=True),
            "SDPA": lambda i: torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, is_causal=True, enable_gqa=True),
        },
        1,
        repetitions,
    )
    report(f"prefill {qo_len} causal, {qo_heads}/{kv_heads} heads of {head_dim}", times, operations=2 * qo_len * (qo_len + 1) * qo_heads * head_dim)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    repetitions = parser.parse_args().repetitions
    memory = torch.ones(LEAST_BYTES // 8, dtype=torch.int64)
    read = compare({"torch.sum": lambda i: memory.sum()}, 1, repetitions)
    report(f"DRAM: torch.sum over {LEAST_BYTES >> 20} MiB, {torch.get_num_threads()} threads", read, memory.nbytes)
    for batch_size, kv_len in ((1, 4096), (8, 2048), (16, 1024)):
        decode(batch_size, kv_len, 32, 8, 128, repetitions)
    decode(8, 1024, 32, 32, 128, repetitions)
    decode(8, 2048, 64, 8, 128, repetitions)
    for qo_len in (512, 2048):
        prefill(qo_len, 32, 8, 128, max(3, repetitions // 3))


if __name__ == "__main__":
    main()
