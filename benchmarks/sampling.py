"""Time of the samplers, softmax, the filters of rows and chain speculative sampling, against torch, in one run.

    python benchmarks/sampling.py [--device cpu|cuda] [--vocab-size 128256] [--batch-sizes 1,16,...] [--kinds normal,zipf]

torch has no samplers: the two ways that serving code writes them in are timed, by sorting the vocabulary, and by torch.topk where there
is a top-k. Both draw by an exponential race, which does not wait for the GPU.
"""

import argparse

import timing
import torch

import flashinfer


def race(probs):
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


def sort_based(logits, k, p):
    ordered, tokens = logits.sort(-1, descending=True)
    if k is not None:
        ordered[:, k:] = -torch.inf
    probs = ordered.softmax(-1)
    if p is not None:
        probs[probs.cumsum(-1) - probs > p] = 0
    return tokens.gather(-1, race(probs)[:, None])


def topk_based(logits, k, p):
    ordered, tokens = logits.topk(k, -1)
    probs = ordered.softmax(-1)
    if p is not None:
        probs[probs.cumsum(-1) - probs > p] = 0
    return tokens.gather(-1, race(probs)[:, None])


def sorted_probs(probs, p):
    ordered, tokens = probs.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered > p] = 0
    return torch.zeros_like(probs).scatter_(-1, tokens, ordered / ordered.sum(-1, keepdim=True))


def scattered(values, k, otherwise, renormalise):
    kept, tokens = values.topk(k, -1)
    return torch.full_like(values, otherwise).scatter_(-1, tokens, kept / kept.sum(-1, keepdim=True) if renormalise else kept)


def make_logits(kind, batch_size, vocab_size, device):
    normal = torch.randn(batch_size, vocab_size, device=device)
    if kind == "normal":
        return normal
    if kind == "flat":
        return normal * 0.01
    if kind == "tied":
        return normal.round()
    ranks = torch.argsort(torch.rand(batch_size, vocab_size, device=device), -1).float()  # zipf: like a language model's
    return -1.2 * torch.log(ranks + 1) + normal * 0.1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vocab-size", type=int, default=128256)
    parser.add_argument("--batch-sizes", default=None)
    parser.add_argument("--kinds", default="normal,zipf")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    torch.manual_seed(0)
    sampling = flashinfer.sampling

    for kind in args.kinds.split(","):
        for batch_size in map(int, (args.batch_sizes or ("1,16,128,512" if gpu else "16")).split(",")):
            num_bytes = batch_size * args.vocab_size * 4
            sets = [make_logits(kind, batch_size, args.vocab_size, args.device) for _ in range(min(8, max(1, int(200e6 // num_bytes))) if gpu else 1)]
            probs = [x.softmax(-1) for x in sets]
            seed = torch.zeros(1, dtype=torch.int64, device=args.device)

            def run(name, inputs, num_bytes, alternatives):
                calls = {key: lambda i, op=op: op(inputs[i % len(inputs)]) for key, op in alternatives.items()}
                timing.report(f"{name} {batch_size}x{args.vocab_size} {kind}", timing.compare(calls, args.device, *(() if gpu else (3, 2))), num_bytes)

            draw = dict(seed=seed, offset=seed)
            run("from_logits", sets, num_bytes, {
                "ours": lambda x: sampling.sampling_from_logits(x, **draw), "torch": lambda x: race(x.softmax(-1))})
            run("from_probs", probs, num_bytes, {"ours": lambda x: sampling.sampling_from_probs(x, **draw), "torch": race})
            run("top_k 50 from logits", sets, num_bytes, {
                "ours": lambda x: sampling.top_k_top_p_sampling_from_logits(x, 50, None, **draw),
                "torch sort": lambda x: sort_based(x, 50, None), "torch topk": lambda x: topk_based(x, 50, None)})
            run("top_p 0.9 from logits", sets, num_bytes, {
                "ours": lambda x: sampling.top_k_top_p_sampling_from_logits(x, None, 0.9, **draw), "torch sort": lambda x: sort_based(x, None, 0.9)})
            run("top_k 50 top_p 0.9 from logits", sets, num_bytes, {
                "ours": lambda x: sampling.top_k_top_p_sampling_from_logits(x, 50, 0.9, **draw),
                "torch sort": lambda x: sort_based(x, 50, 0.9), "torch topk": lambda x: topk_based(x, 50, 0.9)})
            run("top_k from probs", probs, num_bytes, {"ours": lambda x: sampling.top_k_sampling_from_probs(x, 50, **draw)})
            run("top_p from probs", probs, num_bytes, {"ours": lambda x: sampling.top_p_sampling_from_probs(x, 0.9, **draw)})
            run("min_p 0.1 from probs", probs, num_bytes, {
                "ours": lambda x: sampling.min_p_sampling_from_probs(x, 0.1, **draw),
                "torch": lambda x: race(torch.where(x >= 0.1 * x.max(-1, keepdim=True).values, x, 0))})
            run("top_k = V, top_p = 1 from logits", sets, num_bytes, {
                "ours": lambda x: sampling.top_k_top_p_sampling_from_logits(x, args.vocab_size, 1.0, **draw)})
            run("softmax", sets, 2 * num_bytes, {"ours": flashinfer.softmax, "torch": lambda x: x.softmax(-1)})
            run("renorm of top_p 0.9", probs, 2 * num_bytes, {
                "ours": lambda x: flashinfer.top_p_renorm_probs(x, 0.9), "torch sort": lambda x: sorted_probs(x, 0.9)})
            run("renorm of top_k 50", probs, 2 * num_bytes, {
                "ours": lambda x: flashinfer.top_k_renorm_probs(x, 50), "torch topk": lambda x: scattered(x, 50, 0.0, True)})
            run("top_k_mask_logits 50", sets, 2 * num_bytes, {
                "ours": lambda x: flashinfer.top_k_mask_logits(x, 50), "torch topk": lambda x: scattered(x, 50, -torch.inf, False)})

    # speculative sampling reads two rows where it rejects, one where it does not
    steps, batch_size = 4, 32 if gpu else 4
    draft, target = (torch.rand(batch_size, n, args.vocab_size, device=args.device) for n in (steps, steps + 1))
    draft /= draft.sum(-1, keepdim=True)
    target /= target.sum(-1, keepdim=True)
    tokens = torch.randint(args.vocab_size, (batch_size, steps), device=args.device)
    counts = [torch.zeros(batch_size, dtype=torch.int32, device=args.device) for _ in range(2)]
    seed = torch.zeros(1, dtype=torch.int64, device=args.device)
    calls = {"ours": lambda i: sampling.chain_speculative_sampling(draft, tokens, target, *counts, seed=seed, offset=seed)}
    timing.report(f"chain_speculative_sampling {batch_size}x{steps}x{args.vocab_size}", timing.compare(calls, args.device), batch_size * args.vocab_size * 8)


if __name__ == "__main__":
    main()
