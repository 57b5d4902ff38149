"""What the attention wrappers share: names of dtypes, modes and errors, and the plan behind run().

Scales (q_scale, k_scale, v_scale) undo what queries, keys and values were divided by, each a number or a float32 array on the device of
the queries, where kernels read it, so that it can be captured in a CUDA graph:
  one element, or one for each head: [num_qo_heads] for q_scale, [num_kv_heads] for k_scale and v_scale
  for FP8 caches also one for each token and head: shaped as the cache without its last dimension, that is [num_pages, page_size,
  num_kv_heads] (NHD) or [num_pages, num_kv_heads, page_size] (HND), ragged [num_tokens, num_kv_heads] or [num_kv_heads, num_tokens]
Results are those of a cache of 16 bits that holds keys times their scales and values times theirs. Scales of tokens that no request
has may be anything.
"""

import functools
import re

from . import _flashinfer
from ._flashinfer import InvalidArgument, Unsupported

_DTYPES = {
    "float16": "f16",
    "half": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float": "f32",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "uint8": "u8",
}
# Keys of one partial result when batch_invariant=True says no more: long enough that merging costs nothing, short enough that
# one request of 32 K keys keeps a GPU busy.
_CUT_LEN = 4096


class InvalidMode(InvalidArgument, KeyError):
    """An unknown name of a mode; a KeyError too, as in FlashInfer."""


def refuse(op, argument, text, kind=InvalidArgument):
    error = kind(f"{op}: {text}")
    error.op, error.argument = op, argument
    return error


def call(op, function, *args, **arguments):
    """function(*args, **arguments). Where an argument is of a wrong type, the error names it: nanobind's lists what all should be."""
    try:
        return function(*args, **arguments)
    except TypeError as error:
        if "incompatible function arguments" not in str(error):
            raise
        types = dict(re.findall(r"(\w+): (\w+(?: \| None)?)", function.__nb_signature__[0][0]))
        for name, value in arguments.items():
            kind, _, optional = types.get(name, "").partition(" | ")
            fits = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}.get(kind, (object,))
            missing = value is None and not optional
            if missing or value is not None and (not isinstance(value, fits) or kind == "int" and abs(value) >= 2**31):
                expected = types[name].replace("int", "int of 32 bits")
                raise TypeError(f"{op}: {name}: expected {expected}, got {value!r}") from None
        raise


def dtype_name(argument, dtype, op="plan"):
    """f16, bf16, ... of a torch, NumPy or ml_dtypes dtype, or of its name."""
    try:
        return _dtype_name(argument, dtype, op)
    except TypeError:
        raise refuse(op, argument, f"{argument}: expected a dtype or the name of one, got {dtype!r}") from None


@functools.lru_cache(maxsize=None)
def _dtype_name(argument, dtype, op):
    text = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    name = _DTYPES.get(text.rpartition(".")[2])
    if name is None:
        raise refuse(op, argument, f"{argument}: expected float16, bfloat16, float32, float8_e4m3fn or float8_e5m2, got {text}")
    return name


def dtype_names(q_data_type, kv_data_type, o_data_type):
    """Of queries (float16 unless given), keys and values (as queries) and the output (as queries)."""
    q = dtype_name("q_data_type", "float16" if q_data_type is None else q_data_type)
    kv = q if kv_data_type is None else dtype_name("kv_data_type", kv_data_type)
    return {"q_data_type": q, "kv_data_type": kv, "o_data_type": q if o_data_type is None else dtype_name("o_data_type", o_data_type)}


def check_kv_layout(op, kv_layout):
    if kv_layout not in ("NHD", "HND"):
        raise refuse(op, "kv_layout", f"Invalid kv_layout {kv_layout}", InvalidMode)


def check_pos_encoding_mode(op, pos_encoding_mode):
    if pos_encoding_mode not in ("NONE", "ROPE_LLAMA", "ALIBI"):
        raise refuse(op, "pos_encoding_mode", f"Invalid pos_encoding_mode {pos_encoding_mode}", InvalidMode)


def check_no_fp4(op, kv_cache_sf):
    if kv_cache_sf is not None:
        raise Unsupported(f"{op}: kv_cache_sf: no kernel reads an NVFP4 KV cache yet")


def is_sink_variant(jit_args):
    """FlashInfer's attention-sink variant, which is built in here: run(..., sink, sm_scale). Its other variants are refused."""
    if jit_args is None:
        return False
    if len(jit_args) == 13 and jit_args[11] == "AttentionSink":
        return True
    raise Unsupported(
        "jit_args: FlashInfer's C++ variants are written against its own headers; write a functor for flashinfer/attention/variant.hpp "
        "and give it to run(variant=)"
    )


_slopes = {}


def alibi_slopes(pos_encoding_mode, num_qo_heads, like):
    """The slopes beside `like` where the mode asks for them. Made once for a device, outside of captures."""
    if pos_encoding_mode != "ALIBI":
        return None
    key = num_qo_heads, type(like), str(getattr(like, "device", None))
    if key not in _slopes:
        _slopes[key] = _flashinfer._alibi_slopes(num_qo_heads, like)
    return _slopes[key]


def cut_of(batch_invariant, fixed_split_size, disable_split_kv, page_size):
    """(batch_invariant, cut_len): a split of fixed size, or none, is what makes a request's result its own."""
    if disable_split_kv:
        return True, 0
    if fixed_split_size is not None and not isinstance(fixed_split_size, int):
        raise TypeError(f"plan: fixed_split_size: expected int, got {fixed_split_size!r}")
    if fixed_split_size is not None and fixed_split_size > 0:
        return True, min(fixed_split_size * max(page_size, 1), 2**30)
    return batch_invariant, _CUT_LEN if batch_invariant else 0


def is_tensor(x):
    return hasattr(x, "__dlpack__")


def is_jax(x):
    return type(x).__module__.partition(".")[0] in ("jax", "jaxlib")


def _writable(buffer):
    """A workspace that kernels can write: in place of a JAX array, which is immutable, scratch of its size, and the array is not used."""
    return _flashinfer._scratch_like(buffer) if is_jax(buffer) else buffer


class Wrapper:
    """A plan, its workspaces and, in CUDA-graph mode, the buffers that captured kernels read."""

    def __init__(self, float_workspace_buffer, kv_layout, use_cuda_graph, jit_args):
        self._takes_sink = is_sink_variant(jit_args)
        check_kv_layout(type(self).__name__, kv_layout)
        self._kv_layout = kv_layout
        self._use_cuda_graph = use_cuda_graph
        self._set_float_workspace(float_workspace_buffer)
        self._int_workspace_buffer = None  # made by the first plan, in the size that it takes
        self._owns_int_workspace = True
        self._plan = None
        self._jit_module = None
        self._fixed_batch_size = 0
        self._backend = "auto"

    @property
    def is_cuda_graph_enabled(self):
        return self._use_cuda_graph

    @property
    def _batch_size(self):
        return None if self._plan is None else self._plan.batch_size

    @property
    def kernel(self):
        """What run() launches on a GPU, with all that was chosen at compile time; where only run() can tell, what the last one did. backend="auto"
        takes the decode kernel for up to 64 rows (query tokens times heads of a group) of 16-bit queries and head dimensions up to 256, without
        RoPE in attention, and the generic one for the rest; backend="decode" or "generic" pins one, and FlashInfer's own names leave the
        choice."""
        return self._planned().kernel

    @property
    def _plan_info(self):
        return None if self._plan is None else self._plan.info

    def _set_float_workspace(self, buffer):
        _check_alignment(type(self).__name__, "float_workspace_buffer", buffer)
        self._float_workspace_buffer = _writable(buffer)
        self.device = getattr(buffer, "device", None)

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        """Other buffers, such as those of workspace_size() bytes. Plan again before run."""
        self._set_float_workspace(float_workspace_buffer)
        _check_alignment("reset_workspace_buffer", "int_workspace_buffer", int_workspace_buffer)
        self._int_workspace_buffer = _writable(int_workspace_buffer)
        self._owns_int_workspace = False
        self._plan = None

    def end_forward(self):
        """Kept for old callers; does nothing."""

    def _buffers_in_graph(self, mode, **buffers):
        for name, buffer in buffers.items():
            if not is_tensor(buffer):
                raise refuse(type(self).__name__, name, f"{name} should be a torch.Tensor in {mode} mode")

    def _fill(self, buffer, values, name):
        """Copies device values into the front of a captured buffer; empty requests follow. Returns what the plan reads: the buffer, or
        host values, which the plan copies itself."""
        count = len(values)
        if count > len(buffer):
            raise refuse("plan", name, f"The size of {name} should be less than or equal to the allocated buffer: {count} > {len(buffer)}")
        if values is buffer:
            return buffer
        if str(getattr(values, "device", "cpu")) == "cpu":
            return values
        buffer[:count] = values
        if count < len(buffer) and name != "indices":
            buffer[count:] = values[-1:] if "indptr" in name else 1
        return buffer

    def _make(self, size_only=False, **arguments):
        """Plans, or tells the sizes of the workspaces that it takes."""
        result = call(
            "plan",
            _flashinfer._plan_attention,
            self._float_workspace_buffer,
            int_workspace=self._int_workspace_buffer,
            # Captured kernels have its address.
            grow_int_workspace=self._owns_int_workspace and not (self._use_cuda_graph and self._plan is not None),
            hnd=self._kv_layout == "HND",
            reusable=self._use_cuda_graph,
            workspace_only=size_only,
            backend=self._backend,
            **arguments,
        )
        if size_only:
            return result
        self._plan = result
        self._int_workspace_buffer = result.int_workspace

    def _again(self, qo_indptr, kv_indptr, kv_indices, last_page_len, asked, options={}):
        """Plans another batch for what the last plan() was asked, in one call. False: plan anew."""
        return self._plan is not None and self._plan.again(qo_indptr, kv_indptr, kv_indices, last_page_len, asked, options)

    def _remember(self, causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta):
        self._options = causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta
        self._causal = causal
        self._pos_encoding_mode = pos_encoding_mode
        self._window_left = window_left
        self._logits_soft_cap = logits_soft_cap
        self._sm_scale = sm_scale
        self._rope_scale = rope_scale
        self._rope_theta = rope_theta

    def _change(self, *options):
        """The options of the old forward(), which may differ from those of plan(). Another mask is planned again, on the device."""
        self._planned()
        if options == self._options:
            return
        causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta = options
        check_pos_encoding_mode("forward", pos_encoding_mode)
        slopes = alibi_slopes(pos_encoding_mode, self._num_qo_heads, self._float_workspace_buffer)
        rope = pos_encoding_mode == "ROPE_LLAMA"
        self._plan.set_options(causal, window_left, rope, slopes, sm_scale, logits_soft_cap, rope_scale, rope_theta)
        self._remember(*options)

    def _planned(self):
        if self._plan is None:
            raise refuse("run", "plan", "plan() comes before run()")
        return self._plan

    def _check_rare(self, window_left, skip_softmax_threshold_scale_factor, kv_cache_sf):
        """Arguments of run() that few callers give."""
        check_no_fp4("run", kv_cache_sf)
        if skip_softmax_threshold_scale_factor is not None:
            raise Unsupported("run: skip_softmax_threshold_scale_factor is not supported")
        if window_left is not None and window_left != self._window_left:
            raise refuse("run", "window_left", f"window_left: expected the planned {self._window_left}, got {window_left}")

    def _positional(self, args, q_scale, k_scale, v_scale, sinks):
        """The positional tail of run(): the scales of q, k and v, or sink and sm_scale of the sink variant."""
        if self._takes_sink and len(args) == 2:
            sinks, sm_scale = args
            return sm_scale / self._planned().sm_scale * (1.0 if q_scale is None else q_scale), k_scale, v_scale, sinks
        if not self._takes_sink and len(args) == 3:
            return (*args, sinks)
        expected = "sink and sm_scale" if self._takes_sink else "nothing, or the scales of q, k and v,"
        raise TypeError(f"run: args: expected {expected} after the cache, got {len(args)} positional arguments")


def _check_alignment(op, name, buffer):
    if buffer is None:
        raise TypeError(f"{op}: {name}: expected a tensor, got None")
    try:
        view = _flashinfer.describe(buffer)
    except TypeError as error:
        raise TypeError(f"{op}: {name}: {str(error).rpartition('tensor: ')[2]}") from None
    if 0 not in view["shape"] and view["data_ptr"] % 16:
        raise refuse(op, name, f"{name} must be 16-byte aligned, got data_ptr % 16 = {view['data_ptr'] % 16}")
