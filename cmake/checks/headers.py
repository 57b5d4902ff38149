"""Every header compiles alone, without a warning, under each compiler that its name promises:

  headers.py cxx [compiler]   .hpp under a C++20 compiler
  headers.py nvrtc            core/ (but for host-only files), X_params.hpp, X_plan.hpp and .cuh under NVRTC, each in a second
  headers.py nvcc [compiler]  .cuh under nvcc

Exit code 77 (a skipped test) without the compiler."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import layers
import nvrtc
import tree

SKIPPED = 77
NVRTC_SECONDS = 1.0  # of CPU: a kernel's compile is what a user waits for, and headers must not be most of it
ARCHS = ["sm_75", "sm_90a", "sm_120a"]  # the oldest, the one with instructions of its own, the newest family


def unit(header):
    """Twice: a header without #pragma once fails."""
    return f"#include <{header}>\n" * 2


def command(*words):
    def compile(header):
        done = subprocess.run(words, input=unit(header), capture_output=True, text=True, cwd=tree.ROOT)
        return done.stderr if done.returncode else ""

    return compile


def cxx(compiler="g++"):
    return command(compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Iinclude", "-x", "c++", "-")


def nvcc(compiler="nvcc"):
    return command(compiler, "-std=c++20", "-c", "-arch=sm_90a", "-Werror=all-warnings", "-Iinclude", "-o", "/dev/null", "-x", "cu", "-")


def rtc(library, include):
    compiler = nvrtc.Nvrtc(library)

    def compile(header):
        for arch in ARCHS:
            options = [f"--gpu-architecture={arch}", f"-I{tree.ROOT}/include", f"-I{include}"]
            compiled, log, seconds = compiler.compile(unit(header), options)
            if not compiled or log:
                return f"{arch}: {log}"
            if seconds > NVRTC_SECONDS:
                return f"{arch}: {seconds:.2f} s of NVRTC's time, of {NVRTC_SECONDS} s allowed"
        return ""

    return compile


def self_test(compile, device):
    """The compiler at hand accepts a header of the language's subset and refuses what the test is there to find."""
    folder = tree.ROOT / "include"
    assert not compile("flashinfer/version.hpp"), compile("flashinfer/version.hpp")
    assert compile("flashinfer/no_such_header.hpp"), f"a header that is not in {folder} compiled"
    assert not device or compile("vector"), "NVRTC compiled <vector>"


def main(language, *compiler):
    files = tree.files()
    headers = {p.removeprefix("include/"): t for p, t in files.items() if p.startswith("include/")}
    if language == "nvrtc":
        found = nvrtc.toolkit()
        if not found:
            print("no NVRTC: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
            return SKIPPED
        compile, chosen = rtc(*found), [h for h, t in headers.items() if layers.is_device("include/" + h, t)]
    else:
        if not shutil.which(*compiler or [{"cxx": "g++", "nvcc": "nvcc"}[language]]):
            print("no", *compiler or [language])
            return SKIPPED
        compile = {"cxx": cxx, "nvcc": nvcc}[language](*compiler)
        chosen = [h for h in headers if h.endswith(".hpp" if language == "cxx" else ".cuh")]

    threading.stack_size(64 << 20)  # NVRTC recurses deeply
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        pool.submit(self_test, compile, language == "nvrtc").result()
        failures = 0
        for header, errors in zip(chosen, pool.map(compile, chosen)):
            if errors:
                failures += 1
                print(f"include/{header}:1: does not compile alone\n{errors}\n")
    print(f"{len(chosen)} headers, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
