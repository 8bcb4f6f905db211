#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast programs run: natively, on Plures and on QEMU's TCG, as ratios.

The same static binaries (bench/programs) everywhere and the same Debian kernel in all guests. Each program does units of
some work until a budget of time is spent and tells the time of one, so a slow machine does fewer of them. In a round each
column runs all of them, natively pinned to one CPU, in guests with one vCPU; columns take turns, so that what the host does
meanwhile falls on all. QEMU runs with -cpu max and with -cpu qemu64, and the faster of the two counts, line by line.

  ./dev bench speed --only sieve,chase --columns plures --against      an optimisation judged in seconds: beside the
                                                                       saved numbers of all other columns
  ./dev bench speed --only sieve,chase --cpu --time 1                  on a host with much else to do
  ./dev bench speed --only chase --base OLD/build/plures               beside another build, taking turns with it
  ./dev bench speed --only chase --profile FILE                        where its time goes (docs/design/profiling.md)
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "scripts"), str(TOP / "bench"), str(TOP / "guests")]
import boot  # noqa: E402
import build as guest_build  # noqa: E402
import debian_image  # noqa: E402
import guest_assets  # noqa: E402
import machine  # noqa: E402
import speed_report  # noqa: E402

GROUPS = ("integer", "vectors", "kernel", "boot", "smp")
PROGRAM_GROUPS = ("integer", "vectors", "kernel")
COLUMNS = ("native", "plures", "base", "kvm", "qemu", "qemu64")
SMP = ("core", "sqlite", "matmul_sse2")
RESULT = re.compile(r"(\w+) (\w+) units (\d+) best (\S+) median (\S+) first (\S+) total (\S+) cpu (\S+) sum (\S+) (\w+)\n")


class BenchError(Exception):
    """One line that says what went wrong."""


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", nargs="+", metavar="NAME", help=f"only these groups: {', '.join(GROUPS)}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these programs, with commas or blanks between")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help=f"only these columns: {', '.join(COLUMNS)}; qemu is both of its CPUs")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5")
    parser.add_argument("--time", type=float, metavar="S", help="seconds for each program and round (default: 0.2; with --profile 2)")
    parser.add_argument("--quick", action="store_true", help="other defaults: 2 rounds with 0.05 s")
    parser.add_argument("--engine-options", metavar="LIST", help="passed on to plures (not to --base)")
    parser.add_argument("--base", metavar="PROGRAM", help="a column more: another build of plures")
    parser.add_argument("--base-options", metavar="LIST", help="engine options of the column base, which then needs no other build")
    parser.add_argument("--against", nargs="?", const=str(boot.SAVED / "speed.json"), metavar="FILE",
                        help="takes columns that are not measured from an earlier --json (docs/measurements/speed.json)")
    parser.add_argument("--profile", metavar="FILE", help="measures nothing: runs the programs on plures and has it write where their time went")
    parser.add_argument("--best", dest="by", action="store_const", const="best", default="median",
                        help="compare the fastest units instead of medians")
    parser.add_argument("--cpu", dest="by", action="store_const", const="cpu",
                        help="compare the CPU time that a unit takes of the host: what is left to compare by on a busy one")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the numbers as JSON (without FILE: instead of the table)")
    parser.add_argument("--save", action="store_true", help="also write docs/measurements/speed.json and speed.svg")
    args = parser.parse_args()
    for name in ("group", "only", "columns"):
        setattr(args, name, [word for words in getattr(args, name) or [] for word in words.split(",") if word])
    for name in args.group:
        if name not in GROUPS:
            parser.error(f"no group is called {name}: it is one of {', '.join(GROUPS)}")
    for name in args.columns:
        if name not in COLUMNS:
            parser.error(f"no column is called {name}: it is one of {', '.join(COLUMNS)}")
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.time = args.time or (0.05 if args.quick else 2 if args.profile else 0.2)
    return args


# --- what runs --------------------------------------------------------------------------------------------------------

def listed(programs):
    """The names of all programs, by group, as they tell them."""
    said = subprocess.run([programs["speed"], "--list"], capture_output=True, text=True, check=True).stdout
    names = {}
    for group, name in re.findall(r"(?m)^(\w+) (\w+)$", said):
        names.setdefault(group, []).append(name)
    return names


def chosen(args, programs):
    """Names to run by group; groups that are not programs (boot, smp) have the names of their lines."""
    names = {**listed(programs), "boot": ["boot", *(["login"] if debian_image.present() and shutil.which("qemu-img") else [])], "smp": list(SMP)}
    known = {name for group in names.values() for name in group}
    for name in args.only:
        if name not in known:
            raise BenchError(f"no program is called {name}: it is one of {', '.join(sorted(known))}")
    # A name alone means the program, not also its run on two CPUs.
    groups = args.group or [g for g in GROUPS if g != "smp" or not args.only]
    found = {group: [n for n in names[group] if not args.only or n in args.only] for group in groups}
    return {group: some for group, some in found.items() if some}


def kvm_works():
    said = subprocess.run([machine.plures_path(), "info"], capture_output=True, text=True).stdout
    return re.search(r"(?m)^\s*kvm\s.*: works\b", said) is not None


def columns(args):
    """Those to run now."""
    wanted = args.columns or [c for c in COLUMNS if c not in ("kvm", "base")]
    if "qemu" in wanted and args.columns and "qemu64" not in wanted:
        wanted.append("qemu64")
    if (args.base or args.base_options) and "base" not in wanted:
        wanted.append("base")
    if not args.columns and kvm_works():
        wanted.append("kvm")
    if any(c.startswith("qemu") for c in wanted) and not shutil.which("qemu-system-x86_64"):
        raise BenchError("qemu-system-x86_64 is not there to compare with: apt-get install qemu-system-x86, or --columns native,plures")
    return [c for c in COLUMNS if c in wanted]


def command(column, args, options=(), **where):
    """The command line of a guest; options of Plures's."""
    if column == "qemu":
        return machine.qemu(**where)
    if column == "qemu64":
        return machine.qemu(cpu="qemu64", **where)
    if column == "kvm":
        return machine.plures(engine="kvm", **where)
    extra = args.engine_options if column == "plures" else args.base_options
    argv = machine.plures(options=[*(["--engine-options", extra] if extra else []), *options], **where)
    if column == "base" and args.base:
        argv[0] = args.base
    return argv


def guest(column, args, script, programs, cpus=1, append="", options=()):
    """A machine that is about to run the script. The programs lie in /bench."""
    initrd = guest_assets.initramfs(script, {f"bench/{name}": path for name, path in programs.items()})
    return machine.Machine(command(column, args, options, kernel=guest_assets.kernel(), initrd=initrd,
                                   append=f"{machine.CONSOLE} quiet {append}".strip(), memory="512M", cpus=cpus))


def native(programs, words, pinned):
    """The programs here. Under machine.Machine too: it reads the same lines with the same clock."""
    cpu = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if pinned else []
    return machine.Machine([*cpu, str(programs["speed"]), *words])


# --- one run of some programs -----------------------------------------------------------------------------------------

def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def cpu_time(pid):
    """Seconds of CPU time that a machine took: its process, and those that its guest's programs run in. A guest that waits at our
    gate takes none."""
    children = (child for task in pathlib.Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split())
    # clock_getcpuclockid's, which Python has for itself only
    return sum(time.clock_gettime((~int(p) << 3) | 2) for p in [pid, *children])


def read_results(vm, column, timeout):
    """What the programs print: a list of (name, numbers), and how far the machine's clock went beside ours."""
    found, ours, theirs, at = [], 0, 0, 0
    while True:
        match = vm.read_until(r"(?m)^(start \w+|.* units .*|.* absent|.*DIED.*|.*failed.*|== end)\n", timeout, at)
        if not match:
            raise BenchError(f"{column}: ended early:\n{vm.output[-1500:]}{vm.errors[-1500:]}")
        at, line = match.end(), match[1]
        if line == "== end":
            break
        if line.startswith("start"):
            began, cpu_began = time.monotonic() - vm.started, cpu_time(vm.pid)
            vm.send("\n")
            progress(f"{column}: {line[6:]}")
            continue
        if line.endswith(" absent"):
            continue
        result = RESULT.fullmatch(line + "\n")
        if not result or result[10] != "ok":
            raise BenchError(f"{column}: {line} (not what the program gives elsewhere: the machine is wrong)")
        units, best, median, first, total, cpu = (float(x) for x in result.groups()[2:8])
        if column != "native":
            cpu = cpu_time(vm.pid) - cpu_began
        ours, theirs = ours + vm.arrived[-1][0] - began, theirs + total
        vm.send("\n")
        found.append((result[2], {"units": int(units), "best": best, "median": median, "first": first, "total": total, "cpu": cpu / units}))
    return found, theirs / ours if ours else 1


def run_programs(column, args, programs, words, cpus=1):
    words = ["--time", str(args.time), "--gate", "/dev/stdin" if column == "native" else "/dev/ttyS0", *words]
    script = "\n".join(f"/bench/speed {' '.join(w)}" for w in [words])
    with (native(programs, words, pinned=cpus == 1) if column == "native" else guest(column, args, script, programs, cpus)) as vm:
        found, clock = read_results(vm, column, timeout=60 + args.time * 200)
        vm.wait(60)
    if abs(clock - 1) > 0.1 and cpus == 1:
        print(f"bench speed: {column}'s clock went at {clock:.2f} times ours (a busy host, or a wrong clock)", file=sys.stderr)
    return found


def run_smp(column, args, programs, names):
    """Throughput of two processes on two CPUs beside one."""
    result = {}
    for name in names:
        one = run_programs(column, args, programs, [name], cpus=2)
        two = run_programs(column, args, programs, ["--processes", "2", name], cpus=2)
        speed = [[r["units"] / r["total"] for _, r in found] for found in (one, two)]
        result[name] = sum(speed[1]) / speed[0][0]
    return result


def time_to(column, args, text, **where):
    """From the start of a machine to a piece of its console."""
    with machine.Machine(command(column, args, append=f"{machine.CONSOLE} quiet {where.pop('append', '')}".strip(), memory="512M", **where)) as vm:
        if not vm.read_until(re.escape(text), 300):
            raise BenchError(f"{column} did not come to {text!r}:\n{vm.output[-1500:]}{vm.errors[-1500:]}")
        cpu, seconds = cpu_time(vm.pid), vm.seconds_to(text)
    return {"median": seconds, "best": seconds, "first": seconds, "cpu": cpu}


def run_boot(column, args, name):
    if name == "boot":
        return time_to(column, args, machine.USERSPACE, kernel=guest_assets.kernel(), initrd=guest_assets.initramfs(":"))
    image = debian_image.image()
    with tempfile.TemporaryDirectory(dir=guest_assets.CACHE) as folder:
        disk = f"{folder}/disk.qcow2"
        guest_assets.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk), disk])
        return time_to(column, args, "login:", kernel=image.kernel, initrd=image.initrd, append=image.append, disks=[disk])


# --- all of it --------------------------------------------------------------------------------------------------------

def measure_round(column, args, programs, names, into):
    """Runs a column once and adds what it found to into[group][name][column], a list."""
    def add(group, name, value):
        into.setdefault(group, {}).setdefault(name, {}).setdefault(column, []).append(value)

    words = [n for g in PROGRAM_GROUPS for n in names.get(g, [])]
    if words:
        group_of = {n: g for g, some in names.items() if g not in ("smp", "boot") for n in some}
        for name, numbers in run_programs(column, args, programs, words):
            add(group_of[name], name, numbers)
    for name in names.get("boot", []) if column != "native" else []:
        progress(f"{column}: {name}")
        add("boot", name, run_boot(column, args, name))
    if "smp" in names:
        for name, value in run_smp(column, args, programs, names["smp"]).items():
            add("smp", name, value)


def measure(args):
    programs = guest_build.speed()
    names, order = chosen(args, programs), columns(args)
    before, found, commit = os.getloadavg()[0], {}, boot.version(["git", "-C", str(TOP), "rev-parse", "--short", "HEAD"])
    # Ended by hand, or stuck on a busy host: what whole rounds found is not lost.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for i in range(args.rounds):
        try:
            for column in order if i % 2 == 0 else reversed(order):
                measure_round(column, args, programs, names, found)
        except (KeyboardInterrupt, machine.MachineTimeout) as e:
            if i == 0:
                raise
            args.rounds = i
            print(f"bench speed: ended after {i} rounds: {str(e).splitlines()[0] if str(e) else 'by a signal'}", file=sys.stderr)
            break
    progress("")
    result = {"measured": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
              "commit": commit, "host": boot.host(), "load": [before, os.getloadavg()[0]],
              "kernel": guest_assets.kernel_package(), "rounds": args.rounds, "time": args.time, "engine_options": args.engine_options,
              "qemu": boot.version(["qemu-system-x86_64", "--version"]) if "qemu" in order else None, "lines": {}}
    for group in GROUPS:
        for name, by_column in found.get(group, {}).items():
            result["lines"][f"{group}/{name}"] = {column: summary(values) for column, values in by_column.items()}
    return result


def summary(values):
    """Of the rounds: the median, and the best that any saw."""
    if isinstance(values[0], dict):
        return {"median": statistics.median(v["median"] for v in values), "best": min(v["best"] for v in values),
                "cpu": statistics.median(v["cpu"] for v in values), "first": statistics.median(v["first"] for v in values),
                "rounds": [round(v["median"], 9) for v in values]}
    return {"median": statistics.median(values), "best": max(values), "cpu": statistics.median(values), "rounds": [round(v, 6) for v in values]}


def take_over(result, path):
    """Adds the columns of an earlier result to the lines that were measured; its plures is the column `before`."""
    try:
        old = json.loads(pathlib.Path(path).read_text())["lines"]
    except (OSError, ValueError, KeyError) as e:
        raise BenchError(f"{path} is not what --json writes: {e}") from None
    for name, line in result["lines"].items():
        for column, numbers in old.get(name, {}).items():
            if column in ("plures", "before"):
                line.setdefault("before" if column == "plures" else "ignored", numbers)
            else:
                line.setdefault(column, numbers)
        line.pop("ignored", None)


def profile(args):
    """One run of the chosen programs, from where the first starts."""
    programs = guest_build.speed()
    names = [n for g, some in chosen(args, programs).items() if g in PROGRAM_GROUPS for n in some]
    symbols = subprocess.run(["nm", programs["speed"]], capture_output=True, text=True, check=True).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".symbols") as file:
        file.write(symbols)
        file.flush()
        options = ["--profile", args.profile, "--profile-symbols", file.name]
        words = ["--time", str(args.time), "--gate", "/dev/ttyS0", *names]
        with guest("plures", args, f"/bench/speed {' '.join(words)}", programs, append="nokaslr", options=options) as vm:
            if vm.read_until("start", 120):
                os.kill(vm.pid, signal.SIGUSR1)
            read_results(vm, "plures", timeout=60 + args.time * 200)
            if vm.wait(60):
                raise BenchError(vm.errors)


def main():
    args = arguments()
    try:
        if args.profile:
            return profile(args)
        result = measure(args)
        if args.against:
            take_over(result, args.against)
    except KeyboardInterrupt:
        progress("")
        sys.exit("bench speed: ended by a signal before the first round was done")
    except (BenchError, guest_assets.AssetError, guest_build.BuildError, machine.MachineTimeout) as e:
        progress("")
        sys.exit(f"bench speed: {e}")
    speed_report.rate(result, args.by)
    text = json.dumps(result, indent=1) + "\n"
    if args.json == "-":
        print(text, end="")
    else:
        print(speed_report.table(result))
    if args.json and args.json != "-":
        pathlib.Path(args.json).write_text(text)
    if args.save:
        (boot.SAVED / "speed.json").write_text(text)
        (boot.SAVED / "speed.svg").write_text(speed_report.svg(result))
        print(f"saved {boot.SAVED / 'speed'}.json and .svg", file=sys.stderr)


if __name__ == "__main__":
    main()
