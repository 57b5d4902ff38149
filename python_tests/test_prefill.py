"""Prefill and append attention against float64: paged, ragged and single, every mask, and how wrappers behave."""

import inspect

import numpy as np
import pytest
import torch

import flashinfer
from flashinfer import prefill
from flashinfer.prefill import (
    BatchPrefillWithPagedKVCacheWrapper,
    BatchPrefillWithRaggedKVCacheWrapper,
    single_prefill_with_kv_cache,
    single_prefill_with_kv_cache_return_lse,
)
from reference import Batch, check_lse, lse_bound, nan_like, sample
from reference import attention as reference_attention


def workspace(device, size=1 << 24):
    return torch.full((size,), 0xFF, dtype=torch.uint8, device=device)  # as floats: NaN


def shape_of(batch):
    """Arguments of plan() that both wrappers have."""
    call = dict(num_qo_heads=batch.heads[0], num_kv_heads=batch.heads[1], head_dim_qk=batch.dims[0], head_dim_vo=batch.dims[1])
    return {**call, "q_data_type": batch.dtype, "kv_data_type": batch.kv_dtype}


def paged_plan(batch, indptr, indices, last_page_len, page_size, **options):
    lengths = dict(qo_indptr=batch.qo_indptr, paged_kv_indptr=indptr, paged_kv_indices=indices, paged_kv_last_page_len=last_page_len)
    return {**lengths, **shape_of(batch), "page_size": page_size, **options}


def ragged_plan(batch, **options):
    return {"qo_indptr": batch.qo_indptr, "kv_indptr": batch.kv_indptr, **shape_of(batch), **options}


def planned_paged(batch, page_size=16, layout="NHD", wrapper=None, paged={}, **options):
    caches, *lengths = batch.paged(page_size, layout, **paged)
    wrapper = wrapper or BatchPrefillWithPagedKVCacheWrapper(workspace(batch.device), layout)
    wrapper.plan(**paged_plan(batch, *lengths, page_size, **options))
    return wrapper, caches


def planned_ragged(batch, layout="NHD", padding=(0, 0), **options):
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(workspace(batch.device), layout)
    wrapper.plan(**ragged_plan(batch, **options))
    return wrapper, batch.ragged(layout, padding)


def flat(masks, device="cpu"):
    return torch.cat([m.reshape(-1) for m in masks] or [torch.zeros(0, dtype=torch.bool)]).to(device)


def packed(masks):
    """Little-endian bits, every request from a byte of its own."""
    parts = [np.packbits(m.reshape(-1).numpy(), bitorder="little") for m in masks]
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.uint8))


@pytest.mark.parametrize("seed", range(64))
def test_paged(device, check, nans, seed):
    batch, options, form = sample(3000 + seed, device)
    page_size, layout = form.pop("page_size"), form.pop("layout")
    wrapper, caches = planned_paged(batch, page_size, layout, paged=form, **options)
    rows = sum(batch.qo_lens)
    out, lse = wrapper.run(batch.q, caches, out=nans(rows, batch.heads[0], batch.dims[1], dtype=batch.dtype), lse=nans(rows, batch.heads[0]), return_lse=True)
    ref, ref_lse = batch.reference(**options)
    check(out, ref)
    check_lse(lse, ref_lse, lse_bound(batch, options, device))


@pytest.mark.parametrize("seed", range(48))
def test_ragged(device, check, nans, seed):
    batch, options, form = sample(4000 + seed, device)
    wrapper, (k, v) = planned_ragged(batch, form["layout"], form["padding"], **options)
    rows = sum(batch.qo_lens)
    out, lse = wrapper.run(batch.q, k, v, out=nans(rows, batch.heads[0], batch.dims[1], dtype=batch.dtype), lse=nans(rows, batch.heads[0]), return_lse=True)
    ref, ref_lse = batch.reference(**options)
    check(out, ref)
    check_lse(lse, ref_lse, lse_bound(batch, options, device))


@pytest.mark.parametrize("seed", range(32))
def test_single(device, check, seed):
    batch, options, form = sample(5000 + seed, device)
    batch = Batch([7 * seed % 150], [41 * seed % 333], heads=batch.heads, dims=batch.dims, dtype=batch.dtype, kv_dtype=batch.kv_dtype, seed=seed, device=device)
    k, v = batch.ragged(form["layout"], form["padding"])
    out, lse = single_prefill_with_kv_cache_return_lse(batch.q, k, v, kv_layout=form["layout"], **options)
    ref, ref_lse = batch.reference(**options)
    check(out, ref)
    check_lse(lse, ref_lse, lse_bound(batch, options, device))
    assert torch.equal(single_prefill_with_kv_cache(batch.q, k, v, kv_layout=form["layout"], **options), out)


@pytest.mark.parametrize("seed", range(16))
def test_custom_masks(device, check, seed):
    """Random bits, with a window, soft cap and sinks; as booleans and as bits; in place of causal."""
    batch, options, form = sample(6000 + seed, device)
    masks = batch.masks(0.5 if seed % 2 else 0.05)  # the second leaves rows without a key
    ref, ref_lse = batch.reference(masks, **options)
    page_size, layout = form.pop("page_size"), form.pop("layout")
    for mask in ({"custom_mask": flat(masks, device)}, {"packed_custom_mask": packed(masks).to(device)}):
        wrapper, caches = planned_paged(batch, page_size, layout, paged=form, **mask, **options)
        out, lse = wrapper.run(batch.q, caches, return_lse=True)
        check(out, ref)
        check_lse(lse, ref_lse, lse_bound(batch, options, device))
        wrapper, (k, v) = planned_ragged(batch, layout, **mask, **options)
        assert torch.equal(wrapper.run(batch.q, k, v), out) or device != "cpu"
        check(wrapper.run(batch.q, k, v), ref)
    first = Batch([batch.qo_lens[0]], [batch.kv_lens[0]], heads=batch.heads, dims=batch.dims, dtype=batch.dtype, kv_dtype=batch.kv_dtype, device=device)
    ref, ref_lse = first.reference(masks[:1], **options)
    k, v = first.ragged()
    for mask in ({"custom_mask": masks[0].to(device)}, {"packed_custom_mask": packed(masks[:1]).to(device)}):
        out, lse = single_prefill_with_kv_cache(first.q, k, v, return_lse=True, **mask, **options)
        check(out, ref)
        check_lse(lse, ref_lse, lse_bound(batch, options, device))


def test_fully_masked_rows(device, nans):
    """Causal with more queries than keys, a window before the first key, a mask of zeros: out = 0, lse = -inf."""
    batch = Batch([9, 3], [4, 0], dtype=torch.bfloat16, device=device)
    for options in ({"causal": True}, {"custom_mask": torch.zeros(36, dtype=torch.bool, device=device)}):
        wrapper, caches = planned_paged(batch, 4, **options)
        out, lse = wrapper.run(batch.q, caches, out=nans(12, 8, 64, dtype=torch.bfloat16), lse=nans(12, 8), return_lse=True)
        dead = 5 if "causal" in options else 9
        assert not out[:dead].any() and lse[:dead].isneginf().all() and not out[9:].any() and lse[9:].isneginf().all()
        assert not out.isnan().any() and (dead == 9 or not lse[5:9].isneginf().any())


def test_mixed_batch(device, check):
    """Prefill, append, decode and idle requests in one plan."""
    batch = Batch([130, 1, 0, 17, 1, 64], [130, 900, 50, 300, 1, 64], heads=(14, 2), dims=(128, 128), dtype=torch.bfloat16, device=device)
    wrapper, caches = planned_paged(batch, 16, causal=True)
    out, lse = wrapper.run(batch.q, caches, return_lse=True)
    ref, ref_lse = batch.reference(causal=True)
    check(out, ref)
    check_lse(lse, ref_lse)
    for _ in range(3):
        assert torch.equal(wrapper.run(batch.q, caches), out), "not the same from run to run"


def test_scales_sinks_and_output_dtype(device, check):
    batch = Batch([20, 3], [40, 70], heads=(8, 2), dtype=torch.bfloat16, kv_dtype=torch.float8_e4m3fn, device=device)
    sinks = batch.draw(8)
    ref, _ = batch.reference(causal=True, sm_scale=64**-0.5 * 0.75, v_scale=3.0, sinks=sinks)
    scales = dict(q_scale=0.5, k_scale=1.5, v_scale=3.0)
    wrapper, caches = planned_paged(batch, 5, causal=True, o_data_type="float16")
    out = wrapper.run(batch.q, caches, sinks=sinks, **scales)
    assert out.dtype == torch.float16
    check(out, ref, 5e-3)
    wrapper, (k, v) = planned_ragged(batch, causal=True)
    out = wrapper.run(batch.q, k, v, sinks=sinks, **scales)
    assert out.dtype == torch.bfloat16
    check(out, ref)
    check(wrapper.run(batch.q, k, v, sinks=sinks, q_scale=0.5, k_scale=1.5, v_scale=6.0, o_scale=2.0), ref)
    one = single_prefill_with_kv_cache(batch.q[:20], batch.k[0], batch.v[0], causal=True, scale_q=0.5, scale_k=torch.tensor(1.5, device=device), v_scale=3.0, sinks=sinks, o_dtype=torch.float16)
    assert one.dtype == torch.float16
    check(one, ref[:20], 5e-3)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_queries(device, check, dtype):
    batch = Batch([20, 3, 1], [40, 70, 300], heads=(8, 2), dtype=dtype, device=device)
    ref, _ = batch.reference(causal=True)
    wrapper, (k, v) = planned_ragged(batch, causal=True)
    out = wrapper.run(batch.q, k, v)
    assert out.dtype == torch.bfloat16  # not 8 bits
    check(out, ref, 2e-2)
    wrapper, caches = planned_paged(batch, 16, causal=True, o_data_type=torch.bfloat16)
    check(wrapper.run(batch.q, caches), ref, 2e-2)


def test_strides(device, check, nans):
    """Queries, keys and values from one packed projection; an output with gaps."""
    tokens, heads, kv_heads, dim = 50, 6, 2, 64
    batch = Batch([20, 30], [20, 30], heads=(heads, kv_heads), dims=(dim, dim), dtype=torch.bfloat16, device=device)
    qkv = nans(tokens, heads + 2 * kv_heads, dim, dtype=torch.bfloat16)
    qkv[:, :heads] = batch.q
    qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :] = torch.cat(batch.k), torch.cat(batch.v)
    wrapper, _ = planned_ragged(batch, causal=True)
    out = nans(tokens, heads + 3, dim, dtype=torch.bfloat16)
    wrapper.run(qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :], out=out[:, 1 : heads + 1])
    check(out[:, 1 : heads + 1], batch.reference(causal=True)[0])
    assert out[:, 0].isnan().all() and out[:, heads + 1 :].isnan().all()
    # A dimension of one may have any stride.
    one = torch.as_strided(qkv, (1, heads, dim), (7, dim, 1))
    single_prefill_with_kv_cache(one, qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :])


@pytest.mark.parametrize("mode", [{"fixed_split_size": 4}, {"disable_split_kv": True}, {"batch_invariant": True}], ids=str)
@pytest.mark.parametrize("window_left", [-1, 100])
def test_batch_invariant(device, check, mode, window_left):
    """A request's result does not depend, bit for bit, on who else is in the batch: their number, their lengths, the longest of them."""
    batch = Batch([1, 40, 17, 130], [700, 40, 300, 130], heads=(8, 2), dtype=torch.bfloat16, device=device)
    options = dict(causal=True, window_left=window_left)
    wrapper, caches = planned_paged(batch, 16, **mode, **options)
    together, lse = wrapper.run(batch.q, caches, return_lse=True)
    check(together, batch.reference(**options)[0])
    caches, indptr, indices, last = batch.paged(16)
    starts = batch.qo_indptr.tolist()
    for subset in ([0], [2, 0], [1, 3], [3, 2, 1]):
        pages = [indices[indptr[r] : indptr[r + 1]] for r in subset]
        rows = torch.cat([torch.arange(starts[r], starts[r + 1]) for r in subset])
        call = paged_plan(batch, batch.indptr([len(p) for p in pages]), torch.cat(pages), last[subset], 16, **mode, **options)
        call["qo_indptr"] = batch.indptr([batch.qo_lens[r] for r in subset])
        wrapper.plan(**call, num_sms=len(subset) + 2)
        out, some_lse = wrapper.run(batch.q[rows], caches, return_lse=True)
        assert torch.equal(out, together[rows]) and torch.equal(some_lse, lse[rows])


def test_plans_of_the_same_arguments(device, check):
    """plan() with the arguments of last time reads lengths alone; other masks and lengths of queries are planned anew, in either wrapper."""
    paged, ragged = BatchPrefillWithPagedKVCacheWrapper(workspace(device)), BatchPrefillWithRaggedKVCacheWrapper(workspace(device))
    made = []
    for seed in range(8):
        qo_lens = [1 + (17 * seed * r) % 150 for r in range(1 + 3 * seed % 5)]
        batch = Batch(qo_lens, [n + 40 * seed for n in qo_lens], dtype=torch.bfloat16, seed=seed, device=device)
        options = {"causal": seed < 6, "window_left": 30 if seed % 8 > 2 else -1}
        caches, *lengths = batch.paged(16)
        paged.plan(**paged_plan(batch, *lengths, 16, **options))
        assert paged._qo_indptr_last == sum(qo_lens) and paged._batch_size == len(qo_lens)
        check(paged.run(batch.q, caches), batch.reference(**options)[0])
        ragged.plan(**ragged_plan(batch, **options))
        check(ragged.run(batch.q, *batch.ragged()), batch.reference(**options)[0])
        made.append((paged._plan, ragged._plan))
        for wrapper, plan in ((paged, paged_plan(batch, *lengths, 16, **options)), (ragged, ragged_plan(batch, **options))):
            with pytest.raises(flashinfer.InvalidArgument, match="qo_indptr"):
                wrapper.plan(**{**plan, "qo_indptr": plan["qo_indptr"].flip(0) + 1})
    for which in zip(*made):
        assert [a is b for a, b in zip(which, which[1:])] == [i not in (2, 5) for i in range(7)]


def test_small_workspace(device, check):
    batch = Batch([3, 1], [1500, 3000], heads=(8, 2), dtype=torch.bfloat16, device=device)
    ref = batch.reference(causal=True)[0]
    (caches, *lengths) = batch.paged(16)
    for size in (0, 1000, 100_000, 2_000_000):
        wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device, size))
        wrapper.plan(**paged_plan(batch, *lengths, 16, causal=True))
        check(wrapper.run(batch.q, caches), ref)
    call = paged_plan(batch, *lengths, 16, causal=True, fixed_split_size=8)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device, 16))
    with pytest.raises(flashinfer.InvalidArgument, match="float_workspace: expected at least"):
        wrapper.plan(**call)
    float_bytes, int_bytes = wrapper.workspace_size(**call)
    wrapper.reset_workspace_buffer(workspace(device, float_bytes - 1), workspace(device, int_bytes))
    with pytest.raises(flashinfer.InvalidArgument, match=f"float_workspace: expected at least {float_bytes} bytes"):
        wrapper.plan(**call)
    wrapper.reset_workspace_buffer(workspace(device, float_bytes), workspace(device, int_bytes))
    wrapper.plan(**call)
    check(wrapper.run(batch.q, caches), ref)
    ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace(device, 16))
    assert min(ragged.workspace_size(**ragged_plan(batch, causal=True))) > 0


@pytest.mark.parametrize("mask", [False, True])
def test_graph_buffers(device, check, mask):
    """One wrapper, several batches: buffers are filled, address and shape of the launch stay."""
    capacity, rows = 4, 60
    buffers = [torch.full((n,), -1, dtype=torch.int32, device=device) for n in (capacity + 1, capacity + 1, 100, capacity)]
    masks = [torch.zeros(1 << 14, dtype=torch.uint8, device=device), torch.zeros(capacity + 1, dtype=torch.int32, device=device)]
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device), "NHD", True, *buffers, *(masks if mask else ()))
    seen = set()
    for seed, (qo_lens, kv_lens) in enumerate([([30, 1, 20, 9], [300, 64, 20, 500]), ([40, 3], [40, 9]), ([5] * 4, [0, 5, 77, 100]), ([60], [60])]):
        batch = Batch(qo_lens, kv_lens, dtype=torch.bfloat16, seed=seed, device=device)
        bits = batch.masks() if mask else None
        caches, indptr, indices, last = batch.paged(16)
        call = paged_plan(batch, indptr, indices, last, 16, causal=not mask, custom_mask=flat(bits, device) if mask else None)
        if seed % 2:
            call.update({name: value.to(device) for name, value in call.items() if torch.is_tensor(value)})
        wrapper.plan(**call)
        q = torch.cat([batch.q, batch.draw(rows - len(batch.q), 8, 64, dtype=torch.bfloat16)])
        out = nan_like((rows, 8, 64), torch.bfloat16, device)
        wrapper.run(q, caches, out=out)
        check(out[: len(batch.q)], batch.reference(bits, causal=not mask)[0])
        assert out[len(batch.q) :].isnan().all(), "rows behind the batch are not touched"
        seen.add((tuple(wrapper._plan_info[2:]), wrapper._int_workspace_buffer.data_ptr()))
    assert len(seen) == 1
    if device == "cpu":  # on a GPU nobody here knows what its arrays hold
        with pytest.raises(ValueError, match="cannot exceed the number of rows"):
            wrapper.plan(**paged_plan(Batch([61], [61], dtype=torch.bfloat16, device=device), *Batch([61], [61], device=device).paged(16)[1:], 16))
    unmasked = BatchPrefillWithPagedKVCacheWrapper(workspace(device), "NHD", True, *buffers)
    with pytest.raises(ValueError, match="custom_mask_buf must be initialized"):
        planned_paged(batch, wrapper=unmasked, custom_mask=flat(batch.masks(), device))


def test_old_names(device, check):
    batch = Batch([20, 3], [90, 300], dtype=torch.float16, device=device)
    caches, *lengths = batch.paged(16)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device))
    wrapper.begin_forward(**paged_plan(batch, *lengths, 16))
    ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace(device))
    ragged.begin_forward(**ragged_plan(batch))
    k, v = batch.ragged()
    changes = [{}, {"causal": True}, {"causal": True, "window_left": 20}, {"sm_scale": 0.2, "logits_soft_cap": 5.0}, {"pos_encoding_mode": "ALIBI"}]
    for options in [*changes, {"causal": True, "pos_encoding_mode": "ROPE_LLAMA"}]:
        ref, ref_lse = batch.reference(**options)
        for out, lse in (wrapper.forward_return_lse(batch.q, caches, **options), ragged.forward_return_lse(batch.q, k, v, **options)):
            check(out, ref)
            check_lse(lse, ref_lse)
        assert torch.equal(wrapper.forward(batch.q, caches, **options), wrapper.run(batch.q, caches))
        assert torch.equal(ragged.forward(batch.q, k, v, **options), ragged.run_return_lse(batch.q, k, v)[0])
    assert (wrapper._causal, wrapper._window_left, wrapper._sm_scale, wrapper._logits_soft_cap) == (True, -1, None, None)
    wrapper.end_forward()
    narrow, caches = planned_paged(batch, causal=True, fixed_split_size=2)
    with pytest.raises(flashinfer.InvalidArgument, match="a mask as narrow as the planned one"):
        narrow.forward(batch.q, caches, causal=False)


def test_other_frameworks(check):
    jnp = pytest.importorskip("jax.numpy")
    batch = Batch([20, 3], [90, 300])
    masks = batch.masks()
    caches, *lengths = batch.paged(16)
    ref, ref_lse = batch.reference(masks)
    for array in (np.asarray, jnp.asarray):
        wrapper = BatchPrefillWithPagedKVCacheWrapper(np.empty(1 << 22, np.uint8))
        call = paged_plan(batch, *lengths, 16, q_data_type="float32", kv_data_type=np.float32, custom_mask=flat(masks))
        wrapper.plan(**{name: array(value.numpy()) if torch.is_tensor(value) else value for name, value in call.items()})
        q = array(batch.q.numpy())
        out, lse = wrapper.run(q, tuple(array(c.numpy()) for c in caches), return_lse=True)
        assert type(out) is type(q)
        check(torch.from_numpy(np.array(out)), ref)
        check_lse(torch.from_numpy(np.array(lse)), ref_lse)
        one = single_prefill_with_kv_cache(q[:20], array(batch.k[0].numpy()), array(batch.v[0].numpy()), custom_mask=array(masks[0].numpy()))
        check(torch.from_numpy(np.array(one)), ref[:20])


def test_captured_kernels_read_the_mask_buffer(device, check):
    """Packed masks go into custom_mask_buf too: a replay would read what the first plan was given."""
    batch = Batch([5, 3], [20, 9], dtype=torch.float16, device=device)
    caches, *lengths = batch.paged(4)
    zeros = lambda n, dtype=torch.int32: torch.zeros(n, dtype=dtype, device=device)
    mask_buf = zeros(40, torch.uint8)
    buffers = [zeros(3), zeros(3), zeros(16), zeros(2), mask_buf, zeros(3)]
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device), "NHD", True, *buffers)
    for seed in (0, 1):
        masks = [torch.rand(m, n, generator=torch.Generator().manual_seed(seed + m)) < 0.6 for m, n in zip([5, 3], [20, 9])]
        bits = packed(masks).to(device)
        wrapper.plan(batch.qo_indptr, *lengths, 8, 2, 64, 4, packed_custom_mask=bits)
        assert torch.equal(mask_buf[: len(bits)], bits)
        check(wrapper.run(batch.q, caches), batch.reference(masks=masks)[0])
        with pytest.raises(flashinfer.InvalidArgument, match="packed_custom_mask: expected 17 bytes"):
            wrapper.plan(batch.qo_indptr, *lengths, 8, 2, 64, 4, packed_custom_mask=bits[:-1])
        with pytest.raises(flashinfer.InvalidArgument, match="custom_mask_buf: expected 41 bytes"):
            wrapper.plan(batch.qo_indptr, *lengths, 8, 2, 64, 4, packed_custom_mask=zeros(41, torch.uint8))


def test_messages(device):
    """Texts of FlashInfer that its callers match."""
    batch = Batch([4, 2], [20, 40], dtype=torch.float16, device=device)
    wrapper, caches = planned_paged(batch)
    assert isinstance(wrapper._plan_info, list) and wrapper._plan_info[3] > 0
    with pytest.raises(ValueError, match=r"q.shape\[0\] \(5\) does not match qo_indptr\[-1\] \(6\)"):
        wrapper.run(batch.q[:5], caches)
    with pytest.raises(ValueError, match="The dtype of q .* does not match the q_data_type"):
        wrapper.run(batch.q.bfloat16(), caches)
    with pytest.raises(ValueError, match="Invalid shape of out"):
        wrapper.run(batch.q, caches, out=torch.empty(6, 8, 32, dtype=torch.float16, device=device))
    with pytest.raises(ValueError, match="innermost stride must be 1"):
        wrapper.run(batch.q, tuple(c.transpose(0, 3).contiguous().transpose(0, 3) for c in caches))
    for name in ("qo_indptr_buf", "paged_kv_indptr_buf", "paged_kv_indices_buf", "paged_kv_last_page_len_buf"):
        buffers = {n: torch.zeros(3, dtype=torch.int32) for n in ("qo_indptr_buf", "paged_kv_indptr_buf", "paged_kv_indices_buf", "paged_kv_last_page_len_buf")}
        with pytest.raises(ValueError, match=f"{name} should be a torch.Tensor in CUDA graph mode"):
            BatchPrefillWithPagedKVCacheWrapper(workspace(device), use_cuda_graph=True, **{**buffers, name: None})
    with pytest.raises(ValueError, match="The kv_indptr length should be equal to mask_indptr length"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace(device)).plan(torch.tensor([0, 1]), torch.tensor([0, 1, 2]), 8, 2, 64)
    with pytest.raises(flashinfer.Unsupported, match="prefix_len_ptr"):
        planned_paged(batch, prefix_len_ptr=torch.zeros(2))
    with pytest.raises(flashinfer.Unsupported, match="kv_cache_sf"):
        wrapper.run(batch.q, caches, kv_cache_sf=(batch.q, batch.q))
    if device == "cpu":
        variant = {"name": "mine", "source": "struct Mine {};", "functor": "Mine"}
        with pytest.raises(flashinfer.Unsupported, match="compiled for GPUs alone"):
            wrapper.run(batch.q, caches, variant=variant)


def test_signatures():
    """The order of positional arguments, which callers rely on."""
    assert list(inspect.signature(BatchPrefillWithPagedKVCacheWrapper.plan).parameters)[9:19] == (
        "head_dim_vo custom_mask packed_custom_mask causal pos_encoding_mode use_fp16_qk_reduction sm_scale window_left logits_soft_cap rope_scale"
    ).split()
    assert list(inspect.signature(BatchPrefillWithRaggedKVCacheWrapper.plan).parameters)[6:16] == (
        "head_dim_vo custom_mask packed_custom_mask causal pos_encoding_mode use_fp16_qk_reduction window_left logits_soft_cap sm_scale rope_scale"
    ).split()
    assert list(inspect.signature(single_prefill_with_kv_cache).parameters)[:12] == (
        "q k v scale_q scale_k scale_v o_dtype custom_mask packed_custom_mask causal kv_layout pos_encoding_mode"
    ).split()
    for name in prefill.__all__:
        assert getattr(flashinfer, name) is getattr(prefill, name)


def test_reference():
    """The oracle itself, against torch's own attention."""
    batch = Batch([7], [20], heads=(4, 2), dtype=torch.float64)
    out, _ = reference_attention(batch.q, batch.k[0], batch.v[0])
    q, k, v = (t.transpose(0, 1)[None] for t in (batch.q, batch.k[0].repeat_interleave(2, 1), batch.v[0].repeat_interleave(2, 1)))
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1), rtol=1e-12, atol=1e-12)


ALIBI_AND_CAP = """
struct AlibiAndCap {
  struct Params { float slope, cap; };
  static constexpr bool kTransformsLogits = true, kMasks = true;
  FLASHINFER_HOST_DEVICE static float logit(const flashinfer::VariantParams& p, float x, const flashinfer::LogitPosition& at) {
    const Params& own = *reinterpret_cast<const Params*>(p.user);
    x += own.slope * float(at.kv_idx - (at.kv_len - at.qo_len + at.qo_idx));
    return own.cap * flashinfer::soft_cap_tanh(x / own.cap);
  }
  FLASHINFER_HOST_DEVICE static bool visible(const flashinfer::VariantParams&, const flashinfer::LogitPosition& at) { return at.kv_idx % 3 != 1; }
  FLASHINFER_HOST_DEVICE static float sink(const flashinfer::VariantParams&, int) { return -flashinfer::kInfinity; }
};
"""


@pytest.mark.gpu
def test_user_variant(check):
    batch = Batch([20, 3], [90, 300], dtype=torch.bfloat16, device="cuda")
    wrapper, caches = planned_paged(batch, causal=True)
    variant = {"name": "alibi_and_cap", "source": ALIBI_AND_CAP, "functor": "AlibiAndCap", "params": np.array([0.1, 5.0], np.float32).tobytes()}
    out = wrapper.run(batch.q, caches, variant=variant)
    refs, begin = [], 0
    for m, k, v in zip(batch.qo_lens, batch.k, batch.v):
        q, k, v = (t.cpu().double() for t in (batch.q[begin : begin + m], k, v))
        begin += m
        n = len(k)
        k, v = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)
        i, j = torch.arange(m)[:, None] + n - m, torch.arange(n)[None]
        logits = torch.einsum("mhd,nhd->hmn", q, k) / 8 + 0.1 * (j - i)
        logits = (5 * torch.tanh(logits / 5)).masked_fill((j > i) | (j % 3 == 1), float("-inf"))
        refs.append(torch.einsum("hmn,nhd->mhd", logits.softmax(-1), v))
    check(out, torch.cat(refs))
    with pytest.raises(flashinfer.CompileError, match="alibi_and_cap"):
        wrapper.run(batch.q, caches, variant={**variant, "source": "struct AlibiAndCap { no };"})


@pytest.mark.gpu
def test_capture(check):
    """plan() and run() inside a CUDA graph, from lengths on the device; max_qo_len says how long queries get."""
    device, capacity, rows = "cuda", 4, 64
    buffers = [torch.zeros(n, dtype=torch.int32, device=device) for n in (capacity + 1, capacity + 1, 200, capacity)]
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(device), "NHD", True, *buffers)
    pool = torch.full((300, 2, 16, 2, 64), float("nan"), dtype=torch.bfloat16, device=device)
    q = torch.zeros(rows, 8, 64, dtype=torch.bfloat16, device=device)
    out = nan_like((rows, 8, 64), torch.bfloat16, device)

    def step():
        wrapper.plan(*buffers, 8, 2, 64, 16, causal=True, q_data_type="bfloat16", max_qo_len=40)
        wrapper.run(q, pool, out=out)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for seed, (qo_lens, kv_lens) in enumerate([([30, 1, 20, 9], [300, 64, 20, 500]), ([40, 3], [40, 9]), ([64], [2000])]):
        batch = Batch(qo_lens, kv_lens, dtype=torch.bfloat16, seed=seed, device=device)
        caches, indptr, indices, last = batch.paged(16, stacked=True)
        n = len(qo_lens)
        pool[: len(caches)] = caches
        for buffer, values in zip(buffers[:2], (batch.qo_indptr, indptr)):
            buffer[: n + 1], buffer[n + 1 :] = values.to(device), int(values[-1])
        buffers[2][: len(indices) - 1] = indices[:-1]
        buffers[3][:n] = last.to(device)
        q[: len(batch.q)] = batch.q
        out.fill_(float("nan"))
        graph.replay()
        check(out[: len(batch.q)], batch.reference(causal=True)[0])
        assert out[len(batch.q) :].isnan().all()


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("missing", ["qo_indptr", "kv_indptr"])
def test_a_second_plan_wants_its_arrays_too(paged, missing):
    arrays = {"qo_indptr": torch.tensor([0, 3, 5], dtype=torch.int32), "kv_indptr": torch.tensor([0, 2, 3], dtype=torch.int32)}
    pages = (torch.arange(3, dtype=torch.int32), torch.tensor([3, 4], dtype=torch.int32)) if paged else ()
    wrapper = (flashinfer.BatchPrefillWithPagedKVCacheWrapper if paged else flashinfer.BatchPrefillWithRaggedKVCacheWrapper)(
        torch.empty(1 << 22, dtype=torch.uint8)
    )

    def plan():
        heads = (4, 2, 64, 4) if paged else (4, 2, 64)
        wrapper.plan(*arrays.values(), *pages, *heads, causal=True, q_data_type=torch.float32)

    plan()
    arrays[missing] = None
    with pytest.raises(flashinfer.InvalidArgument, match=missing):
        plan()
