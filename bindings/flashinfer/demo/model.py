"""A Llama decoder over a paged KV cache: weights from a Hugging Face checkpoint folder or random, one forward for any mix of
prompts and single tokens."""

import contextlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import flashinfer


@dataclass
class LlamaConfig:
    vocab_size: int = 4096
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_layers: int = 4
    num_qo_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    llama31: dict | None = None  # rope_scale, low_freq_factor, high_freq_factor, old_context_len
    tie_word_embeddings: bool = False
    max_position: int = 131072
    eos_token_ids: tuple = ()

    @classmethod
    def from_folder(cls, folder):
        raw = json.loads((Path(folder) / "config.json").read_text())
        kinds = raw.get("architectures") or []
        if kinds and kinds[0] not in ("LlamaForCausalLM", "MistralForCausalLM"):
            raise ValueError(f"{folder}: expected a Llama-architecture checkpoint, got {kinds[0]}")
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if name not in raw:
                raise ValueError(f"{folder}/config.json: {name} is missing")
        for name in ("attention_bias", "mlp_bias", "quantization_config"):
            if raw.get(name):
                raise ValueError(f"{folder}: {name} is not supported")
        # transformers 5 writes rope_parameters, older versions rope_theta and rope_scaling.
        rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
        kind = rope.get("rope_type", rope.get("type", "default"))
        llama31 = None
        if kind == "llama3":
            llama31 = dict(rope_scale=rope["factor"], low_freq_factor=rope["low_freq_factor"], high_freq_factor=rope["high_freq_factor"],
                           old_context_len=rope["original_max_position_embeddings"])
        elif kind != "default":
            raise ValueError(f"{folder}: RoPE scaling {kind!r} is not supported; expected 'default' or 'llama3'")
        eos = raw.get("eos_token_id")
        heads = raw["num_attention_heads"]
        return cls(
            vocab_size=raw["vocab_size"], hidden_size=raw["hidden_size"], intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"], num_qo_heads=heads, num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads, rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10000.0)), llama31=llama31,
            tie_word_embeddings=raw.get("tie_word_embeddings", False), max_position=raw.get("max_position_embeddings", 131072),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,))


def checkpoint(folder, arrays):
    """Name -> array of every safetensors file of a folder."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        if hasattr(arrays, "torch"):
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="pt") as file:
                    found.update((name, file.get_tensor(name)) for name in file.keys())
            except SafetensorError as error:
                raise ValueError(f"{path}: {error}") from None
        else:
            import ml_dtypes
            import safetensors

            dtypes = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
            try:
                entries = safetensors.deserialize(path.read_bytes())
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path}: {error}") from None
            for name, entry in entries:
                if entry["dtype"] not in dtypes:
                    raise ValueError(f"{path}: {name}: expected {', '.join(dtypes)}, got {entry['dtype']}")
                found[name] = np.frombuffer(entry["data"], dtypes[entry["dtype"]]).reshape(entry["shape"])
    if not found:
        raise FileNotFoundError(f"{folder}: no *.safetensors file")
    return found


@dataclass
class Batch:
    """The tokens of one step, request after request, and where their keys lie. All arrays are int32, on the host and on the model's device."""

    token_ids: list
    qo_lens: list
    kv_lens: list  # with the new tokens
    pages: list  # of each request, in order
    page_size: int

    def __post_init__(self):
        counts = [len(pages) for pages in self.pages]
        self.qo_indptr = np.cumsum([0, *self.qo_lens], dtype=np.int32)
        self.kv_indptr = np.cumsum([0, *counts], dtype=np.int32)
        self.kv_indices = np.array([page for pages in self.pages for page in pages], np.int32)
        self.last_page_len = np.array([(n - 1) % self.page_size + 1 for n in self.kv_lens], np.int32)


@dataclass
class OpTimes:
    """Seconds spent by operation, measured on the device's own clock."""

    arrays: object
    marks: list = field(default_factory=list)

    @contextlib.contextmanager
    def __call__(self, name):
        begin = self.arrays.clock()
        yield
        self.marks.append((name, begin, self.arrays.clock()))

    def totals(self):
        totals = defaultdict(float)
        for name, begin, end in self.marks:
            totals[name] += self.arrays.seconds(begin, end)
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


class Llama:
    def __init__(self, config, arrays, weights=None, num_pages=512, page_size=16, seed=0):
        self.config, self.arrays, self.page_size, self.num_pages = config, arrays, page_size, num_pages
        c = config
        rng = np.random.default_rng(seed)

        def take(name, *shape):
            if weights is None:
                spread = 1.0 if len(shape) == 1 else 1 / math.sqrt(shape[1])
                return np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * np.float32(spread)
            if name not in weights:
                raise ValueError(f"{name}: the checkpoint lacks it")
            array = weights[name]
            if tuple(array.shape) != shape:
                raise ValueError(f"{name}: expected shape {list(shape)}, got {list(array.shape)}")
            return array

        def stacked(*parts):  # one matrix product for several projections of the same input
            parts = [arrays.weight(part) for part in parts]
            return arrays.torch.cat(parts) if hasattr(arrays, "torch") else np.concatenate(parts)

        self.embedding = arrays.weight(take("model.embed_tokens.weight", c.vocab_size, c.hidden_size))
        self.layers = []
        for i in range(c.num_layers):
            at = f"model.layers.{i}."
            qo_size, kv_size = c.num_qo_heads * c.head_dim, c.num_kv_heads * c.head_dim
            self.layers.append(dict(
                input_norm=arrays.weight(take(at + "input_layernorm.weight", c.hidden_size)),
                qkv=stacked(take(at + "self_attn.q_proj.weight", qo_size, c.hidden_size), take(at + "self_attn.k_proj.weight", kv_size, c.hidden_size),
                            take(at + "self_attn.v_proj.weight", kv_size, c.hidden_size)),
                out=arrays.weight(take(at + "self_attn.o_proj.weight", c.hidden_size, qo_size)),
                mlp_norm=arrays.weight(take(at + "post_attention_layernorm.weight", c.hidden_size)),
                gate_up=stacked(take(at + "mlp.gate_proj.weight", c.intermediate_size, c.hidden_size),
                                take(at + "mlp.up_proj.weight", c.intermediate_size, c.hidden_size)),
                down=arrays.weight(take(at + "mlp.down_proj.weight", c.hidden_size, c.intermediate_size)),
                cache=arrays.empty(num_pages, 2, page_size, c.num_kv_heads, c.head_dim)))
        self.final_norm = arrays.weight(take("model.norm.weight", c.hidden_size))
        self.head = self.embedding if c.tie_word_embeddings else arrays.weight(take("lm_head.weight", c.vocab_size, c.hidden_size))

        workspace = np.empty(32 << 20, np.uint8) if not hasattr(arrays, "torch") else arrays.torch.empty(
            128 << 20, dtype=arrays.torch.uint8, device=arrays.device)
        self.prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        self.decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        self.times = OpTimes(arrays)

    @classmethod
    def from_folder(cls, folder, arrays, **kwargs):
        return cls(LlamaConfig.from_folder(folder), arrays, checkpoint(folder, arrays), **kwargs)

    def rotate(self, q, k, positions):
        c = self.config
        if c.llama31:
            flashinfer.apply_llama31_rope_pos_ids_inplace(q, k, positions, rope_theta=c.rope_theta, **c.llama31)
        else:
            flashinfer.apply_rope_pos_ids_inplace(q, k, positions, rope_theta=c.rope_theta)

    def plan(self, batch):
        c, only_decode = self.config, max(batch.qo_lens) == 1
        wrapper = self.decode if only_decode else self.prefill
        indptr = () if only_decode else (batch.qo_indptr,)
        wrapper.plan(*indptr, batch.kv_indptr, batch.kv_indices, batch.last_page_len, c.num_qo_heads, c.num_kv_heads, c.head_dim,
                     self.page_size, **({} if only_decode else {"causal": True}), q_data_type=self.arrays.dtype, kv_data_type=self.arrays.dtype)
        return wrapper

    def forward(self, batch):
        """Logits [number of requests, vocab_size] of the token after each request's last."""
        c, arrays, timed = self.config, self.arrays, self.times
        n = len(batch.token_ids)
        with timed("plan"):
            attention = self.plan(batch)
            kv_indptr, kv_indices, last_page_len = map(arrays.index, (batch.kv_indptr, batch.kv_indices, batch.last_page_len))
            of_request, positions = flashinfer.get_batch_indices_positions(
                arrays.index(batch.qo_indptr), flashinfer.get_seq_lens(kv_indptr, last_page_len, self.page_size), n)
        with timed("embedding"):
            x = arrays.rows(self.embedding, arrays.index(batch.token_ids))
        residual = None
        qo_size, kv_size = c.num_qo_heads * c.head_dim, c.num_kv_heads * c.head_dim
        for layer in self.layers:
            with timed("rmsnorm"):
                x, residual = self.norm(x, residual, layer["input_norm"])
            with timed("matmul"):
                qkv = arrays.linear(x, layer["qkv"])
            q = qkv[:, :qo_size].reshape(n, c.num_qo_heads, c.head_dim)  # views of qkv: operations take strides
            k = qkv[:, qo_size : qo_size + kv_size].reshape(n, c.num_kv_heads, c.head_dim)
            v = qkv[:, qo_size + kv_size :].reshape(n, c.num_kv_heads, c.head_dim)
            with timed("rope"):
                self.rotate(q, k, positions)
            with timed("append"):
                flashinfer.append_paged_kv_cache(k, v, of_request, positions, layer["cache"], kv_indices, kv_indptr, last_page_len)
            with timed("attention"):
                out = attention.run(q, layer["cache"])
            with timed("matmul"):
                x = arrays.linear(out.reshape(n, qo_size), layer["out"])
            with timed("rmsnorm"):
                x, residual = self.norm(x, residual, layer["mlp_norm"])
            with timed("matmul"):
                gate_up = arrays.linear(x, layer["gate_up"])
            with timed("silu_and_mul"):
                x = flashinfer.silu_and_mul(gate_up)
            with timed("matmul"):
                x = arrays.linear(x, layer["down"])
        with timed("rmsnorm"):
            last = arrays.index(batch.qo_indptr[1:] - 1)
            x, _ = self.norm(x, residual, self.final_norm)
            x = arrays.rows(x, last)
        with timed("matmul"):
            return arrays.linear(x, self.head)

    def norm(self, x, residual, weight):
        """RMSNorm of x + residual, and that sum. Both are overwritten, after the embedding, which is first kept as the residual."""
        if residual is None:
            return flashinfer.rmsnorm(x, weight, self.config.rms_norm_eps), x
        flashinfer.fused_add_rmsnorm(x, residual, weight, self.config.rms_norm_eps)
        return x, residual
