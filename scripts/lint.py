#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev lint [CHECK...]`: all checks, or those named; prints what each found. Exit status 1 when one found something.

Compile commands come from build-lint-gcc/ and build-lint-clang/, which ./dev configures."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
SRC = TOP / "src"
JOBS = os.cpu_count() or 1


def run(*argv):
    """Whether a command found nothing, and what it said."""
    r = subprocess.run(argv, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    return r.returncode == 0, r.stdout


def each(command, items):
    """Runs a command for each item, JOBS at a time, and joins what those that fail say."""
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(lambda item: run(*command(item)), items))
    return all(ok for ok, _ in results), "".join(text for ok, text in results if not ok)


def sources(*suffixes):
    return [str(p.relative_to(TOP)) for suffix in suffixes for p in sorted(SRC.rglob(f"*{suffix}"))]


def check_format():
    """Names the files rather than every blank in them."""
    wrong = [f for f in sources(".c", ".h") if not run("clang-format", "--dry-run", "--Werror", f)[0]]
    return not wrong, f"not formatted; do: clang-format -i {' '.join(wrong)}"


def check_includes():
    return run(sys.executable, "scripts/check_includes.py")


def check_tree():
    return run(sys.executable, "scripts/check_tree.py")


def check_headers():
    """Each header compiles alone."""
    return each(lambda h: ("gcc", "-std=gnu17", "-D_GNU_SOURCE", "-Isrc", "-Wall", "-Wextra", "-Werror",
                           "-fsyntax-only", "-x", "c", h), sources(".h"))


def check_gcc():
    return run("ninja", "-C", "build-lint-gcc", "--quiet")


def check_clang():
    return run("ninja", "-C", "build-lint-clang", "--quiet")


def tidy(command):
    """clang-tidy on one file, unless it found nothing in the very same text before."""
    argv = [w for w in command["command"].split() if not w.startswith(("-M", "-o"))]
    text = subprocess.run(argv[:argv.index("-c")] + ["-E", command["file"]], cwd=command["directory"], capture_output=True)
    known = TOP / "build-lint-clang/tidy" / hashlib.sha256(text.stdout + (TOP / ".clang-tidy").read_bytes()).hexdigest()
    if text.returncode == 0 and known.exists():
        return True, ""
    ok, said = run("clang-tidy", "--quiet", "-p", "build-lint-clang", str(TOP / command["directory"] / command["file"]))
    if ok:
        known.parent.mkdir(exist_ok=True)
        known.touch()
    return ok, said


def check_tidy():
    """Needs the headers that the build makes, so the clang build runs first."""
    check_clang()
    commands = json.loads((TOP / "build-lint-clang/compile_commands.json").read_text())
    files = {c["file"]: c for c in commands if c["file"].endswith(".c")}
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(tidy, files.values()))
    return all(ok for ok, _ in results), "".join(said for ok, said in results if not ok)


def check_cppcheck():
    return run("cppcheck", "--quiet", "--std=c11", "--language=c", "--enable=warning,performance,portability", "-j", str(JOBS),
               "--inline-suppr", "--error-exitcode=1", "--template={file}:{line}: {id}: {message}", "-D__x86_64__",
               "-Isrc", "--suppressions-list=scripts/cppcheck.txt",
               "--library=scripts/cppcheck.cfg", "src")


CHECKS = {
    "format": check_format,
    "includes": check_includes,
    "tree": check_tree,
    "headers": check_headers,
    "gcc": check_gcc,
    "clang": check_clang,
    "tidy": check_tidy,
    "cppcheck": check_cppcheck,
}


def main(names):
    unknown = [n for n in names if n not in CHECKS]
    if unknown:
        print(f"usage: ./dev lint [CHECK...], with CHECK one of {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or CHECKS:
        begin = time.monotonic()
        ok, text = CHECKS[name]()
        print(f"{name}: {'ok' if ok else 'FAILED'} ({time.monotonic() - begin:.1f} s)", flush=True)
        if not ok:
            failed.append(name)
            print(text, flush=True)
    print(f"lint: {'FAILED: ' + ', '.join(failed) if failed else 'ok'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
