"""Tensors of a GPU that is not the current one, in one process: with streams, graphs, generators, threads and libraries of its own.

What every op computes there, all other tests tell: FLASHINFER_TEST_DEVICE=cuda:1 python -m pytest -m gpu python_tests
"""

import threading

import pytest
import torch

import flashinfer
from flashinfer import InvalidArgument, sampling
from reference import Batch
from test_decode import workspace

pytestmark = [pytest.mark.gpu, pytest.mark.two_gpus]
GPUS = ["cuda:0", "cuda:1"]


@pytest.fixture(autouse=True)
def first_stays_current():
    torch.cuda.set_device(0)
    yield
    assert torch.cuda.current_device() == 0


@pytest.fixture
def values(generator):
    """values(device): the same logits on both."""
    logits = torch.randn(40, 30000, generator=generator) * 3
    return logits.to


def decode(batch, scratch):
    caches, *lengths = batch.paged(16)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(scratch)
    wrapper.plan(*lengths, 8, 2, 64, 16)
    return wrapper.run(batch.q, caches)


def ops(logits):
    """What a step of a server calls, on the logits' device."""
    device = logits.device
    batch = Batch([1] * 3, [90, 2000, 17], dtype=torch.float16, seed=4, device=device)
    probs = sampling.softmax(logits, temperature=torch.full((len(logits),), 0.7, device=device))
    x = logits.view(-1, 3000).half()
    return [
        flashinfer.rmsnorm(x, x[0]),
        flashinfer.silu_and_mul(x),
        decode(batch, workspace(device)),
        flashinfer.single_prefill_with_kv_cache(batch.q, batch.q, batch.q, causal=True),
        probs,
        sampling.top_p_renorm_probs(probs, 0.9),
        sampling.top_k_mask_logits(logits, 50),
        sampling.top_k_top_p_sampling_from_probs(probs, 50, 0.9, seed=1),
        sampling.top_p_sampling_from_probs(probs, 0.9, seed=torch.arange(len(logits), device=device)),
        *flashinfer.top_k(logits, 64, sorted=True),
    ]


def test_both_compute_the_same(values):
    for first, second in zip(*(ops(values(device)) for device in GPUS), strict=True):
        assert (str(first.device), str(second.device)) == tuple(GPUS)
        assert torch.equal(first.cpu(), second.cpu())


def test_threads(values):
    """One for each GPU, as servers have them, and two that change GPUs with every step, whichever is current."""
    expected = [x.cpu() for x in ops(values("cuda:0"))]
    equal = []

    def use(current, devices):
        torch.cuda.set_device(current)
        for device in devices:
            equal.extend(torch.equal(x.cpu(), e) for x, e in zip(ops(values(device)), expected, strict=True))
        equal.append(torch.cuda.current_device() == current)

    threads = [threading.Thread(target=use, args=args) for args in ((0, GPUS[:1] * 10), (1, GPUS[1:] * 10), (0, GPUS * 5), (1, GPUS * 5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal) == 4 * (10 * len(expected) + 1) and all(equal)


def test_streams(values):
    """An op waits for what the current stream of its tensors' GPU does, and for nothing else."""
    logits = values("cuda:1")
    expected = sampling.softmax(logits + 1)
    stream = torch.cuda.Stream("cuda:1")
    for _ in range(5):
        torch.cuda.synchronize("cuda:1")
        with torch.cuda.stream(stream):  # the second GPU becomes the current one
            late = torch.full_like(logits, torch.nan)
            torch.cuda._sleep(20_000_000)
            late.copy_(logits + 1)
            with torch.cuda.device(0):
                out = sampling.softmax(late)
        stream.synchronize()
        assert torch.equal(out, expected)


def test_generators(values):
    """Seeds come from the generator of the tensors' GPU, which moves on; that of the current one does not."""
    draws = []
    for i, device in enumerate(GPUS):
        default, other = torch.cuda.default_generators[i], torch.cuda.default_generators[1 - i]
        for generator, given in [(default, None), *[(torch.Generator(device),) * 2]]:
            generator.manual_seed(7)
            before = other.get_offset()
            draws.append([sampling.sampling_from_logits(values(device), generator=given).tolist() for _ in range(2)])
            assert generator.get_offset() == 8 and other.get_offset() == before
    assert draws == draws[:1] * 4 and draws[0][0] != draws[0][1]


def test_graphs(values):
    """Captured and replayed on the second GPU, with a seed and with those of the default generator."""
    logits, batch, scratch = values(GPUS[1]), Batch([1] * 2, [40, 700], dtype=torch.float16, seed=5, device=GPUS[1]), workspace(GPUS[1])
    probs = logits.softmax(-1)
    caches, *lengths = batch.paged(16)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(scratch)
    wrapper.plan(*lengths, 8, 2, 64, 16)

    def call():
        return wrapper.run(batch.q, caches), sampling.top_p_sampling_from_probs(probs, 0.9, seed=3), sampling.sampling_from_logits(logits)

    expected = call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(1)):  # which makes its GPU the current one
        captured = call()
    drawn = []
    for _ in range(3):
        for x in captured:
            x.zero_()
        graph.replay()
        assert all(torch.equal(x, e) for x, e in zip(captured[:2], expected))
        drawn.append(captured[2].tolist())
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_one_call_is_of_one_gpu(values):
    first, second = (values(device) for device in GPUS)
    batch = Batch([1] * 2, [40, 70], dtype=torch.float16, device=GPUS[0])
    row = torch.ones(40, dtype=torch.int32, device=GPUS[1])
    caches, *lengths = batch.paged(16)
    elsewhere = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace(GPUS[1]))
    for argument, call in {
        "weight": lambda: flashinfer.rmsnorm(first, second[0]),
        "out": lambda: flashinfer.rmsnorm(first, first[0], out=second),
        "top_k": lambda: sampling.top_k_mask_logits(first, row),
        "seed": lambda: sampling.sampling_from_logits(first, seed=row.long()),
    }.items():
        with pytest.raises(InvalidArgument, match="cuda:[01]") as error:
            call()
        assert error.value.argument == argument
    with pytest.raises(InvalidArgument, match="cuda:[01]"):
        elsewhere.plan(*lengths, 8, 2, 64, 16)
        elsewhere.run(batch.q, caches)


def test_jax(values):
    jax = pytest.importorskip("jax")
    fj = pytest.importorskip("flashinfer.jax")
    on = [jax.device_put(values("cpu").numpy(), device) for device in jax.devices("cuda")[:2]]
    for of_both in ([flashinfer.rmsnorm(x, x[0]) for x in on], [fj.rmsnorm(x, x[0]) for x in on], [sampling.softmax(x) for x in on]):
        assert [x.devices() for x in of_both] == [x.devices() for x in on]
        first, second = (torch.utils.dlpack.from_dlpack(x).cpu() for x in of_both)
        assert torch.equal(first, second) and not first.isnan().any()
    with pytest.raises(InvalidArgument, match="cuda:[01]"):
        flashinfer.rmsnorm(on[0], on[1][0])


def test_cupy(values):
    """Whichever GPU is current, on the arrays' GPU and its stream; new arrays are made there."""
    cupy = pytest.importorskip("cupy")
    weight = cupy.asarray(values("cpu")[0].numpy())
    expected = flashinfer.rmsnorm(cupy.asarray(values("cpu").numpy()), weight).get()
    with cupy.cuda.Device(1):
        x, weight = (cupy.asarray(t.numpy()) for t in (values("cpu"), values("cpu")[0]))
        stream = cupy.cuda.Stream(non_blocking=True)
        for _ in range(5):
            with stream:
                late = cupy.full_like(x, cupy.nan)
                for _ in range(50):
                    slow = late @ late.T
                late[:] = cupy.where(cupy.isnan(slow[:, :1]), x, 0)
                with cupy.cuda.Device(0):
                    y = flashinfer.rmsnorm(late, weight)
                    assert y.device.id == 1 and cupy.cuda.runtime.getDevice() == 0
            stream.synchronize()
            assert (y.get() == expected).all()
