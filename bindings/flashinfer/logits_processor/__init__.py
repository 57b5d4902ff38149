"""Pipelines of what is done to logits before a token is drawn: temperature, softmax, filters, sampling.

    pipe = LogitsPipe([Temperature(), Softmax(), TopK(), TopP(), Sample()])
    tokens = pipe(logits, temperature=0.8, top_k=50, top_p=0.9)

A processor becomes one or several ops, chosen by whether it is given logits or probabilities; ops that follow each other are fused
into one kernel where there is one, so that the pipeline above reads the logits once. Everything is done by flashinfer.sampling.
"""

from .compiler import CompileError, Compiler, FusionRule, LegalizationError, compile_pipeline, legalize_processors
from .op import Op, ParameterizedOp
from .pipeline import LogitsPipe
from .processors import LogitsProcessor, MinP, Sample, Softmax, Temperature, TopK, TopP
from .types import TaggedTensor, TensorType

__all__ = [
    "CompileError",
    "Compiler",
    "FusionRule",
    "LegalizationError",
    "LogitsPipe",
    "LogitsProcessor",
    "MinP",
    "Op",
    "ParameterizedOp",
    "Sample",
    "Softmax",
    "TaggedTensor",
    "Temperature",
    "TensorType",
    "TopK",
    "TopP",
    "compile_pipeline",
    "legalize_processors",
]
