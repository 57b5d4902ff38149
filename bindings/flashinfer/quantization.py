"""Packed and quantised data."""

from ._flashinfer import packbits, segment_packbits

__all__ = ["packbits", "segment_packbits"]
