#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the sources of one part of the build, so that adding a file needs no list.

    sources.py TOP main|oci|soft|core|test|testlib|fuzz
    sources.py TOP container                  those of core that plures-oci consists of
    sources.py TOP all                        every one, with its part: what the build was configured for

*_test.c and *_fuzz.c are programs; *_testlib.c is linked into each of them and not into the product.
"""
import pathlib
import sys


def part_of(name):
    if str(name) == "src/cli/main.c":
        return "main"
    if str(name) == "src/cli/oci_main.c":
        return "oci"
    if name.stem.endswith("_test"):
        return "test"
    if name.stem.endswith("_testlib"):
        return "testlib"
    if name.stem.endswith("_fuzz"):
        return "fuzz"
    return "soft" if name.is_relative_to("src/engine/soft") else "core"


def is_container(name):
    return (name.parts[1] in ("base", "container") or str(name) in ("src/cli/report.c", "src/cli/options.c", "src/cli/help.c", "src/host/tty.c")
            or name.match("src/cli/oci*.c") or name.match("src/cli/container*.c"))


def main(top, wanted):
    top = pathlib.Path(top)
    for path in sorted(top.glob("src/**/*.[cS]")):
        name = path.relative_to(top)
        part = part_of(name)
        if wanted == "all":
            print(part, name)
        elif wanted == part or (wanted == "container" and part == "core" and is_container(name)):
            print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
