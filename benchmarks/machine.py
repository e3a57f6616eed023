"""What a benchmark's page says of the machine: processor, libraries, peers, and the limits measured in the process."""

import contextlib
import importlib
import os
import re
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from timing import Limits, take_turns

from longshort.cells import native
from longshort.doctor import core_here, cpu_name

PEERS = ("flashrnn", "mlstm_kernels", "onnx", "onnxruntime", "openvino", "xlstm")


def limits(budget: float) -> tuple[Limits, dict[str, float]]:
    """The limits, and what they come from: products by torch and by the core, the larger counts, and a copy."""
    a, b = torch.randn(2, 2048, 2048)
    source, target = torch.ones(2, 64 * 2**20)
    calls = {"torch": lambda: a @ b, "core": lambda: native.multiply(a, b), "copy": lambda: target.copy_(source)}
    took = {name: statistics.median(x.again for x in each) for name, each in take_turns(calls, 1, budget).items()}
    products = {name: 2 * 2048**3 / took[name] for name in ("torch", "core")}
    copying = 2 * 4 * source.numel() / took["copy"]
    named = {
        "torch.matmul 2048, GF/s": products["torch"] / 1e9,
        "the core's product 2048, GF/s": products["core"] / 1e9,
        "copy of 256 MiB, GB/s": copying / 1e9,
    }
    return Limits(max(products.values()), copying), named


def caches() -> str:
    """The caches of the first processor, as the system gives them."""
    sizes = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes.append(f"L{level} {size}")
    return ", ".join(sizes) or "not known"


def mkl() -> str:
    """The instructions that MKL, torch's library of products, takes this processor to have: it says so when asked."""
    code = "import torch; torch.ones(64, 64) @ torch.ones(64, 64)"
    asking = os.environ | {"MKL_VERBOSE": "1"}
    told = subprocess.run([sys.executable, "-c", code], env=asking, capture_output=True, text=True, check=False)
    words = re.search(r"oneMKL (\S+).*? for Intel\(R\) 64 architecture (.*?)(?: enabled)? processors", told.stdout)
    return f"{words[1]}, on its path for “{words[2]}”" if words else "not used"


def about() -> dict[str, str]:
    """The machine in words."""
    return {
        "processor": f"{cpu_name()}, {os.cpu_count()} logical cores, {caches()}",
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "MKL": mkl(),
        "the core": core_here(),
    }


def peers() -> dict[str, str]:
    """The version of each peer, or why it is not here."""
    versions = {}
    for name in PEERS:
        try:
            importlib.import_module(name)
            versions[name] = metadata.version(name)
        except Exception as error:  # whatever a stranger raises as it is imported
            versions[name] = f"not here ({type(error).__name__}: {str(error)[:100]})"
    return versions


class Others:
    """How much of the machine went to other processes since this was made, where the system tells (Linux)."""

    def __init__(self):
        self.began, self.busy, self.mine = time.perf_counter(), busy_seconds(), own_seconds()

    def share(self) -> float | None:
        if self.busy is None or (busy := busy_seconds()) is None:
            return None
        others = busy - self.busy - (own_seconds() - self.mine)
        return max(0.0, others / (time.perf_counter() - self.began) / (os.cpu_count() or 1))


def own_seconds() -> float:
    return sum(os.times()[:4])


def busy_seconds() -> float | None:
    """Seconds that all processors were at work, or taken away by the machine beneath, since it started."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
