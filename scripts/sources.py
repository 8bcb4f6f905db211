#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the sources of one part of the build, so that adding a file needs no list.

    sources.py TOP main|soft|core|test|testlib|fuzz
    sources.py TOP all                        every one, with its part: what the build was configured for

*_test.c and *_fuzz.c are programs; *_testlib.c is linked into each of them and not into the product.
"""
import pathlib
import sys


def part_of(name):
    if str(name) == "src/cli/main.c":
        return "main"
    if name.stem.endswith("_test"):
        return "test"
    if name.stem.endswith("_testlib"):
        return "testlib"
    if name.stem.endswith("_fuzz"):
        return "fuzz"
    return "soft" if name.is_relative_to("src/engine/soft") else "core"


def main(top, wanted):
    top = pathlib.Path(top)
    for path in sorted(top.glob("src/**/*.[cS]")):
        name = path.relative_to(top)
        part = part_of(name)
        if wanted == "all":
            print(part, name)
        elif wanted == part:
            print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
