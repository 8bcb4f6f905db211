#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a boot takes: from the start of the process to the first line of init, Plures beside QEMU's TCG.

Same kernel, initramfs, memory and command line, one vCPU. The two take turns, so that what the host does meanwhile
falls on both. QEMU gets no devices but the serial port, which makes it faster than its defaults would."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import guest_assets  # noqa: E402
import machine  # noqa: E402

SAVED = TOP / "docs" / "measurements"
MACHINES = {"plures": machine.plures, "qemu": machine.qemu}
LABEL = {"plures": "plures (soft)", "qemu": "qemu (tcg)"}


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench boot", description=__doc__.split("\n\n")[0])
    parser.add_argument("--kernel", choices=guest_assets.KERNELS, default="cloud")
    parser.add_argument("--memory", default="512M", metavar="SIZE")
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--append", default="", metavar="S", help="more of the kernel's command line")
    parser.add_argument("--only", choices=MACHINES, help="no comparison")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="also write docs/measurements/boot.json and boot.svg")
    return parser.parse_args()


def once(name, kernel, initrd, args):
    """Seconds to the first line of init, and to the end of the process."""
    append = f"{machine.CONSOLE} quiet {args.append}".strip()
    vm = machine.run(MACHINES[name](kernel, initrd=initrd, append=append, memory=args.memory), timeout=300)
    seconds = vm.seconds_to(machine.USERSPACE)
    if seconds is None:
        sys.exit(f"bench boot: {name} did not reach init (exit status {vm.code}):\n{vm.output[-2000:]}{vm.errors[-2000:]}")
    return seconds, vm.arrived[-1][0]


def host():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release()}


def version(argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def measure(args):
    names = [args.only] if args.only else list(MACHINES)
    if "qemu" in names and not shutil.which("qemu-system-x86_64"):
        sys.exit("bench boot: qemu-system-x86_64 is not there to compare with: apt-get install qemu-system-x86, or --only plures")
    kernel, initrd = guest_assets.kernel(args.kernel), guest_assets.initramfs(":")
    times = {name: [] for name in names}
    for name in names:  # the page cache's first time counts for none
        once(name, kernel, initrd, args)
    for i in range(args.runs):
        for name in names if i % 2 == 0 else reversed(names):
            times[name].append(once(name, kernel, initrd, args))
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{args.runs} {name} {times[name][-1][0]:.2f} s ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    result = {"measured": datetime.date.today().isoformat(), "host": host(), "kernel": guest_assets.kernel_package(args.kernel),
              "memory": args.memory, "runs": args.runs, "load": os.getloadavg()[0], "machines": {}}
    for name in names:
        first, end = zip(*times[name])
        result["machines"][name] = {"label": LABEL[name], "median": statistics.median(first), "min": min(first), "max": max(first),
                                    "to_end": statistics.median(end), "all": [round(t, 4) for t in first]}
    if "qemu" in names:
        result["machines"]["qemu"]["version"] = version(["qemu-system-x86_64", "--version"])
    if len(names) == 2:
        result["ratio"] = result["machines"]["qemu"]["median"] / result["machines"]["plures"]["median"]
    return result


def table(result):
    print(f"{result['kernel'].split('_')[0]}, {result['memory']}, 1 vCPU, {result['runs']} runs each, on {result['host']['cpus']} x {result['host']['cpu']}")
    print(f"{'seconds to init':18}{'median':>8}{'min':>8}{'max':>8}{'to end':>8}")
    for m in result["machines"].values():
        print(f"{m['label']:18}{m['median']:8.2f}{m['min']:8.2f}{m['max']:8.2f}{m['to_end']:8.2f}")
    if "ratio" in result:
        print(f"plures boots {result['ratio']:.2f} times as fast as qemu")


def svg(result):
    """Bars of the medians, with a line from the fastest to the slowest run."""
    rows = list(result["machines"].values())
    scale = 440 / max(m["max"] for m in rows)
    height = 70 + 40 * len(rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="13">',
           f'<rect width="640" height="{height}" fill="#fff"/>',
           f'<text x="10" y="22" font-weight="bold">Seconds from start to init (median of {result["runs"]}; less is better)</text>']
    for i, m in enumerate(rows):
        y, colour = 40 + 40 * i, "#2a7" if m["label"].startswith("plures") else "#999"
        middle = y + 13
        out += [f'<text x="10" y="{y + 18}">{m["label"]}</text>',
                f'<rect x="120" y="{y}" width="{m["median"] * scale:.1f}" height="26" fill="{colour}"/>',
                f'<line x1="{120 + m["min"] * scale:.1f}" x2="{120 + m["max"] * scale:.1f}" y1="{middle}" y2="{middle}" stroke="#333"/>',
                f'<text x="{130 + m["max"] * scale:.1f}" y="{y + 18}">{m["median"]:.2f}</text>']
    out += [f'<text x="10" y="{height - 12}" fill="#555">{result["kernel"].split("_")[0]}, {result["memory"]}, 1 vCPU, '
            f'{result["host"]["cpus"]} x {result["host"]["cpu"]}, {result["measured"]}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def save(result, name):
    SAVED.mkdir(parents=True, exist_ok=True)
    (SAVED / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (SAVED / f"{name}.svg").write_text(svg(result))
    print(f"saved {SAVED / name}.json and .svg", file=sys.stderr)


def main():
    args = arguments()
    try:
        result = measure(args)
    except guest_assets.AssetError as e:
        sys.exit(f"bench boot: {e}")
    except machine.MachineTimeout as e:
        sys.exit(f"bench boot: {e}")
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        table(result)
    if args.save:
        save(result, "boot" if args.kernel == "cloud" else f"boot-{args.kernel}")


if __name__ == "__main__":
    main()
