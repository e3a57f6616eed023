"""Compile the C++ core of the cells (src/longshort/cells/cpp): when the package is built, or by hand.

    python build_native.py [--sanitize] [--output FILE]

Needs a C++17 compiler (CXX, or c++, g++, clang++; CXXFLAGS come before our own flags) and nothing else: no torch, no
Python headers. As hatch's build hook it never fails an installation: without a compiler the package is built without
the core, and `longshort doctor` says so. LONGSHORT_NATIVE=require makes that an error, LONGSHORT_NATIVE=skip leaves the
core out.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "src" / "longshort" / "cells" / "cpp"
NAME = "libnative.dll" if sys.platform == "win32" else "libnative.so"

COMMON = "-std=c++17 -O3 -fno-fast-math -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -Wall -Wextra -Wno-psabi"
# Sums and products may fuse; nothing else that -ffast-math would allow.
COMMON += " -ffp-contract=fast -fno-math-errno -fno-trapping-math"
# One library holds a variant for each instruction set, compiled from the same source: name, vector width, flags.
BASELINE = "-march=x86-64 -mtune=generic"
AVX2 = f"{BASELINE} -mavx2 -mfma -mbmi -mbmi2"
VARIANTS = {
    "x86_64": [
        ("avx512", 16, f"{AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mprefer-vector-width=512"),
        ("avx2", 8, AVX2),
        ("baseline", 4, BASELINE),
    ],
    "other": [("baseline", 4, "")],
}
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"


class NotBuiltError(Exception):
    """The core could not be compiled, and why."""


def find_compiler() -> list[str]:
    """The command of a C++ compiler."""
    named = os.environ.get("CXX")
    for command in [named] if named else ["c++", "g++", "clang++"]:
        first, *rest = shlex.split(command) or [""]
        if path := shutil.which(first):
            return [os.path.abspath(path), *rest]
    raise NotBuiltError(f"no C++ compiler: {named} is not there" if named else "no C++ compiler (c++, g++, clang++)")


def architecture(compiler: list[str]) -> str:
    """What the compiler compiles for, which need not be this machine."""
    target = subprocess.run([*compiler, "-dumpmachine"], check=False, capture_output=True, text=True).stdout.lower()
    target = target or platform.machine().lower()
    return "x86_64" if target.startswith(("x86_64", "amd64")) else "other"


def build(output: Path, sanitize: bool = False) -> None:
    """Compile every variant side by side and link them into `output`, which is replaced at once or not at all."""
    compiler = find_compiler()
    # Ours come last: what runs where, and how sums may be rounded, is not for CXXFLAGS to say; nor is -O2, with which
    # the mLSTM takes up to 1.3 times as long.
    flags = shlex.split(os.environ.get("CXXFLAGS", "")) + COMMON.split() + (SANITIZE.split() if sanitize else [])
    with tempfile.TemporaryDirectory() as folder:
        variants = VARIANTS[architecture(compiler)]
        commands = {f"{folder}/core.o": [*compiler, *flags, *variants[-1][2].split(), "-c", "core.cpp"]}
        for name, width, extra in variants:
            defines = [f"-DVARIANT={name}", f"-DWIDTH={width}"]
            commands[f"{folder}/{name}.o"] = [*compiler, *flags, *extra.split(), *defines, "-c", "variant.cpp"]
        running = [
            subprocess.Popen([*command, "-o", target], cwd=SOURCES, stderr=subprocess.PIPE, text=True)
            for target, command in commands.items()
        ]
        said = [process.communicate()[1] for process in running]
        linked = Path(folder) / NAME
        link = [*compiler, *(flags if sanitize else ["-s"]), "-shared", *commands, "-o", str(linked)]
        if sys.platform.startswith("linux") and not sanitize:
            link += ["-nodefaultlibs", "-lc", "-lgcc"]  # nothing of the C++ runtime is used
        if not any(process.returncode for process in running):
            done = subprocess.run(link, check=False, capture_output=True, text=True)
            said.append(done.stderr)
        if not linked.exists():
            raise NotBuiltError(f"{compiler[0]} failed:\n" + "\n".join(filter(None, said)))
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f"{NAME}.", delete=False) as waiting:
            waiting.write(linked.read_bytes())
        Path(waiting.name).chmod(0o755)
        Path(waiting.name).replace(output)


def wheel_tag() -> str:
    """Any Python 3 on this kind of system: the core knows neither Python nor torch."""
    system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"py3-none-{system}"


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    pass
else:

    class NativeBuildHook(BuildHookInterface):
        """Puts the core into the wheel; for an editable installation, beside its sources."""

        def initialize(self, version: str, build_data: dict) -> None:
            wish = os.environ.get("LONGSHORT_NATIVE", "")
            if self.target_name != "wheel" or wish == "skip":
                return
            editable = version == "editable"
            output = SOURCES / NAME if editable else Path(self.directory) / "native" / NAME
            try:
                build(output)
            except (NotBuiltError, OSError, ValueError) as error:
                if wish == "require":
                    raise
                self.app.display_warning(f"longshort is built without its C++ core, and will be slow on a CPU: {error}")
                return
            build_data["pure_python"] = False
            build_data["tag"] = wheel_tag()
            if not editable:
                build_data["force_include"][str(output)] = f"longshort/cells/cpp/{NAME}"

        def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
            shutil.rmtree(Path(self.directory) / "native", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the C++ core of the cells.")
    parser.add_argument("--output", type=Path, default=SOURCES / NAME, help="default: beside its sources")
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan")
    args = parser.parse_args()
    try:
        build(args.output, args.sanitize)
    except (NotBuiltError, OSError, ValueError) as error:
        sys.exit(f"the C++ core was not built: {error}")


if __name__ == "__main__":
    main()
