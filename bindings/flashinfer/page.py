"""Paged KV caches: appending to them, and where tokens go."""

from ._flashinfer import append_paged_kv_cache, append_paged_mla_kv_cache, get_batch_indices_positions, get_seq_lens

__all__ = ["append_paged_kv_cache", "append_paged_mla_kv_cache", "get_batch_indices_positions", "get_seq_lens"]
