"""What sampling must keep and draw, in float64 by sorting, and the race of include/flashinfer/sampling/sampling_params.hpp in NumPy."""

import numpy as np
import torch


def make_logits(kind, num_rows, vocab_size, generator):
    """peaked: a few tokens have nearly all mass. flat: hardly any structure. tied: few distinct values. masked: -inf but for 150 tokens that
    lie together. zipf: like a language model's."""
    normal = torch.randn(num_rows, vocab_size, generator=generator, dtype=torch.float64)
    if kind == "peaked":
        return normal * 4
    if kind == "flat":
        return normal * 0.1
    if kind == "tied":
        return (normal * 1.5).round()
    if kind == "masked":
        first = torch.randint(max(vocab_size - 150, 1), (num_rows, 1), generator=generator)
        place = torch.arange(vocab_size) - first
        return torch.where((place >= 0) & (place < 150), normal * 2, -torch.inf)
    ranks = torch.stack([torch.randperm(vocab_size, generator=generator) for _ in range(num_rows)]).double()
    return -1.1 * torch.log(ranks + 1) + normal * 0.05


def weights_of(values, from_logits, temperature=1.0):
    """float64 weights relative to the row's largest, of float64 values [num_rows, vocab_size]."""
    if not from_logits:
        return values.clamp_min(0) / values.max(-1, keepdim=True).values
    temperature = torch.as_tensor(temperature, dtype=torch.float64).reshape(-1, 1)
    greedy = temperature <= 0
    return torch.exp((values - values.max(-1, keepdim=True).values) / torch.where(greedy, 1.0, temperature))


def per_row(value, num_rows, off):
    return torch.full((num_rows,), float(off if value is None else 0)) + torch.as_tensor(off if value is None else value).double().cpu()


def kept_lengths(values, from_logits, temperature=1.0, top_k=None, top_p=None, min_p=None, joint=False):
    """(order, least, most): tokens of each row in order, and how long the kept prefix may be: more than one length where the mass is so
    near what top_p or min_p wants that float32 weights decide."""
    num_rows, vocab_size = values.shape
    order = torch.sort(values, dim=-1, descending=True, stable=True).indices
    weights = weights_of(values, from_logits, temperature).gather(-1, order)
    k = per_row(top_k, num_rows, vocab_size).long()
    k = torch.where(k <= 0, vocab_size, k).clamp_max(vocab_size)
    if from_logits:
        k = torch.where(torch.as_tensor(temperature).double().cpu().expand(num_rows) <= 0, 1, k)
    p, m = per_row(top_p, num_rows, 1.0), per_row(min_p, num_rows, 0.0)
    ends = []
    for slack in (-3e-6, 3e-6):
        length = torch.minimum(k, (weights >= (m * (1 - slack)).clamp_max(1.0)[:, None]).sum(-1))
        mass = weights.cumsum(-1)
        total = mass[:, -1] if joint else mass.gather(-1, (length - 1)[:, None])[:, 0]
        wanted = (p * (1 + slack)).clamp_max(1.0) * total
        by_mass = (mass < wanted[:, None]).sum(-1) + 1
        length = torch.where(p < 1, torch.minimum(length, by_mass), length)
        ends.append(length.clamp(1, vocab_size))
    return order, ends[0], ends[1]


def distribution(values, from_logits, temperature=1.0, **filters):
    """The float64 distribution that is drawn from."""
    order, length, _ = kept_lengths(values, from_logits, temperature, **filters)
    keep = torch.zeros_like(values, dtype=torch.bool)
    keep.scatter_(-1, order, torch.arange(values.shape[1]) < length[:, None])
    weights = torch.where(keep, weights_of(values, from_logits, temperature), 0.0)
    return weights / weights.sum(-1, keepdim=True)


def chi_square(tokens, probs):
    """How many standard deviations the counts of tokens are off the distribution; cells that expect fewer than 10 are taken together."""
    counts = torch.bincount(tokens.cpu().long(), minlength=len(probs)).double()
    assert counts[probs == 0].sum() == 0, "a token was drawn that has no probability"
    expected = probs * counts.sum()
    large = expected >= 10
    cells = torch.cat([expected[large], expected[~large].sum()[None]]), torch.cat([counts[large], counts[~large].sum()[None]])
    used = cells[0] > 1e-9
    expected, counts = cells[0][used], cells[1][used]
    freedom = len(expected) - 1
    if freedom == 0:
        return 0.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5


def philox(counter, key, rounds):
    """Philox4x32 of counters [..., 4], uint64 arrays below 2^32."""
    mask = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(rounds):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> np.uint64(32)) ^ c1 ^ k0, b & mask, (a >> np.uint64(32)) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return np.stack([c0, c1, c2, c3], -1)


def race(weights, seed, offset, draw, step=0):
    """The token that wins with these float64 weights [vocab_size]."""
    tokens = np.arange(len(weights), dtype=np.uint64)
    counter = np.zeros((len(weights), 4), dtype=np.uint64)
    counter[:, 0] = tokens // 256 * 32 + tokens % 128 // 4 + np.uint64(step << 24)
    counter[:, 1], counter[:, 2], counter[:, 3] = draw, offset & 0xFFFFFFFF, offset >> 32

    def bits_of(rounds):  # 16 of each token
        words = philox(counter, (seed & (2**64 - 1)) ^ 0x666C617368696E66, rounds)
        word = np.take_along_axis(words, (tokens // 128 % 2 * 2 + tokens % 4 // 2).astype(np.int64)[:, None], -1)[:, 0]
        return word >> (tokens % 2 * 16) & np.uint64(0xFFFF)

    bits = bits_of(7) << np.uint64(16) | bits_of(10)
    noise = -np.log1p(-(bits.astype(np.float64) + 0.5) / 2**32)
    return int(np.argmax(np.asarray(weights) / noise))
