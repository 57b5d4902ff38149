"""Scales of heads and of tokens against float64 attention over what the scaled cache stands for."""

import ml_dtypes
import numpy as np
import pytest
import torch

import flashinfer
from flashinfer.decode import BatchDecodeWithPagedKVCacheWrapper, CUDAGraphBatchDecodeWithPagedKVCacheWrapper
from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper
from reference import FP8, Batch, check_lse


def workspace(device):
    return torch.full((1 << 24,), 0xFF, dtype=torch.uint8, device=device)  # as floats: NaN


class Quantised:
    """A batch with an FP8 cache and scales of its tokens, and the batch that it stands for. Scales of tokens that no request has are NaN."""

    def __init__(self, qo_lens, kv_lens, k_scale=0.02, v_scale=0.02, **options):
        self.cache = Batch(qo_lens, kv_lens, **options)
        heads = self.cache.heads
        self.scales = Batch(qo_lens, kv_lens, heads=heads, dims=(1, 1), device=self.cache.device)
        self.scales.k = [k_scale * x.abs() + k_scale / 4 for x in self.scales.k]
        self.scales.v = [v_scale * torch.exp2(3 * x) for x in self.scales.v]
        self.meaning = Batch(qo_lens, kv_lens, heads=heads, dtype=torch.float64)
        self.meaning.q = self.cache.q
        self.meaning.k, self.meaning.v = (
            [t.cpu().double() * s.cpu().double() for t, s in zip(parts, scales)]
            for parts, scales in ((self.cache.k, self.scales.k), (self.cache.v, self.scales.v))
        )

    def paged(self, page_size, layout="NHD", padding=(1, 2)):
        """(caches, scales, indptr, indices, last_page_len)."""
        self.scales.generator.set_state(self.cache.generator.get_state())  # the same pages
        caches, *lengths = self.cache.paged(page_size, layout)
        scales, *_ = self.scales.paged(page_size, layout, padding)
        return caches, [s[..., 0] for s in scales], *lengths

    def ragged(self, layout="NHD"):
        return self.cache.ragged(layout), [s[..., 0] for s in self.scales.ragged(layout, (2, 1))]

    @property
    def wide(self):
        """sm_scale for scores of some size."""
        return 0.125 / 0.02


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_scales_of_heads(device, check, dtype):
    """By position, as FP8 queries come with them, and by name."""
    batch = Batch([20, 3], [40, 70], heads=(6, 2), dtype=dtype, device=device)
    q_scale, k_scale, v_scale = (batch.draw(n).abs() + 0.5 for n in (6, 2, 2))
    plain = Batch([20, 3], [40, 70], heads=(6, 2), dtype=torch.float64)
    plain.q = batch.q.cpu().double() * q_scale.cpu()[:, None]
    plain.k, plain.v = ([t.cpu().double() * scale.cpu()[:, None] for t in parts] for parts, scale in ((batch.k, k_scale), (batch.v, v_scale)))
    ref, ref_lse = plain.reference(causal=True)
    caches, *lengths = batch.paged(16)
    paged = BatchPrefillWithPagedKVCacheWrapper(workspace(device))
    paged.plan(batch.qo_indptr, *lengths, 6, 2, 64, 16, causal=True, q_data_type=dtype, o_data_type="bfloat16")
    ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace(device))
    ragged.plan(batch.qo_indptr, batch.kv_indptr, 6, 2, 64, causal=True, q_data_type=dtype)
    for out, lse in (
        paged.run(batch.q, caches, q_scale, k_scale, v_scale, return_lse=True),
        ragged.run(batch.q, *batch.ragged(), q_scale, k_scale, v_scale, return_lse=True),
        ragged.run(batch.q, *batch.ragged(), q_scale=q_scale, k_scale=k_scale, v_scale=3 * v_scale, o_scale=3.0, return_lse=True),
    ):
        assert out.dtype == torch.bfloat16
        check(out, ref)
        check_lse(lse, ref_lse)
    given = torch.empty(23, 6, 64, dtype=torch.bfloat16, device=device)
    assert paged.run(batch.q, caches, q_scale, 1.0, None, out=given) is given
    one = flashinfer.single_prefill_with_kv_cache(batch.q[:20], batch.k[0], batch.v[0], q_scale, k_scale, v_scale, torch.bfloat16, causal=True)
    check(one, ref[:20])


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("backend", ["generic", "decode"])
def test_scales_of_heads_in_decode(device, check, backend, kv_dtype):
    """Among them one for all heads, which lies where it is read, and any stride."""
    batch = Batch([1] * 5, [9, 80, 4, 3000, 0], heads=(6, 2), dtype=torch.bfloat16, kv_dtype=kv_dtype, device=device)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device), backend=backend)
    caches, *lengths = batch.paged(16)
    wrapper.plan(*lengths, 6, 2, 64, 16, q_data_type=batch.dtype, kv_data_type=kv_dtype)
    k_scale, v_scale = (batch.draw(2, 3).abs()[:, 0] + 0.5 for _ in range(2))
    one = torch.tensor([1.5], device=device)
    plain = Batch([1] * 5, batch.kv_lens, heads=(6, 2), dtype=torch.float64)
    plain.q = batch.q.double() * 1.5
    plain.k, plain.v = ([t.cpu().double() * scale.cpu()[:, None] for t in parts] for parts, scale in ((batch.k, k_scale), (batch.v, v_scale)))
    out, lse = wrapper.run(batch.q, caches, q_scale=one, k_scale=k_scale, v_scale=v_scale, return_lse=True)
    ref, ref_lse = plain.reference()
    check(out, ref)
    check_lse(lse, ref_lse)
    out = wrapper.run(batch.q, caches, q_scale=1.5, k_scale=one, v_scale=one[0])
    check(out, batch.reference(sm_scale=64**-0.5 * 2.25, v_scale=1.5)[0])


@pytest.mark.parametrize("options", [{}, {"window_left": 70}, {"logits_soft_cap": 3.0}, {"fixed_split_size": 64}], ids=str)
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("kv_dtype", FP8, ids=str)
@pytest.mark.parametrize("backend", ["generic", "decode"])
def test_scales_of_tokens(device, check, backend, kv_dtype, layout, page_size, options):
    batch = Quantised([1] * 5, [9, 80, 0, 3000, 64], heads=(6, 2), dtype=torch.bfloat16, kv_dtype=kv_dtype, device=device)
    caches, (k_scale, v_scale), *lengths = batch.paged(page_size, layout)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device), layout, backend=backend)
    wrapper.plan(*lengths, 6, 2, 64, page_size, q_data_type="bfloat16", kv_data_type=kv_dtype, sm_scale=batch.wide, **options)
    masks = {name: value for name, value in options.items() if name != "fixed_split_size"}
    out, lse = wrapper.run(batch.cache.q, caches, k_scale=k_scale, v_scale=v_scale, return_lse=True)
    ref, ref_lse = batch.meaning.reference(sm_scale=batch.wide, **masks)
    check(out, ref)
    check_lse(lse, ref_lse)
    assert torch.equal(wrapper.run(batch.cache.q, caches, k_scale=k_scale, v_scale=v_scale), out), "not the same from run to run"
    if page_size == 1:  # whose dimension may be missing
        flat = [t.squeeze(1 if layout == "NHD" else 2) for t in (k_scale, v_scale)]
        assert torch.equal(wrapper.run(batch.cache.q, caches, k_scale=flat[0], v_scale=flat[1]), out)
    # One of tokens beside one of heads, or none, and one of the queries' heads.
    heads = torch.tensor([0.5, 2.0], device=device)
    of_queries = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.5, 1.0], device=device)
    batch.meaning.q = batch.cache.q.cpu().double() * of_queries.cpu()[:, None]
    batch.meaning.v = [t.cpu().double() * heads.cpu()[:, None] for t in batch.cache.v]
    out = wrapper.run(batch.cache.q, caches, q_scale=of_queries, k_scale=k_scale, v_scale=heads)
    check(out, batch.meaning.reference(sm_scale=batch.wide, **masks)[0])


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kv_dtype", FP8, ids=str)
def test_scales_of_tokens_in_prefill(device, check, kv_dtype, dtype, layout):
    batch = Quantised([40, 0, 3, 130], [100, 20, 70, 400], heads=(8, 2), dtype=dtype, kv_dtype=kv_dtype, device=device)
    q, heads = batch.cache.q, (8, 2)
    (k, v), (k_scale, v_scale) = batch.ragged(layout)
    ref, ref_lse = batch.meaning.reference(sm_scale=batch.wide, causal=True, window_left=90)
    options = dict(causal=True, window_left=90, sm_scale=batch.wide, q_data_type=dtype, kv_data_type=kv_dtype)
    ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace(device), layout)
    ragged.plan(batch.cache.qo_indptr, batch.cache.kv_indptr, *heads, 64, **options)
    results = [ragged.run(q, k, v, k_scale=k_scale, v_scale=v_scale, return_lse=True)]
    for page_size in (1, 16):
        caches, scales, *lengths = batch.paged(page_size, layout)
        paged = BatchPrefillWithPagedKVCacheWrapper(workspace(device), layout)
        paged.plan(batch.cache.qo_indptr, *lengths, *heads, 64, page_size, **options)
        results.append(paged.run(q, caches, k_scale=scales[0], v_scale=scales[1], return_lse=True))
    for out, lse in results:
        check(out, ref, 5e-3 if dtype == torch.bfloat16 else 1e-3)
        check_lse(lse, ref_lse)
    begin = [slice(-400, None), slice(None)][:: 1 if layout == "NHD" else -1]
    last = [t[tuple(begin)] for t in (k, v, k_scale, v_scale)]
    one = flashinfer.single_prefill_with_kv_cache(
        q[-130:], *last[:2], k_scale=last[2], v_scale=last[3], causal=True, window_left=90, sm_scale=batch.wide, kv_layout=layout
    )
    check(one, ref[-130:], 5e-3 if dtype == torch.bfloat16 else 1e-3)
    one = flashinfer.single_decode_with_kv_cache(q[-1], *last[:2], k_scale=last[2], v_scale=last[3], window_left=90, sm_scale=batch.wide, kv_layout=layout)
    check(one, ref[-1], 5e-3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("v_scale", [1e-6, 1e-3, 300.0])
@pytest.mark.parametrize("backend", ["generic", "decode"])
def test_scales_far_from_one(device, check, backend, v_scale):
    """Probabilities times scales would leave the range of float16, in which the decode kernel multiplies."""
    batch = Quantised([1] * 2, [900, 70], v_scale=v_scale, heads=(6, 2), dtype=torch.bfloat16, kv_dtype=torch.float8_e4m3fn, device=device)
    caches, (k_scale, v_scales), *lengths = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(device), backend=backend)
    wrapper.plan(*lengths, 6, 2, 64, 16, q_data_type="bfloat16", kv_data_type=torch.float8_e4m3fn, sm_scale=batch.wide)
    check(wrapper.run(batch.cache.q, caches, k_scale=k_scale, v_scale=v_scales), batch.meaning.reference(sm_scale=batch.wide)[0])


def test_numpy(check):
    batch = Quantised([1] * 3, [9, 80, 300], heads=(4, 2), dtype=torch.float32, kv_dtype=torch.float8_e4m3fn)
    caches, scales, *lengths = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(np.empty(1 << 22, np.uint8))
    wrapper.plan(*(t.numpy() for t in lengths), 4, 2, 64, 16, q_data_type="float32", kv_data_type=ml_dtypes.float8_e4m3fn, sm_scale=batch.wide)
    pages = tuple(c.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn) for c in caches)
    out = wrapper.run(batch.cache.q.numpy(), pages, k_scale=scales[0].numpy(), v_scale=scales[1].numpy())
    assert isinstance(out, np.ndarray)
    check(torch.from_numpy(out), batch.meaning.reference(sm_scale=batch.wide)[0])
    out = wrapper.run(batch.cache.q.numpy(), pages, k_scale=np.float32(0.02), v_scale=np.ones(1, np.float64) * 2)
    check(torch.from_numpy(out), batch.cache.reference(sm_scale=batch.wide * 0.02, v_scale=2.0)[0])


def test_block_sparse(device, check):
    batch = Quantised([8], [16], heads=(4, 2), dtype=torch.bfloat16, kv_dtype=torch.float8_e4m3fn, device=device)
    (k, v), (k_scale, v_scale) = batch.ragged()
    wrapper = flashinfer.BlockSparseAttentionWrapper(workspace(device))
    indptr, indices = (torch.tensor(t, dtype=torch.int32, device=device) for t in ([0, 2, 4], [0, 1, 0, 1]))
    wrapper.plan(indptr, indices, 8, 16, 4, 8, 4, 2, 64, q_data_type="bfloat16", kv_data_type=k.dtype, o_data_type="bfloat16", sm_scale=batch.wide)
    check(wrapper.run(batch.cache.q, k, v, None, k_scale, v_scale), batch.meaning.reference(sm_scale=batch.wide)[0])


def test_scales_of_tokens_are_for_float8():
    batch = Quantised([1], [40], dtype=torch.bfloat16)
    caches, (k_scale, _), *lengths = batch.paged(16)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace("cpu"))
    wrapper.plan(*lengths, 8, 2, 64, 16, q_data_type="bfloat16")
    with pytest.raises(flashinfer.Unsupported, match="run: k_scale: scales of tokens are for e4m3 and e5m2 caches, this one is bf16"):
        wrapper.run(batch.cache.q, caches, k_scale=k_scale)


@pytest.mark.gpu
@pytest.mark.parametrize("of_tokens", [False, True])
def test_captured_scales_are_read_at_each_replay(check, of_tokens):
    """Nothing is read back, one element included."""
    batch = Quantised([1] * 3, [9, 80, 300], heads=(8, 2), dtype=torch.bfloat16, kv_dtype=torch.float8_e4m3fn, device="cuda")
    caches, scales, *lengths = batch.paged(16)
    buffers = [torch.zeros(n, dtype=torch.int32, device="cuda") for n in (4, 100, 3)]
    wrapper = CUDAGraphBatchDecodeWithPagedKVCacheWrapper(workspace("cuda"), *buffers)
    wrapper.plan(*lengths, 8, 2, 64, 16, q_data_type="bfloat16", kv_data_type=torch.float8_e4m3fn, sm_scale=batch.wide)
    k_scale, v_scale = scales if of_tokens else (torch.tensor([0.02], device="cuda"), torch.tensor(2.0, device="cuda"))
    out = wrapper.run(batch.cache.q, caches, k_scale=k_scale, v_scale=v_scale)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        wrapper.run(batch.cache.q, caches, k_scale=k_scale, v_scale=v_scale, out=out)
    for factor in (1.0, 0.5):
        k_scale *= factor
        out.fill_(float("nan"))
        graph.replay()
        if of_tokens:
            check(out, batch.meaning.reference(sm_scale=batch.wide * factor)[0])
        else:
            check(out, batch.cache.reference(sm_scale=batch.wide * 0.02 * factor, v_scale=2.0)[0])
