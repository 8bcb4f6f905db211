#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev fuzz`: runs the fuzz targets of build-fuzz/, one for each src/**/*_fuzz.c, and keeps what they learn in
.cache/fuzz/NAME. An input that breaks one is left in .cache/fuzz/NAME-crash-*; pass it to build-fuzz/fuzz-NAME.

What is worth keeping for ever is in tests/corpus/NAME: the runs begin with it too, and --kept, which is what `./dev test`
does, runs each target on that for a few seconds, always in the same way. --keep NAME... adds to it what the corpus in
.cache/fuzz reaches beyond it.

`differential` is the differential test of the translator, with new seeds until the time is over."""
import argparse
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent


KEPT = TOP / "tests/corpus"
KEPT_FILES, KEPT_SIZE = 40, 512  # of a target at most; bytes of an input at most
KEPT_RUNS, KEPT_SECONDS = 1500, 3
ENV = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
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
            "-rss_limit_mb=4096", corpus, *kept_folder(name)]
    return subprocess.run(argv, env=os.environ | ENV).returncode


def kept_folder(name):
    return [KEPT / name] if (KEPT / name).is_dir() else []


def run_kept(target, name):
    """A short run from the kept corpus, the same each time but for the host's speed: what it said if it failed."""
    with tempfile.TemporaryDirectory() as tmp:
        argv = [target, "-seed=1", f"-runs={KEPT_RUNS}", f"-max_total_time={KEPT_SECONDS}", "-timeout=20", f"-artifact_prefix={tmp}/",
                "-verbosity=0", "-rss_limit_mb=4096", tmp, *kept_folder(name)]
        r = subprocess.run(argv, env=os.environ | ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        broken = [p for p in pathlib.Path(tmp).iterdir() if re.match("(crash|leak|oom|timeout)-", p.name)]
        said = "".join(f"input {p.name}: {p.read_bytes().hex()}\n" for p in broken)
    return r.stdout[-6000:] + said if r.returncode else ""


def keep(target, name):
    """Adds to the kept corpus what the one in .cache/fuzz reaches beyond it: small inputs first, as many as there is room for."""
    kept, found = KEPT / name, TOP / ".cache/fuzz" / name
    with tempfile.TemporaryDirectory() as tmp:
        merged, small = pathlib.Path(tmp) / "merged", pathlib.Path(tmp) / "small"
        merged.mkdir()
        small.mkdir()
        for p in (p for folder in (kept, found) if folder.is_dir() for p in folder.iterdir()):
            if p.stat().st_size <= KEPT_SIZE:
                shutil.copy(p, small)
        subprocess.run([target, "-merge=1", "-verbosity=0", merged, small], env=os.environ | ENV, check=True)
        # Those that reach the most are the longer ones of what is left; some of each length say more than all of one.
        inputs = sorted(merged.iterdir(), key=lambda p: (p.stat().st_size, p.name))
        chosen = inputs[::max(1, -(-len(inputs) // KEPT_FILES))]
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for p in chosen:
            shutil.copy(p, kept / p.name[:12])
    print(f"{name}: {len(chosen)} of {len(inputs)} inputs kept")


def targets():
    return {p.name.removeprefix("fuzz-"): p for p in sorted((TOP / "build-fuzz").glob("fuzz-*")) if p.is_file()}


def kept():
    """Runs all targets on the kept corpora: the names of those that held, and of the others with what they said."""
    broken = {name: said for name, target in targets().items() if (said := run_kept(target, name))}
    return [name for name in targets() if name not in broken], broken


def main():
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Runs the fuzz targets.")
    parser.add_argument("--time", type=int, default=60, metavar="S", help="seconds for each (default: %(default)s)")
    parser.add_argument("--kept", action="store_true", help="a short run of each on what tests/corpus holds")
    parser.add_argument("--keep", action="store_true", help="adds to tests/corpus what was found")
    parser.add_argument("name", nargs="*", help="only these; as in src/vm/state_fuzz.c: vm-state")
    args = parser.parse_args()
    there = targets()
    if DIFFERENTIAL.exists() and not args.keep and not args.kept:
        there["differential"] = DIFFERENTIAL
    unknown = [n for n in args.name if n not in there]
    if unknown:
        parser.error(f"no target {unknown[0]}; there are: {' '.join(there)}")
    chosen = args.name or there
    if args.keep:
        for n in chosen:
            keep(there[n], n)
        return 0
    if args.kept:
        said = {n: run_kept(there[n], n) for n in chosen}
        print("".join(f"== {n}\n{text}" for n, text in said.items() if text), end="")
        broken = [n for n in said if said[n]]
    else:
        broken = [n for n in chosen if run(there[n], n, args.time) != 0]
    print(f"broken: {' '.join(broken)}" if broken else "all targets held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
