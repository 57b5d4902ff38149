"""Queries whose lengths lie on the device: the prefill wrappers take the decode kernel where all requests have the same few."""

import pytest
import torch

from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper
from reference import Batch, check_lse, nan_like

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
PAGE = 16
LENGTHS = {  # of queries and keys
    "one": ([1] * 5, [300, 1, 64, 2500, 17]),
    "four": ([4] * 12, [1000, 4, 65, 300] * 3),
    "cluster": ([4], [1500]),
    "sixteen": ([16] * 6, [700, 16, 100, 33, 2000, 64]),
    "ragged": ([1, 7, 4, 0, 3, 9], [300, 70, 4, 50, 0, 900]),
    "skewed": ([97] + [1] * 31, [400, 900] + [40] * 30),
    "empty": ([0, 0, 12, 0], [0, 30, 500, 64]),
    "more queries than keys": ([8, 8], [3, 200]),
    "uneven": ([1, 3, 0, 2, 1], [100, 300, 20, 2, 0]),
    "long": ([40, 300], [40, 700]),
}


def workspace(size=1 << 24):
    return torch.full((size,), 0xFF, dtype=torch.uint8, device=DEVICE)  # as floats: NaN


def make(lengths, heads=(8, 2), dims=(128, 128), kv_dtype=torch.bfloat16, seed=0):
    return Batch(*lengths, heads=heads, dims=dims, dtype=torch.bfloat16, kv_dtype=kv_dtype, seed=seed, device=DEVICE)


def plan_of(batch, *lengths):
    """Arguments of plan(): every array on the device."""
    shape = (*batch.heads, batch.dims[0], PAGE) if len(lengths) > 1 else (*batch.heads, *batch.dims)
    return [t.to(DEVICE) for t in (batch.qo_indptr, *lengths)] + [*shape]


def expected_kernel(batch):
    n, rows, group = len(batch.qo_lens), sum(batch.qo_lens), batch.heads[0] // batch.heads[1]
    return "DecodeConfig" if rows % n == 0 and rows // n <= 64 // group else "AttentionConfig"


def expect(wrapper, run, batch, check, **options):
    """Twice the same bits, near the reference."""
    out, lse = nan_like((len(batch.q), batch.heads[0], batch.dims[1]), torch.bfloat16, DEVICE), nan_like((len(batch.q), batch.heads[0]), torch.float32, DEVICE)
    run(out=out, lse=lse)
    ref, ref_lse = batch.reference(**options)
    check(out, ref)
    check_lse(lse, ref_lse)
    assert wrapper.kernel.startswith(expected_kernel(batch)), wrapper.kernel
    assert torch.equal(run(), out)
    return out


@pytest.mark.parametrize("heads, kv_dtype", [((8, 2), torch.bfloat16), ((8, 1), torch.bfloat16), ((5, 1), torch.float8_e4m3fn)], ids=str)
@pytest.mark.parametrize("name", LENGTHS)
def test_paged(check, name, heads, kv_dtype):
    batch = make(LENGTHS[name], heads, kv_dtype=kv_dtype)
    caches, *lengths = batch.paged(PAGE)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace())
    types = dict(q_data_type=batch.dtype, kv_data_type=kv_dtype)
    for options in (dict(causal=True), dict(causal=False), dict(causal=True, window_left=50), dict(causal=True, logits_soft_cap=8.0)):
        wrapper.plan(*plan_of(batch, *lengths), **types, **options)
        assert wrapper.kernel.startswith("AttentionConfig"), "as long as nothing has run"
        out = expect(wrapper, lambda **o: wrapper.run(batch.q, caches, **o), batch, check, **options)
        if len(set(batch.qo_lens)) == 1:  # what the caller could have said
            wrapper.plan(*plan_of(batch, *lengths), **types, **options, max_qo_len=batch.qo_lens[0])
            assert wrapper.kernel.startswith(expected_kernel(batch))
            assert torch.equal(wrapper.run(batch.q, caches), out)
    # Another mask, by the old call.
    check(wrapper.forward(batch.q, caches, causal=False), batch.reference()[0])
    check(wrapper.forward(batch.q, caches, causal=True), batch.reference(causal=True)[0])
    # RoPE is the generic kernel's.
    check(wrapper.forward(batch.q, caches, causal=True, pos_encoding_mode="ROPE_LLAMA"), batch.reference(causal=True, pos_encoding_mode="ROPE_LLAMA")[0])
    assert wrapper.kernel.startswith("AttentionConfig")


@pytest.mark.parametrize("name", LENGTHS)
def test_ragged(check, name):
    batch = make(LENGTHS[name], dims=(64, 64))
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(workspace())
    for causal in (True, False):
        wrapper.plan(*plan_of(batch, batch.kv_indptr), causal=causal, q_data_type=batch.dtype)
        expect(wrapper, lambda **o: wrapper.run(batch.q, *batch.ragged(), **o), batch, check, causal=causal)


@pytest.mark.parametrize("size", [0, 1000, 300_000, 5_000_000])
def test_small_workspaces(check, size):
    """Fewer cuts, and nothing past the end."""
    buffer = workspace(size + 4096)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(buffer[:size])
    for name in ("four", "skewed", "long"):
        batch = make(LENGTHS[name])
        caches, *lengths = batch.paged(PAGE)
        wrapper.plan(*plan_of(batch, *lengths), causal=True, q_data_type=batch.dtype)
        expect(wrapper, lambda **o: wrapper.run(batch.q, caches, **o), batch, check, causal=True)
    assert (buffer[size:] == 0xFF).all()


def test_plans_of_the_same_arguments(check):
    """One wrapper from batch to batch: each run takes what its own rows say."""
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace())
    for seed, name in enumerate(["four", "long", "skewed", "uneven", "sixteen", "one", "long"]):
        batch = make(LENGTHS[name], seed=seed)
        caches, *lengths = batch.paged(PAGE)
        wrapper.plan(*plan_of(batch, *lengths), causal=True, q_data_type=batch.dtype)
        expect(wrapper, lambda **o: wrapper.run(batch.q, caches, **o), batch, check, causal=True)


@pytest.mark.parametrize("plan_in_graph", [False, True])
def test_capture(check, plan_in_graph):
    """A captured run serves every plan that follows: in the graph, or between replays, from arrays on the device or on the host."""
    capacity, rows = 4, 16
    buffers = [torch.zeros(n, dtype=torch.int32, device=DEVICE) for n in (capacity + 1, capacity + 1, 200, capacity)]
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(), "NHD", True, *buffers)
    pool = torch.full((300, 2, PAGE, 2, 128), float("nan"), dtype=torch.bfloat16, device=DEVICE)
    q, out = torch.zeros(rows, 8, 128, dtype=torch.bfloat16, device=DEVICE), nan_like((rows, 8, 128), torch.bfloat16, DEVICE)

    def plan(*arrays):
        wrapper.plan(*arrays, 8, 2, 128, PAGE, causal=True, q_data_type="bfloat16")

    plan(*buffers)
    wrapper.run(q, pool, out=out)
    assert wrapper.kernel.startswith("DecodeConfig")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        if plan_in_graph:
            plan(*buffers)
        wrapper.run(q, pool, out=out)
    for seed, lengths in enumerate([([4] * 4, [300, 64, 20, 1500]), ([16], [2000]), ([1, 9, 0, 2], [40, 9, 70, 2]), ([13, 1, 1, 1], [600, 5, 0, 33])]):
        batch = make(lengths, seed=seed)
        caches, indptr, indices, last = batch.paged(PAGE, stacked=True)
        n = len(batch.qo_lens)
        pool[: len(caches)] = caches
        q[: len(batch.q)] = batch.q
        if plan_in_graph or seed % 2:
            for buffer, values in zip(buffers[:2], (batch.qo_indptr, indptr)):
                buffer[: n + 1], buffer[n + 1 :] = values.to(DEVICE), int(values[-1])
            buffers[2][: len(indices) - 1] = indices[:-1]
            buffers[3][:n] = last.to(DEVICE)
            if not plan_in_graph:
                plan(*buffers)
        else:
            plan(batch.qo_indptr, indptr, indices[:-1].cpu(), last)
        out.fill_(float("nan"))
        graph.replay()
        check(out[: len(batch.q)], batch.reference(causal=True)[0])
        assert out[len(batch.q) :].isnan().all()
