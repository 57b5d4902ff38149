"""The other names of attention: mixed batches, sinks, prefill beside decode, block-sparse masks."""

import threading

import pytest
import torch

import flashinfer
from flashinfer import BatchAttention, BatchAttentionWithAttentionSinkWrapper, BatchPrefillWithRaggedKVCacheWrapper
from flashinfer.sparse import BlockSparseAttentionWrapper, VariableBlockSparseAttentionWrapper, convert_bsr_mask_layout
from reference import Batch, attention, check_lse


def workspace(device):
    return torch.full((1 << 24,), 0xFF, dtype=torch.uint8, device=device)


@pytest.mark.parametrize("on_host", [True, False])
def test_batch_attention(device, check, on_host):
    batch = Batch([130, 1, 0, 17], [130, 900, 50, 0], heads=(14, 2), dims=(128, 128), dtype=torch.bfloat16, device=device)
    caches, indptr, indices, _ = batch.paged(16)
    where = "cpu" if on_host else device
    lengths = [t.to(where) for t in (batch.qo_indptr, indptr)] + [indices, torch.tensor(batch.kv_lens, dtype=torch.int32, device=where)]
    wrapper = BatchAttention(device=device)
    wrapper.plan(*lengths, 14, 2, 128, 128, 16, causal=True, logits_soft_cap=20.0)
    for cap in (20.0, 0.0):
        out, lse = wrapper.run(batch.q, caches, v_scale=2.0, logits_soft_cap=cap)
        ref, ref_lse = batch.reference(causal=True, logits_soft_cap=cap, v_scale=2.0)
        check(out, ref)
        check_lse(lse, ref_lse)
    wrapper.plan(*lengths, 14, 2, 128, 128, 16)
    with pytest.raises(ValueError, match="logits_soft_cap"):
        wrapper.run(batch.q, caches, logits_soft_cap=1.0)


def test_sinks(device, check):
    batch = Batch([20, 3], [90, 300], dtype=torch.bfloat16, device=device)
    sink = batch.draw(8)
    ref, ref_lse = batch.reference(causal=True, sm_scale=0.2, window_left=70, sinks=sink)
    wrapper = BatchAttentionWithAttentionSinkWrapper(workspace(device), window_left=70, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16, head_dim_qk=64, head_dim_vo=64)
    assert isinstance(wrapper, flashinfer.BatchPrefillWithPagedKVCacheWrapper)
    caches, *lengths = batch.paged(16)
    wrapper.plan(batch.qo_indptr, *lengths, 8, 2, 64, 16, causal=True, window_left=70, q_data_type="bfloat16")
    out, lse = wrapper.run(batch.q, caches, sink, 0.2, return_lse=True)
    check(out, ref)
    check_lse(lse, ref_lse)
    assert torch.equal(wrapper.run(batch.q, caches, sink, 0.1, q_scale=2.0), out)
    names = ("uri", *[torch.bfloat16] * 3, torch.int32, 64, 64, ["sink"], ["float"], ["sm_scale"], ["double"], "AttentionSink", "")
    ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace(device), jit_args=names, jit_kwargs={"use_sliding_window": True})
    ragged.plan(batch.qo_indptr, batch.kv_indptr, 8, 2, 64, causal=True, window_left=70, q_data_type="bfloat16")
    check(ragged.run(batch.q, *batch.ragged(), sink, 0.2), ref)
    with pytest.raises(TypeError, match="sink and sm_scale"):
        ragged.run(batch.q, *batch.ragged(), sink)
    with pytest.raises(flashinfer.Unsupported, match="jit_args"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace(device), jit_args=(*names[:11], "Mine", ""))


@pytest.mark.parametrize("lengths", [None, 5, [0, 3], (0, 3, 4)], ids=repr)
@pytest.mark.parametrize("paged", [True, False])
def test_a_wrong_batch_after_a_good_one(paged, lengths):
    """A plan for the last plan's arguments takes a shorter way: what it refuses, it refuses in the same words, and the plan stays."""
    batch = Batch([2, 1], [9, 30], dtype=torch.bfloat16, device="cpu")
    kind = flashinfer.BatchPrefillWithPagedKVCacheWrapper if paged else BatchPrefillWithRaggedKVCacheWrapper
    keys = batch.paged(16)[1:] if paged else (batch.kv_indptr,)
    options = dict(causal=True, q_data_type=torch.bfloat16)

    def plan(wrapper, qo_indptr):
        wrapper.plan(qo_indptr, *keys, *(8, 2, 64, 16)[: 4 if paged else 3], **options)

    def refused(wrapper):
        with pytest.raises((ValueError, TypeError)) as error:
            plan(wrapper, lengths)
        return error.type, str(error.value)

    first = refused(kind(workspace("cpu")))
    wrapper = kind(workspace("cpu"))
    plan(wrapper, batch.qo_indptr)
    plan(wrapper, batch.qo_indptr)
    assert refused(wrapper) == first
    assert wrapper._plan.batch_size == 2 and wrapper._plan.total_qo_len == 3


def test_threads_share_a_workspace(device):
    """Calls of several threads, of one wrapper or of two with one workspace, do not take each other's partial results."""
    batch = Batch([1, 1], [3000, 2500], dtype=torch.float16, device=device)
    caches, *lengths = batch.paged(16)
    scratch, results = workspace(device), []
    wrappers = [flashinfer.BatchDecodeWithPagedKVCacheWrapper(scratch) for _ in range(2)]
    queries = [batch.q, 2 * batch.q]
    for wrapper in wrappers:
        wrapper.plan(*lengths, 8, 2, 64, 16)
    expected = [wrapper.run(q, caches) for wrapper, q in zip(wrappers, queries)]

    def use(i):
        for _ in range(40):
            results.append(torch.equal(wrappers[i % 2].run(queries[i % 2], caches), expected[i % 2]))

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160 and all(results)


def test_prefill_beside_decode(device, check):
    prefill = Batch([70], [90], dtype=torch.float16, device=device)
    decode = Batch([1] * 3, [50, 1, 400], dtype=torch.float16, seed=1, device=device)
    caches, *lengths = decode.paged(16)
    wrapper = flashinfer.PODWithPagedKVCacheWrapper(workspace(device))
    wrapper.plan(*lengths, 8, 2, 64, 16, window_left=30)
    out_p, out_d = wrapper.run(prefill.q, prefill.k[0], prefill.v[0], decode.q, caches, causal_p=True, k_scale=0.5)
    check(out_p, prefill.reference(causal=True)[0])
    check(out_d, decode.reference(window_left=30, sm_scale=0.0625)[0])
    both = flashinfer.BatchPODWithPagedKVCacheWrapper(workspace(device))
    pages, *of_prefill = prefill.paged(16)
    both.plan(prefill.qo_indptr, *of_prefill, decode.qo_indptr, *lengths, 8, 2, 64, 16)
    for causal in (True, False):
        (out_p, out_d), (lse_p, lse_d) = both.run(prefill.q, pages, decode.q, caches, causal_p=causal, return_lse=True)
        for out, lse, (ref, ref_lse) in ((out_p, lse_p, prefill.reference(causal=causal)), (out_d, lse_d, decode.reference())):
            check(out, ref)
            check_lse(lse, ref_lse)


@pytest.mark.parametrize("R,C", [(1, 1), (4, 16), (16, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_block_sparse(device, check, generator, R, C, masked):
    M, N = 62 if R == 16 else 64, 96
    batch = Batch([M], [N], dtype=torch.float16, device=device)
    blocks = torch.rand(-(-M // R), N // C, generator=generator) < 0.4
    blocks[1] = False  # a row of blocks that sees nothing
    indptr = torch.cat([torch.zeros(1), blocks.sum(1).cumsum(0)]).int()
    indices = blocks.nonzero()[:, 1].int()
    inside = torch.rand(len(indices), R, C, generator=generator) < 0.7 if masked and M % R == 0 else None
    dense = torch.zeros(len(blocks) * R, N, dtype=torch.bool)
    for i, (row, column) in enumerate(blocks.nonzero().tolist()):
        dense[row * R : row * R + R, column * C : column * C + C] = True if inside is None else inside[i]
    wrapper = BlockSparseAttentionWrapper(workspace(device))
    options = {} if inside is None else {"mask": inside.to(device)}
    wrapper.plan(indptr.to(device), indices.to(device), M, N, R, C, 8, 2, 64, **options)
    out, lse = wrapper.run(batch.q, batch.k[0], batch.v[0], return_lse=True)
    ref, ref_lse = batch.reference([dense[:M]])
    check(out, ref)
    check_lse(lse, ref_lse)
    check(wrapper.forward(batch.q, batch.k[0], batch.v[0], sm_scale=0.3), batch.reference([dense[:M]], sm_scale=0.3)[0])
    with pytest.raises(ValueError, match="indices out of bound"):
        wrapper.plan(torch.tensor([0, 1]), torch.tensor([N // C]), R, N, R, C, 8, 2, 64)
    if inside is not None:
        assert convert_bsr_mask_layout(inside, indptr).sum() == inside.sum()


def test_variable_block_sparse(device, check, generator):
    heads, kv_heads, qo_len, kv_len = 6, 2, 50, 80
    rows = torch.tensor([[10, 0, 25, 15], [1, 19, 20, 10]])
    columns = torch.tensor([[30, 30, 20], [5, 70, 5]])
    mask = torch.rand(kv_heads, 4, 3, generator=generator) < 0.6
    batch = Batch([qo_len], [kv_len], heads=(heads, kv_heads), dtype=torch.float16, device=device)
    q, k, v = (t.transpose(0, 1).contiguous() for t in (batch.q, batch.k[0], batch.v[0]))
    wrapper = VariableBlockSparseAttentionWrapper(workspace(device))
    wrapper.plan(mask.to(device), rows.to(device), columns.to(device), heads, kv_heads, 64)
    out, lse = wrapper.run(q, k, v, return_lse=True)
    assert out.shape == (heads, qo_len, 64) and lse.shape == (heads, qo_len)
    for head in range(kv_heads):
        dense = mask[head].repeat_interleave(rows[head], 0).repeat_interleave(columns[head], 1)
        own = slice(3 * head, 3 * head + 3)
        ref, ref_lse = attention(batch.q[:, own], batch.k[0][:, head : head + 1], batch.v[0][:, head : head + 1], mask=dense)
        check(out[own].transpose(0, 1), ref)
        check_lse(lse[own].T, ref_lse)
    given = torch.empty_like(out)
    assert wrapper.run(q, k, v, out=given) is given and torch.equal(given, out)
    with pytest.raises(flashinfer.InvalidArgument, match="block_row_sz"):
        wrapper.plan(mask, rows + torch.tensor([[1], [0]]), columns, heads, kv_heads, 64)
