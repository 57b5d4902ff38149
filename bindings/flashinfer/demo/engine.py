"""Continuous batching: requests of different lengths arrive while others decode; pages are taken token by token, freed and reused."""

import time
from collections import deque
from dataclasses import dataclass, field

import flashinfer
from flashinfer.demo.model import Batch


@dataclass
class Request:
    prompt: list
    max_new_tokens: int
    temperature: float = 0.0  # greedy
    top_k: int = 0  # 0: off, as 1 for top_p and 0 for min_p
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    arrival: int = 0  # step at which it comes in
    name: str = ""
    generated: list = field(default_factory=list)
    pages: list = field(default_factory=list)
    num_cached: int = 0  # tokens whose keys are in the cache
    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    most_pages: int = 0
    preempted: int = 0

    @property
    def tokens(self):
        return self.prompt + self.generated


class PagePool:
    """Free pages of the cache; the last freed is the first reused."""

    def __init__(self, num_pages):
        self.free = list(range(num_pages - 1, -1, -1))
        self.num_pages, self.most_used, self.num_taken = num_pages, 0, 0

    def take(self):
        self.num_taken += 1
        page = self.free.pop()
        self.most_used = max(self.most_used, self.num_pages - len(self.free))
        return page

    def give_back(self, pages):
        self.free.extend(reversed(pages))
        pages.clear()


class Engine:
    """Each step runs one mixed batch: a token for every running request, and up to max_step_tokens tokens of prompts."""

    def __init__(self, model, max_running=64, max_step_tokens=512, on_token=None):
        self.model, self.pool = model, PagePool(model.num_pages)
        self.max_running, self.max_step_tokens = max_running, max_step_tokens
        self.waiting, self.running, self.finished = deque(), [], []
        self.on_token = on_token or (lambda request, token: None)
        self.num_steps = 0

    def add(self, request):
        name, tokens, most = request.name or "request", len(request.prompt) + request.max_new_tokens, self.model.config.max_position
        need = -(-tokens // self.model.page_size)
        if not request.prompt:
            raise ValueError(f"{name}: expected at least one prompt token")
        if tokens > most:
            raise ValueError(f"{name}: expected at most the model's {most} positions, got {tokens} tokens of prompt and answer")
        if need > self.pool.num_pages:
            raise ValueError(f"{name}: {tokens} tokens need {need} pages of the KV cache, which has {self.pool.num_pages}")
        self.waiting.append(request)

    def run(self):
        while self.waiting or self.running:
            self.step()
        return self.finished

    def reserve(self, request, num_tokens):
        """Pages for the request's tokens up to num_tokens; the youngest others give way. False if it must wait itself."""
        while len(request.pages) * self.model.page_size < num_tokens:
            if self.pool.free:
                request.pages.append(self.pool.take())
                continue
            victim = self.running[-1] if self.running else request
            if victim is request:
                return False
            self.preempt(victim)
        request.most_pages = max(request.most_pages, len(request.pages))
        return True

    def preempt(self, request):
        """Gives the pages back; the keys are computed anew when the request's turn comes."""
        self.pool.give_back(request.pages)
        request.num_cached, request.preempted = 0, request.preempted + 1
        self.running.remove(request)
        self.waiting.appendleft(request)

    def step(self):
        while self.waiting and self.waiting[0].arrival <= self.num_steps and len(self.running) < self.max_running:
            if not self.pool.free:
                break
            self.running.append(self.waiting.popleft())
        chosen, left = [], self.max_step_tokens
        for request in list(self.running):
            if request not in self.running:
                continue  # gave way to an older one
            missing = len(request.tokens) - request.num_cached
            count = missing if missing == 1 else min(missing, left)
            if count == 0:
                continue
            if not self.reserve(request, request.num_cached + count):
                self.preempt(request)
                continue
            left -= count if missing > 1 else 0
            chosen.append((request, count))
        chosen = [(request, count) for request, count in chosen if request in self.running]
        self.num_steps += 1
        if chosen:
            self.compute(chosen)

    def sample(self, logits, requests):
        """A token for each request. What it draws depends on its own seed and how far it is, not on who else is in the batch."""
        array = self.model.arrays.array
        with self.model.times("sampling"):
            tokens = flashinfer.sampling.top_k_top_p_sampling_from_logits(
                logits, array([r.top_k for r in requests], "int32"), array([r.top_p for r in requests], "float32"),
                min_p=array([r.min_p for r in requests], "float32"), temperature=array([r.temperature for r in requests], "float32"),
                seed=array([r.seed for r in requests], "int64"), offset=array([len(r.generated) for r in requests], "int64"))
        return tokens.tolist()

    def compute(self, chosen):
        requests = [request for request, _ in chosen]
        token_ids = [token for request, count in chosen for token in request.tokens[request.num_cached : request.num_cached + count]]
        begin = time.perf_counter()
        logits = self.model.forward(Batch(token_ids, [count for _, count in chosen], [r.num_cached + count for r, count in chosen],
                                          [r.pages for r in requests], self.model.page_size))
        next_tokens = self.sample(logits, requests)
        share = (time.perf_counter() - begin) / len(token_ids)
        for (request, count), token in zip(chosen, next_tokens):
            request.num_cached += count
            if count > 1 or not request.generated:
                request.prefill_seconds, request.prefill_tokens = request.prefill_seconds + share * count, request.prefill_tokens + count
            else:
                request.decode_seconds, request.decode_tokens = request.decode_seconds + share, request.decode_tokens + 1
            if request.num_cached < len(request.tokens):
                continue  # the prompt is not all in yet
            request.generated.append(token)
            self.on_token(request, token)
            if len(request.generated) >= request.max_new_tokens or token in self.model.config.eos_token_ids:
                self.pool.give_back(request.pages)
                self.running.remove(request)
                self.finished.append(request)
