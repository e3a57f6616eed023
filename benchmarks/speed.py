"""longshort on this CPU beside every peer, in one process: prints each case, the ones it loses too.

    make bench [PAGE=docs/performance.md]          # all of it, about a quarter of an hour; rewrites that page
    PYTHONPATH=src python benchmarks/speed.py [--only mlstm layers] [--quick] [--threads 2]

A ratio is of medians of interleaved rounds, the fastest peer over ours: above 1 longshort is faster. The limit is this
machine's rate of float32 matrix products, the larger of torch's and our own, measured in the same process.
"""

import argparse
import itertools
import platform
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import machine
import torch
from speed_cases import GROUPS, MISSING, gradients_agree
from timing import Result, run

from longshort.cells import core
from longshort.files import write_atomically, write_json, write_text

MEDIAN_AIMS = {("sLSTM", "forward"): 1.7, ("sLSTM", "forward+backward"): 2.2,
               ("LSTM", "forward"): 1.1, ("LSTM", "forward+backward"): 1.4}  # fmt: skip
PAGE = Path("docs/performance.md")  # what `make bench` writes
LINEAR = 0.1  # how much the time per step may change with T


def milliseconds(median: float, spread: tuple[float, float]) -> str:
    return f"{1e3 * median:.3g} ({1e3 * spread[0]:.3g}–{1e3 * spread[1]:.3g})"


def aim(result: Result) -> str:
    wish = f", wish {result.wish:g}" if result.wish else ""
    return f"{result.aim:g}{wish}" if result.aim else "–"


def share(result: Result) -> str:
    if result.share is None:
        return "–"
    wanted = f" (aim {result.wanted_share:.0%})" if result.wanted_share else ""
    return f"{result.share:.0%} of {result.limit}{wanted}"


def differ(result: Result) -> str:
    return f"{max(result.differ.values()):.0e}" if result.differ else "–"


def say(result: Result) -> str:
    """A line."""
    line = f"{result.work:48} {milliseconds(result.ours, result.spread):24} ms"
    if result.best:
        theirs = milliseconds(result.theirs[result.best], result.their_spread[result.best])
        line += f"  {result.ratio:6.2f} x {result.best} {theirs} (aim {aim(result)}), differ {differ(result)}"
        if result.first_ratio:
            line += f", first calls {result.first_ratio:.2f} x ({1e3 * result.first:.3g} ms)"
    if result.share is not None:
        line += f"  {share(result)}"
    if result.kept is not None:
        line += f"  keeps {result.kept / 2**20:.1f} MiB"
    return "  ".join([line, *result.notes]) + ("  LOST" if result.lost else "")


# ---- what several cases say together ---------------------------------------------------------------------------------


def medians(results: list[Result]) -> Iterator[tuple[str, bool]]:
    """What the layers' aims are about, and whether it is under its aim."""
    for (layer, direction), wanted in MEDIAN_AIMS.items():
        ratios = [
            r.ratio
            for r in results
            if r.work.startswith(f"{layer}, ") and r.group == "layers" and r.work.endswith(f", {direction}")
        ]
        if ratios:
            median = statistics.median(ratios)
            text = f"{layer} layer, {direction}: median {median:.2f} (aim {wanted:g}), least {min(ratios):.2f}"
            yield text, median < wanted


def per_step(results: list[Result]) -> Iterator[tuple[str, bool]]:
    """Time and memory per step at every length, and whether the time changes by more than it may."""
    for cell, D in itertools.product(("sLSTM", "mLSTM"), (128, 512)):
        mine = [r for r in results if r.group == "length" and r.work.startswith(f"{cell}, D {D},")]
        if mine:
            times = [r.ours / r.steps / (mine[0].ours / mine[0].steps) for r in mine]
            each = ", ".join(f"T {r.steps}: {x:.2f}" for r, x in zip(mine, times, strict=True))
            kept = ", ".join(f"{r.kept / r.steps / 1024:.2f}" for r in mine)
            far = any(abs(x - 1) > LINEAR for x in times)
            verdict = f"{'not ' if far else ''}within {LINEAR:.0%}"
            yield (
                f"{cell}, D {D}: time per step over that of the shortest, {each}, {verdict}; KiB kept per step {kept}",
                far,
            )


# ---- the page --------------------------------------------------------------------------------------------------------

READING = """Written by `make bench`, which runs all of it in one process. Every contender takes its turn in each
round: a call, and where that takes under 0.1 s three more at once, whose median counts. Times are medians of turns
with the fastest and the slowest, ratios are the fastest peer's median over ours: above 1 longshort is faster. What it
**loses** is bold. *First calls* are the turns' first, ours in ms and the ratio: they find the caches as the others
left them, which costs a short call most. A machine that others use too moves such ratios by 10 to 20 %; one that
others keep busy makes them worthless, above all for short calls on as many threads as there are cores. Before a case
is timed, its answers are compared with each peer's: *differ* is the largest difference, relative to the largest
value. A peer is left out of a case, and named there, where a call takes over 10 s, or over 1 s and four times the
fastest peer's.

*Of the limit* is the rate of our matrix products over the fastest this machine was seen to do, torch's or the core's.
Counted are the products alone: of a layer of G gates, `2 B T G D (D + D / heads)` forward; backward the input's once
more and the recurrent one twice. Of the mLSTM, per chunk of L steps, `2 L² (K + V) / 2` within the chunk and `4 L K V`
through C, with the L the core takes: 32 for heads of 64, else 64. A step of the mLSTM reads and writes C: its share is
of what copying 256 MiB reaches, and passes 100 % where C stays in a cache. Steps hand their state on, and what takes no
gradients runs under one `torch.no_grad()`. *In place* a step writes over the state it was given (`inplace=True`); the
peer's gives a new one, as ours otherwise does."""


def bold_if_lost(ratio: float) -> str:
    return f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.2f}"


def table(results: list[Result]) -> list[str]:
    """A group as a Markdown table."""
    lines = [
        "| work | longshort, ms | fastest peer, ms | ratio | first calls | aim | differ | of the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        ours, theirs, ratio, first = milliseconds(each.ours, each.spread), "–", "–", "–"
        if each.best:
            theirs = f"{each.best}, {milliseconds(each.theirs[each.best], each.their_spread[each.best])}"
            ratio = bold_if_lost(each.ratio)
        if each.first_ratio:
            first = f"{1e3 * each.first:.3g}, {bold_if_lost(each.first_ratio)}"
        work = "; ".join([each.work, *each.notes])
        lines.append(
            f"| {work} | {ours} | {theirs} | {ratio} | {first} | {aim(each)} | {differ(each)} | {share(each)} |"
        )
    return lines


def head(found: dict, results: list[Result]) -> list[str]:
    """What it is, how to read it, and the sum of it."""
    rated, short = [r for r in results if r.ratio is not None], [r for r in results if r.short]
    first = [r for r in rated if r.first_ratio is not None]
    words = "; ".join(f"{name} {text}" for name, text in found["machine"].items())
    peers = ", ".join(f"{name} {version}" for name, version in found["peers"].items())
    limits = ", ".join(f"{name} {value:.0f}" for name, value in found["limits"].items())
    lines = [
        "# Speed on a CPU, beside every peer", "",
        f"`{found['command']}` on {found['date']}, {found['threads']} threads, float32. Machine: {words}.", "",
        f"Peers: {peers}.", "", READING, "",
        f"**Of {len(rated)} comparisons longshort loses {sum(r.lost for r in rated)}**; {len(short)} cases fall short "
        f"of their aim. Of {len(first)} first calls it loses {sum(r.first_ratio < 1 for r in first)}.", "",
        f"Limits measured in the same process: {limits}. {found['others']}".strip(),
    ]  # fmt: skip
    if found["missing"]:
        lines += [
            "",
            "Could not be run: " + "; ".join(f"{name}, {why}" for name, why in found["missing"].items()) + ".",
        ]
    return lines


def page(found: dict) -> str:
    results = [Result(**each) for each in found["results"]]
    assert {r.group for r in results} <= set(GROUPS), "results of groups that are no more"
    lines = head(found, results)
    for name, (_, title) in GROUPS.items():
        mine = [r for r in results if r.group == name]
        if mine:
            lines += ["", f"## {title}", "", *table(mine)]
        said = {"layers": medians, "length": per_step}.get(name, lambda _: ())(mine)
        lines += [line for text, bad in said for line in ("", f"**{text}.**" if bad else f"{text}.")]
        if name == "mlstm" and mine and found["gradients"]:
            lines += ["", "Gradients against `native_autograd`, the peer that autograd differentiates, relative norms:"]
            lines += ["", "| | dq | dk | dv | di | df |", "|---|---|---|---|---|---|", *found["gradients"]]
    return "\n".join(lines) + "\n"


# ---- the run ---------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict:
    """Everything, printed as it comes."""
    everything = args.only == list(GROUPS) and not args.quick and args.threads == 2
    given = "" if args.only == list(GROUPS) else f" --only {' '.join(args.only)}"
    given += " --quick" * args.quick + f" --threads {args.threads}"
    makes = "make bench" + (f" PAGE={args.markdown}" if args.markdown not in (None, PAGE) else "")
    others = machine.Others()
    limits, named = machine.limits(1.0 if args.quick else 4.0)
    found = {
        "command": makes if everything else f"python benchmarks/speed.py{given}", "date": str(date.today()),
        "threads": args.threads, "system": platform.platform(), "machine": machine.about(), "limits": named,
        "peers": machine.peers(), "results": [], "gradients": [], "missing": MISSING, "together": [], "others": "",
    }  # fmt: skip
    for part in ("machine", "limits", "peers"):
        for name, what in found[part].items():
            print(f"{name}: {what if isinstance(what, str) else round(what)}", flush=True)
    results = []
    for name in args.only:
        print(f"\n{GROUPS[name][1]}", flush=True)
        for case in GROUPS[name][0](args.quick):
            results.append(run(case, limits, args.budget / 10 if args.quick else args.budget))
            print(say(results[-1]), flush=True)
        if name == "mlstm":
            found["gradients"] = gradients_agree()
            print("gradients against native_autograd's: dq, dk, dv, di, df", *found["gradients"], sep="\n")
    found["results"] = [asdict(result) for result in results]
    found["together"] = [text for say_all in (medians, per_step) for text, _ in say_all(results)]
    lost, short = sum(r.lost for r in results), sum(r.short for r in results)
    print("", *found["together"], f"lost: {lost}; short of their aim: {short}", sep="\n")
    if (taken := others.share()) is not None:
        found["others"] = f"Other processes took {taken:.0%} of the machine meanwhile."
    print(found["others"])
    for name, why in MISSING.items():
        print(f"could not be run: {name}, {why}")
    return found


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
    found = measure(args)
    if args.json:
        write_json(args.json, found)
    if args.markdown:
        write_atomically(args.markdown, lambda path: write_text(path, page(found)))


if __name__ == "__main__":
    main()
