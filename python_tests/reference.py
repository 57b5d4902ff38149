"""Attention in float64, one request at a time, and random batches whose unused memory is NaN."""

import math
import random

import torch

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
HEAD_DIMS = [(64, 64), (80, 80), (128, 128), (256, 256), (192, 128), (512, 512), (24, 24)]
GROUPS = [1, 4, 5, 7, 8, 12]
PAGE_SIZES = [1, 5, 16, 64]


def rotate(x, positions, scale=1.0, theta=1e4):
    """RoPE of x [n, heads, dim] in halves: x[i] and x[i + dim/2] turn by position / scale * theta^(-2i/dim)."""
    half = x.shape[-1] // 2
    angle = positions.double()[:, None] / scale * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def slopes_of(num_heads):
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]
    return torch.tensor(slopes + [2.0 ** (-4.0 * (2 * i + 1) / n) for i in range(num_heads - n)], dtype=torch.float64)


def attention(
    q, k, v, *, causal=False, window_left=-1, sm_scale=None, logits_soft_cap=None, pos_encoding_mode="NONE", mask=None, rope_scale=None, rope_theta=None, sinks=None
):
    """q [m, H, D], k [n, Hkv, D], v [n, Hkv, Dvo] -> out [m, H, Dvo], log2-sum-exp [m, H]."""
    q, k, v = (t.detach().cpu().double() for t in (q, k, v))
    m, n, heads = q.shape[0], k.shape[0], q.shape[1]
    i, j = torch.arange(m), torch.arange(n)
    if pos_encoding_mode == "ROPE_LLAMA":
        q, k = rotate(q, n - m + i, rope_scale or 1.0, rope_theta or 1e4), rotate(k, j, rope_scale or 1.0, rope_theta or 1e4)
    group = heads // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    logits = torch.einsum("mhd,nhd->hmn", q, k) * (q.shape[-1] ** -0.5 if sm_scale is None else sm_scale)
    if pos_encoding_mode == "ALIBI":
        logits = logits + slopes_of(heads)[:, None, None] * (j[None] - i[:, None])
    if logits_soft_cap:
        logits = logits_soft_cap * torch.tanh(logits / logits_soft_cap)
    visible = torch.ones(m, n, dtype=torch.bool)
    if mask is not None:
        visible &= mask.cpu().reshape(m, n)
    elif causal:
        visible &= j[None] <= n - m + i[:, None]
    if window_left >= 0:
        visible &= j[None] >= n - m + i[:, None] - window_left
    logits = logits.masked_fill(~visible, -math.inf)
    if sinks is not None:
        logits = torch.cat([logits, sinks.cpu().double()[:, None, None].expand(heads, m, 1)], 2)
        v = torch.cat([v, torch.zeros(1, heads, v.shape[-1], dtype=torch.float64)], 0)
    lse = torch.logsumexp(logits, 2)
    weights = torch.exp(logits - lse.masked_fill(lse.isinf(), 0.0)[..., None])
    return torch.einsum("hmn,nhd->mhd", weights, v), (lse / math.log(2)).T


def nan_like(shape, dtype, device):
    if dtype in FP8:
        return torch.full(shape, 0x7F, dtype=torch.uint8, device=device).view(dtype)
    return torch.full(shape, math.nan, dtype=dtype, device=device)


def write(target, values):
    """target[...] = values, for dtypes that torch cannot index-assign too."""
    if target.dtype in FP8:
        target.view(torch.uint8)[...] = values.to(target.dtype).view(torch.uint8)
    else:
        target[...] = values.to(target.dtype)


class Batch:
    """Requests with queries, keys and values. Pages lie in any order; what no request owns is NaN."""

    def __init__(self, qo_lens, kv_lens, *, heads=(8, 2), dims=(64, 64), dtype=torch.float32, kv_dtype=None, seed=0, device="cpu", scale=1.0):
        self.qo_lens, self.kv_lens, self.heads, self.dims = list(qo_lens), list(kv_lens), heads, dims
        self.dtype, self.kv_dtype, self.device = dtype, kv_dtype or dtype, device
        self.generator = torch.Generator().manual_seed(seed)
        self.q = self.draw(sum(qo_lens), heads[0], dims[0], dtype=dtype, scale=scale)
        self.k = [self.draw(n, heads[1], dims[0], dtype=self.kv_dtype) for n in kv_lens]
        self.v = [self.draw(n, heads[1], dims[1], dtype=self.kv_dtype) for n in kv_lens]

    def draw(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale).to(dtype).to(self.device)

    def indptr(self, lens, device=None):
        return torch.tensor([0, *torch.tensor(lens, dtype=torch.int64).cumsum(0)] if lens else [0], dtype=torch.int32, device=device or "cpu")

    @property
    def qo_indptr(self):
        return self.indptr(self.qo_lens)

    @property
    def kv_indptr(self):
        return self.indptr(self.kv_lens)

    def ragged(self, layout="NHD", padding=(0, 0)):
        """(k, v); padding: heads of K's and V's parents that are not theirs, so that their strides differ."""
        caches = []
        for parts, pad in zip((self.k, self.v), padding):
            heads, dim, total = self.heads[1], parts[0].shape[-1] if parts else self.dims[0], sum(self.kv_lens)
            parent = nan_like((total, heads + pad, dim) if layout == "NHD" else (heads + pad, total, dim), self.kv_dtype, self.device)
            view = parent[:, :heads] if layout == "NHD" else parent[:heads]
            if total:
                joined = torch.cat([p.view(torch.uint8) for p in parts]).view(self.kv_dtype) if self.kv_dtype in FP8 else torch.cat(parts)
                write(view, joined if layout == "NHD" else joined.transpose(0, 1))
            caches.append(view)
        return tuple(caches)

    def paged(self, page_size, layout="NHD", padding=(0, 0), stacked=False, spare_pages=3, device_indices=True):
        """(caches, indptr, indices, last_page_len)."""
        counts = [-(-n // page_size) for n in self.kv_lens]
        num_pages = sum(counts) + spare_pages
        order = torch.randperm(num_pages, generator=self.generator).tolist()
        heads = self.heads[1]

        def shape(pad, dim):
            return (page_size, heads + pad, dim) if layout == "NHD" else (heads + pad, page_size, dim)

        if stacked:
            both = nan_like((num_pages, 2, *shape(0, self.dims[0])), self.kv_dtype, self.device)
            views = [both[:, 0], both[:, 1]]
        else:
            views = [nan_like((num_pages, *shape(pad, dim)), self.kv_dtype, self.device) for pad, dim in zip(padding, self.dims)]
            views = [x[:, :, :heads] if layout == "NHD" else x[:, :heads] for x in views]
            both = tuple(views)
        indices, used = [], 0
        for r, count in enumerate(counts):
            pages = order[used : used + count]
            used += count
            indices += pages
            for c, parts in zip(views, (self.k, self.v)):
                for p, page in enumerate(pages):
                    rows = parts[r][p * page_size : (p + 1) * page_size]
                    write(c[page, : len(rows)] if layout == "NHD" else c[page, :, : len(rows)], rows if layout == "NHD" else rows.transpose(0, 1))
        last = [n - (c - 1) * page_size if c else 0 for n, c in zip(self.kv_lens, counts)]
        # Entries behind the batch's pages are not read.
        indices = torch.tensor(indices + [1 << 30], dtype=torch.int32, device=self.device if device_indices else "cpu")
        return both, self.indptr(counts), indices, torch.tensor(last, dtype=torch.int32)

    def masks(self, density=0.7):
        """One bool mask [qo_len, kv_len] a request."""
        return [torch.rand(m, n, generator=self.generator) < density for m, n in zip(self.qo_lens, self.kv_lens)]

    def reference(self, masks=None, v_scale=1.0, **options):
        """out, lse of the batch."""
        outs, lses, begin = [torch.zeros(0, self.heads[0], self.dims[1], dtype=torch.float64)], [torch.zeros(0, self.heads[0], dtype=torch.float64)], 0
        for r, m in enumerate(self.qo_lens):
            mask = None if masks is None else masks[r]
            out, lse = attention(self.q[begin : begin + m], self.k[r], self.v[r], mask=mask, **options)
            outs.append(out * v_scale)
            lses.append(lse)
            begin += m
        return torch.cat(outs), torch.cat(lses)


def sample(seed, device="cpu", decode=False):
    """A random problem: heads, dims, dtypes, lengths, options. GPUs have no float32 attention."""
    r = random.Random(seed)
    dtype = r.choice(DTYPES if device == "cpu" else DTYPES[:2])
    kv_dtype = r.choice(FP8) if dtype != torch.float32 and r.random() < 0.25 else dtype
    dims = r.choice(HEAD_DIMS)
    if decode and dims[0] != dims[1]:
        dims = (128, 128)
    kv_heads = r.choice([1, 2, 3])
    count = r.choice([1, 2, 3, 5])
    kv_lens = [r.choice([0, 1, 7, 63, 64, 65, 200, 700]) if r.random() < 0.5 else r.randint(0, 400) for _ in range(count)]
    qo_lens = [1 if decode else r.choice([0, 1, 3, 16, 17, 40, 130]) for _ in range(count)]
    mode = r.choice(["NONE", "NONE", "NONE", "ALIBI", "ROPE_LLAMA"])
    options = {"pos_encoding_mode": mode}
    if r.random() < 0.3:
        options["window_left"] = r.choice([0, 5, 64, 300])
    if r.random() < 0.3:
        options["logits_soft_cap"] = r.choice([1.0, 8.0, 30.0])
    if r.random() < 0.3:
        options["sm_scale"] = r.uniform(0.02, 0.3)
    if mode == "ROPE_LLAMA" and r.random() < 0.5:
        options.update(rope_scale=2.0, rope_theta=5e5)
    if not decode:
        options["causal"] = r.random() < 0.5
    batch = Batch(qo_lens, kv_lens, heads=(kv_heads * r.choice(GROUPS), kv_heads), dims=dims, dtype=dtype, kv_dtype=kv_dtype, seed=seed, device=device)
    form = {"page_size": r.choice(PAGE_SIZES), "layout": r.choice(["NHD", "HND"]), "padding": (r.randint(0, 1), r.randint(0, 2)), "stacked": r.random() < 0.3 and dims[0] == dims[1]}
    return batch, options, form


def lse_bound(batch, options, device):
    """GPU kernels round rotated queries and keys to their 16-bit type, and the reference does not: logits are off by about that
    rounding times their size, which is up to 30 here."""
    if device == "cpu" or options.get("pos_encoding_mode") != "ROPE_LLAMA":
        return 5e-3
    return 4e-2 if batch.q.dtype == torch.bfloat16 else 1e-2


def check_lse(lse, reference, bound=5e-3):
    """Base-2 log-sum-exp: -inf where the reference is, else near it."""
    lse, reference = lse.detach().cpu().double(), reference.cpu()
    assert lse.shape == reference.shape
    assert torch.equal(lse.isneginf(), reference.isneginf())
    assert torch.equal(lse.isnan(), reference.isnan())
    difference = (lse - reference).masked_fill(reference.isneginf(), 0.0).abs()
    assert difference.numel() == 0 or float(difference.max()) < bound, float(difference.max())
