"""flashinfer.jax: the ops under jax.jit, against the same ops of flashinfer on torch tensors."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import flashinfer
from conftest import BOUNDS
from test_frameworks import Jax, i32

jax = pytest.importorskip("jax")
fj = pytest.importorskip("flashinfer.jax")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def library(request):
    return Jax(request.param)


@pytest.fixture
def device():
    return "cpu"  # of what the tests draw


@pytest.fixture
def same(library, check):
    """same(f, expected, *tensors): the results of f, compiled, on JAX arrays; twice, so that the second takes the compiled one."""

    def compare(f, expected, *tensors, bound=None):
        compiled = jax.jit(f)
        for _ in range(2):
            got = compiled(*jax.tree.map(library.array, tensors))
        expected, got = (list(x) if isinstance(x, (tuple, list)) else [x] for x in (expected, got))
        assert len(expected) == len(got)
        for e, g in zip(expected, got):
            g = library.torch(g)
            assert g.dtype == e.dtype
            if e.dtype.is_floating_point:
                nothing = e == -torch.inf
                assert torch.equal(g == -torch.inf, nothing)
                check(g.masked_fill(nothing, 0), e.masked_fill(nothing, 0), bound or max(1.5 * BOUNDS[e.dtype], 1e-4))
            else:
                assert torch.equal(g, e)

    return compare


DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows(same, randn, dtype):
    x, r, w, b = randn(37, 264, dtype=dtype), randn(37, 264, dtype=dtype), randn(264, dtype=dtype), randn(264)
    same(functools.partial(fj.rmsnorm, eps=1e-2), flashinfer.rmsnorm(x, w, 1e-2), x, w)
    same(fj.gemma_rmsnorm, flashinfer.gemma_rmsnorm(x, w), x, w)
    same(fj.layernorm, flashinfer.layernorm(x, b, b), x, b, b)
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
        same(getattr(fj, name), getattr(flashinfer, name)(x), x)
    same(fj.rmsnorm, x[:0], x[:0], w)
    for name in ("fused_add_rmsnorm", "gemma_fused_add_rmsnorm"):
        y, s = x.clone(), r.clone()
        getattr(flashinfer, name)(y, s, w)
        same(getattr(fj, name), (y, s), x, r, w)


def test_inside_other_computations(same, randn):
    """XLA's own work before and after; a loop; an op of the library on the result of another."""
    x, w = randn(8, 128), randn(128)

    def f(x, w):
        y = fj.rmsnorm(x * 2 + 1, w)
        y = jax.lax.fori_loop(0, 3, lambda i, y: fj.rmsnorm(y + i, w), y)
        return fj.silu_and_mul(y) + 1

    y = flashinfer.rmsnorm(x * 2 + 1, w)
    for i in range(3):
        y = flashinfer.rmsnorm(y + i, w)
    same(f, flashinfer.silu_and_mul(y) + 1, x, w)


def test_vmap(same, randn):
    x, w = randn(3, 5, 64), randn(64)
    same(jax.vmap(fj.rmsnorm, (0, None)), flashinfer.rmsnorm(x, w), x, w)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rope(same, randn, dtype, interleave):
    q, k = randn(19, 8, 64, dtype=dtype), randn(19, 2, 64, dtype=dtype)
    positions, indptr, offsets = torch.arange(100, 119, dtype=torch.int32), i32(0, 7, 19), i32(3, 900)
    options = dict(rotary_dim=32, interleave=interleave, rope_scale=2.0, rope_theta=5e3)
    same(functools.partial(fj.apply_rope_pos_ids, **options), flashinfer.apply_rope_pos_ids(q, k, positions, **options), q, k, positions)
    same(functools.partial(fj.apply_rope, **options), flashinfer.apply_rope(q, k, indptr, offsets, **options), q, k, indptr, offsets)
    same(fj.apply_llama31_rope, flashinfer.apply_llama31_rope(q, k, indptr, offsets), q, k, indptr, offsets)
    same(fj.apply_llama31_rope_pos_ids, flashinfer.apply_llama31_rope_pos_ids(q, k, positions), q, k, positions)
    table = randn(200, 64)
    flat = q.flatten(1), k.flatten(1)
    expected = flashinfer.apply_rope_with_cos_sin_cache(positions, *flat, 64, table, not interleave)
    same(lambda p, q, k, t: fj.apply_rope_with_cos_sin_cache(p, q, k, 64, t, not interleave), expected, positions, *flat, table)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_page(same, library, randn, layout):
    k, v = randn(9, 2, 64, dtype=torch.bfloat16), randn(9, 2, 64, dtype=torch.bfloat16)
    shape = (6, 4, 2, 64) if layout == "NHD" else (6, 2, 4, 64)
    caches = randn(*shape, dtype=torch.bfloat16), randn(*shape, dtype=torch.bfloat16)
    indptr, indices, last, lens = i32(0, 3, 4), i32(5, 1, 3, 0), i32(2, 1), i32(10, 1)
    append = i32(0, 8, 9)
    same(lambda a, b: fj.get_batch_indices_positions(a, b, 9), flashinfer.get_batch_indices_positions(append, lens, 9), append, lens)
    same(lambda a, b: fj.get_seq_lens(a, b, 4), flashinfer.get_seq_lens(indptr, last, 4), indptr, last)
    rows, positions = flashinfer.get_batch_indices_positions(append, lens, 9)
    after = tuple(cache.clone() for cache in caches)
    flashinfer.append_paged_kv_cache(k, v, rows, positions, after, indices, indptr, last, layout)
    assert not torch.equal(after[0], caches[0])
    f = functools.partial(fj.append_paged_kv_cache, kv_layout=layout)
    same(f, after, k, v, rows, positions, caches, indices, indptr, last)
    # Donated caches are updated where they are.
    arrays = [library.array(t) for t in (k, v, rows, positions)]
    given = tuple(library.array(t) + 0 for t in caches)  # memory of JAX: NumPy's would be copied
    lengths = [library.array(t) for t in (indices, indptr, last)]
    jax.block_until_ready(given)
    places = [cache.unsafe_buffer_pointer() for cache in given]
    made = jax.jit(f, donate_argnums=4)(*arrays, given, *lengths)
    assert [cache.unsafe_buffer_pointer() for cache in made] == places and all(cache.is_deleted() for cache in given)
    assert torch.equal(library.torch(made[0]), after[0]) and torch.equal(library.torch(made[1]), after[1])


def test_merge(same, randn):
    v, s = randn(7, 3, 4, 64, dtype=torch.float16), randn(7, 3, 4)
    same(fj.merge_states, flashinfer.merge_states(v, s), v, s)
    pair = v[:, 0].contiguous(), s[:, 0].contiguous(), v[:, 1].contiguous(), s[:, 1].contiguous()
    same(fj.merge_state, flashinfer.merge_state(*pair), *pair)


OPTIONS = [{}, dict(window_left=20), dict(logits_soft_cap=5.0, sm_scale=0.2)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_one_request(same, randn, layout, options):
    q, k, v = randn(70, 8, 64, dtype=torch.float16), randn(300, 2, 64, dtype=torch.float16), randn(300, 2, 64, dtype=torch.float16)
    if layout == "HND":
        k, v = k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()
    options = dict(kv_layout=layout, return_lse=True, **options)
    prefill = flashinfer.single_prefill_with_kv_cache(q, k, v, causal=True, **options)
    same(functools.partial(fj.single_prefill_with_kv_cache, causal=True, **options), prefill, q, k, v)
    same(functools.partial(fj.single_decode_with_kv_cache, **options), flashinfer.single_decode_with_kv_cache(q[0], k, v, **options), q[0], k, v)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_batch(same, library, randn, generator, layout, options):
    """One compiled function for batches of other lengths; requests without keys, without queries, and rows of no request."""
    shape = (40, 16, 2, 64) if layout == "NHD" else (40, 2, 16, 64)
    caches = randn(*shape, dtype=torch.float16), randn(*shape, dtype=torch.float16)
    compiled = []

    def count(f):
        compiled.append(0)
        return f

    decode = jax.jit(lambda *a: count(fj.batch_decode_with_paged_kv_cache(*a, kv_layout=layout, return_lse=True, **options)))
    prefill = jax.jit(lambda *a: count(fj.batch_prefill_with_paged_kv_cache(*a, kv_layout=layout, causal=True, **options)))
    planned = {name.replace("return_lse", ""): value for name, value in options.items()}
    work = torch.zeros(1 << 20, dtype=torch.uint8)
    for indptr, last, qo in [(i32(0, 1, 1, 3, 7), i32(1, 0, 4, 7), i32(0, 1, 1, 8, 38)), (i32(0, 4, 4, 4, 7), i32(16, 0, 0, 9), i32(0, 30, 30, 30, 38))]:
        indices = torch.randperm(40, generator=generator)[:7].to(torch.int32)
        lengths = indptr, indices, last
        q = randn(38, 8, 64, dtype=torch.float16)
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(work, layout)
        wrapper.plan(*lengths, 8, 2, 64, 16, **planned)
        same(decode, wrapper.run(q[:4], caches, return_lse=True), q[:4], caches, *lengths)
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(work, layout)
        wrapper.plan(qo, *lengths, 8, 2, 64, 16, causal=True, **planned)
        same(prefill, wrapper.run(q, caches), q, caches, qo, *lengths)
    assert len(compiled) == 2


def test_ragged(same, randn):
    q, k, v = randn(38, 8, 64, dtype=torch.bfloat16), randn(76, 2, 64, dtype=torch.bfloat16), randn(76, 2, 128, dtype=torch.bfloat16)
    qo, kv = i32(0, 1, 1, 8, 38), i32(0, 1, 1, 21, 76)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(torch.zeros(1 << 20, dtype=torch.uint8))
    wrapper.plan(qo, kv, 8, 2, 64, head_dim_vo=128, causal=True, q_data_type="bfloat16")
    same(functools.partial(fj.batch_prefill_with_ragged_kv_cache, causal=True), wrapper.run(q, k, v), q, k, v, qo, kv)


def test_errors(library, randn):
    x, w = library.array(randn(4, 64)), library.array(randn(65))
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT: rmsnorm: weight: expected shape \[hidden_size=64\], got shape \[65\]"):
        jax.jit(fj.rmsnorm)(x, w).block_until_ready()
    with pytest.raises(flashinfer.InvalidArgument, match="expected a pair"):
        fj.batch_decode_with_paged_kv_cache(x, x, x, x, x)
    with pytest.raises(TypeError, match="a traced JAX array: flashinfer.jax has the ops"):
        jax.jit(lambda x, w: flashinfer.rmsnorm(x, w))(x, w)


def test_narrow_types(library):
    """FP8 is read as what it is."""
    q = np.ones((3, 2, 64), ml_dtypes.float8_e4m3fn)
    k = np.ones((5, 2, 64), ml_dtypes.float8_e4m3fn)
    v = np.full((5, 2, 64), 2, ml_dtypes.float8_e4m3fn)
    out = jax.jit(fj.single_prefill_with_kv_cache)(*(jax.device_put(x, library.device) for x in (q, k, v)))
    assert out.dtype == q.dtype and (np.asarray(out).astype(np.float32) == 2).all()


@pytest.mark.parametrize("where", ["here", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_declarations(tmp_path, where):
    """bindings/xla_ffi.hpp against the header of the installed jaxlib: sizes, offsets and values of everything we use."""
    compiler = os.environ.get("CXX", "g++")
    theirs = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    ours = Path(__file__).parent.parent / "bindings/xla_ffi.hpp"
    if not shutil.which(compiler) or not theirs.exists():
        pytest.skip("needs a C++ compiler and jaxlib's headers")
    extension = "InternalExtension" if "XLA_FFI_InternalExtension" in theirs.read_text() else "Extension_Base"  # renamed in jaxlib 0.12
    base = "struct_size=struct_size extension_start=extensions "
    fields = {
        (extension, "Extension"): "struct_size=struct_size type=type next=next",
        ("Api_Version", "Version"): base + "major_version=major minor_version=minor",
        ("Metadata", "Metadata"): "struct_size=struct_size api_version=version traits=traits",
        ("Metadata_Extension", "MetadataExtension"): "extension_base=base metadata=metadata",
        ("Buffer", "Buffer"): base + "dtype=dtype data=data rank=rank dims=dims",
        ("ByteSpan", "ByteSpan"): "ptr=data len=size",
        ("Scalar", "Scalar"): "dtype=dtype value=value",
        ("Args", "Buffers"): base + "size=size types=types args=values",
        ("Rets", "Buffers"): base + "size=size types=types rets=values",
        ("Attrs", "Attrs"): base + "size=size types=types names=names attrs=values",
        ("Error_Create_Args", "ErrorCreateArgs"): base + "message=message errc=code",
        ("Error_Destroy_Args", "ErrorDestroyArgs"): base + "error=error",
        ("Stream_Get_Args", "StreamGetArgs"): base + "ctx=context stream=stream",
        ("DeviceMemory_Allocate_Args", "MemoryArgs"): base + "ctx=context size=size alignment=alignment data=data",
        ("DeviceMemory_Free_Args", "MemoryFreeArgs"): base + "ctx=context size=size data=data",
        ("DeviceOrdinal_Get_Args", "DeviceOrdinalArgs"): base + "ctx=context device_ordinal=ordinal",
        ("Api", "Api"): base + "api_version=version internal_api=internal XLA_FFI_Error_Create=error_create "
        "XLA_FFI_Error_Destroy=error_destroy XLA_FFI_Stream_Get=stream_get XLA_FFI_DeviceMemory_Allocate=memory_allocate "
        "XLA_FFI_DeviceMemory_Free=memory_free XLA_FFI_DeviceOrdinal_Get=device_ordinal",
        ("CallFrame", "CallFrame"): base + "api=api ctx=context stage=stage args=arguments rets=results attrs=attributes",
    }
    values = (
        "Extension_Metadata=kMetadata Error_Code_INVALID_ARGUMENT=kInvalidArgument Error_Code_UNIMPLEMENTED=kUnimplemented Error_Code_INTERNAL=kInternal "
        "DataType_PRED=kPred DataType_S8=kS8 DataType_S32=kS32 DataType_S64=kS64 DataType_U8=kU8 DataType_U32=kU32 DataType_U64=kU64 "
        "DataType_F16=kF16 DataType_F32=kF32 DataType_F64=kF64 DataType_BF16=kBf16 DataType_F8E5M2=kF8E5M2 DataType_F8E4M3FN=kF8E4M3FN "
        "DataType_F8E8M0FNU=kF8E8M0FNU AttrType_SCALAR=kScalar AttrType_STRING=kString ExecutionStage_EXECUTE=kExecute "
        "HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE=kCommandBufferCompatible"
    )
    lines = [f'#include "{theirs}"', f'#include "{ours}"', "#include <cstddef>", "namespace ours = flashinfer::xla;"]
    for (their, our), names in fields.items():
        for pair in names.split():
            a, b = pair.split("=")
            their_field, our_field = f"XLA_FFI_{their}, {a}", f"ours::{our}, {b}"
            size = f"sizeof(((XLA_FFI_{their}*)0)->{a}) == sizeof(((ours::{our}*)0)->{b})"
            if re.search(r"version=version", pair):  # jaxlib's may grow at its end
                size = "true"
            lines.append(f'static_assert(offsetof({their_field}) == offsetof({our_field}) && {size}, "{their}::{a}");')
    for pair in values.split():
        a, b = pair.split("=")
        lines.append(f'static_assert((unsigned long long)(XLA_FFI_{a}) == (unsigned long long)(ours::{b}), "{a}");')
    source = tmp_path / "xla_ffi.cpp"
    source.write_text("\n".join(lines) + "\n")
    include = Path(flashinfer.__file__).parent / "include"
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{include}", source]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
