"""Who may include whom (ARCHITECTURE.md): a header reads only what lies below it.

The host and the device half of a kernel meet in <op>/X_params.hpp alone, and device code reads no library but four CUDA
headers, so that NVRTC compiles a kernel in a fraction of a second."""

import re

import tree

MAY_INCLUDE = {
    "core": "core",
    "runtime": "core runtime",
    "ptx": "core ptx",
    "gpu": "core ptx gpu",
    "cpu": "core cpu",
    "jit": "core runtime jit",
    "compiled": "core runtime gpu",
    "shared": "core shared plan",
    "plan": "core shared plan device",
    "kernel": "core ptx gpu shared plan kernel",
    "tuning": "core runtime shared plan tuning",
    "host half": "core runtime shared plan tuning host_half",
    "cpu path": "core cpu shared plan cpu_path",
    "entry": "core runtime shared plan host_half cpu_path entry",
    "umbrella": "core runtime jit cpu shared plan entry",
    "bindings": "core runtime jit shared plan entry umbrella",
}
MAY_INCLUDE = {kind: {k.replace("_", " ") for k in kinds.split()} for kind, kinds in MAY_INCLUDE.items()}
FOLDERS = {"core", "runtime", "gpu", "cpu", "jit"}
DEVICE_LIBRARIES = {"cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h", "cuda_fp4.h"}
INCLUDE = r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]"


def kind(path, files):
    """The layer of a header, by its path below include/flashinfer alone, but for <op>/X.hpp."""
    if path.startswith("bindings/"):
        return "bindings"
    path = path.removeprefix("include/flashinfer/")
    folder, _, name = path.rpartition("/")
    if path == "runtime/compiled_kernels.cuh":
        return "compiled"
    if path == "version.hpp":
        return "core"
    if not folder:
        return "umbrella"
    if folder == "gpu/ptx":
        return "ptx"
    if folder in FOLDERS:
        return folder
    if name.endswith("_tuning.hpp"):
        return "tuning"
    if name.endswith("_plan.hpp"):
        return "plan"
    if name.endswith("_params.hpp"):
        return "shared"
    if folder.endswith("/gpu"):
        return "kernel" if name.endswith(".cuh") else "host half"
    if folder.endswith("/cpu"):
        return "cpu path"
    # <op>/X.hpp is an op's entry when it calls a back end, or an entry that does; else vocabulary, such as paged_kv.hpp.
    text = files.get("include/flashinfer/" + path, "")
    ours = [m[2].removeprefix("flashinfer/") for _, m in tree.find(INCLUDE, text) if m[2].startswith("flashinfer/")]
    ours = [header for header in ours if header != path]
    return "entry" if any(kind(header, files) in {"host half", "cpu path", "entry", "runtime"} for header in ours) else "shared"


def is_device(path, text):
    below = path.removeprefix("include/flashinfer/")
    first_comment = re.match(r"(//[^\n]*\n)*", text)[0]
    if "Host only" in first_comment or below in {"core/std.hpp", "version.hpp", "runtime/compiled_kernels.cuh"}:
        return False
    return below.startswith("core/") or below.endswith((".cuh", "_params.hpp", "_plan.hpp"))


def check(files):
    for path, text in files.items():
        if not re.match(r"include/|bindings/", path) or not path.endswith((".hpp", ".cuh", ".cpp")):
            continue
        here = kind(path, files)
        for line, match in tree.find(INCLUDE, tree.code(text, keep_strings=True)):
            header = match[2]
            if not header.startswith("flashinfer/"):
                if path.startswith("include/") and match[1] == '"':
                    yield f'{path}:{line}: "{header}": write #include <flashinfer/...>'
                if path.startswith("include/") and is_device(path, text) and header not in DEVICE_LIBRARIES:
                    yield f"{path}:{line}: <{header}> in device code, which reads {', '.join(sorted(DEVICE_LIBRARIES))} and our own"
                continue
            there = kind("include/" + header, files)
            if header == "flashinfer/runtime/device.hpp" and "device" in MAY_INCLUDE[here]:
                continue
            if there not in MAY_INCLUDE[here]:
                yield f"{path}:{line}: {here} includes {there} ({header}); it may include {', '.join(sorted(MAY_INCLUDE[here]))}"


def headers(**texts):
    return {"include/flashinfer/" + path: text for path, text in texts.items()}


GOOD = [
    headers(**{
        "norm/rmsnorm.hpp": "#include <flashinfer/norm/cpu/rmsnorm.hpp>\n#include <flashinfer/norm/gpu/rmsnorm.hpp>\n#include <string>\n",
        "norm/cpu/rmsnorm.hpp": "#include <flashinfer/cpu/vec.hpp>\n#include <flashinfer/norm/rmsnorm_params.hpp>\n",
        "norm/gpu/rmsnorm.hpp": "#include <flashinfer/norm/gpu/rmsnorm_tuning.hpp>\n#include <flashinfer/runtime/kernel_source.hpp>\n",
        "norm/gpu/rmsnorm_kernel.cuh": "#include <cuda_bf16.h>\n#include <flashinfer/gpu/vec.cuh>\n// #include <vector>\n",
        "attention/decode_plan.hpp": "#include <flashinfer/runtime/device.hpp>\n#include <flashinfer/attention/paged_kv.hpp>\n",
        "attention/paged_kv.hpp": "#include <flashinfer/core/math.hpp>\n",
        "core/check.hpp": "// Host only. Checks.\n#include <string>\n",
        "jit/jit_kernels.hpp": 'const char* unit = "\\n#include <flashinfer/norm/gpu/rmsnorm_kernel.cuh>\\n";\n',
    }),
    {"bindings/norm.cpp": '#include "tensor.hpp"\n#include <flashinfer/norm/rmsnorm.hpp>\n',
     **headers(**{"norm/rmsnorm.hpp": "#include <flashinfer/runtime/kernel_source.hpp>\n"})},
]
BAD = [
    headers(**{"core/math.hpp": "#include <flashinfer/runtime/arch.hpp>\n"}),
    headers(**{"core/math.hpp": "#include <algorithm>\n"}),
    headers(**{"cpu/vec.hpp": '#include "math.hpp"\n'}),
    headers(**{"gpu/ptx/mma.cuh": "#include <flashinfer/gpu/vec.cuh>\n"}),
    headers(**{"gpu/vec.cuh": "#include <cuda/std/array>\n"}),
    headers(**{"norm/rmsnorm_params.hpp": "#include <flashinfer/runtime/device.hpp>\n"}),
    headers(**{"norm/gpu/rmsnorm.hpp": "#include <flashinfer/norm/gpu/rmsnorm_kernel.cuh>\n"}),
    headers(**{"norm/cpu/rmsnorm.hpp": "#include <flashinfer/runtime/kernel_source.hpp>\n"}),
    headers(**{"norm/rmsnorm.hpp": "  #  include <flashinfer/jit/jit_kernels.hpp>\n"}),
    {"bindings/norm.cpp": "#include <flashinfer/norm/cpu/rmsnorm.hpp>\n"},
]

if __name__ == "__main__":
    tree.run(check, GOOD, BAD)
