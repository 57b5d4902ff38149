"""What a user writes: transformations of logits or probabilities, which become ops when a pipeline is made.

Parameters given here hold for every call; those given to the pipeline's call, for that one: temperature, top_k, top_p and min_p are
numbers or tensors [batch_size]; indices, generator, seed and offset are those of flashinfer.sampling.
"""

import abc

from . import operators
from .types import TensorType


class LogitsProcessor(abc.ABC):
    """Base of the processors, and of the user's own: legalize(input_type) returns the ops to run on a tensor of that type."""

    def __init__(self, **params):
        self.params = params

    @abc.abstractmethod
    def legalize(self, input_type: TensorType) -> list: ...

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.params.items())})"


class _Builtin(LogitsProcessor):
    OPS = {}

    def legalize(self, input_type):
        if input_type not in self.OPS:
            raise ValueError(f"{type(self).__name__} takes {' or '.join(map(str, self.OPS))}, not {input_type}")
        return [self.OPS[input_type](**self.params)]


class Temperature(_Builtin):
    """logits / temperature."""

    OPS = {TensorType.LOGITS: operators.TemperatureOp}


class Softmax(_Builtin):
    """Logits to probabilities, in float32. At most one in a pipeline."""

    OPS = {TensorType.LOGITS: operators.SoftmaxOp}

    def __init__(self, enable_pdl=None, **params):
        super().__init__(enable_pdl=enable_pdl, **params)


class TopK(_Builtin):
    """Keeps the top_k largest: the other logits become -inf, the other probabilities 0 and the rest are renormalised.

    joint_topk_topp: the top_p of a TopP behind it is of the whole mass, not of what is kept here; where Sample follows the two.
    """

    OPS = {TensorType.LOGITS: operators.LogitsTopKOp, TensorType.PROBS: operators.ProbsTopKOp}

    def __init__(self, joint_topk_topp=False, **params):
        super().__init__(joint_topk_topp=joint_topk_topp, **params)


class TopP(_Builtin):
    """Keeps the smallest set of most probable tokens whose mass reaches top_p, renormalised."""

    OPS = {TensorType.PROBS: operators.TopPOp}


class MinP(_Builtin):
    """Keeps the tokens whose probability is at least min_p times the largest, renormalised."""

    OPS = {TensorType.PROBS: operators.MinPOp}


class Sample(_Builtin):
    """Draws a token from each row: the end of a pipeline. Every draw is deterministic, whatever `deterministic` says."""

    OPS = {TensorType.LOGITS: operators.LogitsSampleOp, TensorType.PROBS: operators.ProbsSampleOp}

    def __init__(self, deterministic=True, **params):
        super().__init__(deterministic=deterministic, **params)
