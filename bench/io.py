#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast disks and the network are: Plures beside QEMU's TCG, the same Debian guest in all, as ratios.

Each machine has the installation on one disk and a file of random bytes as another, which fio reads and writes around the
guest's page cache; iperf3 talks through the user network to a server on the host. All machines are up at the same time and
take turns test by test, so that what the host does meanwhile falls on all; one that waits costs next to nothing. QEMU has a
thread for each disk and cache=writeback, once with aio=threads and once with aio=io_uring: the faster of the two counts,
line by line.

  ./dev bench io --only randread-1 --rounds 9 --base OLD/build/plures      beside another build
"""
import argparse
import contextlib
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

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "scripts"), str(TOP / "bench")]
import boot  # noqa: E402
import debian_image  # noqa: E402
import guest_assets  # noqa: E402
import machine  # noqa: E402
from debian_guest import Guest, free_port  # noqa: E402

FIO = ("fio --name=x --filename=/dev/vdb --ioengine=libaio --direct=1 --time_based --ramp_time=0.5 --randrepeat=0 --norandommap "
       "--output-format=terse --terse-version=3")
# What a line is called, what it does, its unit, and fio's or iperf3's words for it.
DISK = {
    "randread-1": ("random reads of 4k, one at a time", "IOPS", "--rw=randread --bs=4k --iodepth=1"),
    "randread-32": ("random reads of 4k, 32 at a time", "IOPS", "--rw=randread --bs=4k --iodepth=32"),
    "randwrite-1": ("random writes of 4k, one at a time", "IOPS", "--rw=randwrite --bs=4k --iodepth=1"),
    "randwrite-32": ("random writes of 4k, 32 at a time", "IOPS", "--rw=randwrite --bs=4k --iodepth=32"),
    "read-1m": ("reads of 1M in order, 4 at a time", "MB/s", "--rw=read --bs=1M --iodepth=4"),
    "write-1m": ("writes of 1M in order, 4 at a time", "MB/s", "--rw=write --bs=1M --iodepth=4"),
}
NET = {
    "net-out": ("TCP from the guest to the host", "MB/s", ""),
    "net-in": ("TCP from the host to the guest", "MB/s", "-R"),
}
LINES = DISK | NET
# fio's terse format, version 3: the fields' numbers from 1, for reads and for writes.
BANDWIDTH, IOPS, WRITES_LATER = 7, 8, 41
COLUMNS = ("plures", "base", "qemu-threads", "qemu-uring")
AIO = {"qemu-threads": "threads", "qemu-uring": "io_uring"}


class BenchError(Exception):
    """One line that says what went wrong."""


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench io", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="LIST", help=f"only these lines: {', '.join(LINES)}")
    parser.add_argument("--columns", metavar="LIST", help=f"only these: {', '.join(COLUMNS)}")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--time", type=float, default=2, metavar="S", help="seconds for each line and round (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="of each guest (default: %(default)s)")
    parser.add_argument("--format", choices=("raw", "qcow2"), default="raw", help="of the disk that fio uses (default: %(default)s)")
    parser.add_argument("--size", default="256M", metavar="SIZE", help="of that disk (default: %(default)s)")
    parser.add_argument("--best", action="store_true", help="compare the best rounds instead of medians: for a busy host")
    parser.add_argument("--base", metavar="PROGRAM", help="a column more: another build of plures")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="also write docs/measurements/io.json and io.svg")
    args = parser.parse_args()
    args.only = args.only.split(",") if args.only else list(LINES)
    for name in args.only:
        if name not in LINES:
            parser.error(f"no line is called {name}: it is one of {', '.join(LINES)}")
    wanted = args.columns.split(",") if args.columns else [c for c in COLUMNS if c != "base"]
    for name in wanted:
        if name not in COLUMNS:
            parser.error(f"no column is called {name}: it is one of {', '.join(COLUMNS)}")
    args.columns = [c for c in COLUMNS if c in wanted or (c == "base" and args.base)]
    return args


# --- the machines -----------------------------------------------------------------------------------------------------

def make_disks(args, image, folder):
    """A machine's own two disks. fio's has all of its bytes allocated, so that none is allocated in the first round only."""
    own, data = folder / "debian.raw", folder / f"data.{args.format}"
    subprocess.run(["cp", "--sparse=always", image.disk, own], check=True)
    own.chmod(0o600)
    raw = folder / "data.raw"
    size = guest_assets.run(["numfmt", "--from=iec", args.size]).strip()
    with open("/dev/urandom", "rb") as random, open(raw, "wb") as f:
        block = random.read(1 << 20)
        for _ in range(0, int(size), len(block)):
            f.write(block)
    if args.format == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, data], check=True)
        raw.unlink()
    return [own, data]


def command(column, args, image, disks):
    """The command line of a machine."""
    where = {"kernel": image.kernel, "initrd": image.initrd, "append": f"{machine.CONSOLE} quiet {image.append}", "memory": "1G",
             "cpus": args.cpus, "disks": disks, "forwards": {} if set(args.only) & set(NET) else None}
    if column in AIO:
        return machine.qemu(aio=AIO[column], **where)
    argv = machine.plures(**where)
    if column == "base":
        argv[0] = args.base
    return argv


def start(column, args, image, folder, stack):
    """A machine that is up and quiet."""
    (folder / column).mkdir()
    vm = stack.enter_context(machine.Machine(command(column, args, image, make_disks(args, image, folder / column))))
    guest = Guest(vm, image)
    guest.login(timeout=180)
    guest.ask("systemctl is-system-running --wait", timeout=120)
    return guest


# --- one measurement --------------------------------------------------------------------------------------------------

def disk(guest, name, args):
    unit, what = DISK[name][1:]
    line = guest.ask(f"{FIO} {what} --runtime={args.time}", timeout=60 + args.time).splitlines()[-1].split(";")
    if line[0] != "3":
        raise BenchError(f"fio said {line}")
    field = (IOPS if unit == "IOPS" else BANDWIDTH) + (WRITES_LATER if "write" in name else 0)
    return float(line[field - 1]) * (1 if unit == "IOPS" else 1024 / 1e6)


def network(guest, name, args):
    """Bytes as their receiver counts them."""
    port = free_port()
    with subprocess.Popen(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL) as server:
        try:
            said = guest.ask(f"for i in 1 2 3 4 5; do sleep 0.2; iperf3 -c 10.0.2.2 -p {port} -t {args.time} -O 1 -f k {NET[name][2]} && break; done",
                             timeout=60 + args.time)
        finally:
            server.terminate()
    rate = re.search(r"([\d.]+) Kbits/sec +receiver", said)
    if not rate:
        raise BenchError(f"iperf3 said {said}")
    return float(rate[1]) * 1000 / 8 / 1e6


def measure(args):
    if any(c in AIO for c in args.columns) and not shutil.which("qemu-system-x86_64"):
        raise BenchError("qemu-system-x86_64 is not there to compare with: apt-get install qemu-system-x86, or --columns plures")
    image = debian_image.image(*debian_image.BENCH_PACKAGES)
    values = {name: {column: [] for column in args.columns} for name in args.only}
    with tempfile.TemporaryDirectory(dir=guest_assets.CACHE) as tmp, contextlib.ExitStack() as stack:
        guests = {column: start(column, args, image, pathlib.Path(tmp), stack) for column in args.columns}
        for i in range(args.rounds):
            for name in args.only:
                for column in args.columns if i % 2 == 0 else reversed(args.columns):
                    value = (disk if name in DISK else network)(guests[column], name, args)
                    values[name][column].append(value)
                    if sys.stderr.isatty():
                        print(f"\r\033[K{i + 1}/{args.rounds} {name} {column} {value:.0f} {LINES[name][1]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return values


# --- what is said of it -----------------------------------------------------------------------------------------------

def collect(args, values):
    result = {"measured": datetime.date.today().isoformat(), "host": boot.host(), "cpus": args.cpus, "format": args.format, "size": args.size,
              "compared": "best" if args.best else "median", "rounds": args.rounds, "seconds": args.time, "load": os.getloadavg()[0],
              "qemu": boot.version(["qemu-system-x86_64", "--version"]), "lines": {}}
    for name, columns in values.items():
        line = {"what": LINES[name][0], "unit": LINES[name][1], "median": {c: statistics.median(found) for c, found in columns.items()},
                "best": {c: max(found) for c, found in columns.items()}, "all": {c: [round(v, 1) for v in f] for c, f in columns.items()}}
        number = line[result["compared"]]
        peers = [number[c] for c in AIO if c in number]
        if peers and "plures" in number:
            line["ratio"] = number["plures"] / max(peers)
        result["lines"][name] = line
    ratios = [line["ratio"] for line in result["lines"].values() if "ratio" in line]
    if ratios:
        result["ratio"] = statistics.geometric_mean(ratios)
    return result


def table(result, columns):
    print(f"{result['cpus']} vCPU, {result['format']} disk, {result['rounds']} rounds of {result['seconds']:g} s, "
          f"on {result['host']['cpus']} x {result['host']['cpu']}")
    print(f"{result['compared']:14}{'':6}" + "".join(f"{c:>14}" for c in columns) + f"{'ratio':>8}")
    for name, line in result["lines"].items():
        ratio = f"{line['ratio']:8.2f}" if "ratio" in line else ""
        print(f"{name:14}{line['unit']:6}" + "".join(f"{line[result['compared']][c]:14.0f}" for c in columns) + ratio)
    if "ratio" in result:
        print(f"plures does {result['ratio']:.2f} times what qemu does (geometric mean)")


def svg(result):
    """A bar for each line: how many times QEMU's number."""
    rows = [(name, line) for name, line in result["lines"].items() if "ratio" in line]
    scale = 330 / max(2.0, *(line["ratio"] for _, line in rows))
    height = 70 + 30 * len(rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="13">',
           f'<rect width="640" height="{height}" fill="#fff"/>',
           f'<text x="10" y="22" font-weight="bold">Disk and network: plures (soft) as a multiple of qemu (tcg); more is better</text>']
    for i, (_, line) in enumerate(rows):
        y = 38 + 30 * i
        out += [f'<text x="10" y="{y + 15}">{line["what"]}</text>',
                f'<rect x="250" y="{y}" width="{line["ratio"] * scale:.1f}" height="20" fill="#2a7"/>',
                f'<text x="{256 + line["ratio"] * scale:.1f}" y="{y + 15}">{line["ratio"]:.2f}</text>']
    for n, dashes in ((1, "4 3"), (2, "1 3")):
        x = 250 + n * scale
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="32" y2="{height - 32}" stroke="#333" stroke-dasharray="{dashes}"/>')
    out += [f'<text x="10" y="{height - 12}" fill="#555">{result["cpus"]} vCPU, {result["format"]} disk, {result["host"]["cpus"]} x '
            f'{result["host"]["cpu"]}, {result["measured"]}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def main():
    args = arguments()
    try:
        result = collect(args, measure(args))
    except (guest_assets.AssetError, BenchError, AssertionError) as e:
        sys.exit(f"bench io: {e}")
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        table(result, args.columns)
    if args.save:
        boot.SAVED.mkdir(parents=True, exist_ok=True)
        name = "io" if args.format == "raw" else f"io-{args.format}"
        (boot.SAVED / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        (boot.SAVED / f"{name}.svg").write_text(svg(result))
        print(f"saved {boot.SAVED / name}.json and .svg", file=sys.stderr)


if __name__ == "__main__":
    main()
