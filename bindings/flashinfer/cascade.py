"""Attention over unions of key sets."""

from ._flashinfer import merge_state, merge_state_in_place, merge_states

__all__ = ["merge_state", "merge_state_in_place", "merge_states"]
