"""Finds NVRTC and the CUDA headers in NVIDIA's wheels. Called by the JIT on the first kernel it has to build.

Toolkits (CUDA_HOME, /usr/local/cuda) are looked for in C++, after what is found here.
"""

import importlib.util
from pathlib import Path

INCLUDE_DIR = Path(__file__).parent / "include"
CMAKE_DIR = Path(__file__).parent / "cmake"

# Library folder, then header folders, below site-packages/nvidia.
_LAYOUTS = {
    13: ("cu13/lib", ["cu13/include"]),
    12: ("cuda_nvrtc/lib", ["cuda_runtime/include", "cuda_nvrtc/include"]),
}


def locate(cuda_major=0):
    """(path of libnvrtc, folders with cuda_fp16.h, folder with flashinfer/); "" and [] for what no wheel has.

    cuda_major is the driver's: it can not run what a newer NVRTC makes. 0, no driver: the newest NVRTC.
    """
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        spec = None
    roots = [Path(path) for path in (spec and spec.submodule_search_locations) or []]
    for major in [cuda_major] if cuda_major else sorted(_LAYOUTS, reverse=True):
        library_folder, header_folders = _LAYOUTS.get(major, (f"cu{major}/lib", [f"cu{major}/include"]))
        for root in roots:
            library = root / library_folder / f"libnvrtc.so.{major}"
            if library.exists():
                headers = [root / folder for root in roots for folder in header_folders]
                return str(library), [str(path) for path in headers if (path / "cuda_fp16.h").exists()], str(INCLUDE_DIR)
    return "", [], str(INCLUDE_DIR)
