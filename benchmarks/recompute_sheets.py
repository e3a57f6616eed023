"""Every generated spreadsheet, recalculated by LibreOffice and compared cell by cell with the exercise's graph.

    .venv/bin/python benchmarks/recompute_sheets.py [--with-formulas]

Each workbook is written, its stored results are dropped, and LibreOffice (`soffice`, headless) works every formula out
anew. The table gives the largest difference of each sheet from the graph, relative to the larger of 1 and the number.
Each exercise runs with its own decimals, exact, and with 0 and 2 decimals, and some drawn anew with other sizes; then
each with a slip planted in every fifth answer, where the sheet Follow has work to do. That takes some four minutes.
`--with-formulas` does the same with the Python library `formulas`, which needs some 15 seconds more a workbook.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from byhand.sheets import apart, compare, filled, recalculated_by_formulas, recalculated_values, stripped

from longshort.byhand import EXERCISES, Exercise, exercise
from longshort.byhand.generator import generate
from longshort.byhand.workbook import write_workbook

OTHER_SIZES = (
    ("rnn", 1, {"D": 2, "H": 5, "T": 7}),
    ("lstm", 2, {"D": 1, "H": 4, "T": 5}),
    ("slstm", 3, {"D": 2, "H": 6, "N": 3, "T": 3}),
    ("mlstm", 4, {"D": 2, "K": 3, "V": 4, "T": 4}),
    ("lstm-backward", 5, {"D": 3, "H": 1, "T": 3}),
)
SHEETS = ("Key", "worked", "Exact", "Follow", "verdicts")


def by_libreoffice(paths: list[Path], folder: Path) -> list[Path]:
    """The workbooks as LibreOffice saves them, after working out all formulas."""
    command = ["soffice", "--headless", f"-env:UserInstallation=file://{folder}/profile", "--convert-to", "xlsx"]
    subprocess.run([*command, "--outdir", str(folder), *map(str, paths)], check=True, capture_output=True)
    return [folder / path.name for path in paths]


def cases() -> dict[str, Exercise]:
    """All exercises under four rounding rules; those that divide by a number rounded to 0 are left out, and named."""
    found = {}
    for name in EXERCISES:
        own = exercise(name)
        for decimals in dict.fromkeys([own.decimals, None, 0, 2]):
            found[f"{name}, {'exact' if decimals is None else f'{decimals} decimals'}"] = own.changed(decimals=decimals)
    for kind, seed, sizes in OTHER_SIZES:
        found[f"{kind}, {', '.join(f'{name}={length}' for name, length in sizes.items())}"] = generate(
            kind, seed, **sizes
        )
    return found


def main(with_formulas: bool) -> None:
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        before.mkdir()
        after.mkdir()
        jobs = []
        for name, each in cases().items():
            for slips in (False, True):
                path = before / f"{len(jobs)}.xlsx"
                try:
                    write_workbook(path, each)
                except ValueError as error:
                    print(f"left out: {name}: {error}")
                    break
                answers = filled(path, each, every=5) if slips else {}
                stripped(path)
                jobs.append((name, each, answers, path))
        saved = by_libreoffice([path for *_, path in jobs], after)
        print("| exercise | cells | slips | program | " + " | ".join(SHEETS) + " |")
        print("|---|---|---|---|" + "---|" * len(SHEETS))
        for (name, each, answers, path), file in zip(jobs, saved, strict=True):
            programs = {"LibreOffice": recalculated_values(file)}
            if with_formulas:
                programs["formulas"] = recalculated_by_formulas(path)
            for program, values in programs.items():
                found = compare(each, values, answers)
                worst = max(worst, *found.values())
                figures = " | ".join(f"{found[sheet]:.0e}" for sheet in SHEETS)
                slips = sum(value is not None for value in answers.values())
                print(f"| {name} | {len(each.cells)} | {slips} | {program} | {figures} |", flush=True)
    print(f"\nThe largest difference of all: {worst:.1e} ({apart.__doc__})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-formulas", action="store_true", help="recompute with the Python library as well")
    main(parser.parse_args().with_formulas)
