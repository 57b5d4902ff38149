"""packbits and segment_packbits against NumPy."""

import numpy as np
import pytest
import torch

import flashinfer


@pytest.mark.parametrize("bitorder", ["big", "little"])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 999, 5000, 131072, 999999])
def test_packbits(generator, device, n, bitorder):
    x = (torch.rand(n, generator=generator) < 0.5).to(device)
    y = flashinfer.packbits(x, bitorder)
    assert y.dtype == torch.uint8 and y.device == x.device
    assert np.array_equal(y.cpu().numpy(), np.packbits(x.cpu().numpy(), bitorder=bitorder))


def test_big_is_the_default_and_bytes_count_as_booleans(device):
    x = torch.tensor([2, 0, 255, 1, 0, 0, 128, 64, 1], dtype=torch.uint8, device=device)
    assert flashinfer.packbits(x).tolist() == [0b10110011, 0b10000000]
    assert flashinfer.quantization.packbits(x, "little").tolist() == [0b11001101, 0b1]


@pytest.mark.parametrize("bitorder", ["big", "little"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("lens", [[], [0], [13], [0, 3, 0, 8, 0], list(range(100)), [200000, 1, 70001]], ids=str)
def test_segment_packbits(generator, device, lens, index, bitorder):
    indptr = torch.tensor([0, *np.cumsum(lens)], dtype=index)
    x = torch.rand(sum(lens), generator=generator) < 0.5
    y, packed = flashinfer.segment_packbits(x.to(device), indptr.to(device), bitorder)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [0, *np.cumsum([(n + 7) // 8 for n in lens])]
    parts = [np.packbits(x[a:b].numpy(), bitorder=bitorder) for a, b in zip(indptr, indptr[1:])]
    assert np.array_equal(y.cpu().numpy(), np.concatenate([np.zeros(0, np.uint8), *parts]))


def test_segments_may_leave_a_rest(device):
    x = torch.ones(20, dtype=torch.bool, device=device)
    y, packed = flashinfer.segment_packbits(x, torch.tensor([0, 3, 11], device=device))
    assert y.tolist() == [0b11100000, 0b11111111] and packed.tolist() == [0, 1, 2]


def test_numpy_and_jax():
    x = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1], dtype=bool)
    assert np.array_equal(flashinfer.packbits(x), np.packbits(x))
    y, packed = flashinfer.segment_packbits(x, np.array([0, 4, 9]))
    assert y.tolist() == [0b10110000, 0b00111000] and packed.tolist() == [0, 1, 2]
    import jax.numpy as jnp

    y = flashinfer.packbits(jnp.asarray(x), "little")
    assert isinstance(y, type(jnp.zeros(1))) and y.tolist() == np.packbits(x, bitorder="little").tolist()


def test_bitorder_in_the_words_that_callers_match():
    with pytest.raises(ValueError, match="bitorder must be 'big' or 'little'"):
        flashinfer.packbits(torch.ones(8, dtype=torch.bool), "middle")
