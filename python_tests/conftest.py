"""Fixtures of every test: the device, fresh random tensors, the comparison with a reference in float64."""

import collections
import os
import zlib

import pytest
import torch

# Processes share the GPU: none may take most of its memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# ‖out - ref‖ / ‖ref‖ that rounding to the dtype explains; more is an error of the kernel.
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 7e-4, torch.bfloat16: 5e-3, torch.float8_e4m3fn: 4e-2, torch.float8_e5m2: 8e-2}


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, help="at most so many cases of each test function, chosen by --cases-seed")
    parser.addoption("--cases-seed", default="0", help="another seed chooses other cases")


def pytest_collection_modifyitems(config, items):
    needed = {"gpu": 1, "two_gpus": 2}
    missing = [marker for marker, gpus in needed.items() if torch.cuda.device_count() < gpus]
    kept = [item for item in items if not any(item.get_closest_marker(marker) for marker in missing)]
    most, seed = config.getoption("--cases"), config.getoption("--cases-seed")
    if most:
        functions = collections.defaultdict(list)
        for item in kept:
            gpu = item.get_closest_marker("gpu") is not None
            functions[item.nodeid.split("[")[0], gpu].append(item)
        chosen = [sorted(cases, key=lambda item: zlib.crc32((seed + item.nodeid).encode()))[:most] for cases in functions.values()]
        chosen = {item.nodeid for cases in chosen for item in cases}
        kept = [item for item in kept if item.nodeid in chosen]
    here = {item.nodeid for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in here])
    items[:] = kept


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test's tensors are. FLASHINFER_TEST_DEVICE=cuda:1: on a GPU that is not the current one, and may not become it."""
    if request.param == "cpu":
        yield "cpu"
    else:
        current = torch.cuda.current_device()
        yield os.environ.get("FLASHINFER_TEST_DEVICE", "cuda")
        assert torch.cuda.current_device() == current


@pytest.fixture
def generator(request):
    """Seeded by the test's name and parameters: other numbers in every test, the same in every run and on every device."""
    return torch.Generator().manual_seed(zlib.crc32(request.node.name.replace("cuda", "cpu").encode()))


@pytest.fixture
def randn(generator, device):
    """randn(*shape, dtype=, scale=): normal numbers, drawn in float64 on the CPU, then rounded."""

    def make(*shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype).to(device)

    return make


@pytest.fixture
def nans(device):
    """nans(*shape, dtype=): an output to write to. What the kernel leaves out stays NaN, and no comparison passes it."""

    def make(*shape, dtype=torch.float32):
        if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            return torch.full(shape, 0x7F, dtype=torch.uint8, device=device).view(dtype)
        return torch.full(shape, float("nan"), dtype=dtype, device=device)

    return make


def relative_error(out, ref):
    out, ref = out.detach().double().cpu(), ref.detach().double().cpu()
    assert out.shape == ref.shape, f"shape {tuple(out.shape)}, expected {tuple(ref.shape)}"
    if ref.numel() == 0:
        return 0.0
    assert not out.isnan().any(), f"{int(out.isnan().sum())} of {out.numel()} elements are NaN"
    return float((out - ref).norm() / ref.norm().clamp_min(1e-300))


@pytest.fixture
def check():
    """check(out, ref, bound=None): out against a float64 reference; the bound is the one of out's dtype unless given."""

    def compare(out, ref, bound=None):
        error = relative_error(out, ref)
        bound = BOUNDS[out.dtype] if bound is None else bound
        assert error < bound, f"relative error {error:.3g}, allowed {bound:.3g} for {out.dtype}"

    return compare
