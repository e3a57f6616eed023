"""Chunkwise mLSTM on the CPU: longshort against the native PyTorch kernels of `mlstm_kernels`.

    make bench

Times forward + backward (random dh; gradients of q, k, v and both gate pre-activations) and forward alone
(no autograd) at batch 4, 4 heads, head width 64 and 128, sequence length 512 and 2048, float32, for every
`chunkwise--native*` kernel of the peer and for `longshort.functional.mlstm`, at chunk sizes 32, 64 and 128.
All contenders run in one process on the same numbers, each in its own layout. Every round times each of them
once, the order reversed from round to round. Ratios are best peer / best ours: above 1, longshort is faster.

`full gradient` counts a peer only if its gradients agree with those of `chunkwise--native_autograd`, the
peer that autograd differentiates. `chunkwise--native_custbw` does not: it leaves out the path through the
normalizer, which is exact only when a scale-invariant norm follows. The last table shows the agreement.
"""

import argparse
import os
import platform
import statistics
import time
from collections import namedtuple
from operator import attrgetter
from pathlib import Path

import torch
from mlstm_kernels.torch import get_available_mlstm_kernels, get_mlstm_kernel

BATCH = 4
HEADS = 4
CHUNK_SIZES = (32, 64, 128)
OURS = "longshort"
REFERENCE = "chunkwise--native_autograd"
GRADIENT_TOLERANCE = 1e-3
FORWARD_BACKWARD = "forward+backward"
FORWARD = "forward"
STATISTICS = ("median", "minimum")
RESULTS = ("h", "dq", "dk", "dv", "di", "df")

Case = namedtuple("Case", "width length")
Contender = namedtuple("Contender", "name chunk_size function inputs grad_h heads_first")
Timing = namedtuple("Timing", "name chunk_size median minimum")


def peer_functions():
    """The native chunkwise kernels of mlstm_kernels: name -> function(inputs, chunk_size) -> h."""
    names = [name for name in get_available_mlstm_kernels() if name.startswith("chunkwise--native")]
    return {name: peer_function(get_mlstm_kernel(name)) for name in names}


def peer_function(kernel):
    def run(inputs, chunk_size):
        q, k, v, i, f = inputs
        return kernel(q=q, k=k, v=v, i=i, f=f, chunk_size=chunk_size)

    return run


def our_function():
    from longshort.functional import mlstm

    def run(inputs, chunk_size):
        h, _ = mlstm(*inputs, kernel="chunkwise", chunk_size=chunk_size)
        return h

    return run


def make_inputs(case):
    """q, k, v (B, T, N, K), input and forget gate pre-activations (B, T, N), and dh like v."""
    generator = torch.Generator().manual_seed(0)
    gate_shape = (BATCH, case.length, HEADS)
    vector_shape = (*gate_shape, case.width)
    q, k, v, grad_h = (torch.randn(vector_shape, generator=generator) for _ in range(4))
    i_pre, f_pre = (torch.randn(gate_shape, generator=generator) for _ in range(2))
    return [q, k, v, i_pre, f_pre + 3.0], grad_h


def swap_time_and_heads(tensor):
    return tensor.transpose(1, 2).contiguous()


def make_contenders(case, peers_only):
    """For each chunk size the peers, then ours; the peers take heads before time."""
    inputs, grad_h = make_inputs(case)
    swapped = [swap_time_and_heads(tensor).requires_grad_() for tensor in inputs]
    swapped_grad_h = swap_time_and_heads(grad_h)
    peers = peer_functions()
    ours = None if peers_only else our_function()
    inputs = [tensor.requires_grad_() for tensor in inputs]
    contenders = []
    for chunk_size in CHUNK_SIZES:
        for name, function in peers.items():
            contenders.append(Contender(name, chunk_size, function, swapped, swapped_grad_h, True))
        if ours:
            contenders.append(Contender(OURS, chunk_size, ours, inputs, grad_h, False))
    return contenders


def forward_backward(contender):
    """What RESULTS names."""
    h = contender.function(contender.inputs, contender.chunk_size)
    return h.detach(), *torch.autograd.grad(h, contender.inputs, contender.grad_h)


def forward(contender):
    with torch.no_grad():
        return contender.function(contender.inputs, contender.chunk_size)


def seconds(run, contender):
    start = time.perf_counter()
    run(contender)
    return time.perf_counter() - start


def time_contenders(run, contenders, rounds):
    """One untimed call each, then `rounds` interleaved rounds; seconds per call."""
    for contender in contenders:
        run(contender)
    samples = [[] for _ in contenders]
    order = list(range(len(contenders)))
    for _ in range(rounds):
        for index in order:
            samples[index].append(seconds(run, contenders[index]))
        order.reverse()
    return [
        Timing(contender.name, contender.chunk_size, statistics.median(times), min(times))
        for contender, times in zip(contenders, samples, strict=True)
    ]


def results_with_time_first(contender):
    results = forward_backward(contender)
    return [swap_time_and_heads(tensor) for tensor in results] if contender.heads_first else results


def relative_differences(contenders):
    """For each implementation and each of RESULTS: norm of the difference over norm of the reference."""
    same_chunk = [contender for contender in contenders if contender.chunk_size == CHUNK_SIZES[0]]
    results = {contender.name: results_with_time_first(contender) for contender in same_chunk}
    reference = results[REFERENCE]
    return {
        name: [float((x - y).norm() / y.norm()) for x, y in zip(tensors, reference, strict=True)]
        for name, tensors in results.items()
    }


def has_full_gradient(differences):
    return max(differences) < GRADIENT_TOLERANCE


def best(timings, names, statistic):
    return min((timing for timing in timings if timing.name in names), key=attrgetter(statistic))


def label(timing):
    return f"{timing.name} chunk {timing.chunk_size}"


def print_ratios(title, timings, peers):
    for statistic in STATISTICS:
        peer, ours = best(timings, peers, statistic), best(timings, {OURS}, statistic)
        ratio = getattr(peer, statistic) / getattr(ours, statistic)
        print(f"  {title}, {statistic}: {label(peer)} / {label(ours)} = {ratio:.2f}")


def print_timings(case, direction, timings):
    print(f"\n{direction}, B {BATCH}, heads {HEADS}, width {case.width}, T {case.length}")
    print(f"  {'implementation':<34}{'chunk':>6}{'median ms':>12}{'min ms':>12}")
    for timing in sorted(timings):
        print(f"  {timing.name:<34}{timing.chunk_size:>6}{1e3 * timing.median:>12.2f}{1e3 * timing.minimum:>12.2f}")


def print_best(direction, timings, differences):
    peers = set(differences) - {OURS}
    if OURS not in differences:
        for statistic in STATISTICS:
            print(f"  best peer, {statistic}: {label(best(timings, peers, statistic))}")
        return
    print_ratios("best peer / best ours", timings, peers)
    if direction == FORWARD_BACKWARD:
        full = {name for name in peers if has_full_gradient(differences[name])}
        print_ratios("full gradient", timings, full)


def print_differences(case, differences):
    print(f"\nrelative difference from {REFERENCE}, width {case.width}, T {case.length}")
    print(f"  {'implementation':<34}" + "".join(f"{name:>10}" for name in RESULTS))
    for name, values in differences.items():
        print(f"  {name:<34}" + "".join(f"{value:>10.1e}" for value in values))


def cpu_name():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def print_environment(rounds):
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    threads = torch.get_num_threads()
    print(f"date {date}, torch {torch.__version__}, threads {threads}, rounds {rounds}, float32")
    print(f"CPU {cpu_name()}, {os.cpu_count()} logical cores, Python {platform.python_version()}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--quick", action="store_true", help="only width 64, T 512")
    parser.add_argument("--peers-only", action="store_true", help="leave longshort out")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print_environment(arguments.rounds)
    widths, lengths = ((64,), (512,)) if arguments.quick else ((64, 128), (512, 2048))
    all_differences = {}
    for case in (Case(width, length) for width in widths for length in lengths):
        contenders = make_contenders(case, arguments.peers_only)
        all_differences[case] = relative_differences(contenders)
        for direction, run in ((FORWARD_BACKWARD, forward_backward), (FORWARD, forward)):
            timings = time_contenders(run, contenders, arguments.rounds)
            print_timings(case, direction, timings)
            print_best(direction, timings, all_differences[case])
    for case, differences in all_differences.items():
        print_differences(case, differences)


if __name__ == "__main__":
    main()
