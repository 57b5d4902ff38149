"""Kernels for LLM serving on CUDA GPUs and CPUs, for the tensors of any array library that speaks DLPack.

Importing it loads neither an array library nor the CUDA driver; names of ops are looked up when they are first used.
"""

import importlib

from ._flashinfer import CompileError, CudaError, InvalidArgument, Unsupported, __version__, describe

# Where each name lives. A new op adds its name here and to its module.
_NAMES = {
    "norm": "rmsnorm",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["CompileError", "CudaError", "InvalidArgument", "Unsupported", "__version__", "describe", *_HOME]


def __getattr__(name):
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'flashinfer' has no attribute '{name}'")
    value = getattr(importlib.import_module("." + home, __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))
