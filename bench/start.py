#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a machine costs before its guest runs: milliseconds from exec to the guest's first instruction, CPU time and page
faults until then, and resident memory beyond the guest's, Plures beside QEMU's microvm machine.

The guest is a few instructions that write to a serial port, so that its first byte is the moment; then it halts. Where KVM
runs guest kernel mode on the CPU both use it. Elsewhere QEMU takes TCG, and Plures is measured on soft and, with KVM all the
same (it only emulates), on kvm: the guest is so short that this does not show.

The last rows are what no monitor can avoid: an empty program, and one that does nothing but the calls that KVM needs
(bench/kvm_floor.c)."""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import machine  # noqa: E402

MEMORY_MB = 128
MEMORY = f"{MEMORY_MB}M"
COLUMNS = ("ms", "cpu_ms", "faults", "rss_kb", "own_kb")


def guest():
    """An ELF file with a PVH note, which both enter in 32-bit mode: out 0x3f8, '!'; then hlt for ever."""
    code = bytes.fromhex("66baf803" "b021" "ee" "fa" "f4" "ebfd")
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
    head, phdr = 52, 32
    at = head + 2 * phdr
    elf = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0x100000, head, 0, 0, head, phdr, 2, 0, 0, 0)
    body = code.ljust(16, b"\x90")
    elf += struct.pack("<8I", 1, at, 0x100000, 0x100000, len(body), len(body), 7, 16)
    elf += struct.pack("<8I", 4, at + len(body), 0x100010, 0x100010, len(note), len(note), 4, 4)
    return elf + body + note


def resident(pid):
    """Kilobytes of a process' pages that are not guest memory, and how many of these are its own (the rest are of files that others
    may share). Guest memory is a memfd in Plures and a mapping of its size in QEMU, where this guest touches next to none of it."""
    with open(f"/proc/{pid}/smaps") as f:
        mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", f.read(), flags=re.M)[1:]
    total = own = 0
    for text in mappings:
        kb = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
        if "memfd:plures-ram" in text or kb["Size"] == MEMORY_MB * 1024:
            continue
        # The translator's code is mapped twice: Pss counts its pages once.
        code = "memfd:plures-code" in text
        total += kb["Pss"] if code else kb["Rss"]
        own += kb["Pss"] if code else kb["Anonymous"]
    return total, own


def faults(pid):
    """Page faults that needed no disk, of all threads (proc(5), minflt)."""
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[7])


def cpu_ms(pid):
    """User and system time of all threads, from the scheduler's own nanoseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e6


def once(argv):
    """COLUMNS of one run."""
    started = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        byte = os.read(process.stdout.fileno(), 1)
        took = (time.monotonic() - started) * 1000
        if byte != b"!":
            sys.exit(f"bench start: no byte from {' '.join(map(str, argv))}\n{process.stderr.read().decode()}")
        return took, cpu_ms(process.pid), faults(process.pid), *resident(process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def compiled(folder, name, source):
    """A static program, which starts with the least."""
    out = pathlib.Path(folder) / name
    subprocess.run(["gcc", "-O2", "-static", "-x", "c", "-", "-o", out], input=source, text=True, check=True)
    return [out]


def kvm_works():
    told = json.loads(subprocess.run([machine.plures_path(), "info", "--json"], check=True, capture_output=True, text=True).stdout)
    detail = next(e for e in told["engines"] if e["name"] == "kvm")
    return detail["works"], "emulates guest kernel mode" in detail["detail"]


def machines(kernel, folder):
    plures = [machine.plures_path(), "run", "--kernel", kernel, "--memory", MEMORY, "--engine"]
    qemu = ["qemu-system-x86_64", "-M", "microvm,x-option-roms=off,isa-serial=on,rtc=off", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", "stdio", "-m", MEMORY, "-kernel", kernel, "-accel"]
    works, emulates = kvm_works()
    found = {}
    if works or emulates:
        found["plures (kvm)"] = plures + ["kvm"] + ([] if works else ["--engine-options", "slow"])
    found["plures (soft)"] = plures + ["soft"]
    found["plures (auto)"] = plures + ["auto"]
    if shutil.which("qemu-system-x86_64"):
        found["qemu microvm (kvm)" if works else "qemu microvm (tcg)"] = qemu + (["kvm", "-cpu", "host"] if works else ["tcg"])
    found["an empty program"] = compiled(folder, "empty", '#include <unistd.h>\nint main(void) { return write(1, "!", 1) != 1 || pause(); }\n')
    if works or emulates:
        found["KVM's calls alone"] = compiled(folder, "kvm_floor", (TOP / "bench" / "kvm_floor.c").read_text())
    return found


def main():
    parser = argparse.ArgumentParser(prog="./dev bench start", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plures-bench-") as folder:
        kernel = pathlib.Path(folder) / "guest"
        kernel.write_bytes(guest())
        tried = machines(kernel, folder)
        runs = {name: [] for name in tried}
        for argv in tried.values():  # the page cache's first time counts for none
            once(argv)
        for _ in range(args.runs):
            for name, argv in tried.items():
                runs[name].append(once(argv))
    result = {name: {key: statistics.median(column) for key, column in zip(COLUMNS, zip(*rows))}
              | {"min_ms": min(row[0] for row in rows)} for name, rows in runs.items()}
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{MEMORY}, 1 vCPU, medians of {args.runs} runs; load {os.getloadavg()[0]:.1f}")
    print(f"{'':22}{'ms to guest':>12}{'fastest':>9}{'CPU ms':>8}{'faults':>8}{'MB resident':>13}{'its own':>9}")
    for name, r in result.items():
        print(f"{name:22}{r['ms']:12.1f}{r['min_ms']:9.1f}{r['cpu_ms']:8.1f}{r['faults']:8.0f}{r['rss_kb'] / 1024:13.1f}{r['own_kb'] / 1024:9.1f}")


if __name__ == "__main__":
    main()
