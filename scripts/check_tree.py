#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what no compiler does: that docs/map.md names every folder, that source files say their licence, and that no file
holds the marks of a merge."""
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
LICENSED = {".c", ".h", ".S", ".def", ".py", ".sh", ".asl", ".build"}


def tracked():
    """Files that git has or would take."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(argv, cwd=TOP, check=True, capture_output=True, text=True).stdout.splitlines()
    return [pathlib.PurePath(f) for f in files if (TOP / f).is_file()]


def unnamed_folders(files):
    text = (TOP / "docs/map.md").read_text()
    # What is below it is named by the fuzz targets.
    corpora = pathlib.PurePath("tests/corpus")
    folders = {folder for f in files for folder in f.parents if str(folder) != "." and corpora not in folder.parents}
    return [f"docs/map.md does not name `{folder}/`" for folder in sorted(folders) if f"`{folder}/`" not in text]


def unlicensed(files):
    def says(path):
        with open(TOP / path, errors="replace") as f:
            return any("SPDX-License-Identifier: " in line for line, _ in zip(f, range(3)))
    return [f"{f}: no SPDX-License-Identifier in its first lines" for f in files if f.suffix in LICENSED and not says(f)]


def unmerged(files):
    marks = re.compile("^(<{7}|>{7}) ", re.M)
    return [f"{f}: holds the marks of a merge" for f in files if marks.search((TOP / f).read_text(errors="replace"))]


def main():
    files = tracked()
    problems = unnamed_folders(files) + unlicensed(files) + unmerged(files)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
