"""Gated activations."""

from ._flashinfer import gelu_and_mul, gelu_tanh_and_mul, silu_and_mul

__all__ = ["gelu_and_mul", "gelu_tanh_and_mul", "silu_and_mul"]
