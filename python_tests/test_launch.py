"""The way of a call on CUDA tensors down to the driver, with a stand-in for the driver: streams, devices, PDL, locks, errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flashinfer import _flashinfer, _toolchain

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="the stand-in needs a C++ compiler"),
    pytest.mark.skipif(not _flashinfer._jit.config()["nvrtc"], reason="needs NVRTC: the [cuda] extra or a toolkit"),
    pytest.mark.skipif(bool(_flashinfer._jit.config()["driver_cuda"]), reason="there is a real driver"),
]

PREAMBLE = """
import sys, types
import flashinfer
from lender import Lender
def tensors(*device):
    return Lender(4, 64, device=(2, *device)), Lender(64, device=(2, *device)), Lender(4, 64, device=(2, *device))
def rmsnorm(*device, **options):
    x, w, out = tensors(*device)
    assert flashinfer.rmsnorm(x, w, out=out, **options) is out
    assert x.returned == w.returned == out.returned == 1
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-shared", "-fPIC", f"-I{_toolchain.INCLUDE_DIR}", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", folder / "libcuda.so.1", HERE / "stand_in_driver.cpp", "-ldl"], check=True)
    return folder


@pytest.fixture
def run(driver, tmp_path):
    """Runs code in a new process; gives what the driver was asked. The kernels of earlier tests are in its cache."""

    def run(code, **environment):
        log = tmp_path / "log"
        log.write_text("")
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(driver),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "STAND_IN_LOG": str(log),
            "FLASHINFER_CACHE_DIR": str(driver / "cache"),
            **environment,
        }
        result = subprocess.run([sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, cwd="/", env=environment, timeout=120)
        assert result.returncode == 0, result.stderr
        return [line for line in log.read_text().splitlines() if line != "init"], result.stdout

    return run


def test_import_and_cpu_ops_leave_the_driver_alone(run):
    calls, text = run(
        "x, w = Lender(4, 64), Lender(64)\nflashinfer.rmsnorm(x, w, out=Lender(4, 64))\n"
        "print([name for name in ('libcuda', 'libnvrtc') if name in open('/proc/self/maps').read()])"
    )
    assert calls == [] and text.strip() == "[]"


def test_launches(run):
    """Loaded once; on the device and stream of the tensors; PDL is on where the GPU has it, unless refused."""
    calls, _ = run("rmsnorm(1)\nrmsnorm(1, enable_pdl=False)\nrmsnorm(1, enable_pdl=True)\nrmsnorm(0)")
    launch = "launch device={} stream=1 pdl={}"
    assert calls == ["retain 1", "load", launch.format(1, 1), launch.format(1, 0), launch.format(1, 1), "retain 0", launch.format(0, 1)]


CUPY = """
import ctypes
driver = ctypes.CDLL('libcuda.so.1')
def current_device():
    context = ctypes.c_void_p()
    driver.cuCtxGetCurrent(ctypes.byref(context))
    return (context.value or 1000) - 1000
cupy = types.ModuleType('cupy')
cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=streams[current_device()]))
cupy.empty = lambda shape, dtype: Lender(*shape, device=(2, current_device()))
sys.modules['cupy'] = cupy
Lender.__module__ = 'cupy'
"""


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("stream", [0, 1, 1234])
def test_cupy(run, device, stream):
    """CuPy tells the stream of the current GPU, and makes arrays there: the arrays' GPU is that for as long. It is told the stream."""
    calls, _ = run(
        CUPY + f"streams = {{{device}: {stream}, {1 - device}: 77}}\nx, w, _ = tensors({device})\nout = flashinfer.rmsnorm(x, w)\n"
        f"assert out.__dlpack_device__() == (2, {device}) and x.streams == out.streams == [{stream or 1}] and current_device() == 0"
    )
    assert calls[-1] == f"launch device={device} stream={stream} pdl=1"


def test_empty_tensors_launch_nothing(run):
    calls, _ = run("flashinfer.rmsnorm(Lender(0, 64, device=(2, 0)), Lender(64, device=(2, 0)), out=Lender(0, 64, device=(2, 0)))")
    assert not [call for call in calls if call.startswith(("load", "launch"))]


def test_threads_share_one_build(run, tmp_path):
    """The compiler's place is asked from Python on the building thread: the others must not hold Python's lock while they wait."""
    calls, _ = run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: list(pool.map(lambda _: rmsnorm(0), range(32)))",
        FLASHINFER_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert calls.count("load") == 1 and calls.count("launch device=0 stream=1 pdl=1") == 32


def raises(code, error, text):
    return f"try: {code}\nexcept flashinfer.{error} as e:\n    for part in {text!r}: assert part in str(e), str(e)\nelse: assert False"


def test_errors(run, tmp_path):
    calls, _ = run(raises("rmsnorm(0)", "CudaError", ["launch of RmsnormKernel<RmsnormConfig{", "CUDA_ERROR_STAND_IN (700): as the test asked", "grid"]),
                   STAND_IN_FAIL="cuLaunchKernelEx")
    assert calls == ["retain 0", "load"]
    run(raises("rmsnorm(0)", "CudaError", ["jit: loading RmsnormKernel", "sm_90a", "700"]), STAND_IN_FAIL="cuLibraryLoadData")
    run(raises("rmsnorm(2)", "CudaError", ["cuDeviceGet"]))
    run(raises("rmsnorm(0)", "CudaError", ["cuInit: CUDA_ERROR_STAND_IN"]), STAND_IN_FAIL="cuInit")
    empty = str(tmp_path / "empty")
    run(raises("rmsnorm(0)", "CompileError", ["RmsnormKernel<", "sm_90a", "FLASHINFER_JIT=off"]), FLASHINFER_JIT="off", FLASHINFER_CACHE_DIR=empty)
    run(raises("rmsnorm(0)", "CompileError", ["can not load NVRTC"]), FLASHINFER_NVRTC="/nowhere/libnvrtc.so.13", FLASHINFER_CACHE_DIR=empty)
    run(raises("rmsnorm(0)", "CudaError", ["libcuda.so.1"]), LD_LIBRARY_PATH="")


JAX = """
import contextlib, ctypes, os, gc
class ArrayImpl(Lender): pass
ArrayImpl.__module__ = 'jaxlib._jax'
made, given = [], []
def allocate(f, out_shardings):
    def call():
        made.append(ArrayImpl(*f(), device=(2, out_shardings)))
        return made[-1]
    return call
def from_dlpack(buffer):
    assert buffer.__dlpack_device__() == (2, 0)
    given.append(buffer.__dlpack__(stream=77))
    return given[-1]
jax = types.ModuleType('jax')
jax.jit = allocate
jax.lax = types.SimpleNamespace(empty=lambda shape, dtype: (shape[0] // 4,))
jax.sharding = types.SimpleNamespace(SingleDeviceSharding=lambda device: device.local_hardware_id)
jax.local_devices = lambda backend: [types.SimpleNamespace(local_hardware_id=i) for i in (1, 0)]
jax.dlpack = types.SimpleNamespace(from_dlpack=from_dlpack)
sys.modules['jax'] = jax
"""


def test_jax(run):
    """On our stream, which waits for JAX's inputs and for which JAX waits; what it uses is held until it is done; no synchronisation."""
    calls, _ = run(
        JAX + "x, w = ArrayImpl(4, 64, device=(2, 0)), ArrayImpl(64, device=(2, 0))\n"
        "os.environ['STAND_IN_BUSY'] = '1'\n"
        "out = flashinfer.rmsnorm(x, w)\n"
        "assert out is given[0] and x.streams == w.streams == made[0].streams == [1]\n"
        "assert len(made) == 1 and made[0].shape[0] * 4 >= 4 * 64 * 4\n"
        "assert x.returned == w.returned == 0 == made[0].returned\n"
        "del os.environ['STAND_IN_BUSY']\n"
        "flashinfer.rmsnorm(x, w)\n"
        "assert x.returned == w.returned == 1 and made[1].returned == 0\n"
        "given.clear(); del out\n"  # JAX frees the results
        "assert made[0].returned == made[1].returned == 1"
    )
    first = ["retain 0", "load", "launch device=0 stream=1 pdl=1", "event 1", "record 1 on stream 1", "stream 77 waits for event 1"]
    assert [call for call in calls[: calls.index("stream 77 waits for event 1") + 1]] == first
    assert "synchronize" not in calls


def test_jax_arrays_are_not_written(run):
    run(JAX + raises("flashinfer.rmsnorm(*tensors(0)[:2], out=ArrayImpl(4, 64, device=(2, 0)))", "InvalidArgument",
                     ["rmsnorm: out: expected a writable tensor, got a JAX array, which is immutable: see flashinfer.jax"]))


def test_jax_scratch(run):
    """In place of a workspace that is a JAX array: memory that can be written, and that is held while the stream uses it."""
    run(
        JAX + "scratch = flashinfer._flashinfer._scratch_like(ArrayImpl(4, 64, device=(2, 0)))\n"
        "view = flashinfer.describe(scratch, writable=True)\n"
        "assert (view['shape'], view['dtype'], view['device'], view['data_ptr']) == ((1024,), 'u8', 'cuda:0', made[0].address), view\n"
        "os.environ['STAND_IN_BUSY'] = '1'\ndel scratch; gc.collect()\nassert made[0].returned == 0\n"
        "del os.environ['STAND_IN_BUSY']\nflashinfer._flashinfer._scratch_like(ArrayImpl(4, 64, device=(2, 0)))\nassert made[0].returned == 1"
    )


def test_unknown_libraries(run):
    run(raises("flashinfer.rmsnorm(*tensors(0)[:2])", "InvalidArgument", ["rmsnorm: out: expected a tensor: none can be made in the framework of input"]))


def test_fork(run):
    """Before the first use a child may use the GPU; after it the child is told why it can not, instead of hanging."""
    code = """
import os
def child(body):
    pid = os.fork()
    if pid == 0:
        try: body(); os._exit(0)
        except BaseException as e: print(e, flush=True); os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def refused():
    try: rmsnorm(0)
    except flashinfer.CudaError as e: assert "fork" in str(e), e
    else: assert False
assert child(lambda: rmsnorm(0)) == 0
rmsnorm(0)
assert child(refused) == 0
rmsnorm(0)
"""
    calls, _ = run(code)
    assert calls.count("launch device=0 stream=1 pdl=1") == 3
