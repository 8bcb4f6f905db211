#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots each combination of kernel, processors and memory many times in a row, and counts failures.

A boot is right when the guest reaches init, sees its processors, ran work on each, and powers off with status 0 and
without a word of warning from its kernel. Status 1 when one was not."""
import argparse
import datetime
import json
import pathlib
import re
import statistics
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "scripts"), str(TOP / "bench")]
import boot  # noqa: E402
import guest_assets  # noqa: E402
import machine  # noqa: E402

SCRIPT = r"""
echo "nproc $(nproc)"
for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c "$cpu" sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo "worked $i"'; done
dmesg -r | grep -E '^<[0-4]>' | grep -v 'PCI: '
echo finished
"""


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench boots", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each combination (default: %(default)s)")
    parser.add_argument("--kernels", default="cloud,generic", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--cpus", default="1,2", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--memory", default="128M,512M,6G", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--machine", choices=boot.MACHINES, default="plures", help="default: %(default)s")
    parser.add_argument("--save", action="store_true", help="also write docs/measurements/boots.json")
    return parser.parse_args()


def once(make, kernel, initrd, cpus, memory):
    """(Seconds to init, None) or (None, what went wrong)."""
    try:
        vm = machine.run(make(kernel, initrd=initrd, append=f"{machine.CONSOLE} quiet", cpus=cpus, memory=memory), timeout=180)
    except machine.MachineTimeout as e:
        return None, str(e)
    wrong = []
    if vm.code != 0:
        wrong.append(f"exit status {vm.code}")
    if f"nproc {cpus}\n" not in vm.output or vm.output.count("worked 2000\n") != cpus:
        wrong.append("not all processors work")
    if "finished\n" not in vm.output:
        wrong.append("init did not finish")
    wrong += re.findall(r"(?m)^<[0-4]>.*$", vm.output)
    if wrong:
        return None, "; ".join(wrong) + "\n" + vm.output[-2000:] + vm.errors[-2000:]
    return vm.seconds_to(machine.USERSPACE), None


def main():
    args = arguments()
    initrd = guest_assets.initramfs(SCRIPT)
    failures, rows = 0, []
    for name in args.kernels.split(","):
        kernel = guest_assets.kernel(name)
        for cpus in map(int, args.cpus.split(",")):
            for memory in args.memory.split(","):
                times, failed = [], []
                for i in range(args.runs):
                    seconds, problem = once(boot.MACHINES[args.machine], kernel, initrd, cpus, memory)
                    if problem:
                        failed.append(problem)
                        print(f"-- {name}, {cpus} cpus, {memory}, boot {i + 1}: {problem}", flush=True)
                    else:
                        times.append(seconds)
                failures += len(failed)
                median = statistics.median(times) if times else None
                rows.append({"kernel": name, "cpus": cpus, "memory": memory, "boots": args.runs, "failures": len(failed), "median": median,
                             "max": max(times, default=None)})
                shown = f"median {median:.2f} s, slowest {max(times):.2f} s" if times else "none came up"
                print(f"{name:8} {cpus} cpus {memory:>5}: {args.runs} boots, {len(failed)} failures, {shown}", flush=True)
    if args.save:
        boot.SAVED.mkdir(parents=True, exist_ok=True)
        result = {"measured": datetime.date.today().isoformat(), "host": boot.host(), "machine": args.machine, "rows": rows}
        (boot.SAVED / "boots.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
