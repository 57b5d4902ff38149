"""The samplers: what they keep against a sorted float64 reference, how they draw by chi-square, that a draw is a function of seed,
offset and token alone, and every odd row."""

import numpy as np
import pytest
import torch

import flashinfer
from flashinfer import sampling
from sampling_reference import chi_square, distribution, kept_lengths, make_logits, race, weights_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = ["peaked", "flat", "tied", "masked", "zipf"]
FILTERS = {
    "none": {},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "top_k_first": {"top_k": 100, "top_p": 0.6, "min_p": 0.01},
    "joint": {"top_k": 200, "top_p": 0.6, "joint": True},
    "k=1": {"top_k": 1},
    "p=0": {"top_p": 0.0},
    "min_p=1": {"min_p": 1.0},
    "p=0.999": {"top_p": 0.999},
    "half": {"top_k": 10**6, "top_p": 0.5},
}


def draw(values, from_logits, top_k=None, top_p=None, min_p=None, joint=False, **kwargs):
    """Any combination of filters, through the function that takes them all; None is no filter."""
    order = "joint" if joint else "top_k_first"
    if from_logits:
        return sampling.top_k_top_p_sampling_from_logits(values, top_k, top_p, filter_apply_order=order, min_p=min_p, **kwargs)
    return sampling.top_k_top_p_sampling_from_probs(values, top_k, top_p, filter_apply_order=order, min_p=min_p, **kwargs)


@pytest.fixture
def rows(generator, device):
    """rows(kind, num_rows, vocab_size, from_logits, dtype): values as the op gets them."""

    def make(kind, num_rows, vocab_size, from_logits=True, dtype=torch.float32):
        values = make_logits(kind, num_rows, vocab_size, generator)
        return (values if from_logits else torch.softmax(values, -1)).to(dtype).to(device)

    return make


# ------------------------------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [1, 5, 1000, 32000, 128257])
def test_kept_tokens(rows, from_logits, filters, kind, dtype, vocab_size):
    filters = FILTERS[filters]
    values = rows(kind, 3, vocab_size, from_logits, dtype)
    tokens, valid, probs = draw(values, from_logits, **filters, seed=5, return_valid=True, return_probs=True)
    exact = values.double().cpu()
    order, least, most = kept_lengths(exact, from_logits, **filters)
    weights = weights_of(exact, from_logits)
    for row in range(3):
        kept = probs[row].cpu() > 0
        positive = weights[row, order[row]] > 1e-30
        length = int(kept.sum())
        assert min(int(least[row]), int(positive.sum())) <= length <= int(most[row])
        first = torch.zeros_like(kept)
        first[order[row, :length]] = True
        assert torch.equal(kept, first), "not a prefix of the order"
        expected = torch.where(kept, weights[row], 0.0)
        assert float((probs[row].cpu().double() - expected / expected.sum()).norm() / (expected / expected.sum()).norm()) < 2e-6
        assert kept[tokens[row]] and valid[row]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sum_of_row", [1.0, 40.0, 1e-3])
@pytest.mark.parametrize("num_rows", [70, 140, 300])
def test_top_p_of_many_rows(rows, generator, device, kind, sum_of_row, num_rows):
    """A GPU lists what top_p may keep, if a sample says that it is few: right where the sample is wrong, or the row does not sum to one."""
    probs = rows(kind, num_rows, 20011, from_logits=False) * sum_of_row
    top_p = torch.rand(num_rows, generator=generator)
    draws = [sampling.top_p_sampling_from_probs(probs, top_p.to(device), seed=seed).cpu() for seed in range(4)]
    order, _, most = kept_lengths(probs.double().cpu(), False, top_p=top_p)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1]).expand_as(order))
    for seed, tokens in enumerate(draws):
        assert (place.gather(-1, tokens.long()[:, None])[:, 0] < most).all()
        assert torch.equal(tokens, sampling.top_p_sampling_from_probs(probs.cpu(), top_p, seed=seed))


def test_parameters_of_each_row(rows, device):
    values = rows("zipf", 6, 5000)
    parameters = {
        "top_k": torch.tensor([0, 3, 1, 5000, 70, -1]),
        "top_p": torch.tensor([0.5, 1.0, 0.9, 0.0, 0.3, 1.0]),
        "min_p": torch.tensor([0.0, 0.2, 0.0, 0.0, 0.01, 1.0]),
    }
    temperature = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0, 1.3])
    on_device = {name: value.to(device) for name, value in parameters.items()}
    _, probs = draw(values, True, **on_device, temperature=temperature.to(device), seed=1, return_probs=True)
    expected = distribution(values.double().cpu(), True, temperature, **parameters)
    assert float((probs.cpu().double() - expected).abs().max()) < 1e-6
    for row in range(6):
        alone = {name: value[row].item() for name, value in parameters.items()}
        alone["top_k"] = alone["top_k"] if alone["top_k"] > 0 else None
        _, one = draw(values[row : row + 1], True, **alone, temperature=float(temperature[row]), seed=1, return_probs=True)
        assert torch.equal(one[0], probs[row])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_parameters_of_other_dtypes(rows, device, dtype):
    values = rows("flat", 3, 300, False)
    ones = torch.ones(3, dtype=dtype, device=device)
    expected = sampling.top_p_sampling_from_probs(values, 1.0, seed=3)
    assert torch.equal(sampling.top_p_sampling_from_probs(values, ones, seed=3), expected)
    ks = torch.tensor([5, 6, 7], dtype=torch.int64, device=device)
    assert torch.equal(sampling.top_k_sampling_from_probs(values, ks, seed=3), sampling.top_k_sampling_from_probs(values, ks.int(), seed=3))


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_strides(rows, offset, dtype):
    wide = rows("peaked", 4, 3000, dtype=dtype)
    view = wide[:, offset : offset + 2047]
    for filters in ({}, {"top_k": 20}, {"top_p": 0.8}):
        got, want = (draw(v, True, **filters, seed=9, return_probs=True) for v in (view, view.contiguous()))
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_ties_by_lower_index(device):
    values = torch.zeros(2, 999, device=device)
    values[:, 100:400] = 1.0
    values[1, ::2] = -0.0  # equal to 0
    orders = [[*range(100, 400), *range(100), *range(400, 999)], [*range(101, 400, 2)]]
    orders[1] += [i for i in range(999) if i not in orders[1]]
    for k in (1, 7, 149, 150, 151, 299, 300, 301, 998):
        _, probs = draw(values, True, top_k=k, seed=0, return_probs=True)
        for row in range(2):
            assert torch.nonzero(probs[row].cpu())[:, 0].tolist() == sorted(orders[row][:k])
    assert draw(values, True, top_k=1, seed=0).tolist() == [100, 101]


def test_whole_vocabulary_is_no_filter(rows):
    for from_logits in (True, False):
        values = rows("zipf", 5, 4001, from_logits)
        plain = draw(values, from_logits, seed=11, return_probs=True)
        for filters in ({"top_k": 4001}, {"top_k": 1 << 40}, {"top_p": 1.0}, {"top_k": 4001, "top_p": 1.0, "min_p": 0.0}):
            assert all(torch.equal(a, b) for a, b in zip(plain, draw(values, from_logits, **filters, seed=11, return_probs=True)))


# -------------------------------------------------------------------------------------------------------------------------- how it draws

SAMPLERS = {
    "from_logits": (True, {}, lambda x, **kw: sampling.sampling_from_logits(x, **kw)),
    "from_probs": (False, {}, lambda x, **kw: sampling.sampling_from_probs(x, **kw)),
    "top_p": (False, {"top_p": 0.8}, lambda x, **kw: sampling.top_p_sampling_from_probs(x, 0.8, **kw)),
    "top_k": (False, {"top_k": 40}, lambda x, **kw: sampling.top_k_sampling_from_probs(x, 40, **kw)),
    "min_p": (False, {"min_p": 0.1}, lambda x, **kw: sampling.min_p_sampling_from_probs(x, 0.1, **kw)),
    "top_k_first": (True, {"top_k": 60, "top_p": 0.7}, lambda x, **kw: sampling.top_k_top_p_sampling_from_logits(x, 60, 0.7, **kw)),
    "joint": (False, {"top_k": 60, "top_p": 0.7, "joint": True},
              lambda x, **kw: sampling.top_k_top_p_sampling_from_probs(x, 60, 0.7, filter_apply_order="joint", **kw)),
}
NUM_DRAWS = 1_000_000


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_distribution(rows, device, sampler, kind):
    from_logits, filters, op = SAMPLERS[sampler]
    values = rows(kind, 1, 333, from_logits)
    tokens = op(values, indices=torch.zeros(NUM_DRAWS, dtype=torch.int32, device=device), seed=20261123)
    deviations = chi_square(tokens, distribution(values.double().cpu(), from_logits, **filters)[0])
    assert deviations < 5, f"{deviations:.1f} standard deviations"


def test_distribution_test_can_fail(rows, device):
    """Another distribution, 5 % off in some of its tail, is found out."""
    values = rows("zipf", 1, 333, False)
    tokens = sampling.sampling_from_probs(values, indices=torch.zeros(NUM_DRAWS, dtype=torch.int32, device=device), seed=1)
    other = distribution(values.double().cpu(), False)[0]
    other[other < other.quantile(0.9)] *= 1.05
    assert chi_square(tokens, other / other.sum()) > 5


@pytest.mark.parametrize("by_offset", [False, True])
def test_distribution_over_seeds(rows, device, by_offset):
    """One draw from each of many seeds, or of many offsets of one seed, as the steps of requests make them."""
    values = rows("zipf", 1, 200, False)
    counts = torch.arange(NUM_DRAWS // 4, device=device)
    seed, offset = (torch.full_like(counts, 77), counts * 4) if by_offset else (counts, torch.zeros_like(counts))
    tokens = sampling.top_k_sampling_from_probs(values, 150, indices=torch.zeros_like(counts), seed=seed, offset=offset)
    assert chi_square(tokens, distribution(values.double().cpu(), False, top_k=150)[0]) < 5


def test_large_vocabulary_reaches_rare_tokens(device):
    """Half the mass lies in 2^17 tokens of 2^-18 each: half the draws, spread evenly."""
    probs = torch.full((1, 2**17 + 1), 2.0**-18, device=device)
    probs[0, 0] = 0.5
    count = 20000
    tokens = sampling.sampling_from_probs(probs, indices=torch.zeros(count, dtype=torch.int32, device=device), seed=4).cpu()
    rare = tokens[tokens > 0]
    assert abs(len(rare) - count / 2) < 5 * (count / 4) ** 0.5
    assert abs(float(rare.double().mean()) / 2**16 - 1) < 5 * (1 / 3 / len(rare)) ** 0.5
    assert len(rare.unique()) > 0.9 * len(rare)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("filters", ["none", "top_k", "top_p", "min_p", "joint"])
@pytest.mark.parametrize("vocab_size", [7, 1001, 50257])
def test_draw_is_the_race(rows, device, from_logits, filters, vocab_size):
    """The token is the winner of the documented race, computed with NumPy: the same on every device."""
    num_rows, filters = 6, FILTERS[filters]
    values = rows("flat", num_rows, vocab_size, from_logits)
    exact = distribution(values.double().cpu(), from_logits, **filters).numpy()
    seed, offset = 2**63 + 12345, 2**33 + 8
    tokens = draw(values, from_logits, **filters, seed=seed, offset=offset)
    assert tokens.tolist() == [race(exact[row], seed, offset, row) for row in range(num_rows)]
    seeds = torch.arange(num_rows) * 1000 - 3
    tokens = draw(values, from_logits, **filters, seed=seeds.to(device), offset=offset)
    assert tokens.tolist() == [race(exact[row], int(seeds[row]), offset, 0) for row in range(num_rows)]


def test_seeded_rows_do_not_depend_on_the_batch(rows, generator, device):
    values = rows("zipf", 33, 20011)
    seed, offset = torch.randint(2**62, (33,), generator=generator).to(device), torch.arange(33, device=device) * 4
    top_k, top_p = torch.randint(1, 2000, (33,), generator=generator).int().to(device), torch.rand(33, generator=generator).to(device)
    everything = dict(return_logprobs=True, num_top_logprobs=5, return_probs=True, return_valid=True)
    batch = draw(values, True, top_k=top_k, top_p=top_p, seed=seed, offset=offset, **everything)
    again = draw(values, True, top_k=top_k, top_p=top_p, seed=seed, offset=offset, **everything)
    assert all(torch.equal(a, b) for a, b in zip(batch, again))
    for size in (1, 2, 5, 16):
        chosen = torch.randperm(33, generator=generator)[:size].to(device)
        some = draw(values[chosen], True, top_k=top_k[chosen], top_p=top_p[chosen], seed=seed[chosen], offset=offset[chosen], **everything)
        assert all(torch.equal(a, b[chosen]) for a, b in zip(some, batch))
    picked = draw(values, True, top_k=top_k, top_p=top_p, seed=seed, offset=offset, indices=torch.arange(33, device=device), **everything)
    assert all(torch.equal(a.long(), b.long()) if a.dtype == torch.int64 else torch.equal(a, b) for a, b in zip(picked, batch))


def test_filters_do_not_change_a_winner_that_they_keep(rows):
    values = rows("zipf", 200, 3000)
    free = draw(values, True, seed=6)
    for filters in ({"top_k": 100}, {"top_p": 0.8}, {"min_p": 0.02}):
        tokens, probs = draw(values, True, **filters, seed=6, return_probs=True)
        survives = probs.gather(-1, free.long()[:, None])[:, 0] > 0
        assert 10 < int(survives.sum()) < 200
        assert torch.equal(tokens[survives], free[survives])


def test_logits_and_probabilities_draw_the_same(rows):
    values = rows("zipf", 100, 20000)
    probs = torch.softmax(values, -1)
    for filters in ({}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 1000, "top_p": 0.7, "joint": True}):
        assert torch.equal(draw(values, True, **filters, seed=8), draw(probs, False, **filters, seed=8))


def test_seeds_and_offsets_matter(rows, device):
    values = rows("flat", 500, 1000, False)
    base = sampling.sampling_from_probs(values, seed=1, offset=0)
    for other in (dict(seed=2, offset=0), dict(seed=1, offset=1), dict(seed=1, offset=2**32), dict(seed=1 + 2**32, offset=0)):
        assert float((sampling.sampling_from_probs(values, **other) == base).float().mean()) < 0.05
    shared = torch.tensor([1], device=device)
    assert torch.equal(sampling.sampling_from_probs(values, seed=shared, offset=shared - 1), base)
    assert torch.equal(sampling.sampling_from_probs(values, seed=shared.view(torch.uint64), offset=0), base)
    assert float((base[1:] == base[:-1]).float().mean()) < 0.05


def test_generators(rows, device):
    values = rows("flat", 50, 1000, False)
    first, second = torch.Generator(device).manual_seed(3), torch.Generator(device).manual_seed(3)
    a, b = sampling.sampling_from_probs(values, generator=first), sampling.sampling_from_probs(values, generator=first)
    assert not torch.equal(a, b), "the generator did not move on"
    assert torch.equal(sampling.sampling_from_probs(values, generator=second), a)
    assert torch.equal(sampling.top_p_sampling_from_probs(values, 1.0, generator=second), b)
    torch.manual_seed(17)
    a, b = sampling.sampling_from_logits(values), sampling.sampling_from_logits(values)
    torch.manual_seed(17)
    assert torch.equal(sampling.sampling_from_logits(values), a) and torch.equal(sampling.sampling_from_logits(values), b)
    with pytest.raises(flashinfer.InvalidArgument):
        sampling.sampling_from_probs(values, num_top_logprobs=-1)  # refused: the generator is where it was
    torch.manual_seed(17)
    with pytest.raises(flashinfer.InvalidArgument):
        sampling.sampling_from_probs(values, num_top_logprobs=-1)
    assert torch.equal(sampling.sampling_from_logits(values), a)


# ---------------------------------------------------------------------------------------------------------------------- other outputs


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs(rows, from_logits, filters, kind):
    filters, n = FILTERS[filters], 20
    values = rows(kind, 4, 10007, from_logits)
    exact = values.double().cpu()
    order = kept_lengths(exact, from_logits)[0]
    for raw in (False, True):
        tokens, logprobs, top_tokens, top_logprobs, probs = draw(values, from_logits, **filters, seed=2, return_logprobs=True, num_top_logprobs=n,
                                                                 raw_logprobs=raw, return_probs=True)
        expected = torch.log(distribution(exact, from_logits) if raw else probs.double().cpu())
        assert torch.allclose(logprobs.cpu().double(), expected.gather(-1, tokens.cpu().long()[:, None])[:, 0], atol=3e-6)
        assert torch.equal(top_tokens.cpu().long(), order[:, :n])
        assert torch.allclose(top_logprobs.cpu().double(), expected.gather(-1, order[:, :n]), atol=3e-6)


def test_temperature(rows):
    values = rows("zipf", 4, 3000)
    for temperature in (0.1, 0.7, 1.0, 3.0):
        _, probs = sampling.sampling_from_logits(values, temperature=temperature, seed=1, return_probs=True)
        assert torch.allclose(probs.cpu().double(), torch.softmax(values.double().cpu() / temperature, -1), atol=1e-6)
    tokens, logprobs = sampling.sampling_from_logits(values, temperature=0, seed=1, return_logprobs=True, raw_logprobs=True)
    assert torch.equal(tokens.long(), values.argmax(-1))
    assert torch.allclose(logprobs.cpu().double(), torch.log_softmax(values.double().cpu(), -1).max(-1).values, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_indices(rows, device, dtype):
    values = rows("peaked", 5, 4000, False)
    indices = torch.tensor([4, 0, 0, 3, 2, 4, 1], dtype=dtype, device=device)
    seed = torch.arange(7, device=device)
    tokens, probs = sampling.top_k_sampling_from_probs(values, 30, indices=indices, seed=seed, return_probs=True)
    again, same = sampling.top_k_sampling_from_probs(values[indices.long()], 30, seed=seed, return_probs=True)
    assert tokens.dtype == dtype and torch.equal(tokens.int(), again) and torch.equal(probs, same)
    k = torch.tensor([1, 2, 3, 4, 5], dtype=torch.int32, device=device)  # of the input's rows
    _, probs = sampling.top_k_sampling_from_probs(values, k, indices=indices, seed=1, return_probs=True)
    assert (probs > 0).sum(-1).tolist() == [5, 1, 1, 4, 3, 5, 2]
    wild = torch.tensor([-7, 99, 2**31 - 1], dtype=dtype, device=device)
    tokens = sampling.sampling_from_probs(values, indices=wild, seed=1)
    assert ((tokens >= 0) & (tokens < 4000)).all()


# -------------------------------------------------------------------------------------------------------------------------- odd rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("vocab_size", [3, 1003, 30001])
def test_rows_without_a_distribution(rows, dtype, filters, vocab_size):
    nan, inf = float("nan"), float("inf")
    for from_logits in (True, False):
        values = rows("zipf", 8, vocab_size, from_logits, dtype)
        clean = values.clone()
        values[1] = nan
        values[3, vocab_size // 2] = nan
        values[4] = -inf if from_logits else 0.0
        values[6, -1] = nan
        everything = dict(return_valid=True, return_logprobs=True, num_top_logprobs=2, return_probs=True)
        tokens, valid, logprobs, top_tokens, top_logprobs, probs = draw(values, from_logits, **FILTERS[filters], seed=4, **everything)
        assert valid.tolist() == [True, False, True, False, False, True, False, True]
        for row in (1, 3, 4, 6):
            assert tokens[row] == 0 and logprobs[row] == -inf and (top_tokens[row] == 0).all() and (top_logprobs[row] == -inf).all()
            assert not probs[row].any()
        expected = draw(clean, from_logits, **FILTERS[filters], seed=4, **everything)
        for row in (0, 2, 5, 7):
            assert all(torch.equal(a[row], b[row]) for a, b in zip((tokens, valid, logprobs, top_tokens, top_logprobs, probs), expected))


@pytest.mark.parametrize("filters", FILTERS)
def test_infinite_logits(rows, device, filters):
    values = rows("zipf", 4, 5000)
    values[0, 17] = values[0, 4001] = float("inf")
    values[1, 100:] = -float("inf")
    values[2] = -float("inf")
    values[2, 4999] = -3e38
    tokens, valid, logprobs, top_tokens, top_logprobs = draw(values, True, **FILTERS[filters], seed=4, return_valid=True, return_logprobs=True,
                                                             num_top_logprobs=3)
    assert valid.all() and tokens[0] in (17, 4001) and tokens[1] < 100 and tokens[2] == 4999
    assert top_tokens[0, :2].tolist() == [17, 4001] and top_tokens[2].tolist() == [4999, 0, 1] and logprobs[2] == 0
    assert top_logprobs[2].tolist() == [0, -float("inf"), -float("inf")]


def test_unnormalised_and_negative_probabilities(rows):
    probs = rows("zipf", 5, 3000, False)
    for filters in ({}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.1}):
        expected = draw(probs, False, **filters, seed=3, return_probs=True)
        for scale in (2.0**-40, 2.0**20):
            got = draw(probs * scale, False, **filters, seed=3, return_probs=True)
            assert all(torch.equal(a, b) for a, b in zip(got, expected))
    probs[:, ::2] = -1.0
    tokens = draw(probs, False, seed=3)
    assert (tokens % 2 == 1).all()


def test_one_hot(device):
    probs = torch.zeros(6, 700, device=device)
    hot = torch.tensor([0, 699, 350, 1, 2, 3], device=device)
    probs[torch.arange(6, device=device), hot] = 1
    for filters in FILTERS.values():
        assert torch.equal(draw(probs, False, **filters, seed=1).long(), hot)


def test_check_nan(rows):
    values = rows("flat", 3, 50, False)
    sampling.sampling_from_probs(values, check_nan=True)
    values[1, 3] = float("nan")
    with pytest.raises(ValueError, match="Input probs contains NaN"):
        sampling.sampling_from_probs(values, check_nan=True)
    with pytest.raises(ValueError, match="Input logits contains NaN"):
        sampling.top_k_top_p_sampling_from_logits(values, 3, 0.5, check_nan=True)


def test_no_rows(device):
    assert sampling.sampling_from_probs(torch.empty(0, 100, device=device)).shape == (0,)
    tokens, probs = sampling.top_p_sampling_from_probs(torch.ones(3, 100, device=device), 0.5, indices=torch.empty(0, dtype=torch.int64, device=device),
                                                       return_probs=True)
    assert tokens.shape == (0,) and tokens.dtype == torch.int64 and probs.shape == (0, 100)


def test_other_frameworks():
    rng = np.random.default_rng(2)
    probs = rng.random((4, 1000), dtype=np.float32)
    tokens, valid = sampling.top_k_sampling_from_probs(probs, 10, seed=7, return_valid=True)
    assert isinstance(tokens, np.ndarray) and tokens.dtype == np.int32 and valid.dtype == np.bool_ and valid.all()
    assert tokens.tolist() == sampling.top_k_sampling_from_probs(torch.from_numpy(probs), 10, seed=7).tolist()
    assert ((0 <= (drawn := sampling.sampling_from_probs(probs))) & (drawn < 1000)).all()
    jnp = pytest.importorskip("jax").numpy
    assert np.asarray(sampling.top_k_sampling_from_probs(jnp.asarray(probs), 10, seed=7)).tolist() == tokens.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("num_rows,vocab_size", [(8, 70001), (16, 50021), (24, 50021), (32, 50021), (64, 32003)])  # by clusters of 8, 6, 4, 6, 2 blocks
def test_both_devices_draw_the_same(generator, filters, num_rows, vocab_size):
    for kind in KINDS:
        for from_logits in (True, False):
            values = make_logits(kind, num_rows, vocab_size, generator)
            values = (values if from_logits else torch.softmax(values, -1)).float()
            assert draw(values.cuda(), from_logits, **FILTERS[filters], seed=5).tolist() == draw(values, from_logits, **FILTERS[filters], seed=5).tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("in_graph", [False, True])
def test_launches_beside_each_other_keep_the_order_of_calls(generator, in_graph):
    """Rows of all three kernels, launched to overlap: they read what was written just before the call, which is overwritten just after."""
    num_rows, vocab_size, calls = 48, 40000, 12
    logits = make_logits("zipf", num_rows * calls, vocab_size, generator).float().view(calls, num_rows, vocab_size)
    top_k = torch.tensor([0, 1, 20, 500, 600, 3000]).repeat(num_rows * calls // 6)[torch.randperm(num_rows * calls, generator=generator)]
    top_k = top_k.view(calls, num_rows).int()
    top_p = torch.rand(calls, num_rows, generator=generator) * 0.9 + 0.1
    on_gpu = [x.cuda() for x in (logits, top_k, top_p)]
    inputs = [torch.empty_like(x[0]) for x in on_gpu]
    tokens = torch.full((calls, num_rows), -1, dtype=torch.int32, device="cuda")

    def run():
        for i in range(calls):
            for to, source in zip(inputs, on_gpu):
                to.copy_(source[i])
            tokens[i] = sampling.top_k_top_p_sampling_from_logits(*inputs, seed=3, offset=i)
        for to in inputs:
            to.zero_()

    run()
    if in_graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        for _ in range(3):
            tokens.fill_(-1)
            graph.replay()
    expected = [sampling.top_k_top_p_sampling_from_logits(logits[i], top_k[i], top_p[i], seed=3, offset=i) for i in range(calls)]
    assert torch.equal(tokens.cpu(), torch.stack(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("in_graph", [False, True])
def test_calls_end_with_all_of_their_launches(in_graph):
    """Launches of a call that find nothing to draw end at once, but not the call: the next kernel, which begins before this one has ended,
    may overwrite what the others still read."""
    logits = torch.randn(100, 1 << 18, device="cuda", generator=torch.Generator("cuda").manual_seed(5))  # an SM a row, and some are free
    inputs, tokens = torch.empty_like(logits), torch.empty(len(logits), dtype=torch.int32, device="cuda")
    zeros, ones = torch.zeros_like(logits).view(-1, 4096), torch.ones(4096, device="cuda")
    top_k, top_p = torch.full((len(logits),), 20, device="cuda", dtype=torch.int32), torch.full((len(logits),), 0.9, device="cuda")

    def run():
        inputs.copy_(logits)
        drawn = sampling.top_k_top_p_sampling_from_logits(inputs, top_k, top_p, seed=3)
        flashinfer.rmsnorm(zeros, ones, out=inputs.view(-1, 4096), enable_pdl=True)
        tokens.copy_(drawn)

    run()
    if in_graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        graph.replay()
    assert not inputs.any()
    expected = sampling.top_k_top_p_sampling_from_logits(logits.cpu(), 20, 0.9, seed=3)
    assert torch.equal(tokens.cpu(), expected)


@pytest.mark.gpu
def test_graph_draws_anew(generator):
    """A captured call reads seed and offset on the device, each time it is replayed."""
    values = make_logits("flat", 64, 3000, generator).float().cuda()
    seed, offset = torch.zeros(64, dtype=torch.int64, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
    draw(values, True, top_k=50, seed=seed, offset=offset)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = draw(values, True, top_k=50, seed=seed, offset=offset)
    for step in range(3):
        seed.copy_(torch.arange(64) + step)
        offset.fill_(step)
        graph.replay()
        assert torch.equal(tokens, draw(values, True, top_k=50, seed=seed.clone(), offset=step))


@pytest.mark.gpu
def test_graph_without_seed(generator):
    """A captured call draws anew at every replay, as torch's own do: from the default generator, or one that the graph knows."""
    values = torch.zeros(64, 3000, device="cuda")
    mine = torch.Generator("cuda").manual_seed(5)
    call = lambda: [sampling.sampling_from_logits(values, generator=g) for g in (None, mine)] + [draw(values, True, top_k=50)]
    call()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(mine)
    with torch.cuda.graph(graph):
        captured = call()
    seen = []
    for _ in range(3):
        graph.replay()
        seen += [t.tolist() for t in captured]
    assert len({tuple(t) for t in seen}) == len(seen)
    assert all(0 <= token < 3000 for tokens in seen for token in tokens)
    torch.cuda.manual_seed(11), mine.manual_seed(12)
    graph.replay()
    once = [t.tolist() for t in captured]
    torch.cuda.manual_seed(11), mine.manual_seed(12)
    graph.replay()
    assert [t.tolist() for t in captured] == once


# ------------------------------------------------------------------------------------------------------------------------ speculative


def test_speculative_tokens_are_distributed_as_the_target(generator, device):
    vocab_size, steps, count = 50, 2, 100_000
    draft = torch.softmax(make_logits("flat", steps, vocab_size, generator) * 8, -1)
    target = torch.softmax(make_logits("flat", steps + 1, vocab_size, generator) * 8, -1)
    drafted = torch.stack([torch.multinomial(draft[i], count, replacement=True, generator=generator) for i in range(steps)], 1)
    spread = lambda p: p.float()[None].expand(count, -1, -1).to(device)
    tokens, accepted, emitted = sampling.chain_speculative_sampling(spread(draft), drafted.to(device), spread(target), seed=5)
    tokens, accepted, emitted = tokens.cpu(), accepted.cpu(), emitted.cpu()
    for i in range(steps + 1):
        reached = emitted >= i  # position i was decided with target i
        assert chi_square(tokens[reached, i], target[i].float().double() / target[i].float().double().sum()) < 5
    rates = [float(torch.minimum(draft[i], target[i]).sum()) for i in range(steps)]
    assert abs(float(accepted.double().mean()) - sum(rates)) < 0.01
    assert abs(float((emitted >= 1).double().mean()) - rates[0]) < 0.01
    assert ((tokens >= 0).sum(-1) == emitted + 1).all()
    assert ((tokens == -1) == (torch.arange(steps + 1) > emitted[:, None])).all()
    assert (tokens[:, :steps] == drafted)[torch.arange(steps) < emitted[:, None]].all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_speculative_race_and_counts(generator, device, dtype):
    batch, steps, vocab_size, seed, offset = 40, 3, 1003, 99, 8
    draft = torch.softmax(torch.randn(batch, steps, vocab_size, generator=generator), -1)
    target = torch.softmax(torch.randn(batch, steps + 1, vocab_size, generator=generator), -1)
    drafted = torch.stack([torch.multinomial(draft[b], 1, generator=generator)[:, 0] for b in range(batch)])
    counts = [torch.full((batch,), 10, dtype=torch.int32, device=device) for _ in range(2)]
    tokens, accepted, emitted = sampling.chain_speculative_sampling(draft.to(device), drafted.to(dtype).to(device), target.to(device), *counts, seed=seed, offset=offset)
    assert accepted.data_ptr() == counts[0].data_ptr() and emitted.data_ptr() == counts[1].data_ptr()
    for b in range(batch):
        n = int(emitted[b]) - 10
        weights = target[b, n].double() - (draft[b, n].double() if n < steps else 0)
        assert int(tokens[b, n]) == race(weights.clamp_min(0).numpy(), seed, offset, b, n)
        assert n <= int(accepted[b]) - 10 <= steps


def test_speculative_sure_steps(device):
    target = torch.zeros(1, 3, 20, device=device)
    target[0, 0, 4] = target[0, 1, 5] = target[0, 2, 6] = 1
    draft = torch.full((1, 2, 20), 0.05, device=device)
    run = lambda ids: [t.tolist()[0] for t in sampling.chain_speculative_sampling(draft, torch.tensor([ids], device=device), target, seed=0)]
    assert run([4, 5]) == [[4, 5, 6], 2, 2]
    assert run([4, 9]) == [[4, 5, -1], 1, 1]
    assert run([9, 5]) == [[4, -1, -1], 1, 0]
    assert run([-1, 20]) == [[4, -1, -1], 0, 0]
    assert [t.shape for t in sampling.chain_speculative_sampling(draft[:, :0], torch.empty(1, 0, dtype=torch.int32, device=device), target[:, :1], seed=0)] == [(1, 1), (1,), (1,)]
