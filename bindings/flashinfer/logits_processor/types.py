"""What the numbers in a tensor stand for."""

import enum
from typing import Any, NamedTuple


class TensorType(enum.Enum):
    LOGITS = enum.auto()
    PROBS = enum.auto()
    INDICES = enum.auto()  # tokens: the end of a pipeline

    def __str__(self):
        return self.name

    def __repr__(self):
        return f"TensorType.{self.name}"


class TaggedTensor(NamedTuple):
    """A tensor and what it stands for, as it passes from op to op."""

    data: Any
    type: TensorType

    @staticmethod
    def logits(data):
        return TaggedTensor(data, TensorType.LOGITS)

    @staticmethod
    def probs(data):
        return TaggedTensor(data, TensorType.PROBS)

    @staticmethod
    def indices(data):
        return TaggedTensor(data, TensorType.INDICES)

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def device(self):
        return self.data.device

    def size(self, dim=None):
        return self.data.shape if dim is None else self.data.shape[dim]
