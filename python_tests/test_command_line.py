"""python -m flashinfer: precompile, cache, config; and finding NVRTC."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashinfer import _flashinfer, _toolchain

ARCHS = ["sm_80", "sm_90a", "sm_120a"]


def one_kernel():
    """The text of a kernel of rmsnorm that every architecture has: tests build no more than this one."""
    listed = _flashinfer._jit.tuned_kernels(["rmsnorm"], ARCHS)
    return min(set.intersection(*({kernel for arch, kernel in listed if arch == wanted} for wanted in ARCHS)))


KERNEL = one_kernel()
ONE = ["precompile", "--ops", "rmsnorm", "--match", KERNEL]

needs_nvrtc = pytest.mark.skipif(not _flashinfer._jit.config()["nvrtc"], reason="needs NVRTC: the [cuda] extra or a toolkit")


@pytest.fixture
def run(tmp_path):
    def run(*arguments, code=0, **environment):
        environment = {**os.environ, "FLASHINFER_CACHE_DIR": str(tmp_path / "cache"), **environment}
        command = [sys.executable, "-m", "flashinfer", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


@needs_nvrtc
def test_precompile_then_run_without_a_compiler(run, tmp_path):
    text = run(*ONE, "--arch", ARCHS[0], ",".join(ARCHS[1:]), "--out", tmp_path / "aot", "--check")
    assert "for 3 architectures" in text and ", 0 wrong" in text
    for arch in ARCHS:
        assert f"{arch:8}" in text
    kernels = list((tmp_path / "aot").glob("*.cubin"))
    assert len(kernels) == 3

    # Nothing is compiled: from the cache, then with neither cache nor compiler from the folder.
    assert " 0.0 s of compiling, 0 wrong" in run(*ONE, "--arch", "sm_80", FLASHINFER_JIT="off")
    bare = {"FLASHINFER_JIT": "off", "FLASHINFER_CACHE_DIR": str(tmp_path / "empty")}
    assert ", 0 wrong" in run(*ONE, "--arch", "sm_80", FLASHINFER_AOT_PATH=str(tmp_path / "aot"), **bare)
    assert "FLASHINFER_JIT=off forbids" in run(*ONE, "--arch", "sm_80", code=1, **bare)
    assert "FLASHINFER_JIT=off forbids" in run(*ONE, "--arch", "sm_86", code=1, FLASHINFER_AOT_PATH=str(tmp_path / "aot"), **bare)


@needs_nvrtc
def test_cache(run, tmp_path):
    run(*ONE, "--arch", "sm_80", "--quiet")
    assert "cache/kernels: 1 kernels" in run("cache")
    assert "cache/kernels: 0 kernels" in run("cache", "--clear")
    (tmp_path / "file").write_text("")
    assert "Not a directory" in run("cache", code=1, FLASHINFER_CACHE_DIR=str(tmp_path / "file"))


def test_list(run, tmp_path):
    assert run(*ONE, "--arch", "sm_80", "--list") == f"sm_80    {KERNEL}\n"
    listed = run("precompile", "--arch", "sm_80", "--list").splitlines()
    assert len(listed) > 10 and any("DType::f16" in line for line in listed)
    assert run("precompile", "--arch", "sm_80", "--list", "--without", "DType::f16").splitlines() == [
        line for line in listed if "DType::f16" not in line
    ]
    assert not (tmp_path / "cache").exists()


def test_arguments(run):
    assert "unknown: nonsense. Ops: " in run("precompile", "--arch", "sm_80", "--ops", "rmsnorm,nonsense", code=1)
    assert "expected an architecture such as sm_80" in run(*ONE, "--arch", "pentium", code=1)
    assert "expected a size such as 2G" in run("cache", code=1, FLASHINFER_CACHE_SIZE="much")
    assert "usage" in run(code=2)


def test_config(run, tmp_path):
    text = run("config", FLASHINFER_JIT="off", FLASHINFER_AOT_PATH="/a:/b")
    assert "off (FLASHINFER_JIT)" in text and "/a, /b" in text and str(tmp_path / "cache") in text
    assert "/opt/libnvrtc.so.13" in run("config", FLASHINFER_NVRTC="/opt/libnvrtc.so.13")


def test_wheel_layouts(tmp_path, monkeypatch):
    """CUDA 13's wheels share a folder, CUDA 12's have one each; the driver's major decides, without one the newest."""
    package = tmp_path / "nvidia"
    for file in ("cuda_nvrtc/lib/libnvrtc.so.12", "cuda_runtime/include/cuda_fp16.h"):
        (package / file).parent.mkdir(parents=True)
        (package / file).write_text("")
    monkeypatch.setattr(_toolchain.importlib.util, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [str(package)]}))
    twelve = (str(package / "cuda_nvrtc/lib/libnvrtc.so.12"), [str(package / "cuda_runtime/include")], str(_toolchain.INCLUDE_DIR))
    assert _toolchain.locate(12) == twelve
    assert _toolchain.locate(0) == twelve
    assert _toolchain.locate(13) == ("", [], str(_toolchain.INCLUDE_DIR))
    (package / "cu13/lib").mkdir(parents=True)
    (package / "cu13/lib/libnvrtc.so.13").write_text("")
    assert _toolchain.locate(0)[:2] == (str(package / "cu13/lib/libnvrtc.so.13"), [])  # NVRTC 13.3 brings the headers
    assert _toolchain.locate(12) == twelve
    monkeypatch.setattr(_toolchain.importlib.util, "find_spec", lambda name: None)
    assert _toolchain.locate(0)[0] == ""
    assert (Path(_toolchain.INCLUDE_DIR) / "flashinfer/core/std.hpp").exists()


@needs_nvrtc
def test_threads_build_at_once():
    """The compiler's place is asked from Python, on the thread that builds: no thread may hold the lock meanwhile."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor; from flashinfer._flashinfer import _jit\n"
        f"work = lambda arch: _jit.precompile(['rmsnorm'], [arch], {KERNEL!r}, num_threads=2)[0]['error']\n"
        "with ThreadPoolExecutor(4) as pool: print(list(pool.map(work, ['sm_80', 'sm_86', 'sm_80', 'sm_90a'])))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=120)
    assert result.stdout.strip() == "['', '', '', '']", result.stderr
