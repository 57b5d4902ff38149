"""What a call costs on the host before its kernel: ns, the least of several rounds, tiny tensors, one thread.

python benchmarks/host_overhead.py [--build]     --build: also time and weigh a fresh wheel
"""

import os

os.environ.setdefault("FLASHINFER_NUM_THREADS", "1")

import argparse
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

import numpy as np
import torch

import flashinfer
from flashinfer import _flashinfer

torch.set_num_threads(1)


def ns(statement, **names):
    timer = timeit.Timer(statement, globals=names)
    calls = max(1, int(2e6 / (1 + timer.timeit(100) / 100 * 1e9)) * 10)
    return min(timer.repeat(7, calls)) / calls * 1e9


def row(name, value, unit="ns"):
    print(f"{value:10.0f} {unit}  {name}", flush=True)


def calls():
    four = dict(zip("abcd", (torch.randn(8, 4, 64, dtype=torch.bfloat16) for _ in range(4))))
    row("a Python function of four arguments", ns("f(a, b, c, d)", f=lambda a, b, c, d: None, **four))
    read = _flashinfer._read_four
    row("read four torch tensors, bf16", ns("f(a, b, c, d)", f=read, **four))
    row("  the last by keyword", ns("f(a, b, c, out=d)", f=read, **four))
    row("  float32, which may be lazily negated", ns("f(a, b, c, d)", f=read, **{k: v.float() for k, v in four.items()}))
    row("read four NumPy arrays, float32", ns("f(a, b, c, d)", f=read, **{k: v.float().numpy() for k, v in four.items()}))
    row("new output, torch", ns("f(a, s, 'bf16')", f=_flashinfer._empty, a=four["a"], s=(8, 4, 64)))
    row("  torch.empty_like, for scale", ns("f(a)", f=torch.empty_like, a=four["a"]))
    row("new output, NumPy", ns("f(a, s, 'f32')", f=_flashinfer._empty, a=np.ones(1), s=(8, 4, 64)))
    if hasattr(_flashinfer, "rmsnorm"):
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            x, w, out = (torch.ones(*shape, dtype=torch.bfloat16, device=device) for shape in [(1, 64), (64,), (1, 64)])
            row(f"rmsnorm(out=), 1 x 64, {device}", ns("f(x, w, 1e-6, o)", f=flashinfer.rmsnorm, x=x, w=w, o=out))
            row(f"rmsnorm, 1 x 64, {device}", ns("f(x, w)", f=flashinfer.rmsnorm, x=x, w=w))
            row(f"  torch.add(out=), {device}, for scale", ns("f(x, x, out=o)", f=torch.add, x=x, o=out))


def imports():
    def least(before):
        code = f"{before}\nimport time\nt = time.perf_counter()\nimport flashinfer\nprint(time.perf_counter() - t)"
        return min(float(subprocess.check_output([sys.executable, "-c", code], cwd="/")) for _ in range(5)) * 1e3

    row("import flashinfer", least("") * 1e3, "us")
    row("  after torch", least("import torch") * 1e3, "us")


def build():
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, str(root)]
        subprocess.run([*command, "-C", f"build-dir={folder}/build"], check=True)
        row("build of the wheel", time.perf_counter() - start, "s")
        (wheel,) = Path(folder).glob("*.whl")
        row(f"size of {wheel.name}", wheel.stat().st_size / 1e3, "KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true")
    arguments = parser.parse_args()
    calls()
    imports()
    if arguments.build:
        build()
