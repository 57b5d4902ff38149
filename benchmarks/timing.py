"""Times alternatives of one operation fairly: in one process, on the same tensors, taking turns."""

import math
import statistics
import time

LEAST_CPU_TURN = 0.03  # seconds: OpenMP's threads, torch's among them, keep a core for milliseconds after the turn before


def compare(alternatives, device, repetitions=15, calls=20):
    """{name: call(i)} -> {name: microseconds of one call}. call(i) is given 0 .. calls-1, to take other tensors each time.

    CUDA: the median over replays of a graph of `calls` calls, so that launch costs of Python do not count. CPU: the best of
    the repetitions, which other processes disturb least.
    """
    times = {name: [] for name in alternatives}
    turns = {name: (_cuda_turn if device == "cuda" else _cpu_turn)(call, calls) for name, call in alternatives.items()}
    for _ in range(repetitions):
        for name, turn in turns.items():
            times[name].append(turn())
    return {name: (statistics.median if device == "cuda" else min)(values) for name, values in times.items()}


def _cpu_turn(call, calls):
    def turn(rounds):
        begin = time.perf_counter()
        for _ in range(rounds):
            for i in range(calls):
                call(i)
        return (time.perf_counter() - begin) / (rounds * calls) * 1e6

    call(0)
    rounds = math.ceil(LEAST_CPU_TURN / (turn(1) * 1e-6 * calls))
    return lambda: turn(rounds)


def _cuda_turn(call, calls):
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(min(3, calls)):
            call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(calls):
            call(i)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()

    def turn():
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / calls

    return turn


def report(name, times, num_bytes):
    """One line: microseconds of each alternative, and GB/s of the first."""
    ours, *others = times
    columns = "   ".join(f"{other} {times[other]:9.1f} us ({times[other] / times[ours]:5.2f}x)" for other in others)
    print(f"{name:48s} {ours} {times[ours]:9.1f} us {num_bytes / times[ours] / 1e3:7.1f} GB/s   {columns}", flush=True)
