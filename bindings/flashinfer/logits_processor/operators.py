"""The ops that processors become, and those that several of them are fused into. Each is a call of flashinfer.sampling."""

from .. import sampling
from .op import ParameterizedOp
from .types import TaggedTensor, TensorType


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def column(value):
    """A parameter that multiplies rows: a number, or one of every row."""
    return value if is_number(value) else value[:, None]


class Filtering(ParameterizedOp):
    """Reads and checks the parameters that ops share: numbers in their range, or tensors of one number a row, which are trusted."""

    def temperature(self, kwargs):
        value = self._get_param("temperature", kwargs)
        if is_number(value) and not value > 0:
            raise ValueError(f"temperature must be positive or a tensor, got {value}")
        return value

    def top_k(self, kwargs):
        value = self._get_param("top_k", kwargs)
        if isinstance(value, (bool, float)) or (isinstance(value, int) and value <= 0):
            raise ValueError(f"top_k must be a positive integer or a tensor, got {value}")
        return value

    def top_p(self, kwargs):
        return self._part("top_p", kwargs)

    def min_p(self, kwargs):
        return self._part("min_p", kwargs)

    def _part(self, name, kwargs):
        value = self._get_param(name, kwargs)
        if is_number(value) and not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1] or a tensor, got {value}")
        return value


class LogitsOp(Filtering):
    IN = OUT = TensorType.LOGITS

    def __call__(self, tensor, **kwargs):
        return TaggedTensor(self.apply(tensor.data, kwargs), self._validate_input_type(tensor))


class ProbsOp(LogitsOp):
    IN = OUT = TensorType.PROBS


class TemperatureOp(LogitsOp):
    def apply(self, logits, kwargs):
        return logits / column(self.temperature(kwargs))


class LogitsTopKOp(LogitsOp):
    def apply(self, logits, kwargs):
        return sampling.top_k_mask_logits(logits, self.top_k(kwargs))


class SoftmaxOp(LogitsOp):
    OUT = TensorType.PROBS

    def apply(self, logits, kwargs):
        return sampling.softmax(logits, enable_pdl=self.default_params.get("enable_pdl"))


class FusedTemperatureSoftmaxOp(SoftmaxOp):
    def apply(self, logits, kwargs):
        return sampling.softmax(logits, self.temperature(kwargs), enable_pdl=self.default_params.get("enable_pdl"))


class ProbsTopKOp(ProbsOp):
    def apply(self, probs, kwargs):
        return sampling.top_k_renorm_probs(probs, self.top_k(kwargs))


class TopPOp(ProbsOp):
    def apply(self, probs, kwargs):
        return sampling.top_p_renorm_probs(probs, self.top_p(kwargs))


class MinPOp(ProbsOp):
    def apply(self, probs, kwargs):
        least = column(self.min_p(kwargs)) * probs.max(-1, keepdim=True).values
        kept = probs * (probs >= least)
        return kept / kept.sum(-1, keepdim=True)


class ProbsSampleOp(ProbsOp):
    """Draws a token of each row, which the filters of FILTERS are applied to."""

    OUT = TensorType.INDICES
    FILTERS = ()
    ORDER = "top_k_first"  # of top_k and top_p: is the mass of top_p that of the row, or of what top_k keeps?

    def draw_params(self, kwargs):
        given = {name: self._get_param(name, kwargs, required=False) for name in ("indices", "generator", "seed", "offset")}
        return {name: value for name, value in given.items() if value is not None}

    def apply(self, probs, kwargs):
        given = self.draw_params(kwargs)
        if not self.FILTERS:
            return sampling.sampling_from_probs(probs, **given)
        filters = {name: getattr(self, name)(kwargs) if name in self.FILTERS else None for name in ("top_k", "top_p", "min_p")}
        return sampling.top_k_top_p_sampling_from_probs(probs, **filters, filter_apply_order=self.ORDER, **given)


class FusedProbsTopKSampleOp(ProbsSampleOp):
    FILTERS = ("top_k",)


class FusedProbsTopPSampleOp(ProbsSampleOp):
    FILTERS = ("top_p",)


class FusedProbsMinPSampleOp(ProbsSampleOp):
    FILTERS = ("min_p",)


class FusedProbsTopKFirstSampleOp(ProbsSampleOp):
    FILTERS = ("top_k", "top_p")


class FusedProbsTopKTopPSampleOp(FusedProbsTopKFirstSampleOp):
    ORDER = "joint"


class LogitsSampleOp(ProbsSampleOp):
    """Draws from softmax(logits) without making it."""

    IN = TensorType.LOGITS

    def apply(self, logits, kwargs):
        return sampling.sampling_from_logits(logits, **self.draw_params(kwargs))


class FusedLogitsSampleOp(LogitsSampleOp):
    """Temperature, softmax, filters and the draw, in one reading of the logits."""

    def __init__(self, filters=(), order="top_k_first", has_temperature=False, /, **params):
        super().__init__(**params)
        self.FILTERS, self.ORDER, self.has_temperature = filters, order, has_temperature

    def apply(self, logits, kwargs):
        given = self.draw_params(kwargs)
        if self.has_temperature:
            given["temperature"] = self.temperature(kwargs)
        filters = {name: getattr(self, name)(kwargs) if name in self.FILTERS else None for name in ("top_k", "top_p", "min_p")}
        return sampling.top_k_top_p_sampling_from_logits(logits, **filters, filter_apply_order=self.ORDER, **given)
