"""The C++ core as a library: loading it, the threads it borrows, the memory it uses again. No cell is here."""

import ctypes
import math
import mmap
import os
import struct
import sys
import threading
import weakref
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longshort.shapes import Float

# ---- the library -----------------------------------------------------------------------------------------------------

LIBRARY = "libnative.dll" if sys.platform == "win32" else "libnative.so"
INSTALL = "Install longshort with a C++ compiler at hand (g++ or clang++): pip install --force-reinstall longshort"

# cpp/shared.h's structures, field by field; VERSION changes with what they mean.
VERSION = 4
RECURRENCE = struct.Struct("@7q q4q qq qq 4q 4q q q q3q 3q q q q 3q".replace(" ", ""))
MEMORY = struct.Struct("@7q f i 5q 15q qq 3q 3q q q q3q 2q 5q 2q".replace(" ", ""))
MEMORY_STEP = struct.Struct("@5q f i 5q 3q 3q q".replace(" ", ""))
PRODUCT = struct.Struct("@4q q2q q2q q q".replace(" ", ""))


class Library(NamedTuple):
    """The loaded core, the variant in use, and whose threads it runs on."""

    functions: Any
    variants: list[str]
    """Those that this processor can run, the fastest first."""
    openmp: str | None
    """The OpenMP runtime that torch has loaded; None: one thread."""


class Chosen:
    """The variant that runs: an index into the library's, the fastest unless a test says otherwise."""

    variant = 0
    forked = False


def after_fork() -> None:
    """In a forked child the threads of the runtime are gone: work alone, as torch's own DataLoader workers do."""
    Chosen.forked = True
    if MAPPINGS:
        MAPPINGS.lock = threading.RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


@cache
def library() -> Library | str:
    """The core, or why it is not here, as a sentence."""
    path = Path(__file__).parent / "cpp" / LIBRARY
    if not path.exists():
        return f"the C++ core was not built when longshort was installed. {INSTALL}"
    try:
        core = ctypes.CDLL(str(path))
        for name in ("recurrent", "memory", "product", "gate"):
            getattr(core, f"longshort_{name}").restype = None
        core.longshort_version.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:
        return f"the C++ core does not load ({error}). {INSTALL}"
    core.longshort_recurrent.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p]
    core.longshort_memory.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p]
    core.longshort_memory_step.argtypes = [ctypes.c_int64, ctypes.c_char_p]
    core.longshort_memory_step.restype = ctypes.c_int64
    core.longshort_product.argtypes = [ctypes.c_int64, ctypes.c_char_p]
    core.longshort_gate.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    core.longshort_variant.restype = ctypes.c_char_p
    sizes = [each.size for each in (RECURRENCE, MEMORY, MEMORY_STEP, PRODUCT)]
    if core.longshort_version() != VERSION or sizes != [core.longshort_size(which) for which in range(len(sizes))]:
        return f"the C++ core is of another version of longshort. {INSTALL}"
    names = [core.longshort_variant(i).decode() for i in range(core.longshort_variants())]
    here = [name for i, name in enumerate(names) if core.longshort_runs_here(i)]
    Chosen.variant = names.index(here[0])
    return Library(core, here, borrow_threads(core))


def borrow_threads(core: Any) -> str | None:
    """Hand the core the OpenMP runtime that torch has loaded: a second one in the process would fight it for cores."""
    core.longshort_threads.argtypes = [ctypes.c_void_p] * 6
    # Torch's own library first: a name is looked up in what it depends on, so what is found is torch's, whichever other
    # runtimes are in the process.
    for path in [*glob(str(Path(torch.__file__).parent / "lib" / "*torch_cpu*")), *openmp_loaded()]:
        try:
            runtime = ctypes.CDLL(path, mode=getattr(os, "RTLD_NOLOAD", 0))
        except OSError:
            continue  # not loaded after all
        wanted = "GOMP_parallel __kmpc_fork_call __kmpc_push_num_threads __kmpc_global_thread_num"
        found = [address(runtime, name) for name in f"{wanted} omp_get_thread_num omp_get_num_threads".split()]
        if (found[0] or all(found[1:4])) and all(found[4:]):
            core.longshort_threads(*found)
            return home_of(found[4]) or path
    return None


def home_of(place: int | None) -> str | None:
    """The file that is mapped at an address, where the system tells."""
    return next((path for begin, end, path in files_mapped() if place and begin <= place < end), None)


def files_mapped() -> list[tuple[int, int, str]]:
    """What is mapped into this process: begin, end and file. Linux tells; elsewhere nothing is known."""
    if not sys.platform.startswith("linux"):
        return []
    with open("/proc/self/maps") as maps:
        lines = [line.split(maxsplit=5) for line in maps]
    return [(*(int(part, 16) for part in line[0].split("-")), line[5].strip()) for line in lines if len(line) > 5]  # type: ignore[misc]


def address(runtime: ctypes.CDLL, name: str) -> int | None:
    try:
        return ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value
    except AttributeError:
        return None


def openmp_loaded() -> list[str]:
    """The OpenMP runtimes mapped into this process. Its name differs between torch's releases and between systems."""
    names = ("libgomp", "libiomp5", "libomp")
    if sys.platform.startswith("linux"):
        paths = {path for _, _, path in files_mapped()}
        return sorted(path for path in paths if os.path.basename(path).startswith(names))
    near = Path(torch.__file__).parent
    folders = [near / "lib", near.parent / "torch.libs", near / ".dylibs"]
    return sorted(path for folder in folders for name in names for path in glob(f"{folder}/{name}*"))


def missing() -> str | None:
    """Why the core cannot run in this installation; None if it can."""
    found = library()
    return found if isinstance(found, str) else None


def functions() -> Any:
    """The functions of the loaded core."""
    return library().functions  # type: ignore[union-attr]


def threads() -> int:
    return 1 if Chosen.forked else torch.get_num_threads()


def pointer(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


# ---- memory ----------------------------------------------------------------------------------------------------------

LARGE = 2**19  # bytes, from which on a tensor lies in a mapping of its own


def memory_here() -> int:
    """The bytes of memory of this machine, or 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**33


KEPT = memory_here() // 8  # bytes of mappings, at most, that wait to be used again
SMALL, HUGE = 2**16, 2**21  # bytes that mappings are multiples of


class Lease(weakref.ref):
    """Tells when the view of a block is gone."""

    block: mmap.mmap


class Mappings:
    """Large tensors' memory, used again once they are gone: fresh pages cost as much time as what is written to them.

    `torch.empty` gets large blocks from the system and gives them back each time.
    """

    def __init__(self):
        self.waiting: list[mmap.mmap] = []  # the latest last
        self.leases: dict[int, Lease] = {}
        self.lock = threading.RLock()  # a tensor may go while another is being made
        self.used, self.peak = 0, 0  # bytes

    def lease(self, size: int) -> memoryview:
        """Memory of at least `size` bytes, which comes back here when the view is gone."""
        grain = HUGE if size >= HUGE else SMALL
        size = -(-size // grain) * grain
        with self.lock:
            block = self.take(size)
            if block is None:
                block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                    block.madvise(mmap.MADV_HUGEPAGE)
            self.used += len(block)
            self.peak = max(self.peak, self.used)
            view = memoryview(block)
            lease = Lease(view, self.give_back)
            lease.block, self.leases[id(lease)] = block, lease
        return view

    def take(self, size: int) -> mmap.mmap | None:
        """A waiting block that fits."""
        fitting = [block for block in self.waiting if size <= len(block) <= size + size // 4]
        if not fitting:
            return None
        block = min(fitting, key=len)
        try:
            self.waiting.remove(block)
        except ValueError:  # gone: a tensor went in the meantime, and this block made room for its
            return None
        return block

    def give_back(self, lease: Lease) -> None:
        with self.lock:
            block = self.leases.pop(id(lease)).block
            self.used -= len(block)
            self.waiting.append(block)
            while sum(map(len, self.waiting)) > min(KEPT, self.peak):
                self.waiting.pop(0)  # unmapped with its last reference

    def clear(self) -> None:
        """Give what waits back to the system."""
        with self.lock:
            self.waiting.clear()
            self.peak = self.used


MAPPINGS = Mappings() if hasattr(mmap, "MAP_ANONYMOUS") else None


@cache
def pattern() -> Tensor:
    """What small tensors are made like. Not made at import: a mode that lets nothing be real may be on then."""
    return torch.empty(0, dtype=torch.float32, device="cpu")


def room(*shape: int) -> Tensor:
    """An uninitialised float32 tensor."""
    numbers = math.prod(shape)
    if 4 * numbers < LARGE or MAPPINGS is None:
        return pattern().new_empty(shape)
    flat = torch.frombuffer(MAPPINGS.lease(4 * numbers), dtype=torch.float32, count=numbers)
    # No view: what an autograd.Function gives must not be one, to be written to later.
    return flat if len(shape) == 1 else flat.resize_(shape)


def as_is(x: Tensor) -> Tensor:
    """`x` with its numbers as they stand in memory: a negative view's are turned."""
    return x.resolve_neg() if x.is_neg() else x


def contiguous(x: Any) -> Any:
    """A tensor, or None, as it stands in memory; a negative view's numbers are turned first."""
    if x is None or (x.is_contiguous() and not x.is_neg()):
        return x
    return as_is(x).contiguous()


def side_by_side(x: Float[Tensor, "..."]) -> Tensor:
    """`x` with its last axis contiguous."""
    x = as_is(x)
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def to_16(n: int) -> int:
    return (n + 15) // 16 * 16
