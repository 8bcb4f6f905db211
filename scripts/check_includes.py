#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that includes point down only, as docs/design/architecture.md draws the rooms.

A room is a folder of src/; ALLOWED says whose headers it may include besides its own. EXCEPTIONS are single headers:
doors that stand in a room above because they belong to it, but are made for those below."""
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent

BASE = {"base", "host"}
ALLOWED = {
    "base": set(),
    "host": {"base"},
    "engine": BASE,
    "engine/soft": BASE | {"engine"},
    "engine/kvm": BASE | {"engine"},
    "chip": BASE,
    "block": BASE,
    "net": BASE,
    "virtio": BASE | {"block", "net"},
    "boot": BASE,
    "vm": BASE | {"engine", "chip", "virtio", "block", "net", "boot"},
    "container": BASE,
    "api": BASE | {"vm", "container"},
    "cli": BASE | {"vm", "container", "api"},
}
EXCEPTIONS = {
    # What a device sees of the machine.
    "chip": {"vm/device.h", "vm/state.h", "vm/clock.h", "vm/platform.h"},
    "virtio": {"vm/device.h", "vm/state.h", "vm/clock.h", "vm/platform.h", "vm/pci.h", "vm/guest_memory.h"},
    # The state that a kernel is entered in, and where the chips that the tables describe are.
    "boot": {"engine/engine.h", "vm/platform.h"},
    # `plures info` and --engine ask the list of engines.
    "cli": {"engine/engine.h"},
}
# What a unit test or fuzz target may use beyond its room: test doubles of the machine.
TEST_EXCEPTIONS = {"chip": {"vm/bus.h"}, "virtio": {"vm/bus.h"}}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def room_of(path):
    """The longest folder of path that is a room, or None."""
    for folder in pathlib.PurePath(path).parents:
        if str(folder) in ALLOWED:
            return str(folder)
    return None


def problems_of(path, text):
    room = room_of(path)
    if not room:
        return [f"src/{path}: its folder is no room; add it to ALLOWED in {pathlib.Path(__file__).name}"]
    is_test = pathlib.PurePath(path).stem.endswith(("_test", "_fuzz", "_testlib"))
    exceptions = EXCEPTIONS.get(room, set()) | (TEST_EXCEPTIONS.get(room, set()) if is_test else set())
    found = []
    for match in INCLUDE.finditer(text):
        header = match.group(1)
        target = room_of(header)
        line = text.count("\n", 0, match.start()) + 1
        # Headers made by the build stand in the folder of what makes them, under their bare name.
        if target in (None, room) or target in ALLOWED[room] or header in exceptions:
            if target is None and not (TOP / "src" / header).exists() and "/" in header:
                found.append(f"src/{path}:{line}: no room has {header}")
            continue
        found.append(f"src/{path}:{line}: {room} must not know {header}")
    return found


def main():
    problems = []
    for path in sorted((TOP / "src").rglob("*")):
        if path.suffix in (".c", ".h", ".S", ".def"):
            problems += problems_of(str(path.relative_to(TOP / "src")), path.read_text())
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
