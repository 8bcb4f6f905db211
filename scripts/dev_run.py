#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev run`: boots Debian's kernel with a busybox shell in a Plures machine.

On a terminal it gives the guest's prompt; elsewhere (a pipe, CI) a short demonstration runs in the guest, which then
powers off. Arguments after `--` go to `plures run` as they are."""
import argparse
import os
import re
import sys

import guest_assets
import machine

DEMONSTRATION = r"""
echo "kernel:   $(uname -sr)"
echo "cpus:     $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
echo "flags:    $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1 | tr ' ' '\n' | \
	grep -xE 'lm|nx|sse2|sse4_2|avx2|bmi2|fma|aes|sha_ni|avx512f|hypervisor' | tr '\n' ' ')"
echo "memory:   $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MB"
echo "clock:    $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "init ran: $(dmesg | sed -n 's/^\[ *\([0-9.]*\)\] Run \/init.*/\1/p') s after the kernel started"
"""


def options():
    parser = argparse.ArgumentParser(prog="./dev run", description="Boots Debian's kernel to a busybox shell in a virtual machine, without /dev/kvm.",
                                     epilog="Ctrl-] leaves the machine; `poweroff` in it or Ctrl-D ends it.")
    parser.add_argument("--kernel", default="cloud", help=f"one of {', '.join(guest_assets.KERNELS)}, or a file (default: %(default)s)")
    parser.add_argument("--memory", default="512M", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="default: %(default)s")
    parser.add_argument("--append", default="", metavar="S", help="more of the kernel's command line")
    parser.add_argument("--demo", action="store_true", help="run the demonstration on a terminal too")
    parser.add_argument("more", nargs="*", metavar="-- ARGUMENT", help="for `plures run` itself, after --")
    return parser.parse_args()


def command(args, initrd, append):
    kernel = guest_assets.kernel(args.kernel) if args.kernel in guest_assets.KERNELS else args.kernel
    return [str(machine.plures_path()), "run", "--kernel", str(kernel), "--initrd", str(initrd), "--memory", args.memory,
            "--cpus", str(args.cpus), "--append", f"{machine.CONSOLE} quiet {append} {args.append}".strip(), *args.more]


def interactive(args):
    """Gives the terminal to the machine; returns only when that fails. The kernel hands words that it doesn't know to
    init as environment, so the guest learns the terminal's type and size."""
    size = os.get_terminal_size()
    term = os.environ.get("TERM", "")
    append = f"ROWS={size.lines} COLS={size.columns}"
    if re.fullmatch(r"[\w.+-]+", term):
        append += f" TERM={term}"
    argv = command(args, guest_assets.initramfs(), append)
    os.execv(argv[0], argv)


def demonstration(args):
    """Shows the console as it comes, adds the time that it took, and passes the exit status on."""
    argv = command(args, guest_assets.initramfs(DEMONSTRATION), "")
    print("$ " + " ".join(f'"{a}"' if " " in a else a for a in argv), flush=True)
    shown = 0
    with machine.Machine(argv) as vm:
        while True:
            match = vm.read_until(rf"(?s)\A.{{{shown}}}[^\n]*\n", timeout=120)
            sys.stdout.write(vm.output[shown:match.end() if match else None])
            sys.stdout.flush()
            if not match:
                break
            shown = match.end()
        code = vm.wait(timeout=60)
        sys.stderr.write(vm.errors)
    seconds = vm.seconds_to(machine.USERSPACE)
    if seconds is not None:
        print(f"user space {seconds:.2f} s after the command, machine gone after {vm.arrived[-1][0]:.2f} s, exit status {code}")
    if code == 0 and seconds is None:
        print("dev run: the guest powered off before its user space ran", file=sys.stderr)
        return 1
    return code if code >= 0 else 128 - code


def main():
    args = options()
    try:
        if not machine.plures_path().exists():
            sys.exit(f"dev run: {machine.plures_path()} is not there: run `./dev build` first")
        if sys.stdin.isatty() and sys.stdout.isatty() and not args.demo:
            interactive(args)
        sys.exit(demonstration(args))
    except (guest_assets.AssetError, machine.MachineTimeout, OSError) as e:
        sys.exit(f"dev run: {e}")


if __name__ == "__main__":
    main()
