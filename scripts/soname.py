#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the name under which a program linked with a library would look for it, such as libz.so.1.

    soname.py LIBRARY COMPILER...     the library as after -l: z"""
import re
import subprocess
import sys
import tempfile


def main(library, *compiler):
    with tempfile.NamedTemporaryFile(suffix=".so") as out:
        subprocess.run([*compiler, "-shared", "-nostdlib", "-o", out.name, "-x", "c", "/dev/null", "-Wl,--no-as-needed", f"-l{library}"], check=True)
        dynamic = subprocess.run(["readelf", "-dW", out.name], check=True, capture_output=True, text=True).stdout
    print(re.search(r"\(NEEDED\).*\[(.*)\]", dynamic)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
