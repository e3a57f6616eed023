"""What this machine has and which kernels run on it: the text of `longshort doctor`. Changes nothing."""

import platform
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from longshort import __version__
from longshort.cells import core
from longshort.checking import devices_here
from longshort.functional import KERNELS

EXTRAS = {"matplotlib": "plot", "openpyxl": "hand", "tokenizers": "bpe", "typst": "hand", "xlsxwriter": "hand",
          "yaml": "yaml"}  # fmt: skip


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def kernels() -> list[str]:
    """A line for each cell's kernel on each device: whether it runs there, or why not."""
    lines = []
    for device in devices_here():
        x = torch.empty(1, 64, 1, 1, device=device)
        for cell, table in KERNELS.items():
            able = {name: kernel.why_not(x) for name, kernel in table.items()}
            auto = next(name for name, kernel in table.items() if able[name] is None and not kernel.on_request)
            for name, reason in able.items():
                verdict = f"no: {reason}" if reason else "yes, taken by auto" if name == auto else "yes"
                lines.append(f"  {device:5} {cell:6} {name:10} {verdict}")
    return lines


def core_here() -> str:
    """The C++ core: its instruction set here and whose threads it runs on, or why it is not here."""
    if reason := core.missing():
        return f"not here: {reason}"
    found = core.library()
    assert isinstance(found, core.Library)
    others = f" (also {', '.join(found.variants[1:])})" if found.variants[1:] else ""
    threads = (
        f"torch's threads, {Path(found.openmp).name}" if found.openmp else "one thread: torch's OpenMP was not found"
    )
    return f"{found.variants[0]}{others}, {threads}"


def report() -> str:
    """The whole report."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [
        f"longshort {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"CPU: {cpu_name()}, {torch.get_num_threads()} threads; instructions {torch.backends.cpu.get_cpu_capability()}",
        f"C++ core: {core_here()}",
        f"CUDA device: {cuda}",
        f"Python at {sys.executable}",
        "",
        "kernels, float32:",
        *kernels(),
        "",
        "extras:",
    ]
    for module, extra in EXTRAS.items():
        there = "installed" if find_spec(module) else f"not installed: pip install 'longshort[{extra}]'"
        lines.append(f"  {module:12} {there}")
    return "\n".join(lines)
