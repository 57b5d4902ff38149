"""The signatures of the extension module, kept in bindings/flashinfer/_flashinfer.pyi: a change of the API shows in review.

`python python_tests/test_api.py --update` writes the file anew, from the installed module.
"""

import difflib
import sys
from pathlib import Path

STUB = Path(__file__).parent.parent / "bindings/flashinfer/_flashinfer.pyi"

HEAD = '''"""The functions of flashinfer that are bound from C++. Written by python_tests/test_api.py --update."""

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
'''


def generate():
    from nanobind.stubgen import StubGen

    from flashinfer import _flashinfer

    generator = StubGen(_flashinfer)
    generator.put(_flashinfer)
    text = generator.get()
    # The exceptions call themselves flashinfer.X; importing them from there would be a circle.
    start, end = text.index("from flashinfer import ("), text.index(")\n") + 2
    return HEAD + "\n" + (text[:start] + text[end:]).strip() + "\n"


def test_signatures():
    lines = difflib.unified_diff(STUB.read_text().splitlines(), generate().splitlines(), "_flashinfer.pyi", "installed", lineterm="")
    difference = "\n".join(lines)
    assert not difference, f"run: python python_tests/test_api.py --update\n{difference}"


def test_every_op_is_documented():
    from flashinfer import _flashinfer

    public = [value for name, value in vars(_flashinfer).items() if not name.startswith("_") and type(value).__name__ == "nb_func"]
    assert public
    assert not [f.__name__ for f in public if len(f.__doc__.splitlines()) < 2], "a function has no text below its signature"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    STUB.write_text(generate())
