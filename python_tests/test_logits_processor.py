"""Pipelines: fused ops do what their parts do one by one, which is what flashinfer.sampling does; what makes no sense is refused."""

import pytest
import torch

import flashinfer
from flashinfer.logits_processor import (
    CompileError,
    Compiler,
    FusionRule,
    LogitsPipe,
    LogitsProcessor,
    MinP,
    Op,
    Sample,
    Softmax,
    TaggedTensor,
    Temperature,
    TensorType,
    TopK,
    TopP,
)

LOGITS, PROBS = TensorType.LOGITS, TensorType.PROBS
DRAW = dict(seed=1234, offset=5)


def parameters(kind, batch_size, device):
    if kind == "numbers":
        return dict(temperature=0.7, top_k=30, top_p=0.8, min_p=0.05)
    row = torch.arange(batch_size, device=device)
    return dict(temperature=0.5 + row / batch_size, top_k=(1 + 3 * row).int(), top_p=0.3 + 0.6 * row / batch_size, min_p=0.01 + 0.2 * row / batch_size)


def names(ops):
    return [type(op).__name__ for op in ops]


# Processors, their input, the fused ops.
PIPELINES = [
    ([Temperature, Softmax], LOGITS, ["FusedTemperatureSoftmaxOp"]),
    ([Softmax], LOGITS, ["SoftmaxOp"]),
    ([TopK], LOGITS, ["LogitsTopKOp"]),
    ([TopK], PROBS, ["ProbsTopKOp"]),
    ([TopP], PROBS, ["TopPOp"]),
    ([MinP], PROBS, ["MinPOp"]),
    ([TopK, TopP], PROBS, ["ProbsTopKOp", "TopPOp"]),
    ([Sample], LOGITS, ["LogitsSampleOp"]),
    ([Sample], PROBS, ["ProbsSampleOp"]),
    ([TopK, Sample], PROBS, ["FusedProbsTopKSampleOp"]),
    ([TopP, Sample], PROBS, ["FusedProbsTopPSampleOp"]),
    ([MinP, Sample], PROBS, ["FusedProbsMinPSampleOp"]),
    ([TopK, TopP, Sample], PROBS, ["FusedProbsTopKFirstSampleOp"]),
    ([TopK, MinP, Sample], PROBS, ["ProbsTopKOp", "FusedProbsMinPSampleOp"]),
    ([Temperature, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([TopK, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Temperature, TopK, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Softmax, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Softmax, TopK, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Temperature, Softmax, TopP, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Temperature, Softmax, MinP, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Temperature, Softmax, TopK, TopP, Sample], LOGITS, ["FusedLogitsSampleOp"]),
    ([Temperature, Softmax, TopP, TopK, Sample], LOGITS, ["FusedTemperatureSoftmaxOp", "TopPOp", "FusedProbsTopKSampleOp"]),
]


@pytest.mark.parametrize("processors,input_type,fused", PIPELINES, ids=["-".join([*(p.__name__ for p in ps), t.name]) for ps, t, _ in PIPELINES])
@pytest.mark.parametrize("kind", ["numbers", "rows"])
def test_fused_is_composed(randn, device, processors, input_type, fused, kind):
    batch_size = 17
    x = randn(batch_size, 3000, scale=3.0)
    if input_type == PROBS:
        x = torch.softmax(x, -1)
    params = parameters(kind, batch_size, device)
    if processors[-1] is Sample:
        params.update(DRAW)
    pipe = LogitsPipe([p() for p in processors], input_type=input_type)
    composed = LogitsPipe([p() for p in processors], input_type=input_type, compile=False)
    assert names(pipe.compiled_ops) == fused and composed.compiled_ops is None
    out, expected = pipe(x, **params), composed(x, **params)
    if processors[-1] is Sample:
        assert torch.equal(out, expected)
    else:
        assert torch.equal(out == 0, expected == 0)
        assert torch.allclose(out, expected, rtol=1e-5, atol=1e-7)


def test_joint_filters(randn):
    x, params = randn(200, 2000), dict(top_k=400, top_p=0.6, **DRAW)
    joint = LogitsPipe([Softmax(), TopK(joint_topk_topp=True), TopP(), Sample()])
    first = LogitsPipe([Softmax(), TopK(), TopP(), Sample()])
    for pipe, order in ((joint, "joint"), (first, "top_k_first")):
        assert torch.equal(pipe(x, **params), flashinfer.sampling.top_k_top_p_sampling_from_logits(x, 400, 0.6, filter_apply_order=order, **DRAW))
    probs = torch.softmax(x, -1)
    pipe = LogitsPipe([TopK(joint_topk_topp=True), TopP(), Sample()], input_type=PROBS)
    assert names(pipe.compiled_ops) == ["FusedProbsTopKTopPSampleOp"]
    assert torch.equal(pipe(probs, **params), flashinfer.sampling.top_k_top_p_sampling_from_probs(probs, 400, 0.6, filter_apply_order="joint", **DRAW))


def test_against_torch(randn, check):
    x = randn(6, 500, scale=2.0)
    temperature = torch.linspace(0.2, 2.0, 6, device=x.device)
    check(LogitsPipe([Temperature()])(x, temperature=temperature), x.double() / temperature.double()[:, None])
    check(LogitsPipe([Temperature(), Softmax()])(x, temperature=temperature), torch.softmax(x.double() / temperature.double()[:, None], -1))
    probs = torch.softmax(x, -1)
    kept = probs.double() * (probs >= 0.1 * probs.amax(-1, keepdim=True))
    check(LogitsPipe([MinP()])(probs, min_p=0.1), kept / kept.sum(-1, keepdim=True))
    masked = LogitsPipe([TopK()], input_type=LOGITS)(x, top_k=7)
    assert torch.equal(masked, torch.where(x >= x.topk(7).values[:, -1:], x, -torch.inf))


@pytest.mark.parametrize("input_type", [LOGITS, PROBS])
def test_generator_and_indices(randn, device, input_type):
    x = torch.softmax(randn(4, 300), -1)
    op = flashinfer.sampling.sampling_from_probs if input_type == PROBS else flashinfer.sampling.sampling_from_logits
    pipe = LogitsPipe([Sample()], input_type=input_type)
    indices = torch.tensor([3, 3, 0, 1, 2, 2], dtype=torch.int32, device=device)
    one, two = (torch.Generator(device).manual_seed(7) for _ in range(2))
    for _ in range(2):  # the second draw is another: the generator moved on
        assert torch.equal(pipe(x, indices=indices, generator=one), op(x, indices=indices, generator=two))


def test_parameters_of_the_processor(randn):
    x = randn(5, 200)
    by_call = LogitsPipe([Temperature(), Softmax(), TopK(), Sample()])(x, temperature=0.5, top_k=5, **DRAW)
    for compile in (False, True):
        pipe = LogitsPipe([Temperature(temperature=0.5), Softmax(), TopK(top_k=5), Sample(seed=1234, offset=5)], compile=compile)
        assert torch.equal(pipe(x), by_call)
        assert torch.equal(pipe(x, top_k=1), x.argmax(-1).int())  # the call's wins


def test_tagged_tensors(randn):
    x = torch.softmax(randn(3, 100), -1)
    pipe = LogitsPipe([TopP()])
    assert pipe.initial_type == PROBS and torch.equal(pipe(TaggedTensor.probs(x), top_p=0.5), pipe(x, top_p=0.5))
    with pytest.raises(ValueError, match="takes PROBS, not LOGITS"):
        pipe(TaggedTensor.logits(x), top_p=0.5)
    tagged = TaggedTensor.logits(x)
    assert (tagged.shape, tagged.dtype, tagged.device, tagged.size(-1)) == (x.shape, x.dtype, x.device, 100)


class Double(Op):
    IN = OUT = LOGITS

    def __call__(self, tensor, **kwargs):
        return TaggedTensor(tensor.data * 2, self._validate_input_type(tensor))


class Doubled(LogitsProcessor):
    def legalize(self, input_type):
        return [Double()]


def test_own_processors_rules_and_checks(randn):
    x = randn(3, 50)
    assert torch.equal(LogitsPipe([Doubled(), Softmax()], input_type=LOGITS)(x), LogitsPipe([Softmax()])(x * 2))

    class Quadruple(Double):
        def __call__(self, tensor, **kwargs):
            return TaggedTensor(tensor.data * 4, LOGITS)

    rule = FusionRule((Double, Double), lambda ops: True, lambda ops: Quadruple(), 5)
    pipe = LogitsPipe([Doubled(), Doubled()], input_type=LOGITS, custom_fusion_rules=[rule])
    assert names(pipe.compiled_ops) == ["Quadruple"] and torch.equal(pipe(x), x * 4)

    def never(ops):
        raise CompileError("never")

    with pytest.raises(ValueError, match="Compilation failed: never"):
        LogitsPipe([Softmax()], custom_validity_checks=[never])
    assert names(Compiler().compile([Double(), Double()])) == ["Double", "Double"]


@pytest.mark.parametrize(
    "processors,input_type,text",
    [
        ([], None, "empty"),
        ([TopK], None, "input_type"),
        ([Sample], None, "input_type"),
        ([Softmax, Softmax], None, "Softmax takes LOGITS, not PROBS"),
        ([TopP, Temperature], None, "Temperature takes LOGITS"),
        ([Sample, TopK], LOGITS, "not INDICES"),
        ([TopP], LOGITS, "TopP takes PROBS"),
    ],
)
def test_pipelines_that_make_no_sense(processors, input_type, text):
    with pytest.raises(ValueError, match=text):
        LogitsPipe([p() for p in processors], input_type=input_type)


@pytest.mark.parametrize(
    "processor,input_type,params,text",
    [
        (Temperature, LOGITS, {}, "temperature is required by TemperatureOp"),
        (Temperature, LOGITS, {"temperature": 0.0}, "temperature must be positive"),
        (Temperature, LOGITS, {"temperature": float("nan")}, "temperature must be positive"),
        (TopK, LOGITS, {"top_k": 0}, "top_k must be a positive integer"),
        (TopK, PROBS, {"top_k": 2.5}, "top_k must be a positive integer"),
        (TopP, PROBS, {"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        (MinP, PROBS, {"min_p": 0.0}, r"min_p must be in \(0, 1\]"),
        (TopP, PROBS, {}, "top_p is required"),
    ],
)
def test_wrong_parameters(processor, input_type, params, text):
    with pytest.raises(ValueError, match=f"Error executing operator 0 .*{text}"):
        LogitsPipe([processor()], input_type=input_type)(torch.ones(2, 10), **params)
