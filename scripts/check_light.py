#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the soft engine's light code stays light (src/engine/soft/cpu.h): while a guest runs, the vector registers
are its own.

    check_light.py LIBRARY      libsoft.a, as built without sanitizers

No light object may refer to anything outside of the light ones that is not listed here, as libc uses vector registers
(memcpy) and a compiler may call it unasked; and no object may have instructions with vector or x87 registers, but for
those whose assembly saves, restores or emulates them."""
import collections
import os
import re
import subprocess
import sys

# Code that only ever runs between soft_heavy_begin and soft_heavy_end, or while no guest runs.
HEAVY = {"direct_map", "direct_run", "direct_scan", "direct_stub", "dirty", "disasm", "profile_report", "profile_run", "soft"}

# What each light object may need nevertheless, everywhere or (function:symbol) there.
ALLOWED = {
    # Its creation and its end. syscall does nothing else, and a failed assertion is the end of the process.
    "cache": {"__assert_fail", "__errno_location", "calloc", "close", "error_errno", "free", "ftruncate64", "ftruncate",
              "madvise", "memfd_create", "mmap64", "mmap", "munmap", "syscall"},
    # A failed assertion.
    "trans_mem": {"__assert_fail"},
    # Bare system calls, and what soft_direct_run calls in heavy state.
    "direct": {"usleep", "kill", "direct_enter"},
    # Between heavy_begin and heavy_end: tracing, and why a VM stops.
    "fault": {"fprintf", "vsnprintf"},
    # The same: locks that may wait.
    "mmu": {"pthread_mutex_lock", "pthread_mutex_unlock"},
    # The same: tracing and profiling; what comes before and after the guest runs; and signal handlers, whose end
    # gives the guest its registers back.
    "run": {"sched_yield", "fprintf", "snprintf", "soft_disasm", "__errno_location", "error_errno",
            "raise", "sigaction", "sigaltstack", "sigemptyset", "soft_signals_init:memcpy", "on_fault:memset",
            "profile_start", "profile_stop", "profile_perf_add"},
}
VECTOR_ASSEMBLY = {"evex", "run", "vector"}
# The linker's own.
IGNORED = {"_GLOBAL_OFFSET_TABLE_"}

VECTOR = re.compile(r"%(?:[xyz]?mm\d|st\b|k\d)|\b(?:fx?rstor|fx?save|xsave|xrstor|fninit|ldmxcsr)")


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}).stdout


def object_of(text):
    """`cache` of .../src_engine_soft_cache.c.o and the like."""
    return re.sub(r"^.*engine_soft_", "", os.path.basename(text)).removesuffix(".o").removesuffix(".c")


def symbols(library):
    """What each object defines and what it needs: symbols, with the functions that need them as far as these are known."""
    defined, needed = collections.defaultdict(set), collections.defaultdict(lambda: collections.defaultdict(set))
    for line in run("nm", "-A", "-g", library).splitlines():
        match = re.match(r"(.*):(?:[0-9a-f]*)\s+([A-Za-z])\s+(\S+)$", line)
        if match:
            name = object_of(match[1].rpartition(":")[2])
            if match[2] in "Uwv":
                needed[name][match[3]] = set()
            else:
                defined[name].add(match[3])
    name = function = ""
    for line in run("objdump", "-dr", "--no-show-raw-insn", library).splitlines():
        if match := re.match(r"(\S+\.o):\s+file format", line):
            name = object_of(match[1])
        elif match := re.match(r"[0-9a-f]+ <([^.>]*).*>:$", line):
            function = match[1]
        elif (match := re.search(r"R_X86_64_\S+\s+([^-+\s]+)", line)) and match[1] in needed[name]:
            needed[name][match[1]].add(function)
    return defined, needed


def allowed(name, symbol, functions):
    listed = ALLOWED.get(name, set())
    return symbol in listed or (functions and all(f"{f}:{symbol}" in listed for f in functions))


def calls(library):
    defined, needed = symbols(library)
    light = {name for name in set(defined) | set(needed) if name not in HEAVY}
    own = set().union(*(defined[name] for name in light)) | IGNORED
    problems = [f"{name}.c: light code must not need {what} (in {', '.join(sorted(functions)) or 'its data'})"
                for name in sorted(light) for what, functions in sorted(needed[name].items())
                if what not in own and not allowed(name, what, functions)]
    gone = (HEAVY | set(ALLOWED) | VECTOR_ASSEMBLY) - set(defined)
    return problems + [f"{name}.c is no more: take it off the list" for name in sorted(gone)]


def vector_code(library):
    problems, name, function = set(), "", ""
    for line in run("objdump", "-d", "--no-show-raw-insn", library).splitlines():
        if match := re.match(r"(\S+\.o):\s+file format", line):
            name = object_of(match[1])
        elif match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = match[1]
        elif name not in VECTOR_ASSEMBLY and VECTOR.search(line):
            problems.add(f"{name}.c: {function} uses vector registers: {' '.join(line.split()[1:])}")
    return sorted(problems)


def main(library):
    problems = calls(library) + vector_code(library)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
