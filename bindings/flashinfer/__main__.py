"""python -m flashinfer: where things are, what would be used, and building kernels ahead of time."""

import argparse
import sys

from . import __version__, _toolchain
from ._flashinfer import _jit as jit


def config(args):
    found = jit.config()
    cached = jit.cache()
    rows = {
        "version": __version__,
        "headers": found["include_dir"],
        "NVRTC": found["nvrtc"] or "not found: install the [cuda] extra or set CUDA_HOME",
        "CUDA headers": ", ".join(found["cuda_includes"]) or "not found",
        "driver": f"CUDA {found['driver_cuda']}" if found["driver_cuda"] else "none",
        "GPUs": "; ".join(found["devices"]) or "none",
        "JIT": "on" if found["compile"] else "off (FLASHINFER_JIT)",
        "precompiled": ", ".join(found["aot_dirs"]) or "none (FLASHINFER_AOT_PATH)",
        "cache": cached["path"] or "none",
        "problem": found["problem"] or cached["problem"] or "none",
    }
    for name, value in rows.items():
        print(f"{name:14}{value}")


def cache(args):
    found = jit.cache(clear=args.clear)
    print(f"{found['path']}: {found['entries']} kernels, {found['bytes'] / 1e6:.1f} of {found['capacity'] / 1e6:.0f} MB")
    if found["problem"]:
        sys.exit(found["problem"])


def precompile(args):
    archs = [arch for text in args.arch for arch in text.split(",") if arch]
    known = jit.tuned_ops()
    ops = known if args.ops == ["all"] else [op for text in args.ops for op in text.split(",") if op]
    unknown = sorted(set(ops) - set(known))
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}. Ops: {', '.join(known)}")

    if args.list:
        for arch, kernel in jit.tuned_kernels(ops, archs, args.match, args.without):
            print(f"{arch:8} {kernel}")
        return

    def progress(kernel, arch, seconds):
        print(f"{arch:8} {seconds:5.2f} s  {kernel}", flush=True)

    results = jit.precompile(ops, archs, args.match, args.without, args.out or "", args.jobs, None if args.quiet else progress)
    wrong = []
    for result in results:
        problems = [result["error"]] if result["error"] else []
        if args.check and result["spill_bytes"]:
            problems.append(f"{result['spill_bytes']} bytes of spills, {result['registers']} registers")
        if args.check and result["wgmma_serialized"]:
            problems.append("wgmma serialized")
        wrong += [f"{result['arch']} {result['kernel']}: {problem}" for problem in problems]
    for line in wrong:
        print(line, file=sys.stderr)
    size = sum(result["code_bytes"] for result in results)
    seconds = sum(result["seconds"] for result in results)
    print(f"{len(results)} kernels for {len(archs)} architectures, {size / 1e6:.1f} MB, {seconds:.1f} s of compiling, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


def main():
    parser = argparse.ArgumentParser(prog="python -m flashinfer", description=__doc__)
    # Not argparse's version action: it wraps long paths.
    parser.add_argument("--version", dest="text", action="store_const", const=__version__)
    parser.add_argument("--include-dir", dest="text", action="store_const", const=_toolchain.INCLUDE_DIR, help="where the C++ headers are")
    parser.add_argument("--cmake-dir", dest="text", action="store_const", const=_toolchain.CMAKE_DIR, help="flashinfer_DIR for find_package")
    commands = parser.add_subparsers(metavar="command")

    command = commands.add_parser("config", help="print the compiler, driver, GPUs and cache that would be used")
    command.set_defaults(run=config)

    command = commands.add_parser("cache", help="print the size of the kernel cache")
    command.add_argument("--clear", action="store_true", help="remove its entries")
    command.set_defaults(run=cache)

    command = commands.add_parser("precompile", help="build kernels without a GPU, into the cache or a folder to ship")
    command.add_argument("--arch", nargs="+", required=True, help="sm_80 sm_90a ...")
    command.add_argument("--ops", nargs="+", default=["all"], help="names of ops, or all")
    command.add_argument("--match", default="", help="only kernels with this in their text, such as .input=DType::bf16")
    command.add_argument("--without", default="", help="no kernels with this in their text, such as DType::f16")
    command.add_argument("--out", help="folder to write to as well, for FLASHINFER_AOT_PATH")
    command.add_argument("--jobs", type=int, default=0, help="threads; 0: one per core")
    command.add_argument("--check", action="store_true", help="spilled registers and serialized wgmma are errors")
    command.add_argument("--list", action="store_true", help="print the kernels instead of building them")
    command.add_argument("--quiet", action="store_true", help="print only what is wrong, and the sum")
    command.set_defaults(run=precompile)

    args = parser.parse_args()
    if args.text:
        print(args.text)
    elif hasattr(args, "run"):
        args.run(args)
    else:
        parser.error("a command or an option is needed")


if __name__ == "__main__":
    main()
