"""The functions of flashinfer that are bound from C++. Written by python_tests/test_api.py --update."""

from typing import Any, TypeAlias

# Of torch, NumPy, CuPy, JAX, tvm-ffi or any other library with __dlpack__. Results are of the library of the inputs.
Tensor: TypeAlias = Any

__version__: str

class InvalidArgument(ValueError):
    op: str
    argument: str

class Unsupported(NotImplementedError): ...
class CompileError(RuntimeError): ...
class CudaError(RuntimeError): ...

def describe(tensor: Tensor, writable: bool = False) -> dict:
    """
    Shape, strides in elements, dtype, device and address, as the kernels see them.
    """

def rmsnorm(input: Tensor, weight: Tensor, eps: float = 1e-06, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """
    input / sqrt(mean(input^2) + eps) * weight over the last dimension, computed in float32.

    input: [num_rows, hidden_size] or [num_tokens, num_heads, head_dim], float32, float16 or bfloat16. weight: [hidden_size],
    input's dtype or float32. out: as input, may be input itself; made if None. All strides but the innermost are free.
    """

def gemma_rmsnorm(input: Tensor, weight: Tensor, eps: float = 1e-06, out: Tensor | None = None, enable_pdl: bool | None = None) -> Tensor:
    """As rmsnorm, times weight + 1."""

def fused_add_rmsnorm(input: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    residual += input; input = rmsnorm(residual). The norm is that of the sum in float32, before it is rounded into residual.
    """

def gemma_fused_add_rmsnorm(input: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """As fused_add_rmsnorm, times weight + 1."""

def rmsnorm_quant(out: Tensor, input: Tensor, weight: Tensor, scale: float | Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    out = rmsnorm(input) / scale, in FP8 (e4m3 or e5m2), saturating. scale: a number, or a float32 tensor of one element.
    """

def fused_add_rmsnorm_quant(out: Tensor, input: Tensor, residual: Tensor, weight: Tensor, scale: float | Tensor, eps: float = 1e-06, enable_pdl: bool | None = None) -> None:
    """
    residual += input; out = rmsnorm(residual) / scale, in FP8. The input keeps its values.
    """
