"""A pipeline of processors."""

import logging

from .compiler import CompileError, LegalizationError, compile_pipeline, infer_initial_type, legalize_processors
from .types import TaggedTensor

logger = logging.getLogger(__name__)


class LogitsPipe:
    """Runs processors one after another: pipe(logits or probs, **runtime_parameters) returns a tensor.

    input_type says what the pipeline is given, where its first processor takes logits and probabilities. compile=False runs every
    op by itself: for comparison, and for looking at what lies between them.
    """

    def __init__(self, processors, compile=True, input_type=None, custom_fusion_rules=None, custom_validity_checks=None):
        if not processors:
            raise ValueError("Pipeline cannot be empty")
        self.processors = list(processors)
        self.compiled_ops = None
        try:
            self._initial_type = input_type or infer_initial_type(self.processors)
            self.ops = legalize_processors(self.processors, self._initial_type)
        except LegalizationError as error:
            raise ValueError(f"Pipeline creation failed: {error}") from error
        if compile:
            self.compile(custom_fusion_rules, custom_validity_checks)

    @property
    def initial_type(self):
        return self._initial_type

    def compile(self, custom_fusion_rules=None, custom_validity_checks=None):
        try:
            self.compiled_ops = compile_pipeline(self.ops, custom_fusion_rules, custom_validity_checks)
        except CompileError as error:
            raise ValueError(f"Compilation failed: {error}") from error

    def __call__(self, x, **kwargs):
        if self.compiled_ops is None:
            logger.debug("The pipeline is not compiled: every op runs by itself.")
        tensor = x if isinstance(x, TaggedTensor) else TaggedTensor(x, self._initial_type)
        for i, op in enumerate(self.compiled_ops or self.ops):
            try:
                tensor = op(tensor, **kwargs)
            except Exception as error:
                raise ValueError(f"Error executing operator {i} ({type(op).__name__}): {error}") from error
        return tensor.data

    def __repr__(self):
        def names(items):
            return " -> ".join(type(item).__name__ for item in items or ())

        return f"LogitsPipe([{names(self.processors)}], ops=[{names(self.ops)}], compiled_ops=[{names(self.compiled_ops)}])"
