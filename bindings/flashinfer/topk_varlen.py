"""Top-k selection from the scores of decode steps, whose rows end where their requests do."""

from ._attention import refuse
from ._flashinfer import _top_k_varlen

__all__ = ["top_k_varlen"]

_BACKENDS = ("auto", "radix", "gvr", "radix_cutlass")


def top_k_varlen(
    logits,
    seq_lens,
    top_k,
    pre_idx=None,
    compress_ratio=1,
    next_n=1,
    return_values=False,
    out_indices=None,
    out_values=None,
    backend="auto",
    load_balance=True,
    workspace=None,
    skip_check=False,
):
    """(indices, values) of the top_k largest elements of each row, in the order of their indices; values is None unless return_values.

    logits: [num_requests * next_n, max_seq_len], float32, float16 or bfloat16; seq_lens: [num_requests], int32. Row r holds
    (seq_lens[r // next_n] - next_n + r % next_n + 1) // compress_ratio elements: next_n rows a request, the last of which sees all of
    its tokens, and compress_ratio tokens an element. out_indices: [num_rows, top_k], int32, out_values: of logits' dtype; made if
    None. Places behind a row's last element hold -1 and 0.

    One kernel serves every backend that FlashInfer names; it needs neither pre_idx nor a workspace, and checks are never skipped.
    """
    if backend not in _BACKENDS:
        raise refuse("top_k_varlen", "backend", f"backend: expected one of {', '.join(_BACKENDS)}, got {backend!r}")
    return _top_k_varlen(logits, seq_lens, top_k, compress_ratio, next_n, return_values, out_indices, out_values if return_values else None)


def _is_backend_supported(backend, compute_capability=None):
    return backend in _BACKENDS


top_k_varlen.is_backend_supported = _is_backend_supported
top_k_varlen.suitable_auto_backends = ["radix"]
