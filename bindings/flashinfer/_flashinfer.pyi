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
