"""The rules of `check-target` for TensorRT, as data.

A rule is a row: which operators, what to look for in them, why, the cure, and from which version to
which. Each says how it is known: tried on the parser and builder of TensorRT-RTX 1.7, or read in the
operator list that comes with the parser. Nothing here was tried on TensorRT itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.targets._plan import predicates as find
from edgekit.targets._plan.graph import words
from edgekit.targets._plan.sight import Sight
from edgekit.targets._plan.versions import is_rtx, number

READ = "read in the operator list of TensorRT's parser"
TRIED = "tried on TensorRT-RTX 1.7"
TRIED_AND_READ = f"{TRIED}; {READ}"

NEVER = words(
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence ConvInteger CumProd DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger "
    "MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional "
    "OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt "
    "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
    "SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique"
)
"""Operators that no TensorRT takes."""
RECURRENT = words("LSTM GRU RNN")
POOLS = words("MaxPool AveragePool LpPool")
QDQ = words("QuantizeLinear DequantizeLinear")
WHOLE = words("")
"""For a rule about the model, not about a node."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row. `ops` None means every operator, `WHOLE` the model itself.

    `holds` gives the words for `{}` in the reason, empty where the rule does not apply. It applies
    `since` a version and `until` one, with the severity `trt` in TensorRT and `rtx` in TensorRT-RTX;
    empty: not there.
    """

    name: str
    ops: frozenset[str] | None
    holds: Callable[[Sight], str]
    reason: str
    cure: str
    known: str
    since: str = ""
    until: str = ""
    trt: str = "error"
    rtx: str = "error"

    def severity(self, version: str) -> str:
        """`error`, `warning`, or empty where the rule does not apply."""
        if self.since and number(version) < number(self.since):
            return ""
        if self.until and number(version) >= number(self.until):
            return ""
        return self.rtx if is_rtx(version) else self.trt

    def where(self, severity: str) -> str:
        """The versions in words; empty for all of them."""
        rtx = self.rtx == severity and not self.until
        if self.trt == severity and rtx and not self.since:
            return ""
        bounds = [f"from {self.since}"] * bool(self.since) + [f"before {self.until}"] * bool(self.until)
        trt = [" ".join(["TensorRT", *bounds])] if self.trt == severity else []
        return ", ".join([*trt, *(["TensorRT-RTX"] if rtx else [])])


RULES = (
    Rule(
        name="operator",
        ops=NEVER,
        holds=find.always,
        reason="TensorRT has no {}",
        cure="replace the layer by operators that TensorRT has, or leave it outside the engine",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="unknown-operator",
        ops=None,
        holds=find.unknown,
        reason="ONNX has no operator {} in this opset",
        cure="export the model again",
        known=TRIED,
    ),
    Rule(
        name="domain",
        ops=None,
        holds=find.foreign_domain,
        reason="{} is not one of ONNX's own; the parser asks for a plug-in, or goes by the name alone",
        cure="export with ONNX's own operators",
        known=TRIED,
    ),
    Rule(
        name="nms",
        ops=words("NonMaxSuppression"),
        holds=find.always,
        reason="TensorRT parses {}, then fails to build it, and here it is not at the end",
        cure="split the network there, or replace it by a fixed number of candidates",
        known=TRIED,
    ),
    Rule(
        name="double",
        ops=None,
        holds=find.double,
        reason="{}; TensorRT takes it as float32, so the engine is not what the model says",
        cure="make it float32 in the network",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="double",
        ops=WHOLE,
        holds=find.double,
        reason="the input {}; TensorRT takes it as float32, so the engine is not what the model says",
        cure="make it float32 in the network",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="type",
        ops=None,
        holds=find.foreign_type,
        reason="{}, a type that TensorRT does not have",
        cure="use int32, int64 or float32 in the network",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="type",
        ops=WHOLE,
        holds=find.foreign_type,
        reason="the input {}, a type that TensorRT does not have",
        cure="use int32, int64 or float32 in the network",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="uint8",
        ops=None,
        holds=find.inner_uint8,
        reason="{!r} is uint8 inside the network; TensorRT has uint8 for inputs and outputs only",
        cure="cast to float32 or int32 instead",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="int4",
        ops=None,
        holds=find.int4,
        reason="{}; TensorRT has it from 10.0 on",
        cure="quantize to int8 for older versions",
        known="read in the changelog of TensorRT's parser",
        until="10.0",
    ),
    Rule(
        name="int64",
        ops=None,
        holds=find.large_int64,
        reason="{!r} holds whole numbers beyond int32, to which TensorRT before 10.0 cuts them",
        cure="keep whole numbers within int32",
        known=READ,
        until="10.0",
        trt="warning",
    ),
    Rule(
        name="int64",
        ops=WHOLE,
        holds=find.int64_input,
        reason="the input {} is int64; the engine of TensorRT before 10.0 takes int32 there",
        cure="none needed within int32: the runtime feeds what the engine asks for",
        known="read in the changelog of TensorRT's parser",
        until="10.0",
        trt="warning",
    ),
    Rule(
        name="bf16",
        ops=WHOLE,
        holds=find.in_bf16,
        reason="TensorRT before 10.0 has no bf16",
        cure="ask for fp16 or fp32",
        known="read in the changelog of TensorRT's parser",
        until="10.0",
    ),
    Rule(
        name="not-quantized",
        ops=WHOLE,
        holds=find.not_quantized,
        reason="{} is asked for, but the graph has no QuantizeLinear/DequantizeLinear nodes",
        cure="quantize it first",
        known="edgekit's own rule",
    ),
    Rule(
        name="input-forget",
        ops=words("LSTM"),
        holds=find.input_forget,
        reason="TensorRT has no {}",
        cure="train the layer with separate gates",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="activations",
        ops=RECURRENT,
        holds=find.activations,
        reason="the activations differ between the directions ({}), which TensorRT refuses",
        cure="use the same activations in both directions, or two layers of one direction each",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="recurrent-float",
        ops=RECURRENT,
        holds=find.recurrent_in_int8,
        reason="TensorRT computes {} in float whatever is asked",
        cure="none needed: it stays in the precision of the rest",
        known=READ,
        trt="warning",
        rtx="warning",
    ),
    Rule(
        name="quantized-sequence",
        ops=RECURRENT,
        holds=find.quantized_sequence,
        reason="Q/DQ on what this {} reads, in a network of dynamic sizes: the build fails",
        cure="leave the inputs of recurrent layers in float, or fix all sizes",
        known=f"{TRIED} only, which may differ",
        trt="warning",
    ),
    Rule(
        name="gru-bf16",
        ops=words("GRU"),
        holds=find.gru_in_bf16,
        reason="the parser fails on a GRU in {}",
        cure="ask for fp16 or fp32",
        known=f"{TRIED} only, which may differ",
        trt="warning",
    ),
    Rule(
        name="pool-dilations",
        ops=POOLS,
        holds=find.dilated,
        reason="TensorRT pools without {}",
        cure="pool without holes",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="pool-indices",
        ops=words("MaxPool"),
        holds=find.second_output,
        reason="TensorRT's MaxPool gives no indices, and {!r} is read",
        cure="upsample without indices instead of unpooling",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="extra-outputs",
        ops=words("LayerNormalization"),
        holds=find.second_output,
        reason="TensorRT gives only the first output of LayerNormalization, and {!r} is read",
        cure="compute mean and deviation by operators of their own",
        known=TRIED_AND_READ,
        since="8.6",
    ),
    Rule(
        name="training",
        ops=words("BatchNormalization Dropout"),
        holds=find.training,
        reason="{} is in training mode",
        cure="export the network in evaluation mode",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="scatter-reduction",
        ops=words("ScatterND"),
        holds=find.reducing_scatter,
        reason="TensorRT's ScatterND has no reduction {!r}",
        cure="write each place once, or scatter with ScatterElements",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="zero-point",
        ops=QDQ,
        holds=find.zero_point,
        reason="the zero point is {}; TensorRT takes 0 only",
        cure="quantize symmetrically: int8 with zero point 0",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="quantized-type",
        ops=QDQ,
        holds=find.codes,
        reason="the codes are {}; TensorRT's are int8, and uint8 is read as int8 and clipped",
        cure="quantize symmetrically: int8 with zero point 0",
        known=TRIED,
    ),
    Rule(
        name="resize",
        ops=words("Resize"),
        holds=find.resized,
        reason="TensorRT's Resize has no {}",
        cure="use half_pixel, asymmetric or align_corners, without antialiasing",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="grid-sample",
        ops=words("GridSample"),
        holds=find.five_dimensions,
        reason="GridSample is {}; TensorRT samples images (4D) only",
        cure="sample slice by slice",
        known=f"{READ}; TensorRT-RTX 1.7 took it",
        rtx="",
    ),
    Rule(
        name="changing-shapes",
        ops=words("If"),
        holds=find.unequal_ranks,
        reason="the branches give tensors of different rank ({})",
        cure="let both branches give the same number of dimensions",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="changing-shapes",
        ops=words("If"),
        holds=find.unequal_sizes,
        reason="the branches give sizes that do not broadcast ({})",
        cure="let both branches give the same shape",
        known=READ,
        until="10.0",
    ),
    Rule(
        name="changing-shapes",
        ops=words("Loop"),
        holds=find.growing,
        reason="what the loop carries changes its shape ({})",
        cure="carry a tensor of full size and write into it",
        known=TRIED_AND_READ,
    ),
    Rule(
        name="changing-shapes",
        ops=words("Loop"),
        holds=find.unbounded_scan,
        reason="the loop stacks {!r}, and how many rounds it makes is not constant",
        cure="use Scan, whose length is that of its input",
        known=f"{READ}; TensorRT-RTX 1.7 took it",
        trt="warning",
        rtx="",
    ),
    Rule(
        name="data-dependent",
        ops=words("NonZero"),
        holds=find.always,
        reason="how many numbers {} gives depends on the data: the memory for the worst case is reserved",
        cure="use a mask of fixed size where that will do",
        known=f"{READ}; TensorRT-RTX 1.7 refuses it",
        trt="warning",
    ),
    Rule(
        name="fp16-overflow",
        ops=None,
        holds=find.overflow,
        reason="{!r} holds values beyond 65504, the largest fp16: they are clamped",
        cure="scale the layer, or ask for bf16 or fp32",
        known="edgekit's own rule",
        trt="warning",
        rtx="warning",
    ),
)
