"""Every argument of every op, given wrongly: the error has the right type and names the op and the argument.

The calls stand in bad_calls_<family>.py: CALLS, a list of (op, argument, keyword arguments that differ from the good call),
and good(op), which makes the keyword arguments of a call that works. They run on CPU tensors: no check needs a GPU.
"""

import importlib.util
from pathlib import Path

import pytest

import flashinfer


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILIES = [load(path) for path in sorted(Path(__file__).parent.glob("bad_calls_*.py"))]
CALLS = [(family, *call) for family in FAMILIES for call in family.CALLS]
OPS = [(family, op) for family in FAMILIES for op in dict.fromkeys(op for op, *_ in family.CALLS)]


def function(op):
    value = flashinfer
    for name in op.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("family,op", OPS, ids=[op for _, op in OPS])
def test_good_call(family, op):
    """What the bad calls differ from does work: it is the one wrong argument that they are refused for."""
    function(op)(**family.good(op))


@pytest.mark.parametrize("family,op,argument,changes", CALLS, ids=[f"{op}-{argument}-{i}" for i, (_, op, argument, _) in enumerate(CALLS)])
def test_bad_call(family, op, argument, changes):
    call = family.good(op)
    call.update(changes(call) if callable(changes) else changes)
    with pytest.raises((flashinfer.InvalidArgument, TypeError)) as caught:
        function(op)(**call)
    text = str(caught.value)
    assert op.split(".")[-1] in text and argument in text
    if isinstance(caught.value, flashinfer.InvalidArgument):
        assert (caught.value.op, caught.value.argument) == (op.split(".")[-1], argument)
