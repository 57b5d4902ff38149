"""Appending to paged KV caches, and where tokens go, against loops."""

import numpy as np
import pytest
import torch

import flashinfer

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8]


def ints(device, values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=device)


def bits(x):
    return x.contiguous().view(torch.uint8)


def random_bytes(generator, device, *shape, dtype):
    size = torch.tensor([], dtype=dtype).element_size()
    return torch.randint(0, 256, (*shape[:-1], shape[-1] * size), generator=generator, dtype=torch.uint8).view(dtype).to(device)


class Pages:
    """Requests of kv_lens tokens on shuffled pages."""

    def __init__(self, generator, device, kv_lens, page_size, spare=2):
        counts = [-(-n // page_size) for n in kv_lens]
        self.num_pages, self.page_size = sum(counts) + spare, page_size
        self.page_ids = torch.randperm(self.num_pages, generator=generator)[: sum(counts)].tolist()
        self.starts = np.cumsum([0, *counts]).tolist()
        self.indices, self.indptr = ints(device, self.page_ids), ints(device, self.starts)
        self.last = ints(device, [n - (c - 1) * page_size if c else 0 for n, c in zip(kv_lens, counts)])

    def slot(self, request, position):
        return self.page_ids[self.starts[request] + position // self.page_size], position % self.page_size


def caches_of(form, num_pages, page_size, heads, dim, dtype, device, layout):
    """(argument, k view, v view) as [pages, page_size, heads, dim], every byte 0xa5."""
    inner = (page_size, heads) if layout == "NHD" else (heads, page_size)
    size = torch.tensor([], dtype=dtype).element_size()

    def full(*shape):
        return torch.full((*shape[:-1], shape[-1] * size), 0xA5, dtype=torch.uint8, device=device).view(dtype)

    if form == "stacked":
        argument = full(num_pages, 2, *inner, dim)
        views = argument.unbind(1)
    elif form == "pair":
        argument = views = (full(num_pages, *inner, dim), full(num_pages, *inner, dim))
    else:  # strides of their own: K's pages hold one row more, V's rows are longer
        argument = views = (full(num_pages, inner[0] + 1, inner[1], dim)[:, 1:], full(num_pages, *inner, dim + 16)[..., :dim])
    return argument, *(v if layout == "NHD" else v.transpose(1, 2) for v in views)


@pytest.mark.parametrize("form", ["stacked", "pair", "strided"])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_append(generator, device, form, layout, dtype, page_size):
    kv_lens, heads, dim = [37, 0, 1, 16], 3, 40
    pages = Pages(generator, device, kv_lens, page_size)
    argument, k, v = caches_of(form, pages.num_pages, page_size, heads, dim, dtype, device, layout)
    tokens = [(r, p) for r, n in enumerate(kv_lens) for p in range(n) if p % 3]
    tokens += [(-1, 0), (-7, 3)]  # padding
    key = random_bytes(generator, device, len(tokens), heads + 1, dim, dtype=dtype)[:, 1:]
    value = random_bytes(generator, device, heads, len(tokens), dim, dtype=dtype).transpose(0, 1)
    k_ref, v_ref = k.clone(), v.clone()
    for t, (r, p) in enumerate(tokens):
        if r >= 0:
            page, row = pages.slot(r, p)
            k_ref[page, row], v_ref[page, row] = key[t], value[t]
    result = flashinfer.append_paged_kv_cache(
        key, value, ints(device, [r for r, _ in tokens]), ints(device, [p for _, p in tokens]), argument, pages.indices, pages.indptr, pages.last, layout
    )
    assert result is None
    assert torch.equal(bits(k), bits(k_ref)) and torch.equal(bits(v), bits(v_ref))


@pytest.mark.parametrize("heads,dim", [(1, 1), (1, 576), (8, 128), (40, 64), (2, 13)])
@pytest.mark.parametrize("num_tokens", [0, 1, 5, 300])
def test_append_shapes(generator, device, heads, dim, num_tokens):
    pages = Pages(generator, device, [num_tokens], 16)
    k, v = (torch.full((pages.num_pages, 16, heads, dim), torch.nan, device=device) for _ in range(2))
    key, value = (torch.randn(num_tokens, heads, dim, generator=generator).to(device) for _ in range(2))
    positions = torch.randperm(num_tokens, generator=generator)
    batch_indices = torch.zeros(num_tokens, dtype=torch.int32, device=device)
    flashinfer.append_paged_kv_cache(key, value, batch_indices, positions.int().to(device), (k, v), pages.indices, pages.indptr, pages.last)
    for t, p in enumerate(positions.tolist()):
        page, row = pages.slot(0, p)
        assert torch.equal(k[page, row], key[t]) and torch.equal(v[page, row], value[t])
    assert int(k.isfinite().sum()) == num_tokens * heads * dim


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("stacked", [False, True])
def test_page_size_one_may_lack_its_dimension(randn, nans, device, layout, stacked):
    cache = nans(6, 2, 3, 8) if stacked else (nans(6, 3, 8), nans(6, 3, 8))
    key, value = randn(2, 3, 8), randn(2, 3, 8)
    flashinfer.append_paged_kv_cache(
        key, value, ints(device, [0, 0]), ints(device, [1, 0]), cache, ints(device, [4, 2]), ints(device, [0, 2]), ints(device, [1]), layout
    )
    k, v = cache.unbind(1) if stacked else cache
    for x, rows in ((k, key), (v, value)):
        assert torch.equal(x[2], rows[0]) and torch.equal(x[4], rows[1]) and int(x.isfinite().sum()) == rows.numel()


def test_slots_that_do_not_exist_are_dropped(randn, nans, device):
    k, v = nans(4, 2, 1, 8), nans(4, 2, 1, 8)
    key, value = randn(5, 1, 8), randn(5, 1, 8)
    flashinfer.append_paged_kv_cache(
        key, value, ints(device, [0, 2, 0, 1, -1]), ints(device, [4, 0, -1, 0, 0]), (k, v), ints(device, [3, 0]), ints(device, [0, 2, 2]), ints(device, [2, 0])
    )
    assert k.isnan().all() and v.isnan().all()


def test_values_of_another_size(randn, nans, device):
    k, v = nans(3, 4, 2, 192), nans(3, 4, 2, 128)
    key, value = randn(4, 2, 192), randn(4, 2, 128)
    zeros = ints(device, [0] * 4)
    flashinfer.append_paged_kv_cache(key, value, zeros, ints(device, range(4)), (k, v), ints(device, [1]), ints(device, [0, 1]), ints(device, [4]))
    assert torch.equal(k[1], key) and torch.equal(v[1], value) and k[[0, 2]].isnan().all() and v[[0, 2]].isnan().all()


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_append_mla(randn, nans, generator, device, page_size):
    pages = Pages(generator, device, [20, 7], page_size)
    ckv, kpe = nans(pages.num_pages, page_size, 512, dtype=torch.bfloat16), nans(pages.num_pages, page_size, 64, dtype=torch.bfloat16)
    tokens = [(r, p) for r, n in enumerate([20, 7]) for p in range(n)] + [(-1, 0)]
    new_ckv, new_kpe = randn(len(tokens), 512, dtype=torch.bfloat16), randn(len(tokens), 64, dtype=torch.bfloat16)
    batch_indices, positions = ints(device, [r for r, _ in tokens]), ints(device, [p for _, p in tokens])
    flashinfer.append_paged_mla_kv_cache(new_ckv, new_kpe, batch_indices, positions, ckv, kpe, pages.indices, pages.indptr, pages.last)
    for t, (r, p) in enumerate(tokens[:-1]):
        page, row = pages.slot(r, p)
        assert torch.equal(ckv[page, row], new_ckv[t]) and torch.equal(kpe[page, row], new_kpe[t])
    assert int(kpe.isfinite().sum()) == 27 * 64


@pytest.mark.parametrize("error", [4, -1, 2**31 - 1])
def test_page_ids_are_looked_at(randn, nans, device, error):
    """On the host a page id outside the pool is an error; on a device it is not followed."""
    cache = nans(4, 2, 1, 8), nans(4, 2, 1, 8)
    call = randn(1, 1, 8), randn(1, 1, 8), ints(device, [0]), ints(device, [0]), cache, ints(device, [error]), ints(device, [0, 1]), ints(device, [1])
    if device == "cpu":
        with pytest.raises(flashinfer.InvalidArgument, match="kv_indices"):
            flashinfer.append_paged_kv_cache(*call)
    else:
        flashinfer.append_paged_kv_cache(*call)
        assert cache[0].isnan().all() and cache[1].isnan().all()


def test_key_errors_in_the_words_that_callers_match(randn, nans):
    call = randn(1, 1, 8), randn(1, 1, 8), ints("cpu", [0]), ints("cpu", [0])
    rest = ints("cpu", [0]), ints("cpu", [0, 1]), ints("cpu", [1])
    with pytest.raises(KeyError, match="Invalid kv_layout"):
        flashinfer.append_paged_kv_cache(*call, nans(4, 2, 2, 1, 8), *rest, kv_layout="HDN")
    with pytest.raises(KeyError, match="Unrecognized paged_kv_cache type"):
        flashinfer.append_paged_kv_cache(*call, "cache", *rest)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("lens,rest", [([1, 2, 3, 4], 0), ([0, 0, 5, 0, 1], 4), ([], 3), ([], 0), ([1] * 1000, 24), ([3000], 0)])
def test_batch_indices_positions(device, lens, rest, index, given):
    before = [3 * i % 7 for i in range(len(lens))]
    nnz = sum(lens) + rest
    outs = [torch.full((nnz,), 77, dtype=torch.int32, device=device) for _ in range(2)] if given else []
    results = flashinfer.get_batch_indices_positions(
        ints(device, np.cumsum([0, *lens]).tolist(), index), ints(device, [a + b for a, b in zip(lens, before)], index), nnz, *outs
    )
    if given:
        assert results[0] is outs[0] and results[1] is outs[1]
    assert results[0].dtype == results[1].dtype == torch.int32
    assert results[0].tolist() == [r for r, n in enumerate(lens) for _ in range(n)] + [-1] * rest
    assert results[1].tolist() == [b + i for n, b in zip(lens, before) for i in range(n)] + [0] * rest


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("page_size", [1, 16])
def test_seq_lens(device, page_size, index):
    indptr = ints(device, [0, 3, 3, 4, 300], index)
    lens = flashinfer.get_seq_lens(indptr, ints(device, [page_size, 0, 1, page_size // 2], index), page_size)
    assert lens.dtype == index and lens.device == indptr.device
    assert lens.tolist() == [3 * page_size, 0, 1, 295 * page_size + page_size // 2]
    assert flashinfer.get_seq_lens(ints(device, [0], index), ints(device, [], index), page_size).tolist() == []


def test_numpy():
    k, v = np.full((2, 4, 1, 8), np.nan, np.float32), np.full((2, 4, 1, 8), np.nan, np.float32)
    key, value = np.arange(16, dtype=np.float32).reshape(2, 1, 8), np.ones((2, 1, 8), np.float32)
    indptr, last = np.array([0, 1], np.int32), np.array([2], np.int32)
    batch_indices, positions = flashinfer.get_batch_indices_positions(np.array([0, 2], np.int32), flashinfer.get_seq_lens(indptr, last, 4), 2)
    assert isinstance(positions, np.ndarray) and positions.tolist() == [0, 1]
    flashinfer.append_paged_kv_cache(key, value, batch_indices, positions, (k, v), np.array([1], np.int32), indptr, last)
    assert np.array_equal(k[1, :2], key) and np.array_equal(v[1, :2], value) and np.isnan(k).sum() == k.size - 16


def test_jax():
    import jax.numpy as jnp

    batch_indices, positions = flashinfer.get_batch_indices_positions(jnp.array([0, 2, 3]), jnp.array([5, 1]), 4)
    assert batch_indices.tolist() == [0, 0, 1, -1] and positions.tolist() == [3, 4, 0, 0]
    with pytest.raises(flashinfer.InvalidArgument, match="paged_kv_cache"):  # immutable
        zeros = jnp.zeros((1, 1, 8)), jnp.zeros((1, 1, 8)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros((1, 2, 1, 1, 8))
        flashinfer.append_paged_kv_cache(*zeros, jnp.zeros(1, jnp.int32), jnp.array([0, 1]), jnp.array([1]))
