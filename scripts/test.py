#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev test`: runs what is built in build/ and build-asan/, counts every test, and ends with the line
`N passed, N failed, N skipped`. Exit status 1 when one failed.

    NAME       only the whole-program tests of tests/test_NAME.py, all of them; no unit tests
    -k EXPR    only whole-program tests that match, as pytest's -k; no unit tests
    --unit     only unit tests
    --all      also the whole-program tests that take long
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import fuzz

TOP = pathlib.Path(__file__).resolve().parent.parent
SANITIZERS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    # The differential test looks for wrong translations, of which the plain build's million runs tell.
    "DIFF_RUNS": "50000",
}
# Whole-program tests that are worth it: every tiny guest, and Debian on two CPUs.
UNDER_SANITIZERS = ["tests/test_tiny.py", "tests/test_boot.py", "-k", "test_tiny or cloud-2-128M"]
# cmocka's closing lines: how many of a program's tests ended how.
SUMMARY = re.compile(r"^\[  (PASSED|FAILED|SKIPPED)\s+\] (\d+) test\(s\)", re.M)


class Count:
    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def __iadd__(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        return self

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def program_count(result):
    """One test program's tests, from what cmocka printed; a program that crashed or leaked is a failure more."""
    output = result.get("stdout", "") + result.get("stderr", "")
    found = {}
    for word, number in SUMMARY.findall(output):
        found[word] = found.get(word, 0) + int(number)
    count = Count(found.get("PASSED", 0), found.get("FAILED", 0), found.get("SKIPPED", 0))
    if result["result"] == "SKIP" and not found:
        count.skipped = 1
    elif result["result"] not in ("OK", "SKIP") and not count.failed:
        count.failed = 1
    elif not found:
        count.passed = 1
    return count, output


def unit_tests(title, build, env):
    """Runs one build's unit tests and prints the output of those that fail."""
    print(f"== {title}", flush=True)
    subprocess.run(["meson", "test", "-C", build, "--suite", "unit", "--no-rebuild", "--quiet"], cwd=TOP,
                   env=os.environ | env, stdout=subprocess.DEVNULL)
    total = Count()
    log = TOP / build / "meson-logs/testlog.json"
    if not log.exists():
        print(f"{build}: meson test did not run")
        return Count(failed=1)
    for line in log.read_text().splitlines():
        result = json.loads(line)
        count, output = program_count(result)
        total += count
        if count.failed:
            print(f"-- {result['name']}: {result['result']}\n{output[-6000:]}")
        for name in re.findall(r"^\[  SKIPPED \] ([^\d\s].*)$", output, re.M):
            print(f"-- {result['name']}: skipped {name}")
    print(f"{title}: {total}", flush=True)
    return total


def fuzz_targets():
    """Each fuzz target for a few seconds, from what tests/corpus holds."""
    print("== fuzz targets", flush=True)
    held, broken = fuzz.kept()
    for name, said in broken.items():
        print(f"-- {name}\n{said}")
    total = Count(len(held), len(broken))
    print(f"fuzz targets: {total}", flush=True)
    return total


def whole_program_tests(title, env, options):
    print(f"== {title}", flush=True)
    report = TOP / "build/pytest.xml"
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "-q", "-rsfE", "--tb=short", "-o", "junit_logging=no", f"--junitxml={report}",
            "-n", str(min(os.cpu_count(), 4))]
    status = subprocess.run(argv + options, cwd=TOP, env=os.environ | env).returncode
    if status == 5:  # nothing matched
        return Count()
    if not report.exists():
        return Count(failed=1)
    total = Count()
    for suite in ET.parse(report).getroot().iter("testsuite"):
        failed = int(suite.get("failures")) + int(suite.get("errors"))
        skipped = int(suite.get("skipped"))
        total += Count(int(suite.get("tests")) - failed - skipped, failed, skipped)
    if status and not total.failed:
        total.failed = 1
    print(f"{title}: {total}", flush=True)
    return total


def main():
    parser = argparse.ArgumentParser(prog="./dev test", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="?", metavar="NAME", help="only the whole-program tests of tests/test_NAME.py, all of them")
    parser.add_argument("-k", metavar="EXPR", help="only whole-program tests that match")
    parser.add_argument("--unit", action="store_true", help="only unit tests")
    parser.add_argument("--all", action="store_true", help="also the whole-program tests that take long")
    args = parser.parse_args()
    total = Count()
    if args.name:
        if not (TOP / f"tests/test_{args.name}.py").exists():
            parser.error(f"there is no tests/test_{args.name}.py")
        options = ["--all", f"tests/test_{args.name}.py"] + (["-k", args.k] if args.k else [])
        total = whole_program_tests("whole programs", {}, options)
        print(total)
        return 1 if total.failed or not total.passed else 0
    if not args.k:
        total += unit_tests("unit tests", "build", {"DIFF_RUNS": "1000000"})
        total += unit_tests("unit tests under ASan and UBSan", "build-asan", SANITIZERS)
    if not args.unit and not args.k:
        total += fuzz_targets()
    if not args.unit:
        options = (["-k", args.k] if args.k else []) + (["--all"] if args.all else [])
        total += whole_program_tests("whole programs", {}, options + ["tests"])
    if not args.unit and not args.k:
        env = SANITIZERS | {"PLURES": str(TOP / "build-asan/plures")}
        total += whole_program_tests("whole programs under ASan and UBSan", env, UNDER_SANITIZERS)
    print(total)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
