"""The README's code runs, its commands exist, and its links lead somewhere; so do the examples."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from longshort.cli import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_in_the_readme_runs(tmp_path):
    for code in re.findall(r"```python\n(.*?)```", README, re.S):
        subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("page", "least"), [("from-nn-lstm.md", 10), ("by-hand.md", 4), ("lessons.md", 1)])
def test_python_in_a_page_runs_from_top_to_bottom(page, least, tmp_path):
    snippets = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    assert len(snippets) >= least
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(snippets)], cwd=tmp_path, check=True)


@pytest.mark.parametrize("page", ["README.md", "docs/by-hand.md", "docs/lessons.md"])
def test_commands_in_a_page_parse(page):
    commands = re.findall(r"^longshort (.*?)(?:\s+#.*)?$", (ROOT / page).read_text(), re.M)
    commands += re.findall(r"`longshort (.*?)`", (ROOT / page).read_text())
    assert len(commands) >= 4
    for command in commands:
        build().parse_all(re.findall(r'"[^"]*"|\S+', command))


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make (\w+)", README)) - {"and"} <= targets


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert link.startswith("http") or (ROOT / page).parent.joinpath(link).exists(), link


def test_every_module_stands_in_the_tree():
    tree = README.split("## The house")[1].split("```")[1]
    for path in (ROOT / "src" / "longshort").iterdir():
        if path.name not in {"__init__.py", "__pycache__", "shapes.py"}:
            assert path.name in tree, path.name


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example, tmp_path):
    subprocess.run([sys.executable, "-W", "error", str(example)], cwd=tmp_path, check=True)
