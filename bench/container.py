#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long it takes to run /bin/true in a container, plures-oci beside crun and runc, and `plures container run` beside others of its kind.

The same bundle, what `runc spec` writes; the runtimes take turns, so that what the host does meanwhile falls on all. Where both versions
of cgroups are mounted, crun refuses to work, so everything runs in a mount namespace without the v2 one and systemd's. Also: peak
memory of a run, and the smallest memory limit under which the container starts."""
import argparse
import ctypes
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "bench"), str(TOP / "scripts"), str(TOP / "tests")]
import boot  # noqa: E402
import containers  # noqa: E402

CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
SPEC_CAPS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench container", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="also write docs/measurements/container.json")
    return parser.parse_args()


def leave_hybrid():
    """A mount namespace where crun works too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        sys.exit(f"bench container: needs root: {os.strerror(ctypes.get_errno())}")
    if os.path.isdir("/sys/fs/cgroup/unified"):
        for name in (b"unified", b"systemd"):
            libc.umount2(b"/sys/fs/cgroup/" + name, MNT_DETACH)


def runtimes(folder):
    found = {"plures": [str(containers.PROGRAM), "--root", f"{folder}/plures"]}
    for name in ("crun", "runc"):
        path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
        if path:
            found[name] = [path, "--root", f"{folder}/{name}"]
    return found


def bundle(folder, **changes):
    """What `runc spec` writes, with /bin/true and no terminal."""
    c = containers.config("/bin/true", process__env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"], **changes)
    c["root"]["path"] = str(folder / "rootfs")  # runc takes no link
    for name in ("ambient", "bounding", "effective", "permitted"):
        c["process"]["capabilities"][name] = SPEC_CAPS
    c["linux"]["maskedPaths"] = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                                 "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]
    c["linux"]["readonlyPaths"] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    path = pathlib.Path(tempfile.mkdtemp(dir=folder))
    (path / "config.json").write_text(json.dumps(c))
    return path


def once(command, where, number):
    start = time.perf_counter()
    r = subprocess.run([*command, "run", f"plures-bench-{number}"], cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return seconds, r


def peak(command, where):
    """Kilobytes. Measured from busybox, since a child's peak begins with what its parent had at the fork; it takes the kernel's kilobytes
    for pages."""
    r = subprocess.run(["busybox", "time", "-v", *command, "run", "plures-bench-peak"], cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", r.stderr)[1]) * 1024 // os.sysconf("SC_PAGE_SIZE")


def smallest_limit(command, folder):
    """The smallest memory limit, in kilobytes, that works; to 16."""
    low, high = 0, 16384
    while high - low > 16:
        limit = (low + high) // 2
        _, r = once(command, bundle(folder, linux__resources={"memory": {"limit": limit * 1024}}), "limit")
        subprocess.run([*command, "delete", "--force", "plures-bench-limit"], capture_output=True)
        low, high = (low, limit) if r.returncode == 0 else (limit, high)
    return high


def alone(folder):
    """Commands that run one command in a root folder, without an engine. They do not do the same: `plures container run` has an overlay, limits, a filter and
    an init; systemd-nspawn has the first three, bwrap and unshare have none."""
    rootfs = folder / "rootfs"
    (rootfs / "usr").mkdir(exist_ok=True)  # systemd-nspawn looks whether it is a system
    (rootfs / "etc/os-release").touch()
    plures = [str(containers.PROGRAM.parent / "plures"), "container", "run", "--root", f"{folder}/boxes"]
    found = {
        "plures": [*plures, str(rootfs), "--"],
        "bwrap": ["bwrap", "--unshare-all", "--bind", str(rootfs), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent"],
        "systemd-nspawn": ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--volatile=overlay", "--directory", str(rootfs)],
        "unshare": ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--cgroup", f"--root={rootfs}", "--mount-proc"],
    }
    return {name: [*command, "/bin/true"] for name, command in found.items() if name == "plures" or shutil.which(name)}


def measure_alone(args, folder):
    commands = alone(folder)
    times = {name: [] for name in commands}
    for i in range(args.runs + 2):
        for name, command in list(commands.items()):
            start = time.perf_counter()
            r = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if r.returncode:
                if name == "plures":
                    sys.exit(f"bench container: plures container run failed ({r.returncode}): {r.stderr.strip()}")
                print(f"bench container: {name} does not work here: {r.stderr.strip()[-200:]}", file=sys.stderr)
                del commands[name], times[name]
            elif i >= 2:
                times[name].append(seconds * 1000)
    return {name: {"median_ms": round(statistics.median(t), 3), "fastest_ms": round(min(t), 3), "mean_ms": round(statistics.mean(t), 3),
                   "ratio": round(statistics.median(p / o for p, o in zip(times["plures"], t)), 3)} for name, t in times.items()}


def measure(args, folder):
    where, commands = bundle(folder), runtimes(folder)
    times = {name: [] for name in commands}
    for i in range(args.runs + 2):
        for name, command in commands.items():
            seconds, r = once(command, where, i)
            if r.returncode:
                sys.exit(f"bench container: {name} failed ({r.returncode}): {r.stderr.strip()}")
            if i >= 2:
                times[name].append(seconds * 1000)
    rows = {}
    for name, command in commands.items():
        rows[name] = {"median_ms": round(statistics.median(times[name]), 3), "fastest_ms": round(min(times[name]), 3),
                      "mean_ms": round(statistics.mean(times[name]), 3), "peak_kb": min(peak(command, where) for _ in range(5)),
                      "smallest_limit_kb": smallest_limit(command, folder)}
        # Of pairs of neighbours, since the host is never the same for long.
        rows[name]["ratio"] = round(statistics.median(p / t for p, t in zip(times["plures"], times[name])), 3)
    return rows


def main():
    args = arguments()
    reason = containers.usable()
    if reason:
        sys.exit(f"bench container: {reason}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="plures-bench-"))
    folder.chmod(0o755)
    try:
        containers.make_rootfs(folder / "rootfs")
        (folder / "rootfs/bin/true").unlink()
        shutil.copy(shutil.which("busybox"), folder / "rootfs/bin/true")
        single = measure_alone(args, folder)
        leave_hybrid()
        rows = measure(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {"measured": datetime.date.today().isoformat(), "host": boot.host(), "runs": args.runs, "rows": rows, "alone": single,
              "versions": {n: boot.version([n, "--version"]) for n in rows if n != "plures"}}
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{'':8} {'median':>9} {'fastest':>9} {'plures is':>10} {'peak':>9} {'smallest --memory':>18}")
        for name, row in rows.items():
            print(f"{name:8} {row['median_ms']:6.2f} ms {row['fastest_ms']:6.2f} ms {row['ratio']:9.2f}x {row['peak_kb']:6} kB {row['smallest_limit_kb']:15} kB")
        print(f"\n{'one command in a root folder':28} {'median':>9} {'fastest':>9} {'plures is':>10}")
        for name, row in single.items():
            print(f"{'plures container run' if name == 'plures' else name:28} {row['median_ms']:6.2f} ms {row['fastest_ms']:6.2f} ms {row['ratio']:9.2f}x")
    if args.save:
        (boot.SAVED / "container.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
