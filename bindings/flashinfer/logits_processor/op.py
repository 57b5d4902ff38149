"""One step of a pipeline: from logits, probabilities or tokens to one of these."""

import abc

from .types import TaggedTensor, TensorType


class Op(abc.ABC):
    """A subclass names the types IN and OUT and implements __call__(tensor, **runtime_parameters), both tensors tagged."""

    IN: TensorType = None
    OUT: TensorType = None

    def __init__(self):
        if self.IN is None or self.OUT is None:
            raise ValueError(f"{type(self).__name__} must name the types IN and OUT")

    @abc.abstractmethod
    def __call__(self, tensor: TaggedTensor, **kwargs) -> TaggedTensor: ...

    def _validate_input_type(self, tensor):
        if tensor.type != self.IN:
            raise ValueError(f"{type(self).__name__} takes {self.IN}, not {tensor.type}")
        return self.OUT

    def __repr__(self):
        return f"{type(self).__name__}({self.IN} -> {self.OUT})"


class ParameterizedOp(Op):
    """An op with parameters, which are given when it is made or when the pipeline runs; the latter wins."""

    def __init__(self, **default_params):
        super().__init__()
        self.default_params = default_params

    def _get_param(self, name, kwargs, required=True):
        value = kwargs.get(name, self.default_params.get(name))
        if value is None and required:
            raise ValueError(f"{name} is required by {type(self).__name__}")
        return value
