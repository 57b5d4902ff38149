"""From processors to ops, and from ops to fewer ops."""

from collections.abc import Callable
from typing import NamedTuple

from . import operators
from .operators import LogitsSampleOp, LogitsTopKOp, MinPOp, ProbsSampleOp, ProbsTopKOp, SoftmaxOp, TemperatureOp, TopPOp
from .types import TensorType


class LegalizationError(Exception):
    """A processor cannot take what the one before it gives."""


class CompileError(Exception):
    """A sequence of ops that makes no sense."""


def legalize_processors(processors, initial_type=TensorType.LOGITS):
    """The ops of processors that are given a tensor of initial_type."""
    if not processors:
        raise LegalizationError("there are no processors")
    ops = []
    for i, processor in enumerate(processors):
        try:
            made = processor.legalize(ops[-1].OUT if ops else initial_type)
        except Exception as error:
            raise LegalizationError(f"processor {i} ({type(processor).__name__}): {error}") from error
        if not made:
            raise LegalizationError(f"processor {i} ({type(processor).__name__}) became no op")
        ops += made
    return ops


def infer_initial_type(processors):
    """What the first processor takes, if that is one type."""
    name, types = type(processors[0]).__name__, []
    for candidate in (TensorType.LOGITS, TensorType.PROBS):
        try:
            processors[0].legalize(candidate)
            types.append(candidate)
        except (ValueError, LegalizationError):
            pass
    if not types:
        raise LegalizationError(f"{name} takes neither LOGITS nor PROBS")
    if len(types) > 1:
        raise LegalizationError(f"{name} takes LOGITS and PROBS: say which by input_type")
    return types[0]


class FusionRule(NamedTuple):
    """Ops of the classes of `pattern`, next to each other, become build(ops) where guard(ops) holds; higher prio is tried first."""

    pattern: tuple
    guard: Callable
    build: Callable
    prio: int = 0


def _default_rules():
    rules = []

    def rule(pattern, build, guard=lambda ops: True):
        rules.append(FusionRule(tuple(pattern), guard, build, 10 * len(pattern)))

    def joint(ops):
        return any(op.default_params.get("joint_topk_topp") for op in ops)

    def params(ops):
        """What the ops were made with, of filters and of the draw."""
        return {name: value for op in ops for name, value in op.default_params.items()}

    rule([TemperatureOp, SoftmaxOp], lambda ops: operators.FusedTemperatureSoftmaxOp(**params(ops)))
    rule([ProbsTopKOp, ProbsSampleOp], lambda ops: operators.FusedProbsTopKSampleOp(**params(ops)))
    rule([TopPOp, ProbsSampleOp], lambda ops: operators.FusedProbsTopPSampleOp(**params(ops)))
    rule([MinPOp, ProbsSampleOp], lambda ops: operators.FusedProbsMinPSampleOp(**params(ops)))
    rule([ProbsTopKOp, TopPOp, ProbsSampleOp],
         lambda ops: (operators.FusedProbsTopKTopPSampleOp if joint(ops) else operators.FusedProbsTopKFirstSampleOp)(**params(ops)))

    def from_logits(filters, temperature):
        return lambda ops: operators.FusedLogitsSampleOp(filters, "joint" if joint(ops) else "top_k_first", temperature, **params(ops))

    names = {ProbsTopKOp: "top_k", LogitsTopKOp: "top_k", TopPOp: "top_p", MinPOp: "min_p"}
    for temperature in (False, True):
        first = [TemperatureOp] if temperature else []
        for filters in ([], [ProbsTopKOp], [TopPOp], [MinPOp], [ProbsTopKOp, TopPOp]):
            rule([*first, SoftmaxOp, *filters, ProbsSampleOp], from_logits(tuple(names[op] for op in filters), temperature))
        for filters in ([], [LogitsTopKOp]):
            if first or filters:
                rule([*first, *filters, LogitsSampleOp], from_logits(tuple(names[op] for op in filters), temperature))
    return rules


def _one_softmax(ops):
    if sum(isinstance(op, SoftmaxOp) for op in ops) > 1:
        raise CompileError("a pipeline has at most one Softmax")


def _indices_last(ops):
    for op in ops[:-1]:
        if op.OUT == TensorType.INDICES:
            raise CompileError(f"nothing may follow {type(op).__name__}, which gives INDICES")


class Compiler:
    """Checks a sequence of ops and fuses what it can."""

    def __init__(self):
        self.fusion_rules = []
        self.validity_checks = [_one_softmax, _indices_last]
        for rule in _default_rules():
            self.register_fusion_rule(rule)

    def register_fusion_rule(self, rule):
        self.fusion_rules.append(rule)
        self.fusion_rules.sort(key=lambda rule: -rule.prio)

    def register_validity_check(self, check):
        """check(ops) raises CompileError where it disagrees."""
        self.validity_checks.append(check)

    def compile(self, ops):
        ops = list(ops)
        if not ops:
            raise CompileError("there are no ops")
        if ops[0].IN not in (TensorType.LOGITS, TensorType.PROBS):
            raise CompileError(f"{type(ops[0]).__name__} takes neither LOGITS nor PROBS")
        for check in self.validity_checks:
            check(ops)
        for before, op in zip(ops, ops[1:]):
            if op.IN != before.OUT:
                raise CompileError(f"{type(op).__name__} takes {op.IN}, not the {before.OUT} of {type(before).__name__}")
        i = 0
        while i < len(ops):
            for rule in self.fusion_rules:
                window = ops[i : i + len(rule.pattern)]
                # A fused op is no part of a larger one: its class is not what a pattern names, but derives from it.
                if len(window) == len(rule.pattern) and all(type(op) is kind for op, kind in zip(window, rule.pattern)) and rule.guard(window):
                    ops[i : i + len(window)] = [rule.build(window)]
                    i = max(i - 1, 0) - 1
                    break
            i += 1
        return ops


def compile_pipeline(ops, custom_fusion_rules=None, custom_validity_checks=None):
    """The ops, checked and fused by the built-in rules and checks and by those given."""
    compiler = Compiler()
    for rule in custom_fusion_rules or ():
        compiler.register_fusion_rule(rule)
    for check in custom_validity_checks or ():
        compiler.register_validity_check(check)
    return compiler.compile(ops)
