"""Kernels for LLM serving on CUDA GPUs and CPUs, for the tensors of any array library that speaks DLPack.

Importing it loads neither an array library nor the CUDA driver. Ops are C++ functions, bound as they are; modules with
Python in them are loaded when a name of theirs is first used.
"""

import importlib

from . import _flashinfer
from ._flashinfer import *  # noqa: F403
from ._flashinfer import __version__

# What Python code adds to the functions of the extension module, by the module that has it.
_ADDED = {
    "attention": "BatchAttention BatchAttentionWithAttentionSinkWrapper",
    "cascade": "BatchDecodeWithSharedPrefixPagedKVCacheWrapper BatchPrefillWithSharedPrefixPagedKVCacheWrapper MultiLevelCascadeAttentionWrapper",
    "decode": "BatchDecodeWithPagedKVCacheWrapper CUDAGraphBatchDecodeWithPagedKVCacheWrapper fast_decode_plan single_decode_with_kv_cache",
    "prefill": "BatchPrefillWithPagedKVCacheWrapper BatchPrefillWithRaggedKVCacheWrapper single_prefill_with_kv_cache "
    "single_prefill_with_kv_cache_return_lse",
    "pod": "BatchPODWithPagedKVCacheWrapper PODWithPagedKVCacheWrapper",
    "sampling": "min_p_sampling_from_probs sampling_from_logits sampling_from_probs top_k_sampling_from_probs "
    "top_k_top_p_sampling_from_logits top_k_top_p_sampling_from_probs top_p_sampling_from_probs",
    "sparse": "BlockSparseAttentionWrapper VariableBlockSparseAttentionWrapper",
    "topk": "TopKTieBreak",
    "topk_varlen": "top_k_varlen",
}
_HOME = {name: module for module, names in _ADDED.items() for name in names.split()}

__all__ = ["__version__", *(name for name in vars(_flashinfer) if not name.startswith("_")), *_HOME]


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
