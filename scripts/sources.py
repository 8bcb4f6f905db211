#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the sources of one part of the build, so that adding a file needs no list: sources.py TOP soft|core|test"""
import pathlib
import sys

top = pathlib.Path(sys.argv[1])
part = sys.argv[2]
for path in sorted(top.glob("src/**/*.[cS]")):
    name = path.relative_to(top)
    is_test = name.stem.endswith("_test")
    if name.stem.endswith("_fuzz"):
        continue  # built by ./dev fuzz alone
    is_soft = name.is_relative_to("src/engine/soft")
    if part == "test" and is_test:
        print(name)
    elif part == "soft" and is_soft and not is_test:
        print(name)
    elif part == "core" and not is_soft and not is_test and str(name) != "src/cli/main.c":
        print(name)
