"""Sampling, filters of rows, softmax over the vocabulary, chain speculative sampling.

Every sampler draws one token for each row of logits or probs, [num_rows, vocab_size], float32, float16 or bfloat16, row stride free:

* Filters keep a prefix of one order: larger values first, equal ones by lower index. top_k keeps exactly k tokens, top_p the smallest
  prefix whose mass reaches p of the row's, min_p the tokens with at least min_p of the largest probability. A filter is a number or a
  tensor [batch_size]; in a tensor top_k <= 0, top_p >= 1 and min_p <= 0 are none, which is what None means too.
* indices [batch_size], int32 or int64: output i draws from row indices[i]. Tokens have its dtype, int32 without it.
* The draw depends on seed, offset and token, and on the number of the row unless every row has its own seed: not on the batch, the
  filters that keep the token, the machine or the launch. seed and offset are ints or int64 tensors of 1 or batch_size entries, read
  on the device when the kernel runs, so a CUDA graph draws anew when they change. Without a seed, generator gives one, or the default
  generator of the device; each call moves it on, and each replay of a CUDA graph, where it is the default one or registered with the graph.
* A row with a NaN, or with nothing to draw from, gives token 0, and False in `valid`.

They return the tokens, or a tuple: tokens, then what is asked for, in this order: valid (return_valid), logprobs [batch_size]
(return_logprobs), top_tokens and top_logprobs [batch_size, n] (num_top_logprobs=n, at most 128), probs [batch_size, vocab_size]
(return_probs): the distribution drawn from. Log-probabilities are of that distribution, -inf for filtered tokens; with raw_logprobs
of the row before filters.
"""

from ._flashinfer import (
    _draw,
    chain_speculative_sampling,
    softmax,
    top_k_mask_logits,
    top_k_renorm_probs,
    top_p_renorm_probs,
)

__all__ = [
    "chain_speculative_sampling",
    "min_p_sampling_from_probs",
    "sampling_from_logits",
    "sampling_from_probs",
    "softmax",
    "top_k_mask_logits",
    "top_k_renorm_probs",
    "top_k_sampling_from_probs",
    "top_k_top_p_sampling_from_logits",
    "top_k_top_p_sampling_from_probs",
    "top_p_renorm_probs",
    "top_p_sampling_from_probs",
]


def sampling_from_logits(logits, indices=None, deterministic=True, generator=None, check_nan=False, seed=None, offset=None, *, temperature=None,
                         return_valid=False, return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from softmax(logits / temperature). temperature: a number or [batch_size]; 0 takes the largest logit."""
    return _draw("sampling_from_logits", True, logits, temperature, None, None, None, "joint", indices, generator, check_nan, seed, offset,
                 return_valid, return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def sampling_from_probs(probs, indices=None, deterministic=True, generator=None, check_nan=False, seed=None, offset=None, return_valid=False, *,
                        return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from probs, whose rows need not sum to 1."""
    return _draw("sampling_from_probs", False, probs, None, None, None, None, "joint", indices, generator, check_nan, seed, offset,
                 return_valid, return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def top_p_sampling_from_probs(probs, top_p, indices=None, deterministic=True, generator=None, check_nan=False, seed=None, offset=None,
                              return_valid=False, *, return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from the smallest set of most probable tokens whose mass reaches top_p."""
    return _draw("top_p_sampling_from_probs", False, probs, None, None, top_p, None, "joint", indices, generator, check_nan, seed, offset,
                 return_valid, return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def top_k_sampling_from_probs(probs, top_k, indices=None, deterministic=True, generator=None, check_nan=False, seed=None, offset=None,
                              return_valid=False, *, return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from the top_k most probable tokens."""
    return _draw("top_k_sampling_from_probs", False, probs, None, top_k, None, None, "joint", indices, generator, check_nan, seed, offset,
                 return_valid, return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def min_p_sampling_from_probs(probs, min_p, indices=None, deterministic=True, generator=None, check_nan=False, seed=None, offset=None,
                              return_valid=False, *, return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from the tokens whose probability is at least min_p times the largest."""
    return _draw("min_p_sampling_from_probs", False, probs, None, None, None, min_p, "joint", indices, generator, check_nan, seed, offset,
                 return_valid, return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def top_k_top_p_sampling_from_logits(logits, top_k, top_p, indices=None, filter_apply_order="top_k_first", deterministic=True, generator=None,
                                     check_nan=False, seed=None, offset=None, *, temperature=None, min_p=None, return_valid=False,
                                     return_logprobs=False, num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """Draws from softmax(logits / temperature) under all filters that are given.

    filter_apply_order: "top_k_first": top_p is of the mass that top_k and min_p keep; "joint": of the whole row's.
    """
    return _draw("top_k_top_p_sampling_from_logits", True, logits, temperature, top_k, top_p, min_p,
                 filter_apply_order, indices, generator, check_nan, seed, offset, return_valid,
                 return_logprobs, num_top_logprobs, raw_logprobs, return_probs)


def top_k_top_p_sampling_from_probs(probs, top_k, top_p, indices=None, filter_apply_order="top_k_first", deterministic=True, generator=None,
                                    check_nan=False, seed=None, offset=None, return_valid=False, *, min_p=None, return_logprobs=False,
                                    num_top_logprobs=0, raw_logprobs=False, return_probs=False):
    """As top_k_top_p_sampling_from_logits, of probabilities."""
    return _draw("top_k_top_p_sampling_from_probs", False, probs, None, top_k, top_p, min_p,
                 filter_apply_order, indices, generator, check_nan, seed, offset, return_valid,
                 return_logprobs, num_top_logprobs, raw_logprobs, return_probs)
