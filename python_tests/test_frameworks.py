"""The same ops on the arrays of NumPy, JAX and CuPy, against torch on the CPU; on a GPU also the order of streams and the life of memory."""

import functools

import ml_dtypes
import numpy as np
import pytest
import torch

import flashinfer
from conftest import BOUNDS
from flashinfer import InvalidArgument

NARROW = {torch.bfloat16: ml_dtypes.bfloat16, torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn}


def to_numpy(t):
    if t.dtype in NARROW:
        return t.view(torch.uint16 if t.itemsize == 2 else torch.uint8).numpy().view(NARROW[t.dtype])
    return t.numpy()


def to_torch(a):
    a = np.array(a)
    for narrow, dtype in NARROW.items():
        if a.dtype == dtype:
            return torch.from_numpy(a.view(np.uint16 if a.itemsize == 2 else np.uint8)).view(narrow)
    return torch.from_numpy(a)


@functools.lru_cache(maxsize=None)
def jax_device(platform):
    jax = pytest.importorskip("jax")
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        pytest.skip(f"JAX has no {platform} device: {error}")


class Numpy:
    @staticmethod
    def array(t):
        return to_numpy(t)

    @staticmethod
    def torch(a):
        assert isinstance(a, np.ndarray)
        return to_torch(a)


class Jax:
    def __init__(self, platform):
        self.device = jax_device(platform)

    def array(self, t):
        import jax

        return jax.device_put(to_numpy(t), self.device)

    def torch(self, a):
        import jax

        assert isinstance(a, jax.Array) and a.devices() == {self.device}
        return to_torch(np.asarray(a))


class Cupy:
    def __init__(self):
        self.cupy = pytest.importorskip("cupy")

    def array(self, t):
        return self.cupy.asarray(to_numpy(t))

    def torch(self, a):
        assert isinstance(a, self.cupy.ndarray)
        return to_torch(self.cupy.asnumpy(a))


MAKE = {"numpy": Numpy, "jax": lambda: Jax("cpu"), "jax-cuda": lambda: Jax("cuda"), "cupy": Cupy}


@pytest.fixture(params=["numpy", "jax", pytest.param("jax-cuda", marks=pytest.mark.gpu), pytest.param("cupy", marks=pytest.mark.gpu)])
def library(request):
    return MAKE[request.param]()


@pytest.fixture
def device():
    return "cpu"  # of what the tests draw; the library's own is elsewhere


@pytest.fixture
def same(library, check):
    """same(f, *tensors): f of the library's arrays gives what f of torch tensors gives."""

    def compare(f, *tensors, bound=None):
        expected = f(*tensors)
        got = f(*(library.array(t) for t in tensors))
        expected, got = (list(x) if isinstance(x, (tuple, list)) else [x] for x in (expected, got))
        assert len(expected) == len(got)
        for e, g in zip(expected, got):
            g = library.torch(g)
            assert g.dtype == e.dtype
            if e.dtype.is_floating_point:
                nothing = e == -torch.inf  # log-sum-exp of no keys
                assert torch.equal(g == -torch.inf, nothing)
                # Both are rounded to the dtype.
                check(g.masked_fill(nothing, 0), e.masked_fill(nothing, 0), bound or max(1.5 * BOUNDS[e.dtype], 1e-4))
            else:
                assert torch.equal(g, e)

    return compare


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


DTYPES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows(same, randn, dtype):
    x, w = randn(37, 264, dtype=dtype), randn(264, dtype=dtype)
    same(lambda x, w: flashinfer.rmsnorm(x, w, 1e-5), x, w)
    same(lambda x, w: flashinfer.gemma_rmsnorm(x, w), x, w)
    same(lambda x, a, b: flashinfer.layernorm(x, a, b), x, randn(264), randn(264))
    for f in (flashinfer.silu_and_mul, flashinfer.gelu_and_mul, flashinfer.gelu_tanh_and_mul):
        same(f, x)
    same(lambda x, w: flashinfer.rmsnorm(x, w), x[:0], w)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens(same, randn, dtype):
    q, k = randn(19, 8, 64, dtype=dtype), randn(19, 2, 64, dtype=dtype)
    positions = torch.arange(100, 119, dtype=torch.int32)
    same(flashinfer.apply_rope_pos_ids, q, k, positions)
    same(flashinfer.apply_llama31_rope, q, k, i32(0, 7, 19), i32(3, 900))
    same(lambda a, b: flashinfer.get_batch_indices_positions(a, b, 12), i32(0, 2, 12), i32(7, 30))
    same(lambda a, b: flashinfer.get_seq_lens(a, b, 16), i32(0, 2, 2, 5), i32(3, 0, 16))
    s, t = randn(19, 8), randn(19, 8)
    same(flashinfer.merge_state, q, s, randn(19, 8, 64, dtype=dtype), t)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["NONE", "ALIBI", "ROPE_LLAMA"])
def test_one_request(same, randn, dtype, mode):
    q, k, v = randn(70, 8, 64, dtype=dtype), randn(300, 2, 64, dtype=dtype), randn(300, 2, 64, dtype=dtype)
    bound = 2e-2 if dtype == torch.bfloat16 and mode == "ROPE_LLAMA" else None  # the GPU rounds rotated queries and keys
    same(lambda q, k, v: flashinfer.single_prefill_with_kv_cache(q, k, v, causal=True, pos_encoding_mode=mode, return_lse=True), q, k, v, bound=bound)
    same(lambda q, k, v: flashinfer.single_decode_with_kv_cache(q, k, v, pos_encoding_mode=mode, return_lse=True), q[0], k, v, bound=bound)


def test_masked_request(same, randn):
    q, k, v = (randn(30, 4, 64, dtype=torch.float16) for _ in range(3))
    mask = torch.rand(30, 30, generator=torch.Generator().manual_seed(5)) < 0.5
    same(lambda q, k, v, mask: flashinfer.single_prefill_with_kv_cache(q, k, v, custom_mask=mask), q, k, v, mask)


@pytest.fixture
def batch(randn, generator):
    """Caches of 40 pages of 16 tokens, and requests of 1, 0, 20 and 55 tokens in shuffled pages."""
    kv = randn(40, 2, 16, 2, 64, dtype=torch.float16)
    indices = torch.randperm(40, generator=generator, dtype=torch.int32)[:7]
    return kv, i32(0, 1, 1, 3, 7), indices, i32(1, 0, 4, 7)


def workspace(library):
    return library.array(torch.zeros(1 << 20, dtype=torch.uint8))


@pytest.mark.parametrize("on_host", [True, False])
def test_decode_wrapper(same, library, randn, batch, on_host):
    """A plan made from host lengths, or on the GPU; the workspace may be an immutable array: the wrapper takes memory like it."""
    kv, *lengths = batch
    q = randn(4, 8, 64, dtype=torch.float16)

    def run(q, kv, *lengths):
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.zeros(1 << 20, dtype=torch.uint8) if torch.is_tensor(q) else workspace(library))
        if on_host and not torch.is_tensor(q):
            lengths = [to_numpy(t) for t in batch[1:]]
        wrapper.plan(*lengths, 8, 2, 64, 16, q_data_type="float16")
        wrapper.run(q, kv)
        return wrapper.run(q, kv, return_lse=True)

    same(run, q, kv, *lengths)


@pytest.mark.parametrize("masked", [False, True])
def test_prefill_wrapper(same, library, randn, batch, masked):
    kv, *lengths = batch
    qo = i32(0, 1, 1, 8, 38)
    q = randn(38, 8, 64, dtype=torch.float16)
    count = 1 * 1 + 7 * 20 + 30 * 55
    mask = torch.rand(count, generator=torch.Generator().manual_seed(6)) < 0.6

    def run(q, kv, mask):
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(torch.zeros(1 << 20, dtype=torch.uint8) if torch.is_tensor(q) else workspace(library))
        options = dict(custom_mask=mask) if masked else dict(causal=True)
        wrapper.plan(*(to_numpy(t) for t in (qo, *lengths)), 8, 2, 64, 16, q_data_type="float16", **options)
        return wrapper.run(q, kv, return_lse=True)

    same(run, q, kv, mask)


def test_ragged_wrapper(same, library, randn):
    q, k, v = randn(38, 8, 64, dtype=torch.bfloat16), randn(76, 2, 64, dtype=torch.bfloat16), randn(76, 2, 64, dtype=torch.bfloat16)
    qo, kv = i32(0, 1, 1, 8, 38), i32(0, 1, 1, 21, 76)

    def run(q, k, v, qo, kv):
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(torch.zeros(1 << 20, dtype=torch.uint8) if torch.is_tensor(q) else workspace(library))
        wrapper.plan(qo, kv, 8, 2, 64, causal=True, q_data_type="bfloat16")
        return wrapper.run(q, k, v)

    same(run, q, k, v, qo, kv)


def test_cascade(same, library, randn, batch):
    kv, *lengths = batch
    q = randn(4, 8, 64, dtype=torch.float16)
    arrays = [[i32(0, 4), i32(0, 1, 2, 3, 4)], [i32(0, 2), lengths[0]], [i32(38, 39), lengths[1]], [i32(16), lengths[2]]]

    def run(q, kv):
        wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2, torch.zeros(1 << 20, dtype=torch.uint8) if torch.is_tensor(q) else workspace(library))
        wrapper.plan(*([to_numpy(t) for t in levels] for levels in arrays), 8, 2, 64, 16, q_data_type="float16")
        return wrapper.run(q, kv)

    same(run, q, kv)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def jax_library(request):
    return Jax(request.param)


def test_jax_arrays_are_not_written(jax_library, randn):
    x, w = jax_library.array(randn(4, 64)), jax_library.array(randn(64))
    before = np.array(x)
    for call in (lambda: flashinfer.rmsnorm(x, w, out=x), lambda: flashinfer.fused_add_rmsnorm(x, x, w)):
        with pytest.raises(InvalidArgument, match="JAX array, which is immutable: see flashinfer.jax"):
            call()
    assert (np.array(x) == before).all()


# --- streams, and memory that is freed while kernels run


@pytest.mark.gpu
def test_jax_streams():
    """JAX computes an input for milliseconds, we use it, JAX uses our output, and its memory goes to other work at once."""
    import jax
    import jax.numpy as jnp

    jax_device("cuda")
    n = 4096
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.float32) / n**0.5
    slow = jax.jit(lambda a, i: (a @ a @ a) * 1e-3 + i)
    after = jax.jit(lambda y: (y + 0.0)[:64].mean())
    means = []
    for i in range(12):
        x = slow(a, i + 1.0)
        y = flashinfer.silu_and_mul(x)
        del x
        noise = slow(a, -1e6)  # may get the memory of x
        means.append(after(y))
        del y, noise
        noise = [jnp.full((n, n // 2), jnp.nan) for _ in range(4)]  # and of y
        del noise
    for i, mean in enumerate(means):
        x = np.asarray(slow(a, i + 1.0)[:64], np.float64)
        gate, up = x[:, : n // 2], x[:, n // 2 :]
        np.testing.assert_allclose(float(mean), (gate / (1 + np.exp(-gate)) * up).mean(), rtol=1e-3)


@pytest.mark.gpu
def test_jax_scratch_between_calls(randn):
    """Single attention takes scratch for each call, which is freed while its kernel runs."""
    import jax.numpy as jnp

    jax_device("cuda")
    q, k, v = (jnp.asarray(randn(*shape).numpy(), jnp.float16) for shape in ((1, 8, 64), (20000, 8, 64), (20000, 8, 64)))
    results = []
    for _ in range(20):
        results.append(flashinfer.single_decode_with_kv_cache(q[0], k, v))
        jnp.full((1 << 20,), 3.0e38)
    first = np.asarray(results[0])
    assert np.isfinite(first).all() and all((np.asarray(r) == first).all() for r in results)


@pytest.mark.gpu
def test_jax_memory_is_given_back():
    import jax.numpy as jnp

    device = jax_device("cuda")
    x, w = jnp.ones((1 << 14, 1 << 10)), jnp.ones((1 << 10,))
    for _ in range(3):
        flashinfer.rmsnorm(x, w).block_until_ready()
    before = device.memory_stats()["bytes_in_use"]
    for _ in range(200):
        flashinfer.rmsnorm(x + 1, w)
    flashinfer.rmsnorm(x, w).block_until_ready()
    flashinfer.rmsnorm(x, w).block_until_ready()
    assert device.memory_stats()["bytes_in_use"] - before <= 4 * x.nbytes


@pytest.mark.gpu
def test_cupy_streams():
    """Ops run on CuPy's current stream."""
    cupy = pytest.importorskip("cupy")
    n = 4096
    a = cupy.random.standard_normal((n, n), dtype=cupy.float32) / n**0.5
    w = cupy.ones(n, cupy.float32)
    cupy.cuda.Device().synchronize()
    for stream in (cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream.null):
        with stream:
            for i in range(5):
                x = a @ a @ a + i
                y = flashinfer.rmsnorm(x, w)
                z = y * 2
        stream.synchronize()
        expected = 2 * x / cupy.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        assert float(cupy.abs(z - expected).max()) < 1e-3


@pytest.mark.gpu
def test_cupy_in_place(randn, check):
    cupy = pytest.importorskip("cupy")
    x, r, w = randn(5, 264, dtype=torch.float16), randn(5, 264, dtype=torch.float16), randn(264, dtype=torch.float16)
    cx, cr, cw = (cupy.asarray(t.numpy()) for t in (x, r, w))
    flashinfer.fused_add_rmsnorm(x, r, w)
    flashinfer.fused_add_rmsnorm(cx, cr, cw)
    check(torch.from_numpy(cupy.asnumpy(cx)), x)
    check(torch.from_numpy(cupy.asnumpy(cr)), r)
