"""Decode attention against float64: every feature, layout, dtype, page size and head dimension, and how wrappers behave."""

import inspect

import ml_dtypes
import numpy as np
import pytest
import torch

import flashinfer
from flashinfer import decode
from flashinfer.decode import (
    BatchDecodeWithPagedKVCacheWrapper,
    CUDAGraphBatchDecodeWithPagedKVCacheWrapper,
    fast_decode_plan,
    single_decode_with_kv_cache,
)
from reference import Batch, check_lse, lse_bound, nan_like, sample


def workspace(device, size=1 << 24):
    return torch.full((size,), 0xFF, dtype=torch.uint8, device=device)  # as floats: NaN


def plan_of(batch, indptr, indices, last_page_len, page_size, **options):
    """The arguments of plan()."""
    call = dict(indptr=indptr, indices=indices, last_page_len=last_page_len, num_qo_heads=batch.heads[0], num_kv_heads=batch.heads[1], head_dim=batch.dims[0])
    return {**call, "page_size": page_size, "q_data_type": batch.dtype, "kv_data_type": batch.kv_dtype, **options}


def planned(batch, page_size=16, layout="NHD", wrapper=None, paged={}, **options):
    """A wrapper with the batch planned, and the caches."""
    caches, *lengths = batch.paged(page_size, layout, **paged)
    wrapper = wrapper or BatchDecodeWithPagedKVCacheWrapper(workspace(batch.device), layout, use_tensor_cores=True)
    wrapper.plan(**plan_of(batch, *lengths, page_size, **options))
    return wrapper, caches


@pytest.mark.parametrize("seed", range(64))
def test_batch(device, check, seed):
    batch, options, form = sample(1000 + seed, device, decode=True)
    page_size = form.pop("page_size")
    layout = form.pop("layout")
    wrapper, caches = planned(batch, page_size, layout, paged=form, **options)
    out, lse = wrapper.run(batch.q, caches, return_lse=True)
    ref, ref_lse = batch.reference(**options)
    assert out.dtype == batch.dtype and lse.dtype == torch.float32
    check(out, ref)
    check_lse(lse, ref_lse, lse_bound(batch, options, device))


@pytest.mark.parametrize("seed", range(32))
def test_single(device, check, seed):
    batch, options, form = sample(2000 + seed, device, decode=True)
    k, v = batch.ragged(form["layout"], form["padding"])
    if len(batch.kv_lens) > 1:
        batch = Batch([1], [batch.kv_lens[0]], heads=batch.heads, dims=batch.dims, dtype=batch.dtype, kv_dtype=batch.kv_dtype, seed=seed, device=device)
        k, v = batch.ragged(form["layout"], form["padding"])
    out, lse = single_decode_with_kv_cache(batch.q[0], k, v, kv_layout=form["layout"], return_lse=True, **options)
    ref, ref_lse = batch.reference(**options)
    assert out.shape == (batch.heads[0], batch.dims[1]) and lse.shape == (batch.heads[0],)
    check(out, ref[0])
    check_lse(lse, ref_lse[0], lse_bound(batch, options, device))
    assert torch.equal(single_decode_with_kv_cache(batch.q[0], k, v, kv_layout=form["layout"], **options), out)


@pytest.mark.parametrize("q_len", [2, 3, 7])
def test_several_tokens_of_each_request(device, check, q_len):
    batch = Batch([q_len] * 3, [q_len, 40, 129], heads=(10, 2), dtype=torch.bfloat16, device=device)
    wrapper, caches = planned(batch, 16, q_len_per_req=q_len)
    out, lse = wrapper.run(batch.q, caches, return_lse=True)
    ref, ref_lse = batch.reference(causal=True)
    check(out, ref)
    check_lse(lse, ref_lse)
    with pytest.raises(ValueError, match="q_len_per_req"):
        wrapper.run(batch.q[:-1], caches)
    with pytest.warns(DeprecationWarning, match="q_len_per_req"):
        assert torch.equal(wrapper.run(batch.q, caches, q_len_per_req=q_len), out)


def test_no_requests_no_keys(device, nans):
    empty = Batch([], [], dtype=torch.float16, device=device)
    wrapper, caches = planned(empty)
    out, lse = wrapper.run(empty.q, caches, return_lse=True)
    assert out.shape == (0, 8, 64) and lse.shape == (0, 8)
    batch = Batch([1] * 3, [0, 0, 0], dtype=torch.float16, device=device)
    wrapper, caches = planned(batch, paged={"spare_pages": 0})
    out, lse = wrapper.run(batch.q, caches, out=nans(3, 8, 64, dtype=torch.float16), return_lse=True)
    assert torch.equal(out, torch.zeros_like(out)) and lse.isneginf().all()
    out, lse = single_decode_with_kv_cache(batch.q[0], *(c[0, :0] for c in (batch.k[0][None], batch.v[0][None])), return_lse=True)
    assert torch.equal(out, torch.zeros_like(out)) and lse.isneginf().all()


def test_scales_sinks_and_output_dtype(device, check):
    batch = Batch([1] * 4, [3, 70, 300, 0], heads=(8, 2), dtype=torch.bfloat16, kv_dtype=torch.float8_e4m3fn, device=device)
    sinks = batch.draw(8)
    wrapper, caches = planned(batch, 5, o_data_type="float16")
    out, lse = wrapper.run(batch.q, caches, q_scale=0.5, k_scale=torch.tensor(1.5, device=device), v_scale=torch.tensor([3.0]), sinks=sinks, return_lse=True)
    ref, ref_lse = batch.reference(sm_scale=64**-0.5 * 0.75, v_scale=3.0, sinks=sinks)
    assert out.dtype == torch.float16
    check(out, ref, 5e-3)
    check_lse(lse, ref_lse)
    one = single_decode_with_kv_cache(batch.q[1], batch.k[1], batch.v[1], q_scale=0.5, k_scale=1.5, v_scale=3.0, sinks=sinks)
    check(one, ref[1])
    # FlashInfer's FP8 decode passes the scales by position.
    assert torch.equal(wrapper.run(batch.q, caches, 0.5, 1.5, 3.0, sinks=sinks), out)


def test_sharp_softmax(device):
    """Logits far below any finite sentinel still beat masked keys."""
    q = torch.full((1, 32, 128), 64.0, dtype=torch.bfloat16, device=device)
    k = torch.full((17, 1, 4, 128), -64.0, dtype=torch.bfloat16, device=device)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device))
    wrapper.plan(torch.tensor([0, 2]), torch.tensor([15, 16]), torch.tensor([1]), 32, 4, 128, 1, q_data_type="bfloat16")
    out, lse = wrapper.run(q, (k, torch.ones_like(k)), return_lse=True)
    assert torch.equal(out, torch.ones_like(out))
    expected = (-64.0 * 64 * 128 / 128**0.5) * 1.4426950408889634 + 1
    torch.testing.assert_close(lse, torch.full_like(lse, expected), rtol=1e-5, atol=1e-3)


def test_forms_of_the_cache(device, check):
    batch = Batch([1] * 3, [5, 1, 33], dtype=torch.float16, device=device)
    ref, _ = batch.reference()
    for layout in ("NHD", "HND"):
        for page_size in (1, 16):
            wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device), layout)
            (k, v), *lengths = batch.paged(page_size, layout)
            wrapper.plan(**plan_of(batch, *lengths, page_size))
            out = wrapper.run(batch.q, (k, v))
            check(out, ref)
            forms = [[k, v], torch.stack([k, v], 1)]
            if page_size == 1:
                flat = [t.squeeze(1 if layout == "NHD" else 2) for t in (k, v)]
                forms += [tuple(flat), torch.stack(flat, 1)]
            for form in forms:
                assert torch.equal(wrapper.run(batch.q, form), out)
    for form in ("cache", {"k": k}, None):
        with pytest.raises(KeyError, match="Unrecognized paged_kv_cache type"):
            wrapper.run(batch.q, form)


def test_strides(device, check, nans):
    """Queries from a packed projection, outputs into one, K and V with different strides, a transposed lse."""
    batch = Batch([1] * 5, [9, 80, 4, 300, 64], heads=(6, 2), dims=(80, 80), dtype=torch.bfloat16, device=device)
    packed = nans(5, 10, 80, dtype=torch.bfloat16)
    packed[:, :6] = batch.q
    wrapper, caches = planned(batch, 16, paged={"padding": (1, 3)})
    out = nans(5, 9, 80, dtype=torch.bfloat16)
    lse = nans(6, 5).T
    result = wrapper.run(packed[:, :6], caches, out=out[:, 2:8], lse=lse, return_lse=True)
    assert result[0].data_ptr() == out[:, 2:8].data_ptr() and result[1].data_ptr() == lse.data_ptr()
    ref, ref_lse = batch.reference()
    check(result[0], ref)
    check_lse(lse, ref_lse)
    assert out[:, :2].isnan().all() and out[:, 8:].isnan().all()
    # lse= alone writes it and returns the output.
    lse.fill_(float("nan"))
    assert torch.is_tensor(wrapper.run(batch.q, caches, lse=lse)) and not lse.isnan().any()


def test_one_plan_many_runs_and_plans(device, check):
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device))
    for seed, kv_lens in enumerate([[30, 1000, 2], [5], [2000], [17] * 20, [0, 8]]):
        batch = Batch([1] * len(kv_lens), kv_lens, dtype=torch.float16, seed=seed, device=device)
        _, caches = planned(batch, wrapper=wrapper)
        first = wrapper.run(batch.q, caches)
        check(first, batch.reference()[0])
        for _ in range(3):
            assert torch.equal(wrapper.run(batch.q, caches), first), "not the same from run to run"
        other = Batch([1] * len(kv_lens), kv_lens, dtype=torch.float16, seed=seed + 100, device=device)  # another layer
        other.k, other.v = batch.k, batch.v
        check(wrapper.run(other.q, caches), other.reference()[0])


@pytest.mark.parametrize("backend", ["auto", "fa2", "xqa", "trtllm-gen", "generic", "decode"])
def test_backends(device, check, backend):
    """One of our kernels by name; FlashInfer's names leave the choice."""
    batch = Batch([1] * 5, [9, 80, 4, 3000, 64], heads=(6, 2), dims=(128, 128), dtype=torch.bfloat16, device=device)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device), use_tensor_cores=True, backend=backend)
    wrapper, caches = planned(batch, 16, wrapper=wrapper)
    out, lse = wrapper.run(batch.q, caches, return_lse=True)
    ref, ref_lse = batch.reference()
    check(out, ref)
    check_lse(lse, ref_lse)
    expected = "cpu" if device == "cpu" else "AttentionConfig" if backend == "generic" else "DecodeConfig"
    assert wrapper.kernel.startswith(expected), wrapper.kernel
    assert torch.equal(wrapper.run(batch.q, caches), out)


@pytest.mark.gpu
def test_pinned_backend_takes_it_or_says_why_not(check):
    batch = Batch([1] * 2, [9, 80], heads=(6, 2), dims=(80, 80), dtype=torch.bfloat16, device="cuda")
    for backend in ("auto", "generic"):
        wrapper, caches = planned(batch, wrapper=BatchDecodeWithPagedKVCacheWrapper(workspace("cuda"), backend=backend))
        assert wrapper.kernel.startswith("AttentionConfig")
        check(wrapper.run(batch.q, caches), batch.reference()[0])
    with pytest.raises(NotImplementedError, match="multiple of 32"):
        planned(batch, wrapper=BatchDecodeWithPagedKVCacheWrapper(workspace("cuda"), backend="decode"))
    with pytest.raises(NotImplementedError, match="RoPE"):
        planned(batch, wrapper=BatchDecodeWithPagedKVCacheWrapper(workspace("cuda"), backend="decode"), pos_encoding_mode="ROPE_LLAMA")


@pytest.mark.gpu
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dims", [64, 96, 128, 256])
@pytest.mark.parametrize("q_len, heads", [(1, (8, 8)), (1, (32, 4)), (4, (8, 2)), (8, (8, 2)), (16, (16, 4))])
def test_decode_kernel(check, q_len, heads, dims, kv_dtype):
    """Every number of rows of a tile, with clusters (few short requests) and without, in pages whose unused rows are NaN."""
    for lens in ([1000], [300, q_len, 2500, 64, 17], [700] * (16 if heads[1] == 8 else 32), [q_len] * 40):
        batch = Batch([q_len] * len(lens), lens, heads=heads, dims=(dims, dims), dtype=torch.bfloat16, kv_dtype=kv_dtype, device="cuda")
        ref, ref_lse = batch.reference(causal=q_len > 1)
        for page_size in (1, 16):
            wrapper, caches = planned(batch, page_size, q_len_per_req=q_len)
            assert wrapper.kernel.startswith("DecodeConfig")
            out, lse = wrapper.run(batch.q, caches, return_lse=True)
            check(out, ref)
            check_lse(lse, ref_lse)
            for _ in range(3):
                assert torch.equal(wrapper.run(batch.q, caches), out), "the same bits in every run"


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("q_len", [1, 3])
@pytest.mark.parametrize("mode", [{"fixed_split_size": 4}, {"fixed_split_size": 7}, {"disable_split_kv": True}, {"batch_invariant": True}], ids=str)
def test_batch_invariant(device, check, mode, q_len, kv_dtype):
    """A request's result does not depend, bit for bit, on who else is in the batch, and not on the number of SMs."""
    kv_lens = [q_len, 300, 64, 129, 1500, 7, 4500, 1023]
    n, mode = len(kv_lens), {**mode, "q_len_per_req": q_len}
    batch = Batch([q_len] * n, kv_lens, heads=(8, 2), dtype=torch.bfloat16, kv_dtype=kv_dtype, device=device)
    wrapper, caches = planned(batch, 16, **mode)
    together, lse = wrapper.run(batch.q, caches, return_lse=True)
    check(together, batch.reference(causal=True)[0])
    caches, indptr, indices, last = batch.paged(16)
    out_of = lambda t, subset: t.unflatten(0, (-1, q_len))[subset].flatten(0, 1)
    for subset in ([4], [6], [1, 4], [5, 3, 0], [2, 2, 4, 1], [6, 7] * 9, list(range(n)) * 5):
        pages = [indices[indptr[r] : indptr[r + 1]] for r in subset]
        some = plan_of(batch, batch.indptr([len(p) for p in pages]), torch.cat(pages), last[subset], 16, **mode)
        wrapper.plan(**some, num_sms=len(subset) + 1)
        out, some_lse = wrapper.run(out_of(batch.q, subset), caches, return_lse=True)
        assert torch.equal(out, out_of(together, subset)) and torch.equal(some_lse, out_of(lse, subset))


def test_plans_of_the_same_arguments(device, check):
    """plan() with the arguments of last time reads lengths alone: it says the same, refuses the same, and forgets nothing."""
    wrapper, fresh = (BatchDecodeWithPagedKVCacheWrapper(workspace(device), use_tensor_cores=True) for _ in range(2))
    made = []
    for seed in range(12):
        kv_lens = [(7 + 131 * seed * r) % 2000 + 1 for r in range(1 + 5 * seed % 17)]
        batch = Batch([1] * len(kv_lens), kv_lens, dtype=torch.bfloat16, seed=seed, device=device)
        caches, *lengths = batch.paged(16)
        if seed % 3 == 1:
            lengths = [t.to(device) for t in lengths]
        if seed % 3 == 2:
            lengths = [t if t.is_cuda else t.to(torch.int64) for t in lengths]  # what kernels read has 32 bits
        options = {"logits_soft_cap": 20.0} if seed > 8 else {"window_left": 100} if seed > 5 else {}
        wrapper.plan(*lengths, 8, 2, 64, page_size=16, q_data_type=torch.bfloat16, **options)
        fresh.plan(*(t.clone() for t in lengths), 8, 2, 64, page_size=16, q_data_type="bfloat16", **options)
        assert wrapper._plan_info == fresh._plan_info and wrapper._batch_size == len(kv_lens)
        assert wrapper._paged_kv_indptr_buf is lengths[0]
        out = wrapper.run(batch.q, caches)
        assert torch.equal(out, fresh.run(batch.q, caches))
        check(out, batch.reference(**options)[0])
        made.append(wrapper._plan)
        for i, bad in enumerate(([1, 2], [0, 9999], [0, -1])):  # the plan at hand stays
            with pytest.raises(flashinfer.InvalidArgument, match="indptr"):
                wrapper.plan(torch.tensor(bad), torch.arange(3), torch.ones(1, dtype=torch.int64), 8, 2, 64, page_size=16, q_data_type=torch.bfloat16, **options)
        assert torch.equal(wrapper.run(batch.q, caches), out)
    assert [a is b for a, b in zip(made, made[1:])] == [i not in (5, 8) for i in range(11)]
    # Another forward() mask is not what plan() was asked.
    wrapper.forward(batch.q, caches, window_left=9)
    wrapper.plan(*lengths, 8, 2, 64, page_size=16, q_data_type=torch.bfloat16, **options)
    assert torch.equal(wrapper.run(batch.q, caches), out)


def test_num_sms(device, check):
    batch = Batch([1] * 3, [900, 3, 2000], dtype=torch.float16, device=device)
    for num_sms in (1, 2, 7, 1000):
        wrapper, caches = planned(batch, num_sms=num_sms)
        check(wrapper.run(batch.q, caches), batch.reference()[0])


def test_small_workspace(device, check):
    """Any float workspace will do: keys are cut less where it is small. An explicit split says what it needs."""
    batch = Batch([1] * 2, [1000, 3000], heads=(8, 4), dtype=torch.bfloat16, device=device)
    ref = batch.reference()[0]
    (caches, *lengths) = batch.paged(16)
    for size in (0, 16, 1000, 50_000, 200_000, 1_000_000, 8_000_000):
        wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device, size))
        wrapper.plan(**plan_of(batch, *lengths, 16))
        check(wrapper.run(batch.q, caches), ref)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device, 1000))
    with pytest.raises(flashinfer.InvalidArgument, match=r"float_workspace: expected at least \d+ bytes for this split, got 1000 bytes"):
        wrapper.plan(**plan_of(batch, *lengths, 16), fixed_split_size=8)


@pytest.mark.parametrize("options", [{}, {"fixed_split_size": 4}, {"disable_split_kv": True}], ids=str)
def test_workspace_size(device, check, options):
    batch = Batch([1] * 4, [1000, 3000, 0, 60], heads=(8, 4), dtype=torch.bfloat16, device=device)
    (caches, *lengths) = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device, 16))
    call = plan_of(batch, *lengths, 16, **options)
    float_bytes, int_bytes = wrapper.workspace_size(**call)
    assert int_bytes > 0 and (float_bytes > 0 or "disable_split_kv" in options)
    wrapper.reset_workspace_buffer(workspace(device, float_bytes), workspace(device, int_bytes))
    wrapper.plan(**call)
    check(wrapper.run(batch.q, caches), batch.reference()[0])
    wrapper.reset_workspace_buffer(workspace(device, float_bytes), workspace(device, int_bytes - 1))
    with pytest.raises(flashinfer.InvalidArgument, match="int_workspace: expected at least"):
        wrapper.plan(**call)


def graph_wrapper(device, batch_size, num_pages, **options):
    buffers = [torch.full((n,), -1, dtype=torch.int32, device=device) for n in (batch_size + 1, num_pages, batch_size)]
    return CUDAGraphBatchDecodeWithPagedKVCacheWrapper(workspace(device), *buffers, **options), buffers


def test_graph_buffers(device, check):
    """plan() fills the captured buffers; any batch up to their size will do, rows behind it are 0; addresses and launch stay."""
    wrapper, buffers = graph_wrapper(device, 6, 200, use_tensor_cores=True)
    assert wrapper.is_cuda_graph_enabled
    shapes = set()
    for seed, kv_lens in enumerate([[30, 1000, 2, 64, 5, 0], [7, 1200], [2000], [1] * 6]):
        batch = Batch([1] * len(kv_lens), kv_lens, dtype=torch.bfloat16, seed=seed, device=device)
        caches, indptr, indices, last = batch.paged(16)
        if seed % 2:  # as device arrays
            indptr, indices, last = (t.to(device) for t in (indptr, indices, last))
        wrapper.plan(**plan_of(batch, indptr, indices, last, 16))
        n = len(kv_lens)
        assert torch.equal(buffers[0][: n + 1].cpu(), indptr.cpu()) and torch.equal(buffers[2][:n].cpu(), last.cpu())
        assert torch.equal(buffers[1][: len(indices)].cpu(), indices.cpu())
        q = torch.cat([batch.q, batch.draw(6 - n, 8, 64, dtype=torch.bfloat16)])
        out, lse = wrapper.run(q, caches, return_lse=True)
        ref, ref_lse = batch.reference()
        check(out[:n], ref)
        check_lse(lse[:n], ref_lse)
        assert not out[n:].any() and lse[n:].isneginf().all()
        shapes.add((tuple(wrapper._plan_info[:1]), tuple(wrapper._plan_info[2:]), wrapper._int_workspace_buffer.data_ptr()))
        # The buffers themselves, filled by the engine on the device, without a copy.
        fast_decode_plan(wrapper, *buffers, 8, 2, 64, 16, q_data_type=batch.dtype)
        assert torch.equal(wrapper.run(q, caches), out)
    assert len(shapes) == 1


def test_fast_decode_plan(device, check):
    batch = Batch([1] * 3, [9, 400, 33], dtype=torch.float16, device=device)
    wrapper, caches = planned(batch)
    caches, indptr, indices, last = batch.paged(16)
    wrapper.plan(**plan_of(batch, indptr, indices, last, 16))
    out = wrapper.run(batch.q, caches)
    fast_decode_plan(wrapper, indptr.to(device), indices, last.to(device), 8, 2, 64, 16, data_type=torch.float16, global_override_indptr_cpu=indptr)
    check(wrapper.run(batch.q, caches), batch.reference()[0])
    assert device != "cpu" or torch.equal(wrapper.run(batch.q, caches), out)
    fresh = BatchDecodeWithPagedKVCacheWrapper(workspace(device), use_tensor_cores=True)
    with pytest.raises(ValueError, match="prior plan"):
        fast_decode_plan(fresh, indptr, indices, last, 8, 2, 64, 16, q_len_per_req=2)
    fresh.begin_forward = lambda *args, **kwargs: fast_decode_plan(fresh, *args, **kwargs)  # as SGLang does
    fresh.begin_forward(indptr, indices, last, 8, 2, 64, 16, q_data_type="float16")
    check(fresh.run(batch.q, caches), batch.reference()[0])


def test_old_names(device, check):
    batch = Batch([1] * 3, [9, 400, 33], dtype=torch.float16, device=device)
    caches, *lengths = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device))
    wrapper.begin_forward(**plan_of(batch, *lengths, 16))
    for options in ({}, {"window_left": 20}, {"sm_scale": 0.2, "logits_soft_cap": 5.0}, {"pos_encoding_mode": "ALIBI"}, {"pos_encoding_mode": "ROPE_LLAMA"}, {}):
        out, lse = wrapper.forward_return_lse(batch.q, caches, **options)
        ref, ref_lse = batch.reference(**options)
        check(out, ref)
        check_lse(lse, ref_lse)
        assert torch.equal(wrapper.forward(batch.q, caches, **options), out)
        assert torch.equal(wrapper.run_return_lse(batch.q, caches)[1], lse)
    wrapper.end_forward()
    with pytest.warns(DeprecationWarning, match="positionally"):
        wrapper.plan(*lengths, 8, 2, 64, 16, "NONE", 20, None, torch.float16)
    assert wrapper._window_left == 20
    check(wrapper.run(batch.q, caches, window_left=20), batch.reference(window_left=20)[0])
    with pytest.raises(TypeError, match="at most 16"):
        wrapper.plan(*lengths, 8, 2, 64, 16, *range(17))
    with pytest.raises(TypeError, match="multiple values for argument 'window_left'"), pytest.warns():
        wrapper.plan(*lengths, 8, 2, 64, 16, "NONE", 20, window_left=20)


@pytest.mark.parametrize("dtype", [torch.float16, "float16", np.float16, np.dtype("float16"), "torch.float16"], ids=str)
def test_dtype_names(dtype, check):
    batch = Batch([1], [40], dtype=torch.float16, kv_dtype=torch.float8_e5m2)
    wrapper, caches = planned(batch)
    for kv_dtype in (torch.float8_e5m2, "float8_e5m2", ml_dtypes.float8_e5m2, np.dtype(ml_dtypes.float8_e5m2)):
        caches, *lengths = batch.paged(16)
        wrapper.plan(**plan_of(batch, *lengths, 16) | {"q_data_type": dtype, "kv_data_type": kv_dtype})
        check(wrapper.run(batch.q, caches), batch.reference()[0])
        wrapper.plan(**plan_of(batch, *lengths, 16) | {"q_data_type": None, "kv_data_type": kv_dtype, "data_type": dtype})
        check(wrapper.run(batch.q, caches), batch.reference()[0])


def test_other_frameworks(check):
    """NumPy in, NumPy out; JAX in, JAX out."""
    jnp = pytest.importorskip("jax.numpy")
    batch = Batch([1] * 3, [9, 400, 33])
    caches, *lengths = batch.paged(16)
    ref, ref_lse = batch.reference()
    for array in (np.asarray, jnp.asarray):
        wrapper = BatchDecodeWithPagedKVCacheWrapper(np.empty(1 << 22, np.uint8))
        wrapper.plan(**plan_of(batch, *[array(t.numpy()) for t in lengths], 16) | {"q_data_type": "float32", "kv_data_type": "float32"})
        q, kv = array(batch.q.numpy()), tuple(array(c.numpy()) for c in caches)
        out, lse = wrapper.run(q, kv, return_lse=True)
        assert type(out) is type(q) and type(lse) is type(q)
        check(torch.from_numpy(np.array(out)), ref)
        check_lse(torch.from_numpy(np.array(lse)), ref_lse)
        one = single_decode_with_kv_cache(q[1], array(batch.k[1].numpy()), array(batch.v[1].numpy()), pos_encoding_mode="ALIBI")
        assert type(one) is type(q)
        check(torch.from_numpy(np.array(one)), batch.reference(pos_encoding_mode="ALIBI")[0][1])


def test_messages(device):
    """Texts of FlashInfer that its callers match."""
    batch = Batch([1] * 2, [20, 40], dtype=torch.float16, device=device)
    wrapper, caches = planned(batch)
    assert wrapper._plan_info[3] > 0
    with pytest.raises(ValueError, match="The dtype of q .* does not match the q_data_type .* specified in plan function"):
        wrapper.run(batch.q.bfloat16(), caches)
    with pytest.raises(ValueError, match="The dtype of k .* does not match the kv_data_type .* specified in plan function"):
        wrapper.run(batch.q, tuple(c.bfloat16() for c in caches))
    with pytest.raises(ValueError, match="Invalid shape of out: expected"):
        wrapper.run(batch.q, caches, out=torch.empty(2, 8, 65, dtype=torch.float16, device=device))
    with pytest.raises(ValueError, match="Invalid dtype of out: expected"):
        wrapper.run(batch.q, caches, out=torch.empty(2, 8, 64, device=device))
    with pytest.raises(ValueError, match="Invalid shape of lse: expected"):
        wrapper.run(batch.q, caches, lse=torch.empty(2, 9, device=device))
    with pytest.raises(KeyError, match="Invalid kv_layout"):
        BatchDecodeWithPagedKVCacheWrapper(workspace(device), "NDH")
    with pytest.raises(KeyError, match="Invalid pos_encoding_mode"):
        planned(batch, pos_encoding_mode="ROPE")
    with pytest.raises(ValueError, match="float_workspace_buffer must be 16-byte aligned"):
        BatchDecodeWithPagedKVCacheWrapper(workspace(device)[1:])
    with pytest.raises(ValueError, match="int_workspace_buffer must be 16-byte aligned"):
        wrapper.reset_workspace_buffer(workspace(device), workspace(device)[1:])
    with pytest.raises(ValueError, match="paged_kv_indptr_buffer should be a torch.Tensor in cudagraph mode"):
        BatchDecodeWithPagedKVCacheWrapper(workspace(device), use_cuda_graph=True)
    with pytest.raises(ValueError, match="use_tensor_cores"):
        planned(batch, wrapper=BatchDecodeWithPagedKVCacheWrapper(workspace(device)), q_len_per_req=2)
    with pytest.raises(NotImplementedError, match="fa2"):
        planned(batch, wrapper=BatchDecodeWithPagedKVCacheWrapper(workspace(device), use_tensor_cores=True, backend="fa3"), q_len_per_req=2)
    short = Batch([2] * 2, [1, 40], dtype=torch.float16, device=device)
    with pytest.raises(ValueError, match="empty KV range"):
        planned(short, q_len_per_req=2)
    graph, _ = graph_wrapper(device, 2, 8, use_tensor_cores=True)
    planned(batch, wrapper=graph, q_len_per_req=2)
    with pytest.raises(ValueError, match="frozen"):
        planned(batch, wrapper=graph, q_len_per_req=3)
    three = Batch([1] * 3, [4, 4, 4], dtype=torch.float16, device=device)
    with pytest.raises(ValueError, match="mismatches the batch size"):
        planned(three, wrapper=graph, q_len_per_req=2)
    with pytest.raises(ValueError, match="less than or equal to the allocated buffer"):
        planned(Batch([1], [300], dtype=torch.float16, device=device), wrapper=graph, q_len_per_req=2)
    with pytest.raises(flashinfer.Unsupported, match="jit_args"):
        BatchDecodeWithPagedKVCacheWrapper(workspace(device), jit_args=["x"])
    with pytest.raises(flashinfer.Unsupported, match="NVFP4"):
        planned(batch, kv_data_type=torch.uint8)


def test_signatures():
    parameters = inspect.signature(BatchDecodeWithPagedKVCacheWrapper.run).parameters
    assert list(parameters)[:4] == ["self", "q", "paged_kv_cache", "args"] and parameters["enable_pdl"].default is None
    assert decode.__all__ and all(hasattr(decode, name) for name in decode.__all__)
    for name in decode.__all__:
        assert getattr(flashinfer, name) is getattr(decode, name)


@pytest.mark.gpu
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_capture(check, kv_dtype):
    """plan() and run() inside a CUDA graph, from lengths on the device: one graph serves every batch up to its size."""
    device, capacity = "cuda", 70
    wrapper, buffers = graph_wrapper(device, capacity, 700)
    pool = nan_like((900, 2, 16, 2, 64), kv_dtype, device)
    q = torch.zeros(capacity, 8, 64, dtype=torch.bfloat16, device=device)
    out = nan_like((capacity, 8, 64), torch.bfloat16, device)
    buffers[0].zero_(), buffers[1].zero_(), buffers[2].fill_(1)

    def step():
        fast_decode_plan(wrapper, *buffers, 8, 2, 64, 16, q_data_type="bfloat16", kv_data_type=kv_dtype)
        wrapper.run(q, pool, out=out)

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for seed, kv_lens in enumerate([[900, 3], [1], [40] * 5, [0, 3000], [], [0] * 70, [130] * 70, [0, 5, 0, 0, 2000] * 3, [9000], [17] * 69]):
        batch = Batch([1] * len(kv_lens), kv_lens, dtype=torch.bfloat16, kv_dtype=kv_dtype, seed=seed, device=device)
        n = len(kv_lens)
        if n:
            caches, indptr, indices, last = batch.paged(16, stacked=True)
            pool.view(torch.uint8)[: len(caches)] = caches.view(torch.uint8)
            buffers[0][: n + 1] = indptr.to(device)
            buffers[0][n + 1 :] = indptr[-1]
            buffers[1][: len(indices) - 1] = indices[:-1]
            buffers[2][:n] = last.to(device)
        else:
            buffers[0].zero_()
        q[:n] = batch.q
        for _ in range(2):  # counters are left as they were found
            out.fill_(float("nan"))
            graph.replay()
            if n:
                check(out[:n], batch.reference()[0])
            assert not out[n:].any()


@pytest.mark.gpu
def test_device_lengths_are_not_read_back():
    batch = Batch([1] * 3, [9, 400, 33], dtype=torch.float16, device="cuda")
    caches, indptr, indices, last = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace("cuda"))
    call = plan_of(batch, indptr.cuda(), indices, last.cuda(), 16)
    wrapper.plan(**call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        wrapper.plan(**call)
        wrapper.run(batch.q, caches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_pool_past_2_31_elements(check):
    """Pages whose rows lie further than 2^31 elements and 2^32 bytes into the cache."""
    batch = Batch([1] * 4, [40, 7, 300, 64], dtype=torch.bfloat16, seed=3, device="cuda")
    caches, indptr, indices, last = batch.paged(16, spare_pages=0)
    page_elements = caches[0][0].numel()
    shift = (1 << 31) // page_elements + 1
    pools = [torch.empty(shift + len(cache), *cache.shape[1:], dtype=cache.dtype, device="cuda") for cache in caches]
    for pool, cache in zip(pools, caches):
        pool[shift:] = cache
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace("cuda"))
    wrapper.plan(**plan_of(batch, indptr, indices + shift, last, 16))
    check(wrapper.run(batch.q, tuple(pools)), batch.reference()[0])
