"""Gated activations."""

import math

import numpy as np
import pytest
import torch

import flashinfer

OPS = {
    "silu_and_mul": lambda x: x * torch.sigmoid(x),
    "gelu_and_mul": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh_and_mul": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def reference(op, x):
    gate, up = x.double().chunk(2, dim=-1)
    return OPS[op](gate) * up


@pytest.fixture(params=OPS)
def op(request):
    return request.param


@pytest.mark.parametrize("shape", [(8,), (1, 16), (5, 24), (3, 2, 8), (2, 3, 2, 1000), (1, 28672), (300, 512)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_act_and_mul(randn, nans, check, op, dtype, shape):
    x = randn(*shape, dtype=dtype, scale=3.0)
    out = nans(*shape[:-1], shape[-1] // 2, dtype=dtype)
    assert getattr(flashinfer, op)(x, out=out) is out
    check(out, reference(op, x))
    assert torch.equal(getattr(flashinfer.activation, op)(x), out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_gates(device, check, op, dtype):
    """Neither infinity nor NaN where the activation is the identity or zero."""
    gate = torch.tensor([-60000.0, -300.0, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 300.0, 60000.0, -1e-6, 1e-6, -6.0, 6.0, 1.0, -1.0], dtype=dtype, device=device)
    x = torch.cat([gate, torch.full_like(gate, 0.5)])
    check(getattr(flashinfer, op)(x), reference(op, x))


def test_strided_rows(randn, nans, check, op):
    x = randn(4, 3, 80, dtype=torch.bfloat16)[:, 1:, 7:71]
    out = nans(4, 5, 40, dtype=torch.bfloat16)
    getattr(flashinfer, op)(x, out=out[:, 2:4, 3:35])
    check(out[:, 2:4, 3:35], reference(op, x))
    out[:, 2:4, 3:35] = float("nan")
    assert out.isnan().all()


@pytest.mark.parametrize("half", [0, 1])
def test_in_place(randn, check, op, half):
    x = randn(7, 64)
    expected, other = reference(op, x), x.chunk(2, dim=-1)[1 - half].clone()
    out = x.chunk(2, dim=-1)[half]
    getattr(flashinfer, op)(x, out=out)
    check(out, expected)
    assert torch.equal(x.chunk(2, dim=-1)[1 - half], other)


@pytest.mark.parametrize("shape", [(0, 64), (3, 0, 64), (3, 0)])
def test_empty(device, op, shape):
    assert getattr(flashinfer, op)(torch.zeros(shape, device=device)).shape == (*shape[:-1], shape[-1] // 2)


def test_rows_of_no_whole_vectors_are_refused(device, op):
    with pytest.raises(ValueError, match="The pointers must be multiple of 16 bytes."):
        getattr(flashinfer, op)(torch.zeros(2, 6, dtype=torch.float16, device=device))


def test_numpy(check, op):
    x = np.random.default_rng(3).standard_normal((5, 64)).astype(np.float16)
    out = getattr(flashinfer, op)(x)
    assert isinstance(out, np.ndarray) and out.dtype == np.float16
    check(torch.tensor(out), reference(op, torch.tensor(x)))


def test_jax(check, op):
    jnp = pytest.importorskip("jax").numpy
    x = np.random.default_rng(4).standard_normal((5, 64)).astype(np.float32)
    check(torch.tensor(np.asarray(getattr(flashinfer, op)(jnp.asarray(x)))), reference(op, torch.tensor(x)))


@pytest.mark.gpu
def test_more_than_2_31_elements(check, op):
    x = torch.randn(100000, 2 * 11008, dtype=torch.float16, device="cuda")
    rows = [0, 2**31 // x.shape[1], 2**31 // x.shape[1] + 1, len(x) - 1]
    check(getattr(flashinfer, op)(x)[rows], reference(op, x[rows]))
