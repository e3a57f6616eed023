"""longshort on this CPU beside every peer, in one process: prints each case, the ones it loses too.

    make bench                                     # all of it, about a quarter of an hour; rewrites docs/performance.md
    PYTHONPATH=src python benchmarks/speed.py [--only mlstm layers] [--quick] [--threads 2]

A ratio is of medians of interleaved rounds, the fastest peer over ours: above 1 longshort is faster. The limit is this
machine's rate of float32 matrix products, the larger of torch's and our own, measured in the same process.
"""

import argparse
import json
import os
import platform
import statistics
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from speed_cases import GROUPS, gradients_agree, peers_here
from timing import Result, run, take_turns

from longshort.cells import core, native
from longshort.doctor import core_here, cpu_name


def limits(threads: int) -> dict[str, float]:
    """Float32 products (GF/s, by torch and by the core) and memory (GB/s, read and write)."""
    a, b = torch.randn(2, 2048, 2048)
    big = torch.empty(64 * 2**20)
    calls = [lambda: a @ b, lambda: native.multiply(a, b), lambda: big.copy_(big.flip(0)[:1].expand_as(big))]
    source = torch.ones_like(big)
    calls[2] = lambda: big.copy_(source)
    products, ours, copy = (statistics.median(each) for each in take_turns(calls, 1, 4.0))
    return {
        "torch's products, GF/s": 2 * 2048**3 / products / 1e9,
        "the core's products, GF/s": 2 * 2048**3 / ours / 1e9,
        "copy of 256 MiB, GB/s": 2 * 4 * big.numel() / copy / 1e9,
        "threads": threads,
    }


def say(result: Result) -> str:
    """A line."""
    line = f"{result.work:50} {1e3 * result.ours:9.3f} ms"
    if result.ratio is not None:
        line += f"  {result.ratio:6.2f} x {result.best}" + (f", aim {result.aim:g}" if result.aim else "")
    if result.share is not None:
        line += f"  {result.share:.0%} of the limit" + (
            f", aim {result.wanted_share:.0%}" if result.wanted_share else ""
        )
    return "  ".join([line, *result.notes]) + ("  LOST" if result.lost else "")


# ---- the page --------------------------------------------------------------------------------------------------------


def table(results: list[Result]) -> list[str]:
    """A group as a Markdown table."""
    lines = [
        "| work | longshort, ms (fastest–slowest) | fastest peer, ms | ratio | aim | of the limit |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        low, high = (1e3 * x for x in each.spread)
        theirs = f"{each.best}, {1e3 * each.theirs[each.best]:.3g}" if each.best else "–"
        ratio = "–" if each.ratio is None else f"{each.ratio:.2f}"
        aim = f"{each.aim:g}" if each.aim else "–"
        share = "–" if each.share is None else f"{each.share:.0%}"
        share += f" (aim {each.wanted_share:.0%})" if each.wanted_share else ""
        work = "; ".join([each.work, *each.notes])
        ratio = f"**{ratio}**" if each.lost else ratio
        lines.append(
            f"| {work} | {1e3 * each.ours:.3g} ({low:.3g}–{high:.3g}) | {theirs} | {ratio} | {aim} | {share} |"
        )
    return lines


def medians(results: list[Result]) -> list[str]:
    """What the layers' aims are about."""
    lines = []
    for layer in ("slstm", "lstm"):
        for direction in ("forward", "forward+backward"):
            ratios = [r.ratio for r in results if r.group == f"{layer}-layer" and r.work.endswith(f", {direction}")]
            if ratios:
                lines.append(f"{layer}, {direction}: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}. ")
    return lines


def per_step(results: list[Result]) -> list[str]:
    """Time per step at every length, over that at the shortest."""
    lines = []
    for cell in ("sLSTM", "mLSTM"):
        each = [r.ours / r.steps for r in results if r.work.startswith(cell)]
        lines.append(
            f"{cell}: time per step over that of the shortest " + ", ".join(f"{x / each[0]:.2f}" for x in each) + ". "
        )
    return lines


def page(found: dict) -> str:
    results = [Result(**each) for each in found["results"]]
    rated = [r for r in results if r.ratio is not None]
    lost, short = sum(r.lost for r in rated), sum(r.aim is not None and r.ratio < r.aim for r in rated)
    peers = ", ".join(f"{name} {version}" for name, version in found["peers"].items() if name != "torch")
    limits = ", ".join(f"{name} {value:.0f}" for name, value in found["limits"].items() if name != "threads")
    lines = [
        "# Speed on a CPU, beside every peer",
        "",
        f"`{found['command']}` on {found['date']}: {found['cpu']}, {found['limits']['threads']} threads, float32, torch",
        f"{found['peers']['torch']}; the core: {found['core']}. Peers: {peers}.",
        "",
        "Written by `make bench`, which runs all of it in one process. Every contender takes its turn in each round;",
        "figures are medians, ratios are the fastest peer's median over ours: above 1 longshort is faster, and what it",
        "**loses** is bold. Machines that others use too move such ratios by 10 to 20 %.",
        "",
        f"Of {len(rated)} comparisons longshort loses {lost}; {short} fall short of their aim.",
        "",
        f"Limits measured in the same process: {limits}.",
    ]
    for name, (_, title) in GROUPS.items():
        mine = [r for r in results if r.group == name or (name == "layers" and r.group.endswith("-layer"))]
        if mine:
            lines += ["", f"## {title}", "", *table(mine)]
        if name == "layers" and mine:
            lines += ["", "".join(medians(mine)).strip()]
        if name == "length" and mine:
            lines += ["", "".join(per_step(mine)).strip()]
        if name == "mlstm" and found["gradients"]:
            lines += ["", "Gradients against `native_autograd`, the peer that autograd differentiates, relative norms:"]
            lines += ["", "| | dq | dk | dv | di | df |", "|---|---|---|---|---|---|", *found["gradients"]]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    waiting = path.with_name(path.name + ".new")
    waiting.write_text(text)
    waiting.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="these groups")
    parser.add_argument("--quick", action="store_true", help="the first case of each group, few rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for a case, about; at least 3 rounds")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--markdown", type=Path, help="write the page there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if reason := core.missing():
        parser.error(reason)
    found = {"command": "make bench", "date": str(date.today()), "cpu": cpu_name(), "system": platform.platform(),
             "cores": os.cpu_count(), "core": core_here(), "peers": peers_here(), "limits": limits(args.threads),
             "results": [], "gradients": []}  # fmt: skip
    print(found["limits"], found["peers"], flush=True)
    limit = 1e9 * max(value for name, value in found["limits"].items() if "GF/s" in name)
    for name in args.only:
        print(f"\n{GROUPS[name][1]}", flush=True)
        for case in GROUPS[name][0](args.quick):
            result = run(case, limit, args.budget / 10 if args.quick else args.budget)
            found["results"].append(asdict(result))
            print(say(result), flush=True)
        if name == "mlstm":
            found["gradients"] = gradients_agree()
    for path, text in ((args.json, json.dumps(found, indent=1)), (args.markdown, page(found))):
        if path:
            write(path, text)


if __name__ == "__main__":
    main()
