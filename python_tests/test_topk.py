"""Top-k selection and its transforms, compared element by element with a stable sort."""

import numpy as np
import pytest
import torch

import flashinfer
from flashinfer import TopKTieBreak

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = ["normal", "few", "flat", "masked", "together", "ascending", "descending", "special"]


@pytest.fixture
def rows(generator, device):
    """rows(kind, num_rows, width, dtype, padding): a tensor of that kind of values, whose rows lie `padding` elements apart."""

    def make(kind, num_rows, width, dtype=torch.float32, padding=0):
        x = torch.randn((num_rows, width), generator=generator)
        if kind == "few":
            x = (x * 2).round()
        elif kind == "flat":
            x = torch.full_like(x, 1.5)
        elif kind == "masked":
            x[torch.rand(x.shape, generator=generator) < 0.98] = -torch.inf
        elif kind == "together":  # what a mask leaves, in one place, of more than k elements or of fewer
            left = torch.randint(width, (num_rows, 1), generator=generator) + torch.arange(width)
            x = torch.where((left % width) < 200, x, torch.where(torch.arange(num_rows) % 3 == 0, -100.0, -torch.inf)[:, None])
        elif kind in ("ascending", "descending"):
            x = torch.arange(width, dtype=torch.float32).expand(num_rows, width) * (1 if kind == "ascending" else -1)
        elif kind == "special":
            some = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40])
            pick = torch.randint(8, x.shape, generator=generator)
            x = torch.where(pick < 6, some[pick.clamp_max(5)], x)
        out = torch.full((num_rows, width + padding), 1e4, dtype=dtype, device=device)[:, :width]
        out.copy_(x)
        return out

    return make


def reference(x, k, order="index", tie_break=TopKTieBreak.NONE, lengths=None, starts=None):
    """Indices [num_rows, k] on the CPU, -1 behind a row's last: larger first, equal ones by index, NaN last."""
    x = x.detach().cpu().double()
    out = torch.full((len(x), k), -1, dtype=torch.int64)
    for row in range(len(x)):
        start = 0 if starts is None else int(starts[row])
        window = x[row, start:] if lengths is None else x[row, start : start + max(0, int(lengths[row]))]
        keys = torch.where(window.isnan(), -torch.inf, window) + 0.0
        n = len(window)
        index = torch.arange(n)
        if tie_break == TopKTieBreak.LARGE:
            index = index.flip(0)
        index = index[torch.sort(window.isnan()[index].to(torch.int8), stable=True).indices]
        index = index[torch.sort(keys[index], descending=True, stable=True).indices][:k]
        out[row, : len(index)] = index if order == "value" else index.sort().values
    return out


def gather(x, indices, padding):
    x = x.cpu()
    padding = torch.tensor(padding, dtype=x.dtype)
    return torch.where(indices < 0, padding, torch.gather(x, 1, indices.clamp_min(0)) if x.shape[1] else padding)


def equal(a, b):
    return torch.equal(torch.nan_to_num(a.cpu().float(), nan=12345.0), torch.nan_to_num(b.cpu().float(), nan=12345.0))


def top_k_order(k, sort=False, tie_break=TopKTieBreak.NONE):
    return "value" if sort or (k <= 512 and tie_break != TopKTieBreak.LARGE) else "index"


def check_top_k(x, k, sort, tie_break=TopKTieBreak.NONE):
    values, indices = flashinfer.top_k(x, k, sorted=sort, tie_break=tie_break)
    assert values.dtype == x.dtype and indices.dtype == torch.int64 and values.device == x.device
    expected = reference(x, k, top_k_order(k, sort, tie_break), tie_break)
    assert torch.equal(indices.cpu(), expected)
    assert equal(values, gather(x, expected, -torch.inf))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width,k", [(1000, 10), (32000, 64), (32003, 512), (32003, 513), (70001, 2048), (5000, 5000), (300, 4000), (20000, 9000)])
def test_top_k(rows, kind, dtype, width, k):
    x = rows(kind, 2, width, dtype, padding=3)
    check_top_k(x, k, False, TopKTieBreak.SMALL)
    check_top_k(x, k, False, TopKTieBreak.LARGE)
    check_top_k(x, k, True, TopKTieBreak.LARGE)


@pytest.mark.parametrize("num_rows", [1, 2, 16, 17, 32, 60, 130, 270])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_and_clusters(rows, num_rows, dtype):
    x = rows("normal", num_rows, 50001, dtype)
    values, indices = flashinfer.top_k(x, 50, sorted=num_rows % 2 == 0)
    some = sorted({0, num_rows // 2, num_rows - 1})
    assert torch.equal(indices[some].cpu(), reference(x[some], 50, "value"))
    assert torch.equal(values, torch.topk(x, 50).values)
    assert torch.equal(torch.gather(x, 1, indices), values)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows,width,k", [(1, 128256, 64), (16, 128256, 64), (20, 128256, 64), (32, 128256, 300), (40, 128256, 64), (100, 128256, 64), (300, 128256, 64), (1, 1 << 20, 2048), (16, 131072, 2048), (32, 131072, 1000), (200, 131072, 2048), (2, 131072, 4096)])
def test_large_rows(rows, kind, num_rows, width, k):
    x = rows(kind, num_rows, width)
    values, indices = flashinfer.top_k(x, k)
    some = sorted({0, num_rows // 2, num_rows - 1})
    assert torch.equal(indices[some].cpu(), reference(x[some], k, top_k_order(k)))
    keys = torch.where(x.isnan(), -torch.inf, x)
    assert torch.equal(torch.sort(torch.where(values.isnan(), -torch.inf, values), descending=True).values, torch.topk(keys, k).values)
    assert equal(values, gather(x, indices.cpu(), 0.0))
    if top_k_order(k) == "index":
        assert bool((indices[:, 1:] > indices[:, :-1]).all())


def test_small_and_empty(rows, device):
    for num_rows, width in ((0, 100), (3, 0), (2, 1)):
        check_top_k(torch.zeros((num_rows, width), device=device), 4, False)
        check_top_k(torch.zeros((num_rows, width), device=device), 4, True)


@pytest.mark.parametrize("offset", [0, 1, 3, 5])
def test_alignment(rows, offset):
    x = rows("normal", 4, 9000, torch.bfloat16, padding=7)
    check_top_k(x[:, offset : offset + 8000], 33, True)


def test_results_do_not_depend_on_the_batch(rows):
    x = rows("few", 40, 32000)
    values, indices = flashinfer.top_k(x, 100)
    for row in (0, 7, 39):
        v, i = flashinfer.top_k(x[row : row + 1], 100)
        assert torch.equal(i[0], indices[row]) and torch.equal(v[0], values[row])


@pytest.mark.parametrize("kind", ["normal", "few", "flat", "special"])
@pytest.mark.parametrize("page_size", [1, 64])
@pytest.mark.parametrize("width,k", [(3000, 256), (40000, 2048)])
@pytest.mark.parametrize("tie_break", [TopKTieBreak.NONE, TopKTieBreak.LARGE])
def test_transforms(rows, generator, device, kind, page_size, width, k, tie_break):
    num_rows = 6
    x = rows(kind, num_rows, width, torch.bfloat16, padding=5)

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    starts = torch.tensor([0, 1, 17, width - 10, width // 2, 5], dtype=torch.int32)
    lengths = torch.tensor([width, k - 1, k + 5, 100, width // 2 - 3, 0], dtype=torch.int32)
    page_starts, batches, offsets = integers(0, 30, num_rows), integers(0, 4, num_rows), integers(-100, 10000, num_rows)
    table = integers(0, 1 << 20, 4, 31 + width // page_size + 1)
    expected = reference(x, k, tie_break=tie_break, lengths=lengths, starts=starts)
    some, i = expected >= 0, expected.clamp_min(0)

    out = torch.full((num_rows, k), -9, dtype=torch.int32, device=device)
    raw = torch.full_like(out, -9)
    on = lambda t: t.to(device)  # noqa: E731
    result = flashinfer.top_k_page_table_transform(x, on(table), on(lengths), k, on(batches), tie_break=tie_break, row_starts=on(starts),
                                                   page_table_row_starts=on(page_starts), page_size=page_size, out=out, out_raw_indices=raw)
    pages = table.long()[batches.long()[:, None], page_starts.long()[:, None] + i // page_size]
    assert result is out
    assert torch.equal(raw.cpu().long(), expected)
    assert torch.equal(out.cpu().long(), torch.where(some, pages * page_size + i % page_size, -1))

    ragged = flashinfer.top_k_ragged_transform(x, on(offsets), on(lengths), k, tie_break=tie_break, row_starts=on(starts))
    assert torch.equal(ragged.cpu().long(), torch.where(some, i + offsets[:, None], -1))


def test_page_table_starts_with_the_row(rows, device):
    x, lengths = rows("normal", 3, 500), torch.full((3,), 200, dtype=torch.int32)
    starts = torch.tensor([0, 100, 300], dtype=torch.int32)
    table = torch.arange(1500, dtype=torch.int32).view(3, 500) * 2
    out = flashinfer.top_k_page_table_transform(x, table.to(device), lengths.to(device), 20, row_starts=starts.to(device))
    expected = reference(x, 20, lengths=lengths, starts=starts)
    assert torch.equal(out.cpu().long(), torch.gather(table.long(), 1, expected + starts[:, None]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("next_n,compress_ratio", [(1, 1), (3, 1), (2, 4)])
def test_top_k_varlen(rows, device, dtype, next_n, compress_ratio):
    x, k = rows("normal", 4 * next_n, 5000, dtype), 512
    seq_lens = torch.tensor([5000 * compress_ratio, 700, 30 * compress_ratio, 1], dtype=torch.int32)
    row = torch.arange(len(x))
    lengths = (seq_lens[row // next_n] - next_n + row % next_n + 1) // compress_ratio
    expected = reference(x, k, lengths=lengths)
    indices, values = flashinfer.top_k_varlen(x, seq_lens.to(device), k, next_n=next_n, compress_ratio=compress_ratio, return_values=True)
    assert indices.dtype == torch.int32 and torch.equal(indices.cpu().long(), expected)
    assert equal(values, gather(x, expected, 0.0))
    out = torch.full_like(indices, -9)
    again, none = flashinfer.top_k_varlen(x, seq_lens.to(device), k, next_n=next_n, compress_ratio=compress_ratio, out_indices=out, out_values=values)
    assert again is out and none is None and torch.equal(out, indices)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
def test_cuda_graph(rows):
    x, lengths = rows("normal", 5, 60000), torch.tensor([60000, 10, 5000, 0, 333], dtype=torch.int32, device="cuda")
    offsets = torch.arange(5, dtype=torch.int32, device="cuda")
    flashinfer.top_k_ragged_transform(x, offsets, lengths, 100)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = flashinfer.top_k_ragged_transform(x, offsets, lengths, 100)
    x.neg_()
    lengths.copy_(lengths.flip(0))
    graph.replay()
    expected = reference(x, 100, lengths=lengths.cpu())
    assert torch.equal(out.cpu().long(), torch.where(expected < 0, expected, expected + torch.arange(5)[:, None]))


@pytest.mark.gpu
def test_more_than_2_32_bytes():
    x = torch.randn((32769, 131072), device="cuda", dtype=torch.float16)
    values, indices = flashinfer.top_k(x, 32)
    for row in (0, 16384, 32768):
        assert torch.equal(indices[row].cpu(), reference(x[row : row + 1], 32, "value")[0])
        assert torch.equal(values[row], x[row, indices[row]])


def test_numpy():
    x = np.random.default_rng(3).standard_normal((3, 700)).astype(np.float32)
    values, indices = flashinfer.top_k(x, 9, sorted=True)
    assert isinstance(values, np.ndarray) and indices.dtype == np.int64
    assert np.array_equal(indices, np.argsort(-x, axis=1, kind="stable")[:, :9])


def test_alias():
    assert flashinfer.topk.topk is flashinfer.top_k is flashinfer.topk.top_k
    assert [int(mode) for mode in TopKTieBreak] == [0, 1, 2]
