"""RMSNorm and its relatives, LayerNorm."""

import numpy as np
import pytest
import torch

import flashinfer

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
HIDDEN_SIZES = [1, 7, 64, 111, 128, 500, 1000, 3584, 4096, 5120, 16384, 40000, 70001]


def rmsnorm_reference(x, weight, eps=1e-6, bias=0.0):
    x, weight = x.double(), weight.double()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (weight + bias)


def layernorm_reference(x, gamma, beta, eps=1e-6):
    x = x.double()
    centered = x - x.mean(-1, keepdim=True)
    return centered * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + eps) * gamma.double() + beta.double()


def saturate(y, dtype):
    limit = torch.finfo(dtype).max
    return y.clamp(-limit, limit)


@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gemma", [False, True])
def test_rmsnorm(randn, nans, check, dtype, hidden_size, gemma):
    x, weight = randn(5, hidden_size, dtype=dtype, scale=3.0), randn(hidden_size, dtype=dtype)
    op = flashinfer.gemma_rmsnorm if gemma else flashinfer.rmsnorm
    out = nans(5, hidden_size, dtype=dtype)
    assert op(x, weight, out=out) is out
    check(out, rmsnorm_reference(x, weight, bias=float(gemma)))
    assert torch.equal(op(x, weight), out)


@pytest.mark.parametrize("num_rows", [1, 2, 17, 300, 3000])
@pytest.mark.parametrize("hidden_size", [64, 128, 1024])
def test_rmsnorm_of_many_rows(randn, check, num_rows, hidden_size):
    x, weight = randn(num_rows, hidden_size, dtype=torch.bfloat16), randn(hidden_size, dtype=torch.bfloat16)
    out = flashinfer.rmsnorm(x, weight)
    for row in (0, num_rows // 2, num_rows - 1):
        check(out[row], rmsnorm_reference(x[row], weight))
    check(out, rmsnorm_reference(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_in_float32(randn, check, dtype):
    x, weight = randn(4, 512, dtype=dtype), randn(512)
    check(flashinfer.rmsnorm(x, weight), rmsnorm_reference(x, weight))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_eps(randn, check, eps):
    x, weight = randn(4, 256, scale=0.1), randn(256)
    check(flashinfer.rmsnorm(x, weight, eps), rmsnorm_reference(x, weight, eps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_heads,head_dim", [(1, 128), (4, 64), (7, 128), (5, 80), (3, 111)])
def test_heads_of_a_packed_qkv(randn, check, dtype, num_heads, head_dim):
    qkv = randn(9, num_heads + 4, head_dim, dtype=dtype)
    kept = qkv[:, num_heads:].clone()
    q, weight = qkv[:, :num_heads], randn(head_dim, dtype=dtype)
    expected = rmsnorm_reference(q, weight)
    check(flashinfer.rmsnorm(q, weight), expected)
    flashinfer.rmsnorm(q, weight, out=q)
    check(q, expected)
    assert torch.equal(qkv[:, num_heads:], kept)


@pytest.mark.parametrize("offset", [0, 1, 2, 4])
def test_rows_of_any_alignment(randn, nans, check, offset):
    x, weight = randn(6, 600, dtype=torch.bfloat16)[:, offset : offset + 512], randn(520, dtype=torch.bfloat16)[offset : offset + 512]
    out = nans(6, 1030, dtype=torch.bfloat16)
    flashinfer.rmsnorm(x, weight, out=out[:, offset : offset + 512])
    check(out[:, offset : offset + 512], rmsnorm_reference(x, weight))
    assert out[:, :offset].isnan().all() and out[:, offset + 512 :].isnan().all()


def test_transposed_rows(randn, check):
    x, weight = randn(3, 5, 64).transpose(0, 1), randn(64)
    check(flashinfer.rmsnorm(x, weight), rmsnorm_reference(x, weight))


@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gemma", [False, True])
def test_fused_add_rmsnorm(randn, check, dtype, hidden_size, gemma):
    x, residual, weight = randn(5, hidden_size, dtype=dtype), randn(5, hidden_size, dtype=dtype), randn(hidden_size, dtype=dtype)
    total = x.double() + residual.double()
    op = flashinfer.gemma_fused_add_rmsnorm if gemma else flashinfer.fused_add_rmsnorm
    assert op(x, residual, weight) is None
    check(residual, total)
    check(x, rmsnorm_reference(total, weight, bias=float(gemma)))


def test_fused_add_rmsnorm_strided(randn, check):
    both, weight = randn(6, 2 * 96, dtype=torch.float16), randn(96, dtype=torch.float16)
    x, residual = both[:, :96], both[:, 96:]  # side by side in one buffer
    total = x.double() + residual.double()
    flashinfer.fused_add_rmsnorm(x, residual, weight)
    check(residual, total)
    check(x, rmsnorm_reference(total, weight))


@pytest.mark.parametrize("hidden_size", [111, 128, 4096, 40000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_rmsnorm_quant(randn, nans, check, device, dtype, hidden_size, fp8, scale):
    x, weight = randn(4, hidden_size, dtype=dtype), randn(hidden_size, dtype=dtype)
    expected = saturate(rmsnorm_reference(x, weight) / scale, fp8)
    out = nans(4, hidden_size, dtype=fp8)
    flashinfer.norm.rmsnorm_quant(out, x, weight, torch.tensor(scale, device=device))
    check(out.float(), expected, bound=4e-2 if fp8 is torch.float8_e4m3fn else 8e-2)
    by_number = nans(4, hidden_size, dtype=fp8)
    flashinfer.norm.rmsnorm_quant(by_number, x, weight, scale)
    assert torch.equal(by_number.view(torch.uint8), out.view(torch.uint8))
    flashinfer.norm.rmsnorm_quant(by_number, x, weight, torch.tensor([scale]))  # one float on the host
    assert torch.equal(by_number.view(torch.uint8), out.view(torch.uint8))


@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_add_rmsnorm_quant(randn, nans, check, device, dtype, fp8):
    x, residual, weight = randn(4, 512, dtype=dtype), randn(4, 512, dtype=dtype), randn(512, dtype=dtype)
    kept, total = x.clone(), x.double() + residual.double()
    out = nans(4, 512, dtype=fp8)
    flashinfer.norm.fused_add_rmsnorm_quant(out, x, residual, weight, torch.tensor([0.5], device=device))
    check(out.float(), saturate(rmsnorm_reference(total, weight) / 0.5, fp8), bound=4e-2 if fp8 is torch.float8_e4m3fn else 8e-2)
    check(residual, total)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", ["input", torch.float32])
def test_layernorm(randn, check, dtype, hidden_size, weight_dtype):
    weight_dtype = dtype if weight_dtype == "input" else weight_dtype
    x, gamma, beta = randn(3, hidden_size, dtype=dtype), randn(hidden_size, dtype=weight_dtype), randn(hidden_size, dtype=weight_dtype)
    check(flashinfer.layernorm(x, gamma, beta), layernorm_reference(x, gamma, beta))


def test_layernorm_of_a_large_mean(randn, check):
    """The variance is the mean square about the mean: as a difference of sums it would be lost."""
    x, gamma, beta = randn(3, 1000) + 1000.0, randn(1000), randn(1000)
    check(flashinfer.layernorm(x, gamma, beta), layernorm_reference(x, gamma, beta), bound=1e-4)


@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("hidden_size", [111, 1024, 40000])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_layernorm_quant_is_layernorm_then_quantisation(randn, nans, hidden_size, fp8, scale):
    x, gamma, beta = randn(3, hidden_size, dtype=torch.bfloat16), randn(hidden_size), randn(hidden_size)
    out = nans(3, hidden_size, dtype=fp8)
    flashinfer.norm.layernorm_quant(out, x, gamma, beta, scale)
    expected = saturate(flashinfer.layernorm(x, gamma, beta).float() * (1 / np.float32(scale)), fp8).to(fp8)
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("shape", [(0, 64), (0, 4, 64), (3, 0, 64), (3, 0)])
def test_empty(device, shape):
    x, weight = torch.zeros(shape, device=device), torch.ones(shape[-1], device=device)
    assert flashinfer.rmsnorm(x, weight).shape == shape
    assert flashinfer.layernorm(x, weight, weight).shape == shape
    flashinfer.fused_add_rmsnorm(x, torch.zeros(shape, device=device), weight)


def test_nan_stays_in_its_row(randn, device):
    x, weight = randn(3, 300), randn(300)
    x[1, 17] = float("nan")
    out = flashinfer.rmsnorm(x, weight)
    assert out[1].isnan().all() and not out[0].isnan().any() and not out[2].isnan().any()


def test_numpy(check):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        x, weight = rng.standard_normal((4, 128)).astype(dtype), rng.standard_normal(128).astype(dtype)
        out = flashinfer.rmsnorm(x, weight)
        assert isinstance(out, np.ndarray) and out.dtype == dtype
        expected = rmsnorm_reference(torch.tensor(x.astype(np.float64)), torch.tensor(weight.astype(np.float64)))
        check(torch.tensor(out.astype(np.float32)), expected, bound=5e-3)
        residual = x.copy()
        flashinfer.fused_add_rmsnorm(x, residual, weight)
        check(torch.tensor(x.astype(np.float32)), expected, bound=5e-3)


def test_jax(check):
    jnp = pytest.importorskip("jax").numpy
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal((4, 128)), rng.standard_normal(128)
    out = flashinfer.rmsnorm(jnp.asarray(x, dtype=jnp.bfloat16), jnp.asarray(weight, dtype=jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    check(torch.tensor(np.asarray(out, dtype=np.float64)).float(), rmsnorm_reference(torch.tensor(x), torch.tensor(weight)), bound=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("strided", [False, True])
def test_more_than_2_31_elements(check, strided):
    hidden_size, num_rows = 12288, 175000
    weight = torch.randn(hidden_size, dtype=torch.float16, device="cuda")
    if strided:
        x = torch.randn(2**31 + hidden_size, dtype=torch.float16, device="cuda").as_strided((2, hidden_size), (2**31, 1))
    else:
        x = torch.randn(num_rows, hidden_size, dtype=torch.float16, device="cuda")
    rows = [0, len(x) - 1] if strided else [0, 2**31 // hidden_size, 2**31 // hidden_size + 1, num_rows - 1]
    expected = rmsnorm_reference(x[rows], weight)
    residual, total = torch.zeros_like(x), x[rows].double()
    check(flashinfer.rmsnorm(x, weight)[rows], expected)
    flashinfer.fused_add_rmsnorm(x, residual, weight)
    check(x[rows], expected)
    check(residual[rows], total)
