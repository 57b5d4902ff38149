"""softmax, top_p_renorm_probs, top_k_renorm_probs and top_k_mask_logits against float64, sorted where they keep a part of the row."""

import pytest
import torch

import flashinfer
from sampling_reference import distribution, kept_lengths, make_logits

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = ["peaked", "flat", "tied", "masked", "zipf"]
VOCAB_SIZES = [1, 6, 1000, 32000, 128257]
RANKS = [1, 10, 500, 100000]


@pytest.fixture
def rows(generator, device):
    def make(kind, num_rows, vocab_size, dtype=torch.float32, probs=True):
        values = make_logits(kind, num_rows, vocab_size, generator)
        return (torch.softmax(values, -1) if probs else values).to(dtype).to(device)

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_softmax(rows, nans, check, device, dtype, kind, vocab_size):
    logits = rows(kind, 4, vocab_size, dtype, probs=False)
    check(flashinfer.softmax(logits), torch.softmax(logits.double().cpu(), -1), bound=2e-6)
    check(flashinfer.sampling.softmax(logits, 0.3), torch.softmax(logits.double().cpu() / 0.3, -1), bound=2e-6)
    temperature, out = torch.tensor([0.1, 1.0, 2.0, 50.0]), nans(4, vocab_size)
    assert flashinfer.softmax(logits, temperature.to(device), out=out).data_ptr() == out.data_ptr()
    check(out, torch.softmax(logits.double().cpu() / temperature[:, None].double(), -1), bound=4e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -30.0])
@pytest.mark.parametrize("num_rows", [1, 16, 20, 70])  # on a GPU clusters of every kind, which take rows in turn
def test_softmax_of_what_a_sample_misses(rows, check, generator, device, dtype, shift, num_rows):
    """Weights are relative to a sample of the row: a few elements stand above all others, or the others are masked."""
    vocab_size = 32003
    for kind in ("flat", "zipf"):
        logits = rows(kind, num_rows, vocab_size, probs=False).cpu() + shift
        for row, height in enumerate([0, 1, 3, 6, 8, 14, 15, 16, 17, 18, 20, 60, 200, 1e4, 1e30][:num_rows]):
            logits[row, torch.randint(vocab_size, (3,), generator=generator)] += height
        for row, kept in enumerate([1, 3, 50, 2000], 15):
            if row < num_rows:
                mask = torch.ones(vocab_size, dtype=torch.bool)
                mask[torch.randint(vocab_size, (kept,), generator=generator)] = False
                logits[row, mask] = -torch.inf
        logits = logits.to(dtype)
        out = flashinfer.softmax(logits.to(device), 0.9)
        check(out, torch.softmax(logits.double() / 0.9, -1), bound=4e-6)
        assert torch.equal(out[-1], flashinfer.softmax(logits[-1:].to(device), 0.9)[0])  # in clusters of another kind


def test_softmax_in_place_and_strided(rows, check, device):
    wide = rows("zipf", 3, 1100, probs=False)
    kept, view = wide.clone(), wide[:, 3:1002]
    expected = torch.softmax(view.double().cpu(), -1)
    flashinfer.softmax(view, out=view)
    check(view, expected, bound=2e-6)
    assert torch.equal(wide[:, :3], kept[:, :3]) and torch.equal(wide[:, 1002:], kept[:, 1002:])


def test_softmax_of_odd_rows(rows, device):
    inf, nan = float("inf"), float("nan")
    logits = rows("zipf", 6, 3001, probs=False)
    clean = flashinfer.softmax(logits)
    logits[0] = -inf
    logits[1, 77] = nan
    logits[2, :3000] = -inf
    logits[3, 5] = logits[3, 9] = inf
    out = flashinfer.softmax(logits)
    assert not out[0].any() and out[1].isnan().all() and out[2, 3000] == 1 and float(out[2].sum()) == 1
    assert out[3, 5] == 0.5 and out[3, 9] == 0.5 and float(out[3].sum()) == 1
    assert torch.equal(out[4:], clean[4:])
    logits[4, 100] = logits[4, 2000] = logits[4].max() + 1
    assert torch.nonzero(flashinfer.softmax(logits[4:5], 0.0)).tolist() == [[0, 100]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_renorm_probs(rows, dtype, kind, vocab_size, p):
    probs = rows(kind, 3, vocab_size, dtype)
    out = flashinfer.top_p_renorm_probs(probs, p)
    assert out.dtype == torch.float32
    compare(out, probs, top_p=p)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [80, 140])
def test_top_p_renorm_of_many_rows(rows, generator, device, kind, num_rows):
    """A GPU has one or two blocks an SM, for rows that one block holds a part of only: few elements from lists, others from finer sums."""
    probs = rows(kind, num_rows, 40013)
    top_p = torch.rand(num_rows, generator=generator)
    out = flashinfer.top_p_renorm_probs(probs, top_p.to(device))
    assert torch.equal(out.cpu(), flashinfer.top_p_renorm_probs(probs.cpu(), top_p))
    compare(out[:4], probs[:4], top_p=top_p[:4])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [8, 16, 20, 32, 60])  # by clusters of 8, 6, 4 or 5, 6 or 3, 4 or 2 blocks
def test_both_devices_filter_the_same(rows, kind, num_rows):
    probs, logits = rows(kind, num_rows, 70001), rows(kind, num_rows, 70001, probs=False)
    for op, values, parameter in ((flashinfer.top_p_renorm_probs, probs, 0.8), (flashinfer.top_k_renorm_probs, probs, 70),
                                  (flashinfer.top_k_mask_logits, logits, 70), (flashinfer.softmax, logits, 0.7)):
        assert torch.equal(op(values, parameter).cpu(), op(values.cpu(), parameter)), op.__name__


def compare(out, probs, bound=2e-6, **filters):
    exact, out = probs.double().cpu(), out.double().cpu()
    order, least, most = kept_lengths(exact, False, **filters)
    for row in range(len(exact)):
        kept = out[row] > 0
        length = int(kept.sum())
        positive = int((exact[row] > 1e-7 if bound > 1e-5 else exact[row] > 0).sum())
        assert min(int(least[row]), positive) <= length <= int(most[row])
        first = torch.zeros_like(kept)
        first[order[row, :length]] = True
        assert torch.equal(kept, first), "not a prefix of the order"
        expected = torch.where(kept, exact[row], 0.0)
        expected /= expected.sum()
        assert float((out[row] - expected).norm() / expected.norm()) < bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("k", RANKS)
def test_top_k_renorm_probs(rows, dtype, kind, vocab_size, k):
    probs = rows(kind, 3, vocab_size, dtype)
    out = flashinfer.top_k_renorm_probs(probs, k)
    assert out.dtype == dtype
    exact = probs.double().cpu()
    expected = distribution(exact, False, top_k=k)
    assert ((out.cpu() > 0) <= (expected > 0)).all()
    bound = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 5e-3}[dtype]
    assert float((out.double().cpu() - expected).norm() / expected.norm()) < bound
    if dtype == torch.float32:
        assert torch.equal(out.cpu() > 0, expected > 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("k", RANKS)
def test_top_k_mask_logits(rows, nans, dtype, kind, vocab_size, k):
    logits = rows(kind, 3, vocab_size, dtype, probs=False)
    out = nans(3, vocab_size, dtype=dtype)
    flashinfer.top_k_mask_logits(logits, k, out=out)
    order = torch.sort(logits.cpu(), dim=-1, descending=True, stable=True).indices[:, :k]
    expected = torch.full_like(logits.cpu(), -float("inf"))
    expected.scatter_(-1, order, logits.cpu().gather(-1, order))
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_parameters_of_each_row(rows, device, dtype):
    probs, logits = rows("zipf", 5, 2000), rows("tied", 5, 2000, probs=False)
    k = torch.tensor([1, 0, 2000, 77, 5000], dtype=dtype, device=device)
    assert (flashinfer.top_k_renorm_probs(probs, k) > 0).sum(-1).tolist() == [1, 2000, 2000, 77, 2000]
    assert flashinfer.top_k_mask_logits(logits, k).isfinite().sum(-1).tolist() == [1, 2000, 2000, 77, 2000]
    p = torch.tensor([0.2, 1.0, 0.0, 0.9, 0.6], device=device)
    out = flashinfer.top_p_renorm_probs(probs, p)
    compare(out, probs, top_p=p.cpu())
    assert all(torch.equal(flashinfer.top_p_renorm_probs(probs[i : i + 1], float(p[i]))[0], out[i]) for i in range(5))


def test_in_place(rows):
    for op, values, parameter in ((flashinfer.top_p_renorm_probs, rows("zipf", 4, 9001), 0.7), (flashinfer.top_k_renorm_probs, rows("zipf", 4, 9001), 30),
                                  (flashinfer.top_k_mask_logits, rows("zipf", 4, 9001, probs=False), 30), (flashinfer.top_p_renorm_probs, rows("flat", 4, 9001), 1.0)):
        expected = op(values.clone(), parameter)
        op(values, parameter, out=values)
        assert torch.equal(values, expected)


def test_rows_without_a_distribution(rows):
    inf, nan = float("inf"), float("nan")
    probs = rows("zipf", 4, 2500)
    clean = probs.clone()
    probs[0] = 0
    probs[1] = nan
    probs[2, 7] = nan
    for op, parameter in ((flashinfer.top_p_renorm_probs, 0.8), (flashinfer.top_k_renorm_probs, 40), (flashinfer.top_k_renorm_probs, 2500)):
        out = op(probs, parameter)
        assert not out[:2].any() and out[2, 7] == 0 and abs(float(out[2].sum()) - 1) < 1e-5
        assert torch.equal(out[3], op(clean, parameter)[3])
    logits = rows("zipf", 4, 2500, probs=False)
    logits[0] = -inf
    logits[1] = nan
    logits[2, 7] = nan
    logits[3, 9] = inf
    for k in (40, 2500):
        out = flashinfer.top_k_mask_logits(logits, k)
        assert (out[:2] == -inf).all() and out[2, 7] == -inf and out[3, 9] == inf
        assert out.isfinite().sum(-1).tolist() == [0, 0, min(k, 2499), k - 1]


def test_one_result_whatever_the_batch(rows):
    probs, logits = rows("flat", 40, 20001), rows("flat", 40, 20001, probs=False)
    for op, values, parameter in ((flashinfer.top_p_renorm_probs, probs, 0.5), (flashinfer.top_k_renorm_probs, probs, 300), (flashinfer.softmax, logits, 0.8)):
        whole = op(values, parameter)
        assert torch.equal(whole, op(values, parameter))
        for size in (1, 3, 17):
            assert torch.equal(op(values[-size:], parameter), whole[-size:])


def test_no_rows(device):
    empty = torch.empty(0, 50, device=device)
    for out in (flashinfer.softmax(empty), flashinfer.top_p_renorm_probs(empty, 0.5), flashinfer.top_k_renorm_probs(empty, 3), flashinfer.top_k_mask_logits(empty, 3)):
        assert out.shape == (0, 50)


@pytest.mark.parametrize("op", ["top_p_renorm_probs", "top_k_renorm_probs", "min_p_sampling_from_probs"])
def test_texts_that_callers_match(rows, device, op):
    probs, call = rows("flat", 4, 100), getattr(flashinfer.sampling, op)
    kind = dict(dtype=torch.int32 if "top_k" in op else torch.float32, device=device)
    with pytest.raises(ValueError, match=r"Expected a 1D tensor or scalar.*got a 2D tensor"):
        call(probs, torch.ones(4, 100, **kind))
    with pytest.raises(ValueError, match=r"Expected a 1D tensor of shape \(batch_size,\) or scalar.*got a 0-dimensional tensor"):
        call(probs, torch.tensor(1, **kind))
    with pytest.raises(ValueError, match="Sampling parameter tensor batch size mismatch"):
        call(probs, torch.ones(1, **kind))
