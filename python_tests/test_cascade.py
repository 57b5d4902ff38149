"""Merging attention states against sums in float64, and against attention over the union."""

import math

import numpy as np
import pytest
import torch

import flashinfer
from reference import Batch, attention, check_lse

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def states(randn, generator, n, num_states, heads, dim, dtype, empty=0.25):
    """v [n, num_states, heads, dim], s [n, num_states, heads]; empty states have s = -inf and v = NaN."""
    v, s = randn(n, num_states, heads, dim, dtype=dtype), randn(n, num_states, heads, scale=20.0)
    gone = (torch.rand(s.shape, generator=generator) < empty).to(s.device)
    s[gone], v[gone] = -math.inf, math.nan
    return v, s


def merged(v, s):
    v, s = v.double().cpu(), s.double().cpu()
    total = torch.logsumexp(s * math.log(2), 1) / math.log(2)
    weights = torch.exp2(s - total.masked_fill(total.isneginf(), 0.0)[:, None])
    return (weights[..., None] * v.masked_fill((weights == 0)[..., None], 0.0)).sum(1), total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n,heads,dim", [(5, 4, 64), (1, 1, 8), (100, 33, 128), (7, 3, 256), (7, 3, 512), (4, 2, 576), (3, 5, 72), (3, 2, 13), (0, 4, 64), (4, 0, 64), (2, 200, 128)])
def test_merge_state(randn, generator, check, n, heads, dim, dtype):
    v, s = states(randn, generator, n, 2, heads, dim, dtype)
    v_out, s_out = flashinfer.merge_state(v[:, 0].contiguous(), s[:, 0].contiguous(), v[:, 1].contiguous(), s[:, 1].contiguous())
    v_ref, s_ref = merged(v, s)
    assert v_out.dtype == dtype and s_out.dtype == torch.float32
    check(v_out, v_ref)
    check_lse(s_out, s_ref, 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides(randn, generator, check, dtype):
    v, s = states(randn, generator, 20, 2, 6, 80, dtype)
    parts = v[:, 0, 1:5], s[:, 0, 1:5], v[:, 1, 2:].transpose(0, 1).contiguous().transpose(0, 1), s[:, 1, 2:].t().contiguous().t()
    v_ref, s_ref = merged(torch.stack(parts[::2], 1), torch.stack(parts[1::2], 1))
    v_out, s_out = flashinfer.merge_state(*parts)
    check(v_out, v_ref)
    check_lse(s_out, s_ref, 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128, 96, 512, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_in_place(randn, generator, check, device, dtype, dim, masked):
    v, s = states(randn, generator, 50, 2, 5, dim, dtype)
    v_ref, s_ref = merged(v, s)
    v_new, s_new = v[:, 0].clone(), s[:, 0].clone()
    mask = (torch.rand(50, generator=generator) < 0.5).to(device) if masked else None
    assert flashinfer.merge_state_in_place(v_new, s_new, v[:, 1], s[:, 1], mask) is None
    done = mask.cpu() if masked else torch.ones(50, dtype=torch.bool)
    check(v_new.cpu()[done], v_ref[done])
    check_lse(s_new.cpu()[done], s_ref[done], 1e-4)
    assert torch.equal(s_new.cpu()[~done], s[:, 0].cpu()[~done])
    assert torch.equal(v_new.cpu()[~done].nan_to_num(7.0), v[:, 0].cpu()[~done].nan_to_num(7.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_states", [0, 1, 2, 3, 8, 100])
def test_merge_states(randn, generator, check, dtype, num_states):
    v, s = states(randn, generator, 13, num_states, 4, 128, dtype)
    v_out, s_out = flashinfer.merge_states(v, s)
    v_ref, s_ref = merged(v, s)
    check(v_out, v_ref)
    check_lse(s_out, s_ref, 1e-4)
    # States and heads swapped in memory: the same numbers, whatever the strides.
    again = flashinfer.merge_states(v.transpose(1, 2).contiguous().transpose(1, 2), s.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(again[0], v_out) and torch.equal(again[1], s_out)


def test_empty_sets(nans, device):
    """Nothing merged with nothing is nothing; with something, that something."""
    s = torch.full((3, 2), -math.inf, device=device)
    v_out, s_out = flashinfer.merge_state(nans(3, 2, 64), s, nans(3, 2, 64), s)
    assert torch.equal(v_out, torch.zeros(3, 2, 64, device=device)) and torch.equal(s_out, s)
    v, some = torch.ones(3, 2, 64, device=device), torch.full((3, 2), -300.0, device=device)
    for pair in ((v, some, nans(3, 2, 64), s), (nans(3, 2, 64), s, v, some)):
        v_out, s_out = flashinfer.merge_state(*pair)
        assert torch.equal(v_out, v) and torch.equal(s_out, some)


def test_nan_is_not_lost(randn, device):
    s = torch.zeros(1, 2, device=device)
    bad = s.clone()
    bad[0, 1] = math.nan
    v_out, s_out = flashinfer.merge_state(randn(1, 2, 8), s, randn(1, 2, 8), bad)
    assert s_out.isnan().tolist() == [[False, True]] and v_out.isnan().any(-1).tolist() == [[False, True]]


def test_large_differences(randn, check, device):
    v_a, v_b = randn(2, 1, 64), randn(2, 1, 64)
    s_a, s_b = torch.tensor([[1e5], [-1e5]], device=device), torch.tensor([[-1e5], [-1e5]], device=device)
    v_out, s_out = flashinfer.merge_state(v_a, s_a, v_b, s_b)
    assert torch.equal(v_out[0], v_a[0]) and float(s_out[0]) == 1e5
    check(v_out[1], (v_a[1].double() + v_b[1].double()) / 2)
    assert float(s_out[1]) == -99999.0


@pytest.mark.parametrize("cuts", [[10], [0], [30], [1, 2, 29], [0, 15, 15, 30]])
def test_attention_in_parts_is_attention(randn, check, cuts):
    q, k, v = randn(4, 8, 64), randn(30, 2, 64), randn(30, 2, 64)
    edges = [0, *cuts, 30]
    parts = [attention(q, k[a:b], v[a:b]) for a, b in zip(edges, edges[1:])]
    outs, lses = (torch.stack(x, 1).float().to(q.device) for x in zip(*parts))
    out_ref, lse_ref = attention(q, k, v)
    v_out, s_out = flashinfer.merge_states(outs, lses)
    check(v_out, out_ref)
    check_lse(s_out, lse_ref, 1e-4)
    v_out, s_out = outs[:, 0].contiguous(), lses[:, 0].contiguous()
    for i in range(1, len(parts)):
        flashinfer.merge_state_in_place(v_out, s_out, outs[:, i], lses[:, i])
    check(v_out, out_ref)


def test_numpy_and_jax():
    v, s = np.ones((3, 2, 8), np.float32), np.zeros((3, 2), np.float32)
    v_out, s_out = flashinfer.merge_state(v, s, 3 * v, s)
    assert isinstance(v_out, np.ndarray) and np.all(v_out == 2) and np.all(s_out == 1)
    import jax.numpy as jnp

    v_out, s_out = flashinfer.merge_states(jnp.stack([v, 3 * v], 1), jnp.stack([s, s], 1))
    assert isinstance(v_out, type(jnp.zeros(1))) and np.all(np.asarray(v_out) == 2) and np.all(np.asarray(s_out) == 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("page_size,layout", [(1, "NHD"), (4, "HND")])
def test_levels(randn, generator, check, nans, device, causal, page_size, layout):
    """Three levels: a prefix of all requests, one of each pair, and their own keys."""
    heads, kv_heads, dim, dtype = 6, 2, 64, torch.float32 if device == "cpu" else torch.bfloat16
    prefix, pairs, own, qo_lens = 20, [8, 12], [5, 9, 16, 3], [2, 1, 16, 3]
    lens = [[prefix], pairs, own]
    members = [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]]
    counts = [[-(-n // page_size) for n in level] for level in lens]
    num_pages = sum(map(sum, counts)) + 2
    ids = torch.randperm(num_pages, generator=generator).tolist()
    shape = (num_pages, page_size, kv_heads, dim) if layout == "NHD" else (num_pages, kv_heads, page_size, dim)
    caches = nans(*shape, dtype=dtype), nans(*shape, dtype=dtype)
    rows = [cache if layout == "NHD" else cache.transpose(1, 2) for cache in caches]
    keys, indptrs, indices, lasts, used = [], [], [], [], 0
    for level, of_level in zip(lens, counts):
        of_entries, level_ids = [], []
        for n, count in zip(level, of_level):
            pages, used = ids[used : used + count], used + count
            k, v = randn(n, kv_heads, dim, dtype=dtype), randn(n, kv_heads, dim, dtype=dtype)
            for t in range(n):
                rows[0][pages[t // page_size], t % page_size], rows[1][pages[t // page_size], t % page_size] = k[t], v[t]
            of_entries.append((k, v))
            level_ids += pages
        keys.append(of_entries)
        indptrs.append(torch.tensor([0, *of_level]).cumsum(0).int())
        indices.append(torch.tensor(level_ids, dtype=torch.int32, device=device))
        lasts.append(torch.tensor([(n - 1) % page_size + 1 for n in level], dtype=torch.int32))
    qo_indptrs = [torch.tensor([0, *(sum(qo_lens[r] for r in group) for group in level)]).cumsum(0).int() for level in members]
    q = randn(sum(qo_lens), heads, dim, dtype=dtype)
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(3, torch.empty(1 << 22, dtype=torch.uint8, device=device), layout)
    wrapper.plan(qo_indptrs, indptrs, indices, lasts, heads, kv_heads, dim, page_size, causal=causal, q_data_type=dtype)
    out, begin = wrapper.run(q, caches), 0
    for r, qo_len in enumerate(qo_lens):
        parts = [keys[0][0], keys[1][r // 2], keys[2][r]]
        k, v = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        check(out[begin : begin + qo_len], attention(q[begin : begin + qo_len], k, v, causal=causal)[0])
        begin += qo_len


@pytest.mark.parametrize("decode", [True, False])
def test_shared_prefix(randn, check, device, decode):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    batch = Batch([1, 1, 1] if decode else [3, 1, 9], [5, 30, 17], dtype=dtype, seed=5, device=device)
    k, v = randn(40, 2, 64, dtype=dtype), randn(40, 2, 64, dtype=dtype)
    caches, indptr, indices, last = batch.paged(4)
    workspace = torch.empty(1 << 22, dtype=torch.uint8, device=device)
    if decode:
        wrapper = flashinfer.BatchDecodeWithSharedPrefixPagedKVCacheWrapper(workspace)
        wrapper.begin_forward(indptr, indices, last, 8, 2, 64, 4, data_type=dtype)
        out = wrapper.forward(batch.q, k, v, caches)
    else:
        wrapper = flashinfer.BatchPrefillWithSharedPrefixPagedKVCacheWrapper(workspace)
        wrapper.begin_forward(batch.qo_indptr, indptr, indices, last, 8, 2, 64, 4, q_data_type=dtype)
        out = wrapper.forward(batch.q, k, v, caches, causal=True)
    begin = 0
    for r, qo_len in enumerate(batch.qo_lens):
        q = batch.q[begin : begin + qo_len]
        check(out[begin : begin + qo_len], attention(q, torch.cat([k, batch.k[r]]), torch.cat([v, batch.v[r]]), causal=not decode)[0])
        begin += qo_len
