"""The package is built with its C++ core where there is a compiler, and without it where there is none."""

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def wheel(folder: Path, **env: str) -> Path:
    """A wheel of the package, built as pip builds it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, check=False, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_with_the_core_serves_any_python(tmp_path):
    hasty = tmp_path / "c++"  # optimises nothing: only what is in the wheel matters here
    hasty.write_text('#!/bin/sh\nexec c++ "$@" -O0\n')
    hasty.chmod(0o755)
    path = wheel(tmp_path, LONGSHORT_NATIVE="require", CXX=str(hasty))
    assert "-py3-none-" in path.name
    assert not path.name.endswith("-any.whl")
    names = zipfile.ZipFile(path).namelist()
    assert "longshort/cells/cpp/libnative.so" in names
    assert "longshort/cells/native.py" in names


@pytest.mark.parametrize("env", [{"CXX": "/no/such/compiler"}, {"LONGSHORT_NATIVE": "skip"}, {"CXX": "false"}], ids=str)
def test_without_a_compiler_or_a_wish_the_package_is_built_all_the_same(tmp_path, env):
    path = wheel(tmp_path, **env)
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(path).namelist() if "libnative" in name]


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"CXX": "/no/such/compiler"}, "is not there"),
        ({"CXX": "false"}, "false failed"),
        ({"CXXFLAGS": "--no-such-flag"}, "no-such-flag"),
    ],
    ids=str,
)
def test_by_hand_a_failure_is_told_and_nothing_is_left(tmp_path, env, told):
    target = tmp_path / "libnative.so"
    target.write_text("what was there")
    command = [sys.executable, ROOT / "build_native.py", "--output", target]
    done = subprocess.run(command, check=False, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("the C++ core was not built: ")
    assert told in done.stderr
    assert target.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["libnative.so"]


def test_no_flag_of_the_user_s_changes_numbers_or_processors(tmp_path):
    """Every command, asked what it defines: `baseline` is any processor's, and nothing is -ffast-math's."""
    asking = tmp_path / "c++"
    asking.write_text(
        '#!/bin/sh\n[ "$1" = -dumpmachine ] && exec c++ -dumpmachine\n'
        f'c++ "$@" -dM -E\nfor last; do :; done\ncp "$last" "{tmp_path}/$$.macros"\nexit 1\n'
    )
    asking.chmod(0o755)
    command = [sys.executable, ROOT / "build_native.py", "--output", tmp_path / "libnative.so"]
    env = os.environ | {"CXX": str(asking), "CXXFLAGS": "-O1 -ffast-math -march=native -DTOLD"}
    assert subprocess.run(command, check=False, env=env, capture_output=True).returncode == 1
    asked = [path.read_text() for path in tmp_path.glob("*.macros")]
    assert len(asked) >= 2
    for macros in asked:
        assert "#define TOLD 1" in macros
        assert "__FAST_MATH__" not in macros
        assert "__FINITE_MATH_ONLY__ 0" in macros
        if platform.machine() == "x86_64":
            assert ("__AVX2__" in macros) == any(f"VARIANT {name}" in macros for name in ("avx2", "avx512"))
