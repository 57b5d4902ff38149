"""Reading the tensors of every framework, refusing what has no readable memory, and making outputs."""

import ctypes
import gc
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
import threading
import time
import weakref
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import flashinfer
from flashinfer import InvalidArgument, describe
from flashinfer._flashinfer import _empty as empty
from flashinfer._flashinfer import _read_four
from lender import Lender

TORCH_DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e5m2: "e5m2",
    torch.float64: "f64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint32: "i32",
    torch.uint64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "boolean",
    torch.float8_e8m0fnu: "u8",
}
NUMPY_DTYPES = {
    "float32": "f32",
    "float16": "f16",
    "float64": "f64",
    "int32": "i32",
    "int64": "i64",
    "uint32": "i32",
    "uint64": "i64",
    "longlong": "i64",
    "int8": "i8",
    "uint8": "u8",
    "bool": "boolean",
    ml_dtypes.bfloat16: "bf16",
    ml_dtypes.float8_e4m3fn: "e4m3",
    ml_dtypes.float8_e5m2: "e5m2",
    ml_dtypes.float8_e8m0fnu: "u8",
}


class Producer:
    """A tensor of a library that nobody has heard of."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, max_version=None):
        return self.array.__dlpack__(max_version=max_version)


class OldProducer(Producer):
    """One from before DLPack 1.0."""

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


def agree(view, tensor, dtype):
    assert view["shape"] == tuple(tensor.shape)
    assert view["dtype"] == dtype
    assert view["device"] == "cpu"


# --- what is read


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_torch_dtypes(dtype):
    t = torch.zeros(3, 5, dtype=torch.uint8).to(dtype) if dtype != torch.float8_e8m0fnu else torch.ones(3, 5, dtype=dtype)
    view = describe(t)
    agree(view, t, TORCH_DTYPES[dtype])
    assert view["strides"] == t.stride() and view["data_ptr"] == t.data_ptr()


@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (2, 1, 3)], ids=str)
def test_numpy_dtypes(dtype, shape):
    a = np.zeros(shape, dtype)
    for array in (a, a.T, a[..., ::2] if shape else a):
        view = describe(array)
        agree(view, array, NUMPY_DTYPES[dtype])
        if array.size:  # NumPy's own strides of an empty array depend on how one asks
            assert view["data_ptr"] == array.__array_interface__["data"][0]
            assert view["strides"] == tuple(stride // array.itemsize for stride in array.strides)


def test_packed_fp4_is_bytes():
    t = torch.zeros(4, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    agree(describe(t), t, "u8")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "bool", "float8_e4m3fn", "float8_e5m2"])
def test_jax(dtype):
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.ones((3, 5), dtype)
    view = describe(x)
    agree(view, x, describe(np.ones((3, 5), x.dtype))["dtype"])
    assert view["data_ptr"] == x.unsafe_buffer_pointer()


def test_tvm_ffi():
    tvm_ffi = pytest.importorskip("tvm_ffi")
    a = np.ones((3, 5), np.float32)
    view = describe(tvm_ffi.from_dlpack(a))
    agree(view, a, "f32")
    assert view["data_ptr"] == a.ctypes.data


@pytest.mark.parametrize("producer", [Producer, OldProducer])
def test_any_dlpack_producer(producer):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    view = describe(producer(a))
    agree(view, a, "f32")
    assert view["strides"] == (4, 2) and view["data_ptr"] == a.ctypes.data


def test_torch_views():
    t = torch.randn(4, 6, 8)
    for view in (t[1:, :, ::2], t.permute(2, 0, 1), t[:, :, 3], t[2, 3, 4], t[:0], t[:, None].expand(4, 7, 6, 8), t.detach()):
        seen = describe(view)
        assert (seen["shape"], seen["strides"], seen["data_ptr"]) == (tuple(view.shape), view.stride(), view.data_ptr())


def test_torch_parameters_and_gradients():
    for t in (torch.nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True), torch.nn.Buffer(torch.ones(3))):
        assert describe(t)["data_ptr"] == t.data_ptr()
    with torch.inference_mode():
        assert describe(torch.ones(3))["shape"] == (3,)


def test_plain_subclasses():
    class Named(torch.Tensor):
        pass

    assert describe(torch.ones(3).as_subclass(Named))["shape"] == (3,)
    assert describe(np.ones(3).view(np.recarray))["shape"] == (3,)
    assert describe(np.ones((2, 3)).view(np.matrix))["shape"] == (2, 3)


# --- what is refused: TypeError for what is no tensor with memory, InvalidArgument for a tensor that does not fit


@pytest.mark.parametrize("value", [[1.0], (1.0,), 3, 1.5, "x", {}, object(), torch.float32, torch.Tensor, np.float32(1), b"xx"], ids=lambda value: type(value).__name__)
def test_not_a_tensor(value):
    with pytest.raises(TypeError, match=r"describe: tensor: expected a tensor \(torch, NumPy"):
        describe(value)


def test_the_text_names_the_type():
    with pytest.raises(TypeError, match="got list$"):
        describe([1])
    with pytest.raises(TypeError, match=r"describe\(tensor: Tensor.*\n\nInvoked with types: NoneType"):
        describe(None)
    t = torch.ones(1)
    with pytest.raises(TypeError, match="read_four: c: .* got int$"):
        _read_four(t, t, 3, t)


def test_wrapper_subclasses():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(3)

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise NotImplementedError

    for _ in range(2):  # also once the type is known
        with pytest.raises(TypeError, match="FakeTensor, which wraps its data"):
            describe(fake)
        with pytest.raises(TypeError, match="Wrapper, which wraps its data"):
            describe(Wrapper(torch.ones(3)))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_without_dense_memory():
    for t in (torch.ones(2, device="meta"), torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr()):
        with pytest.raises(InvalidArgument, match="describe: tensor: expected a dense tensor"):
            describe(t)
    seen = []

    def inside(x):
        with pytest.raises(InvalidArgument, match="dense tensor"):
            describe(x)
        seen.append(1)
        return x

    torch.func.vmap(inside)(torch.ones(2, 3))
    assert seen


def test_lazy_negation_and_conjugation():
    z = torch.ones(3, dtype=torch.complex64)
    negated = z.conj().imag
    assert negated.is_neg()
    with pytest.raises(InvalidArgument, match="resolve_neg"):
        describe(negated)
    assert describe(negated.resolve_neg())["shape"] == (3,)
    assert describe(z.imag)["strides"] == (2,)
    for conjugated in (z, z.conj()):
        with pytest.raises(InvalidArgument, match="got complex64"):
            describe(conjugated)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "complex64", "datetime64[s]", ">f4", "S3", "O", [("a", "f4"), ("b", "f4")]], ids=str)
def test_numpy_dtypes_refused(dtype):
    with pytest.raises(InvalidArgument, match="expected dtype f32, f16"):
        describe(np.zeros(3, dtype))


def test_torch_dtypes_refused():
    for dtype in (torch.int16, torch.uint16, torch.float8_e4m3fnuz):
        with pytest.raises(InvalidArgument, match="expected dtype f32, f16"):
            describe(torch.zeros(3, dtype=dtype))


def test_numpy_memory_refused():
    packed = np.zeros(4, np.dtype([("tag", "u1"), ("value", "f4")]))
    with pytest.raises(InvalidArgument, match="strides of whole elements|aligned"):
        describe(packed["value"])
    unaligned = np.zeros(9, np.uint8)[1:].view(np.float32)
    with pytest.raises(InvalidArgument, match="aligned"):
        describe(unaligned)
    with pytest.raises(TypeError, match="mask would be ignored"):
        describe(np.ma.ones(3))
    with pytest.raises(InvalidArgument, match="at most 8 dimensions"):
        describe(np.zeros((1,) * 9, np.float32))
    with pytest.raises(InvalidArgument, match="at most 8 dimensions"):
        describe(torch.zeros((1,) * 9))


# --- outputs


def test_read_only_outputs():
    a = np.ones(3, np.float32)
    assert describe(a, writable=True)["shape"] == (3,)
    a.flags.writeable = False
    narrow = np.ones(3, ml_dtypes.bfloat16)
    narrow.flags.writeable = False
    for array in (a, narrow, np.broadcast_to(np.ones(1, np.float32), (3,)), Producer(a), OldProducer(a)):
        if not isinstance(array, OldProducer):  # NumPy does not lend read-only memory to it at all
            describe(array)
        with pytest.raises(InvalidArgument):
            describe(array, writable=True)
    with pytest.raises(InvalidArgument, match="writable tensor, got a read-only"):
        describe(Producer(a), writable=True)


def test_jax_arrays_are_immutable():
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(InvalidArgument, match="JAX array, which is immutable"):
        describe(jnp.ones(3), writable=True)


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "e4m3", "e5m2", "f64", "i32", "i64", "i8", "u8", "boolean"])
def test_new_outputs(dtype, shape):
    likes = [torch.ones(2, requires_grad=True), np.ones(2), np.ones(2, ml_dtypes.bfloat16)]
    if find_spec("jax"):
        likes.append(__import__("jax").numpy.ones(2))
    for like in likes:
        made = empty(like, shape, dtype)
        assert isinstance(made, type(like))
        if dtype in ("f64", "i64") and "jax" in type(like).__module__:
            continue  # JAX has 32-bit defaults
        agree(describe(made), made, dtype)
        strides = np.empty(shape, np.uint8).strides
        assert describe(made)["strides"] == strides or 0 in shape


def test_no_output_in_an_unknown_framework():
    likes = [Producer(np.ones(2))]
    if find_spec("tvm_ffi"):
        likes.append(__import__("tvm_ffi").from_dlpack(np.ones(2)))
    for like in likes:
        with pytest.raises(InvalidArgument, match="empty: out: expected a tensor: none can be made in the framework of like"):
            empty(like, (2,), "f32")


def test_new_output_on_the_device_of_the_input(device):
    t = torch.ones(2, device=device)
    made = empty(t, (3, 4), "bf16")
    assert made.device == t.device and made.dtype == torch.bfloat16 and not made.requires_grad


def test_loans_are_returned_once():
    lender = Lender(6, byte_offset=8)
    assert describe(lender) == {"shape": (6,), "strides": (1,), "dtype": "f32", "device": "cpu", "data_ptr": lender.address}
    assert (lender.returned, lender.streams) == (1, [None])
    for refused in (Lender(6, version=2), Lender(6, flags=1), Lender(6, flags=2), Lender(6, device=(10, 0))):
        with pytest.raises(InvalidArgument):
            describe(refused, writable=True)
        assert refused.returned == 1
    describe(Lender(6, flags=3))  # read-only or a copy: good enough to read
    nameless = Lender(6, name=b"dltensor_next")
    with pytest.raises(InvalidArgument, match="expected a DLPack capsule"):
        describe(nameless)
    assert nameless.returned == 0


def test_cuda_arrays_of_other_libraries():
    """One that we do not know is ordered before the default stream."""
    other = Lender(6, device=(2, 3))
    assert describe(other)["device"] == "cuda:3"
    assert other.streams == [1]


def test_strides_of_empty_tensors():
    """CuPy gives zeros."""

    class Empty(Lender):
        def __init__(self):
            super().__init__(0, 5)
            self.strides = (ctypes.c_int64 * 2)(0, 0)
            self.loan.strides = self.strides

    assert describe(Empty())["strides"] == (5, 1)


def test_devices_must_agree_without_a_gpu():
    cuda, cpu = Lender(6, device=(2, 0)), torch.ones(6)
    for arguments, name, pair in [((cpu, cuda, cpu, cpu), "b", "cpu like a, got one on cuda:0"), ((cuda, cuda, cuda, cpu), "out", "cuda:0 like a, got one on cpu")]:
        with pytest.raises(InvalidArgument, match=f"read_four: {name}: expected a tensor on {pair}") as error:
            _read_four(*arguments)
        assert (error.value.op, error.value.argument) == ("read_four", name)
    with pytest.raises(InvalidArgument, match="cuda:0 like a, got one on cuda:1"):
        _read_four(cuda, Lender(6, device=(2, 1)), cuda, cuda)


@pytest.mark.gpu
def test_devices_must_agree():
    cpu, cuda = torch.ones(2), torch.ones(2, device="cuda")
    with pytest.raises(InvalidArgument, match="read_four: c: expected a tensor on cuda:0 like a, got one on cpu") as error:
        _read_four(cuda, cuda, cpu, cuda)
    assert (error.value.op, error.value.argument) == ("read_four", "c")
    _read_four(cuda, cuda, cuda, cuda)


# --- lifetime


def test_no_leaks():
    """Neither tensors nor types nor exceptions keep a reference, on the good path and on every refusal."""
    a = np.ones(3, np.float32)
    frozen = np.ones(3, ml_dtypes.bfloat16)
    frozen.flags.writeable = False
    values = [torch.ones(3), a, frozen, Producer(a), OldProducer(a), [1], np.ones(3, np.int16), torch.ones(2, device="meta"), a[::-1]]
    values += [pytest.importorskip("jax.numpy").ones(3)]

    def use():
        for value in values:
            for writable in (False, True):
                try:
                    describe(value, writable=writable)
                except (TypeError, InvalidArgument):
                    pass
            try:
                empty(value, (3,), "f32")
            except (TypeError, InvalidArgument):
                pass

    use()
    watched = values + [type(value) for value in values] + [InvalidArgument, np.dtype("float32"), np.dtype(ml_dtypes.bfloat16)]
    before = [sys.getrefcount(value) for value in watched]
    for _ in range(100):
        use()
    gc.collect()
    grown = [sys.getrefcount(value) - count for value, count in zip(watched, before)]
    assert max(grown) < 20, grown  # one a call would be 100


def test_exported_memory_is_given_back():
    array = np.ones(1000, np.float32)
    gone = weakref.ref(array)
    producer = Producer(array)
    describe(producer)
    with pytest.raises(InvalidArgument):
        empty(producer, (2,), "f32")
    del array, producer
    gc.collect()
    assert gone() is None


def test_more_types_than_are_remembered():
    kinds = [type(f"Array{i}", (np.ndarray,), {}) for i in range(50)]
    for _ in range(3):
        for kind in kinds:
            assert describe(np.ones(3, np.float32).view(kind))["dtype"] == "f32"
    gone = weakref.ref(kinds[0])
    kind = None
    kinds.clear()
    gc.collect()
    assert gone() is None  # pushed out by later types, and released


def test_threads():
    from concurrent.futures import ThreadPoolExecutor

    tensors = [torch.ones(i + 1, 2) for i in range(8)]

    def work(t):
        return all(describe(t)["shape"] == tuple(t.shape) and _read_four(t, t, t, t) is None for _ in range(500))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, tensors))


def test_other_threads_run_meanwhile():
    """An op gives Python's lock away while it computes."""
    x = torch.randn(8192, 8192)
    done, gaps = threading.Event(), []

    def tick():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    weight, out = torch.ones(8192), torch.empty_like(x)
    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    for _ in range(5):
        flashinfer.rmsnorm(x, weight, out=out)
    seconds = time.perf_counter() - start
    done.set()
    ticker.join()
    assert sorted(gaps)[len(gaps) // 2] < seconds / 50, (len(gaps), seconds)


# --- the module


def test_exceptions():
    assert issubclass(flashinfer.InvalidArgument, ValueError)
    assert issubclass(flashinfer.Unsupported, NotImplementedError)
    assert issubclass(flashinfer.CompileError, RuntimeError)
    assert issubclass(flashinfer.CudaError, RuntimeError)
    with pytest.raises(InvalidArgument) as error:
        describe(torch.ones(2, dtype=torch.int16))
    assert (error.value.op, error.value.argument) == ("describe", "tensor")
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.op, copy.argument) == (str(error.value), "describe", "tensor")


def python(code, **env):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env={**os.environ, **env})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light():
    """Neither an array library nor the driver nor the compiler: a server may fork after it."""
    heavy = python(
        "import flashinfer, sys; flashinfer.__dir__()\n"
        "maps = open('/proc/self/maps').read()\n"
        "names = [n for n in ('torch', 'numpy', 'jax', 'cupy', 'ml_dtypes', 'tvm_ffi', 'typing', 'inspect', 're') if n in sys.modules]\n"
        "print([n for n in names if n not in before] + [n for n in ('libcuda', 'libnvrtc', 'libtorch') if n in maps])".replace(
            "import flashinfer, sys;", "import sys; before = set(sys.modules); import flashinfer;"
        )
    )
    assert heavy.strip() == "[]"


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import flashinfer; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(5)) < 0.02


def test_no_threads_before_the_first_op():
    """A fork would lose them."""
    assert python("import flashinfer, os; print(len(os.listdir('/proc/self/task')))").strip() == "1"


def test_every_name_resolves():
    for name in flashinfer.__all__:
        assert getattr(flashinfer, name) is not None
    assert set(flashinfer.__all__) <= set(dir(flashinfer))
    for module in pkgutil.iter_modules(flashinfer.__path__):
        if not module.name.startswith("_"):
            assert getattr(flashinfer, module.name).__name__ == f"flashinfer.{module.name}"
    for name in ("no_such_op", "_no_such_op", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(flashinfer, name)


def test_package_data():
    def run(*arguments):
        result = subprocess.run([sys.executable, "-m", "flashinfer", *arguments], capture_output=True, text=True, cwd="/")
        return result.returncode, (result.stdout + result.stderr).strip()

    code, include = run("--include-dir")
    assert code == 0 and (Path(include) / "flashinfer/core/tensor.hpp").exists()
    code, cmake = run("--cmake-dir")
    assert code == 0 and (Path(cmake) / "flashinfer-config.cmake").exists()
    assert run("--version") == (0, flashinfer.__version__)
    assert run()[0] == 2
    assert run("precompile", "--arch", "sm_80", "--ops", "no_such_op")[0] == 1
    code, text = run("config")
    assert code == 0 and "NVRTC" in text


def test_dlpack_declarations(tmp_path):
    """core/dlpack.hpp against the header that torch ships: sizes, offsets and values of everything we use."""
    compiler = os.environ.get("CXX", "g++")
    theirs = Path(torch.__file__).parent / "include/ATen/dlpack.h"
    if not shutil.which(compiler) or not theirs.exists():
        pytest.skip("needs a C++ compiler and torch's headers")
    fields = {
        ("DLTensor", "Tensor"): "data=data device=device ndim=ndim dtype=dtype shape=shape strides=strides byte_offset=byte_offset",
        ("DLDevice", "Device"): "device_type=type device_id=index",
        ("DLDataType", "DataType"): "code=code bits=bits lanes=lanes",
        ("DLManagedTensor", "ManagedTensor"): "dl_tensor=tensor manager_ctx=manager deleter=deleter",
        ("DLManagedTensorVersioned", "VersionedTensor"): "version=version manager_ctx=manager deleter=deleter flags=flags dl_tensor=tensor",
        ("DLPackExchangeAPIHeader", "ExchangeHeader"): "version=version prev_api=previous",
        ("DLPackExchangeAPI", "ExchangeApi"): "header=header managed_tensor_allocator=allocate managed_tensor_from_py_object_no_sync=export_managed "
        "managed_tensor_to_py_object_no_sync=import_managed dltensor_from_py_object_no_sync=export_borrowed current_work_stream=current_stream",
    }
    values = (
        "kDLCPU=kCpu kDLCUDA=kCuda kDLCUDAHost=kCudaHost kDLCUDAManaged=kCudaManaged kDLInt=kInt kDLUInt=kUInt kDLFloat=kFloat kDLBfloat=kBfloat "
        "kDLComplex=kComplex kDLBool=kBool kDLFloat8_e4m3fn=kFloat8E4m3fn kDLFloat8_e5m2=kFloat8E5m2 kDLFloat8_e8m0fnu=kFloat8E8m0fnu "
        "kDLFloat4_e2m1fn=kFloat4E2m1fn DLPACK_MAJOR_VERSION=kMajorVersion DLPACK_FLAG_BITMASK_READ_ONLY=kReadOnly "
        "DLPACK_FLAG_BITMASK_IS_COPIED=kIsCopied"
    )
    lines = [f'#include "{theirs}"', "#include <flashinfer/core/dlpack.hpp>", "#include <cstddef>", "namespace ours = flashinfer::dlpack;"]
    for (their, our), names in fields.items():
        lines.append(f"static_assert(sizeof({their}) == sizeof(ours::{our}) && alignof({their}) == alignof(ours::{our}));")
        for pair in names.split():
            a, b = pair.split("=")
            same = f"offsetof({their}, {a}) == offsetof(ours::{our}, {b}) && sizeof({their}::{a}) == sizeof(ours::{our}::{b})"
            lines.append(f'static_assert({same}, "{their}::{a}");')
    for pair in values.split():
        a, b = pair.split("=")
        lines.append(f'static_assert((unsigned long long)({a}) == (unsigned long long)(ours::{b}), "{a}");')
    source = tmp_path / "dlpack.cpp"
    source.write_text("\n".join(lines) + "\n")
    include = Path(flashinfer.__file__).parent / "include"
    result = subprocess.run([compiler, "-std=c++20", "-fsyntax-only", f"-I{include}", source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
