"""Pytest plugin: lets FlashInfer's own, unmodified test files import this package.

Those files import build machinery and optional back ends that do not exist here. Each missing name gets a stand-in that
imports and then says what is missing when it is used, so that such a test fails by name instead of hiding. Nothing here
changes what an operation computes. Loaded by run.py with `-p shims`; never part of the installed package.
"""

import importlib
import random
import sys
import types

import flashinfer


class MissingJITCacheError(Exception):
    """FlashInfer's conftest turns this into a skip; this package never raises it."""


def absent(name):
    def call(*args, **kwargs):
        raise NotImplementedError(f"{name} is not part of this package yet")

    call.__name__ = call.__qualname__ = name.rsplit(".", 1)[-1]
    return call


class Absent(types.ModuleType):
    """A module whose every missing attribute is a stand-in."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {"__init__": absent(f"{self.__name__}.{name}"), "run": absent(f"{self.__name__}.{name}.run"),
                                "forward": absent(f"{self.__name__}.{name}.forward")}) if name[0].isupper() else absent(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


def module(path, **names):
    """Imports flashinfer.<path>, or makes it; then adds what it lacks."""
    full = f"flashinfer.{path}"
    try:
        found = importlib.import_module(full)
    except ImportError:
        found = sys.modules[full] = Absent(full)
        found.__path__ = []
        parent, _, leaf = full.rpartition(".")
        setattr(sys.modules[parent], leaf, found)
    for name, value in names.items():
        if not hasattr(found, name) or isinstance(found, Absent):
            setattr(found, name, value)
    return found


def fill(path, *names):
    """Stand-ins for the names that an existing module does not have."""
    found = module(path)
    for name in names:
        if name not in vars(found):
            setattr(found, name, getattr(Absent(found.__name__), name))


def compute_capability(device):
    import torch

    return torch.cuda.get_device_capability(device)


def install():
    module("jit", MissingJITCacheError=MissingJITCacheError, JitSpec=type("JitSpec", (), {}), build_jit_specs=lambda *a, **k: None)
    module("jit.core", build_jit_specs=lambda *a, **k: None)
    module("jit.env")
    module("jit.attention")
    module("jit.attention.variants")
    module("jit.utils")
    module(
        "utils",
        get_compute_capability=compute_capability,
        has_flashinfer_jit_cache=lambda: True,  # there is no module build to warm up
        device_support_pdl=lambda device: compute_capability(device)[0] >= 9,
        is_sm90a_supported=lambda device: compute_capability(device) == (9, 0),
        is_sm100a_supported=lambda device: compute_capability(device)[0] == 10,
        is_sm110a_supported=lambda device: compute_capability(device) == (11, 0),
        is_sm12x_supported=lambda device: compute_capability(device)[0] == 12,
        is_fa3_backend_supported=lambda *a, **k: True,
        is_fa3_prefill_head_dim_supported=lambda *a, **k: True,
        determine_attention_backend=lambda *a, **k: "fa2",
        GPUArchitectureError=type("GPUArchitectureError", (Exception,), {}),
        BackendSupportedError=type("BackendSupportedError", (Exception,), {}),
        _cache_buf={},
    )
    module("cute_dsl", is_cute_dsl_available=lambda: False)
    module("cute_dsl.utils", is_cute_dsl_available=lambda: False)
    for path in ("topk_varlen", "topk_varlen.topk_varlen", "topk_varlen.kernels", "topk_varlen.kernels.config"):
        module(path)
    module("cutile")
    module("cutile.cutile_common", is_cuda_tile_available=lambda: False)
    for path in ("gemm", "sampling", "quantization", "quantization.nvfp4_quantization_utils", "fp4_quantization", "moe_ep", "mla", "sparse", "pod"):
        module(path)
    module("moe_ep", available_backends=lambda: [])
    sys.modules["flashinfer.moe_ep"].available_backends = lambda: []
    fill("activation", "gen_act_and_mul_module")
    fill("cascade", "MultiLevelCascadeAttentionWrapper", "BatchDecodeWithSharedPrefixPagedKVCacheWrapper",
         "BatchPrefillWithSharedPrefixPagedKVCacheWrapper")
    fill("gemm", "bmm_fp8", "SegmentGEMMWrapper")
    fill("quantization", "packbits", "segment_packbits", "gen_quantization_module")
    fill("sampling", "sampling_from_probs", "sampling_from_logits", "top_p_sampling_from_probs", "top_k_sampling_from_probs",
         "min_p_sampling_from_probs", "top_k_top_p_sampling_from_probs", "top_p_renorm_probs", "top_k_renorm_probs", "top_k_mask_logits",
         "chain_speculative_sampling")
    fill("rope", "rope_quantize_fp8", "mla_rope_quantize_fp8", "rope_quantize_fp8_append_paged_kv_cache")
    fill("prefill", "gen_single_prefill_module", "gen_batch_prefill_module")
    fill("decode", "gen_single_decode_module", "gen_batch_decode_module")
    fill("norm", "rmsnorm_quant", "fused_add_rmsnorm_quant", "layernorm_quant")
    for name in ("fp4_quantization", "trace"):
        module(name)
    for name in ("nvfp4_quantize_append_paged_kv_cache", "nvfp4_quantize_append_paged_kv_cache_with_slot_mapping", "MultiLevelCascadeAttentionWrapper"):
        if not hasattr(flashinfer, name):
            setattr(flashinfer, name, getattr(Absent("flashinfer"), name))


install()


def pytest_addoption(parser):
    parser.addoption("--sample", type=int, default=0, help="keep at most N cases of each test function")
    parser.addoption("--sample-seed", type=int, default=0)


def pytest_collection_modifyitems(config, items):
    limit = config.getoption("--sample")
    if not limit:
        return
    by_function = {}
    for item in items:
        by_function.setdefault(item.nodeid.split("[")[0], []).append(item)
    chosen = set()
    for name, cases in by_function.items():
        rng = random.Random(f"{config.getoption('--sample-seed')}:{name}")
        chosen.update(id(item) for item in (cases if len(cases) <= limit else rng.sample(cases, limit)))
    dropped = [item for item in items if id(item) not in chosen]
    items[:] = [item for item in items if id(item) in chosen]
    config.hook.pytest_deselected(items=dropped)
