#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev fuzz`: runs the fuzz targets of build-fuzz/, one for each src/**/*_fuzz.c, and keeps what they learn in
.cache/fuzz/NAME. An input that breaks one is left in .cache/fuzz/NAME-crash-*; pass it to build-fuzz/fuzz-NAME.

`differential` is the differential test of the translator, with new seeds until the time is over."""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent


DIFFERENTIAL = TOP / "build/test-engine-soft-diff"


def differential(seconds):
    print(f"== differential, {seconds} s", flush=True)
    end = time.monotonic() + seconds
    seeds = 0
    while time.monotonic() < end:
        env = {"DIFF_SEED": hex(random.getrandbits(64) | 1), "DIFF_RUNS": "1000000"}
        r = subprocess.run([DIFFERENTIAL], env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if r.returncode:
            print(r.stdout)
            print("again: " + " ".join(f"{k}={v}" for k, v in env.items()) + f" {DIFFERENTIAL.relative_to(TOP)}")
            return r.returncode
        seeds += 1
    print(f"{seeds} seeds of a million runs, no difference")
    return 0


def run(target, name, seconds):
    if target == DIFFERENTIAL:
        return differential(seconds)
    corpus = TOP / ".cache/fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    print(f"== {name}, {seconds} s", flush=True)
    argv = [target, f"-max_total_time={seconds}", f"-artifact_prefix={corpus}-", "-print_final_stats=1", "-verbosity=0",
            "-rss_limit_mb=4096", corpus]
    return subprocess.run(argv, env=os.environ | {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}).returncode


def main():
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Runs the fuzz targets.")
    parser.add_argument("--time", type=int, default=60, metavar="S", help="seconds for each (default: %(default)s)")
    parser.add_argument("name", nargs="*", help="only these; as in src/vm/state_fuzz.c: vm-state")
    args = parser.parse_args()
    targets = {p.name.removeprefix("fuzz-"): p for p in sorted((TOP / "build-fuzz").glob("fuzz-*")) if p.is_file()}
    if DIFFERENTIAL.exists():
        targets["differential"] = DIFFERENTIAL
    unknown = [n for n in args.name if n not in targets]
    if unknown:
        parser.error(f"no target {unknown[0]}; there are: {' '.join(targets)}")
    broken = [n for n in args.name or targets if run(targets[n], n, args.time) != 0]
    print(f"broken: {' '.join(broken)}" if broken else "all targets held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
