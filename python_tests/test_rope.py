"""RoPE in all its forms against a rotation in float64."""

import math

import numpy as np
import pytest
import torch

import flashinfer

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
# Angles are exact at any position, so float32 is only rounded.
BOUNDS = {torch.float16: 4e-4, torch.bfloat16: 3e-3, torch.float32: 3e-7}


def frequencies(rotary_dim, rope_scale, rope_theta, llama31=None):
    f = rope_theta ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    if llama31 is None:
        return f / rope_scale
    low, high, old_len = llama31
    wavelength = 2 * math.pi / f
    smooth = (old_len / wavelength - low) / (high - low)
    blended = (1 - smooth) * f / rope_scale + smooth * f
    return torch.where(wavelength < old_len / high, f, torch.where(wavelength > old_len / low, f / rope_scale, blended))


def rotate(x, cos, sin, interleave):
    """x [n, heads, dim]; cos, sin [n, rotary_dim / 2]."""
    x, (cos, sin) = x.double().cpu(), (t.double().cpu()[:, None] for t in (cos, sin))
    half = cos.shape[-1]
    turned = x[..., : 2 * half]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleave else (turned[..., :half], turned[..., half:])
    pair = (a * cos - b * sin, b * cos + a * sin)
    turned = torch.stack(pair, -1).flatten(-2) if interleave else torch.cat(pair, -1)
    return torch.cat([turned, x[..., 2 * half :]], -1)


def expected(x, positions, rotary_dim=None, interleave=False, rope_scale=1.0, rope_theta=1e4, llama31=None):
    angle = positions.double().cpu()[:, None] * frequencies(rotary_dim or x.shape[-1], rope_scale, rope_theta, llama31)
    return rotate(x, angle.cos(), angle.sin(), interleave)


def ints(device, values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=device)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim,rotary_dim", [(64, None), (128, None), (256, 128), (80, None), (128, 40), (576, 64), (7, 6), (2, 2), (512, None)])
@pytest.mark.parametrize("inplace", [False, True])
def test_pos_ids(randn, generator, device, check, head_dim, rotary_dim, dtype, interleave, inplace):
    q, k = randn(33, 5, head_dim, dtype=dtype), randn(33, 2, head_dim, dtype=dtype)
    pos_ids = torch.randint(0, 5000, (33,), generator=generator, dtype=torch.int64).to(device)
    options = {"rotary_dim": rotary_dim, "interleave": interleave, "rope_scale": 1.7, "rope_theta": 3e4}
    refs = [expected(x, pos_ids, **options) for x in (q, k)]
    if inplace:
        assert flashinfer.apply_rope_pos_ids_inplace(q, k, pos_ids, **options) is None
        outs = (q, k)
    else:
        before = q.clone(), k.clone()
        outs = flashinfer.apply_rope_pos_ids(q, k, pos_ids, **options)
        assert torch.equal(q, before[0]) and torch.equal(k, before[1])
    for out, ref in zip(outs, refs):
        assert out.dtype == dtype
        check(out, ref, BOUNDS[dtype])


@pytest.mark.parametrize("rope_theta", [1e4, 5e5, 1e7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_far_positions(randn, generator, device, check, dtype, rope_theta):
    q, k = randn(200, 2, 128, dtype=dtype), randn(200, 1, 128, dtype=dtype)
    pos_ids = torch.randint(900_000, 1_000_001, (200,), generator=generator, dtype=torch.int32).to(device)
    q_out, k_out = flashinfer.apply_rope_pos_ids(q, k, pos_ids, rope_theta=rope_theta)
    check(q_out, expected(q, pos_ids, rope_theta=rope_theta), BOUNDS[dtype])
    check(k_out, expected(k, pos_ids, rope_theta=rope_theta), BOUNDS[dtype])


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("lens,rest", [([3, 0, 7, 1], 0), ([300], 0), ([5, 5], 3), ([], 2), ([0], 0)])
@pytest.mark.parametrize("llama31", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_offsets(randn, device, check, lens, rest, index, llama31, inplace):
    offsets = [10 + 1000 * i for i in range(len(lens))]
    positions = [o + i for o, n in zip(offsets, lens) for i in range(n)] + [0] * rest  # tokens of no request are not rotated
    q, k = randn(len(positions), 4, 64, dtype=torch.float16), randn(len(positions), 1, 64, dtype=torch.float16)
    options = {"rope_scale": 4.0, "rope_theta": 1e5}
    refs = [expected(x, torch.tensor(positions), llama31=(1.0, 4.0, 8192.0) if llama31 else None, **options) for x in (q, k)]
    op = getattr(flashinfer, f"apply_{'llama31_' if llama31 else ''}rope{'_inplace' if inplace else ''}")
    outs = op(q, k, ints(device, np.cumsum([0, *lens]).tolist(), index), ints(device, offsets, index), **options)
    for out, ref in zip((q, k) if inplace else outs, refs):
        check(out, ref, BOUNDS[torch.float16])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("llama31", [(1.0, 4.0, 8192), (2.0, 8.0, 4096), (1.0, 1.5, 512)])
def test_llama31_pos_ids(randn, generator, device, check, llama31, inplace):
    q, k = randn(64, 4, 128), randn(64, 2, 128)
    pos_ids = torch.randint(0, 131072, (64,), generator=generator, dtype=torch.int32).to(device)
    refs = [expected(x, pos_ids, rope_scale=8.0, rope_theta=5e5, llama31=llama31) for x in (q, k)]
    options = dict(zip(("low_freq_factor", "high_freq_factor", "old_context_len"), llama31))
    if inplace:
        flashinfer.apply_llama31_rope_pos_ids_inplace(q, k, pos_ids, **options)
        outs = q, k
    else:
        outs = flashinfer.apply_llama31_rope_pos_ids(q, k, pos_ids, **options)
    for out, ref in zip(outs, refs):
        check(out, ref, BOUNDS[torch.float32])


@pytest.mark.parametrize("is_neox", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size,rotary_dim", [(64, 64), (128, 64), (80, 80), (6, 4)])
@pytest.mark.parametrize("inplace", [False, True])
def test_cos_sin_cache(randn, generator, device, check, head_size, rotary_dim, dtype, is_neox, inplace):
    query, key, cache = randn(20, 6 * head_size, dtype=dtype), randn(20, 2 * head_size, dtype=dtype), randn(100, rotary_dim)
    positions = torch.randint(0, 100, (20,), generator=generator, dtype=torch.int64).to(device)
    cos, sin = cache[positions].chunk(2, -1)
    refs = [rotate(x.view(20, -1, head_size), cos, sin, not is_neox).flatten(1) for x in (query, key)]
    op = flashinfer.apply_rope_with_cos_sin_cache_inplace if inplace else flashinfer.apply_rope_with_cos_sin_cache
    outs = op(positions=positions, query=query, key=key, head_size=head_size, cos_sin_cache=cache, is_neox=is_neox)
    for out, ref in zip((query, key) if inplace else outs, refs):
        check(out, ref, BOUNDS[dtype])


def test_cos_sin_cache_in_the_words_that_callers_match(randn, device):
    query, key = randn(4, 128), randn(4, 64)
    with pytest.raises(ValueError, match="cos_sin_cache should be float32"):
        flashinfer.apply_rope_with_cos_sin_cache(ints(device, [0, 1, 2, 3]), query, key, 64, randn(10, 64, dtype=torch.float16))


@pytest.mark.parametrize("gap", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_qkv(randn, device, check, dtype, gap):
    """q and k are slices of one tensor; what lies between and behind them stays as it is."""
    qkv = randn(9, (4 + 2 + 2) * 64 + 3 * gap, dtype=dtype)
    q, k = qkv[:, : 4 * 64].view(9, 4, 64), qkv[:, 4 * 64 + gap : 6 * 64 + gap].view(9, 2, 64)
    pos_ids = ints(device, range(9))
    refs = [expected(x, pos_ids) for x in (q, k)]
    others = qkv[:, 4 * 64 : 4 * 64 + gap].clone(), qkv[:, 6 * 64 + gap :].clone()
    for out, ref in zip(flashinfer.apply_rope_pos_ids(q, k, pos_ids), refs):
        check(out, ref, BOUNDS[dtype])
    flashinfer.apply_rope_pos_ids_inplace(q, k, pos_ids)
    check(q, refs[0], BOUNDS[dtype])
    check(k, refs[1], BOUNDS[dtype])
    assert torch.equal(qkv[:, 4 * 64 : 4 * 64 + gap], others[0]) and torch.equal(qkv[:, 6 * 64 + gap :], others[1])


@pytest.mark.parametrize("num_tokens,q_heads,k_heads", [(0, 4, 2), (3, 0, 2), (3, 4, 0), (1, 128, 1), (1000, 33, 7), (257, 1, 1)])
def test_odd_shapes(randn, device, check, num_tokens, q_heads, k_heads):
    q, k = randn(num_tokens, q_heads, 64, dtype=torch.bfloat16), randn(num_tokens, k_heads, 64, dtype=torch.bfloat16)
    pos_ids = torch.arange(num_tokens, dtype=torch.int32, device=device)
    for x, out in zip((q, k), flashinfer.apply_rope_pos_ids(q, k, pos_ids)):
        check(out, expected(x, pos_ids), BOUNDS[torch.bfloat16])


def test_heads_before_tokens(randn, device, check):
    q, k = randn(4, 10, 64).transpose(0, 1), randn(2, 10, 64).transpose(0, 1)
    pos_ids = ints(device, range(10))
    refs = [expected(x, pos_ids) for x in (q, k)]
    flashinfer.apply_rope_pos_ids_inplace(q, k, pos_ids)
    check(q, refs[0], BOUNDS[torch.float32])
    check(k, refs[1], BOUNDS[torch.float32])


def test_nan_stays_in_its_head(randn, device):
    q, k = randn(2, 2, 64), randn(2, 1, 64)
    q[0, 1, 3] = math.nan
    q_out, k_out = flashinfer.apply_rope_pos_ids(q, k, ints(device, [5, 6]))
    assert q_out.isnan().nonzero().tolist() == [[0, 1, 3], [0, 1, 35]] and not k_out.isnan().any()


def test_numpy_and_jax(generator):
    q, k = (torch.randn(5, h, 64, generator=generator).numpy() for h in (2, 1))
    pos_ids = np.arange(5)
    ref = expected(torch.from_numpy(q), torch.arange(5)).numpy()
    q_out, k_out = flashinfer.apply_rope_pos_ids(q, k, pos_ids)
    assert isinstance(q_out, np.ndarray) and np.allclose(q_out, ref, atol=1e-5)
    import jax.numpy as jnp

    q_out, k_out = flashinfer.apply_rope_pos_ids(jnp.asarray(q), jnp.asarray(k), jnp.asarray(pos_ids, dtype=jnp.int32))
    assert isinstance(q_out, type(jnp.zeros(1))) and np.allclose(np.asarray(q_out), ref, atol=1e-5)
    flashinfer.apply_rope_pos_ids_inplace(q, k, pos_ids)
    assert np.allclose(q, ref, atol=1e-5)
