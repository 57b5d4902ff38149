"""python -m flashinfer.demo: serve requests, show what it took."""

import argparse
import random
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import flashinfer
from flashinfer.demo.arrays import NumPy, Torch
from flashinfer.demo.engine import Engine, Request
from flashinfer.demo.model import Llama, LlamaConfig


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text}")
    return number


def number(kind, most=float("inf")):
    """The type of an option: a number from 0 up, or from 0 to most."""

    def read(text):
        value = kind(text)
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from 0 {'up' if most == float('inf') else f'to {most}'}, got {text}")
        return value

    return read


def options():
    parser = argparse.ArgumentParser(prog="python -m flashinfer.demo", description="Serves a Llama-architecture model with continuous "
                                     "batching over a paged KV cache. Without --model it makes a small random one.")
    parser.add_argument("--model", type=Path, help="Hugging Face checkpoint folder: config.json, *.safetensors, tokenizer.json")
    parser.add_argument("--prompt", action="append", help="a prompt (needs a tokenizer.json); may be given several times")
    parser.add_argument("--framework", choices=["numpy", "torch"], help="default: torch where it is installed, else NumPy")
    parser.add_argument("--device", default=None, help="cpu or cuda (torch); default: cuda where there is one")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: float32 on CPU, bfloat16 on CUDA")
    parser.add_argument("--requests", type=positive, default=8, help="how many random requests, without --prompt")
    parser.add_argument("--max-new-tokens", type=positive, default=48)
    parser.add_argument("--temperature", type=number(float), default=0.0, help="0: the most likely token, always")
    parser.add_argument("--top-k", type=number(int), default=0, help="draw from the k most likely tokens; 0: from all")
    parser.add_argument("--top-p", type=number(float, 1), default=1.0, help="draw from the most likely tokens that together have this probability")
    parser.add_argument("--min-p", type=number(float, 1), default=0.0, help="draw from tokens with at least this share of the most likely one's probability")
    parser.add_argument("--page-size", type=positive, default=16)
    parser.add_argument("--pages", type=positive, default=256, help="pages of the KV cache")
    parser.add_argument("--seed", type=int, default=0, help="of random requests, and of what they draw: request i has seed + i")
    return parser.parse_args()


def choose_arrays(args):
    framework = args.framework
    if framework is None:
        try:
            import torch  # noqa: F401

            framework = "torch"
        except ImportError:
            framework = "numpy"
    if framework == "numpy":
        if args.device not in (None, "cpu"):
            raise ValueError(f"--device {args.device} needs torch; NumPy computes on the CPU")
        return NumPy(args.dtype or "float32")
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Torch(args.dtype or ("bfloat16" if device.startswith("cuda") else "float32"), device)


def make_requests(args, config, tokenizer):
    rng = random.Random(args.seed)
    sampling = dict(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p)
    if args.prompt:
        if tokenizer is None:
            raise ValueError("--prompt needs a --model folder with a tokenizer.json")
        return [Request(tokenizer.encode(text).ids, args.max_new_tokens, name=text[:24], seed=args.seed + i, **sampling)
                for i, text in enumerate(args.prompt)]
    requests = []
    for i in range(args.requests):  # some at once, some while others decode
        length = rng.choice([5, 17, 64, 130, 300])
        prompt = [rng.randrange(config.vocab_size) for _ in range(length)]
        requests.append(Request(prompt, rng.randint(max(1, args.max_new_tokens // 2), args.max_new_tokens), arrival=max(0, i - 3) * 6,
                                name=f"request {i}", seed=args.seed + i, **sampling))
    return requests


def rate(tokens, seconds):
    return f"{tokens / seconds:,.0f}" if seconds > 0 else "-"


def set_up(args, console):
    """Model, tokenizer and requests in an engine."""
    arrays = choose_arrays(args)
    begin = time.perf_counter()
    if args.model:
        model = Llama.from_folder(args.model, arrays, num_pages=args.pages, page_size=args.page_size)
    else:
        model = Llama(LlamaConfig(), arrays, num_pages=args.pages, page_size=args.page_size, seed=args.seed)
    tokenizer = None
    if args.model and (args.model / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    c = model.config
    console.print(f"flashinfer {flashinfer.__version__}: {c.num_layers} layers, hidden {c.hidden_size}, heads {c.num_qo_heads}/{c.num_kv_heads} x {c.head_dim}, "
                  f"{type(arrays).__name__} on {arrays.device}, {arrays.dtype}; model ready in {time.perf_counter() - begin:.2f} s")
    requests = make_requests(args, c, tokenizer)
    engine = Engine(model)
    for request in requests:
        engine.add(request)
    return engine, tokenizer, requests


def main():
    args = options()
    console = Console()
    try:
        engine, tokenizer, requests = set_up(args, console)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"python -m flashinfer.demo: {error}")

    bar = Progress(TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"),
                   TimeRemainingColumn(), console=console)
    begin = time.perf_counter()
    with bar:
        task = bar.add_task("generating", total=sum(request.max_new_tokens for request in requests))
        engine.on_token = lambda request, token: bar.advance(task)
        engine.run()
        bar.update(task, total=bar.tasks[0].completed)
    seconds = time.perf_counter() - begin

    table = Table("request", "arrived", "prompt", "new", "prefill tok/s", "decode tok/s", "KV pages", title="Requests")
    for request in requests:
        table.add_row(escape(request.name), f"step {request.arrival}", str(len(request.prompt)), str(len(request.generated)),
                      rate(request.prefill_tokens, request.prefill_seconds), rate(request.decode_tokens, request.decode_seconds), str(request.most_pages))
    console.print(table)
    totals = engine.model.times.totals()
    table = Table("op", "ms", "share", title="Time by op")
    for name, spent in totals.items():
        table.add_row(name, f"{spent * 1e3:,.1f}", f"{spent / sum(totals.values()):.0%}")
    console.print(table)
    pool = engine.pool
    generated = sum(len(request.generated) for request in requests)
    console.print(f"{generated} tokens in {engine.num_steps} steps, {seconds:.2f} s: {generated / seconds:,.0f} tokens/s; KV cache: at most {pool.most_used} of "
                  f"{pool.num_pages} pages in use, {pool.num_taken} taken in all, {pool.num_pages - len(pool.free)} in use now")
    if tokenizer is not None:
        for request in requests:
            console.print(f"[bold]{escape(request.name)}[/bold] {escape(tokenizer.decode(request.generated))}")


if __name__ == "__main__":
    main()
