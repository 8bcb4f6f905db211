# SPDX-License-Identifier: Apache-2.0
"""The checks behind ./dev lint find what they are there for, and ./dev says what it can't do."""
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))

import check_includes  # noqa: E402
import check_tree  # noqa: E402
import sources  # noqa: E402
import test as runner  # noqa: E402


def include(path, header):
    return check_includes.problems_of(path, f'/* */\n#include "{header}"\n')


def test_includes_against_the_arrows_are_found():
    assert include("base/x.c", "host/event.h")
    assert include("host/x.c", "vm/device.h")
    assert include("chip/x.c", "engine/engine.h")
    assert include("chip/x.c", "vm/vm.h")
    assert include("engine/soft/x.c", "vm/device.h")
    assert include("engine/soft/x.c", "engine/kvm/kvm.h")
    assert include("vm/x.c", "cli/cli.h")
    assert include("x.c", "base/error.h")


def test_includes_along_the_arrows_are_not():
    assert not include("vm/x.c", "chip/board.h")
    assert not include("chip/x.c", "vm/device.h")
    assert not include("chip/x_test.c", "vm/bus.h")
    assert not include("engine/soft/x.c", "engine/soft/cpu.h")
    assert not include("engine/soft/x.c", "base/error.h")


def test_an_include_is_reported_with_its_line():
    assert include("base/x.c", "vm/device.h") == ["src/base/x.c:2: base must not know vm/device.h"]


def test_a_folder_without_a_paragraph_is_found():
    files = [pathlib.PurePath("src/vm/bus.c"), pathlib.PurePath("src/nowhere/x.c")]
    assert check_tree.unnamed_folders(files) == ["docs/map.md does not name `src/nowhere/`"]


def test_a_file_without_a_licence_is_found():
    assert check_tree.unlicensed([pathlib.PurePath("dev"), pathlib.PurePath("meson.build")]) == []


def test_sources_go_to_their_part():
    parts = {name: sources.part_of(pathlib.PurePath(name)) for name in (
        "src/cli/main.c", "src/vm/bus.c", "src/vm/bus_test.c", "src/vm/state_fuzz.c", "src/engine/soft/insn.c")}
    assert list(parts.values()) == ["main", "core", "test", "fuzz", "soft"]


def test_a_crash_counts_as_a_failure():
    def count(result, output):
        return str(runner.program_count({"result": result, "stdout": output})[0])
    assert count("OK", "[  PASSED  ] 6 test(s).\n") == "6 passed, 0 failed, 0 skipped"
    assert count("FAIL", "[  PASSED  ] 5 test(s).\n[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] x\n") == \
        "5 passed, 1 failed, 0 skipped"
    assert count("OK", "[  PASSED  ] 1 test(s).\n[  SKIPPED ] 2 test(s), listed below:\n") == "1 passed, 0 failed, 2 skipped"
    assert count("FAIL", "[  PASSED  ] 6 test(s).\nLeakSanitizer") == "6 passed, 1 failed, 0 skipped"
    assert count("TIMEOUT", "") == "0 passed, 1 failed, 0 skipped"


def test_dev_refuses_what_it_does_not_know():
    r = subprocess.run([TOP / "dev", "frobnicate"], capture_output=True, text=True)
    assert r.returncode == 2
    assert 'no verb "frobnicate"' in r.stderr
    r = subprocess.run([TOP / "dev", "bench", "frobnicate"], capture_output=True, text=True)
    assert r.returncode == 2
    assert "usage: ./dev bench" in r.stderr


def test_dev_helps():
    r = subprocess.run([TOP / "dev", "--help"], capture_output=True, text=True)
    assert r.returncode == 0
    for verb in ("run", "build", "test", "lint", "bench", "fuzz", "install"):
        assert f"\n  {verb} " in r.stdout
