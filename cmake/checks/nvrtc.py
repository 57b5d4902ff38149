"""NVRTC through ctypes, enough to compile a text: for the header test, which knows nothing of the library's own JIT."""

import ctypes
import site
import sys
import time
from pathlib import Path


def toolkit():
    """(libnvrtc, folder of cuda_fp16.h): from the wheels of this Python, else from a CUDA toolkit; None if there is none."""
    packages = [Path(p) / "nvidia" for p in [*site.getsitepackages(), site.getusersitepackages()]]
    homes = [home for package in packages for home in (package / "cu13", package / "cuda_nvrtc")] + [Path("/usr/local/cuda")]
    libraries = [path for home in homes for folder in ("lib", "lib64") for path in sorted((home / folder).glob("libnvrtc.so.*"))]
    includes = [home / "include" for home in homes + [p / "cuda_runtime" for p in packages]]
    includes = [folder for folder in includes if (folder / "cuda_fp16.h").exists()]
    return (libraries[0], includes[0]) if libraries and includes else None


class Nvrtc:
    def __init__(self, library):
        # The 13.0 wheel has no RUNPATH: libnvrtc finds its builtins only when they are loaded already.
        for builtins in sorted(library.parent.glob("libnvrtc-builtins.so.*.*")):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(library))

    def compile(self, text, options):
        """(compiled?, log, CPU seconds). Safe on many threads."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        created = self.lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"header.cu", 0, None, None)
        if created != 0:
            sys.exit(f"nvrtcCreateProgram: error {created}")
        # As in jit/kernel_builder.hpp. --no-cache: else NVRTC initialises the driver. --modify-stack-limit: else it changes
        # the limit of the whole process.
        options = ["-std=c++20", "--device-as-default-execution-space", "--no-cache", "--modify-stack-limit=false", *options]
        start = time.thread_time()
        result = self.lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
        seconds = time.thread_time() - start
        self.lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.lib.nvrtcGetProgramLog(program, log)
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return result == 0, log.value.decode(errors="replace").strip(), seconds
