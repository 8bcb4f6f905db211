# SPDX-License-Identifier: Apache-2.0
"""plures run --profile: what it says adds up, and finds the code that was running."""
import json
import os
import re
import signal

import pytest
from conftest import machine

pytestmark = pytest.mark.plures

# A loop of the shell's: user code, system calls, processes.
WORK = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; for i in 1 2 3 4 5; do /bin/true | cat; done; echo done"


def boot(kernel, initramfs, cpus=1, options=(), script=WORK):
    vm = machine.run(machine.plures(kernel(), initrd=initramfs(script), append=f"{machine.CONSOLE} quiet", cpus=cpus, options=list(options)), timeout=120)
    return vm, vm.output[-2000:] + vm.errors


@pytest.mark.parametrize("cpus", [1, 2])
def test_json(plures, kernel, initramfs, tmp_path, cpus):
    file = tmp_path / "profile.json"
    vm, said = boot(kernel, initramfs, cpus, ["--profile", file, "--soft-opt", "no-direct"])
    assert vm.code == 0 and "done\n" in vm.output, said
    p = json.loads(file.read_text())
    assert p["cpus"] == cpus
    # The states' times and the helpers' are all of the time.
    helpers = [e for e in p["events"] if e["kind"] == "helper"]
    spent = sum(s["us"] for s in p["states"].values()) + sum(h["us"] for h in helpers)
    assert abs(spent - p["us"]) <= len(p["states"]) + len(helpers)
    assert all(p["states"][s]["count"] and p["states"][s]["us"] for s in ("translated code", "dispatcher", "translation", "memory access misses"))
    by_name = {h["name"]: h for h in helpers}
    assert by_name["syscall"]["count"] > 100 and by_name["out 0x3f8"]["count"] > 10
    kinds = {e["kind"]: e["count"] for e in p["events"]}
    assert {"helper", "TLB flush", "exception", "interrupt"} <= set(kinds)
    assert p["counts"]["dispatched for an exit without link"] > 1000 and p["counts"]["TLB miss: empty entry"] > 100
    # A state's stays are as many as it was left, and none is longer than the longest.
    for name, s in p["states"].items():
        assert s["longest_ns"] / 1000 <= s["us"] + 1 and all(int(ns) / 2 <= s["longest_ns"] + 1 for ns in s["up_to_ns"]), name
        assert sum(s["up_to_ns"].values()) >= s["count"] // 2, name
    # A block's samples are its instructions', but for those late in a long block.
    assert p["blocks"] and sum(b["samples"] for b in p["blocks"]) <= p["in_code"] <= p["samples"]
    assert all(sum(b["at"].values()) <= b["samples"] for b in p["blocks"])
    assert {b["cpl"] for b in p["blocks"]} == {0, 3}


def test_eviction(plures, kernel, initramfs, tmp_path):
    """A small cache is filled again and again, and its pauses are told."""
    file = tmp_path / "profile.json"
    vm, said = boot(kernel, initramfs, 2, ["--profile", file, "--engine-options", "small-cache"])
    assert vm.code == 0 and "done\n" in vm.output, said
    p = json.loads(file.read_text())
    evicting, passing = (p["states"][s] for s in ("evicting translations", "letting go of evicted translations"))
    assert p["evicted"] > 20 and p["evict_cpu_ns"] > 0
    assert evicting["count"] > 1000 and evicting["longest_ns"] > 0
    # Each eviction asked at least the CPU that made room.
    assert passing["count"] >= p["evicted"] // 2


def test_text_and_symbols(plures, kernel, initramfs, tmp_path):
    text, symbols, again = tmp_path / "profile", tmp_path / "symbols", tmp_path / "again.json"
    # What runs directly has no blocks.
    vm, said = boot(kernel, initramfs, options=["--profile", text, "--soft-opt", "no-direct"])
    assert vm.code == 0, said
    report = text.read_text()
    for part in ("Time of 1 vCPUs", "Helpers", "Pauses: ", "Counts", "Blocks by samples"):
        assert part in report
    user = re.findall(r"(?m)^ *\d+\.\d% +\d+  cpl 3  0{8}(\w{8})$", report)
    assert user, report
    # busybox is static and lies where it is linked to.
    at = min(int(a, 16) for a in user) - 16
    symbols.write_text(f"0000000000000000 T nothing\n{at:016x} t here\n{at - 4096:016x} T before\n{at + 0x800000:016x} D data\n")
    vm, said = boot(kernel, initramfs, options=["--profile", again, "--profile-symbols", symbols, "--soft-opt", "no-direct"])
    assert vm.code == 0, said
    named = [b for b in json.loads(again.read_text())["blocks"] if "symbol" in b]
    assert named and all(b["symbol"] == "here" and int(b["rip"], 16) == at + b["offset"] for b in named if int(b["rip"], 16) >= at)


def test_anew(plures, kernel, initramfs, tmp_path):
    """SIGUSR1: what was before does not count."""
    file = tmp_path / "profile.json"
    with machine.Machine(machine.plures(kernel(), initrd=initramfs("echo ready; sleep 1; echo done"), append=f"{machine.CONSOLE} quiet",
                                        options=["--profile", file])) as vm:
        assert vm.read_until("ready\n")
        ready = vm.arrived[-1][0]
        os.kill(vm.pid, signal.SIGUSR1)
        vm.wait()
    assert vm.code == 0, vm.output + vm.errors
    p = json.loads(file.read_text())
    assert p["us"] <= (vm.arrived[-1][0] - ready) * 1e6 + 5e5
    assert p["states"]["outside (halted)"]["us"] > p["us"] / 2


def test_errors(plures, kernel, initramfs, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("no symbols\n")
    for options, says in ((["--profile", "/dev/full"], "can't write the profile to /dev/full"),
                          (["--profile", tmp_path / "no" / "where"], "can't open the profile"),
                          (["--profile", tmp_path / "p", "--profile-symbols", tmp_path / "none"], "can't open the symbols"),
                          (["--profile", tmp_path / "p", "--profile-symbols", empty], "holds no symbols")):
        vm, said = boot(kernel, initramfs, options=options, script="true")
        assert vm.code == 1 and says in vm.errors and vm.errors.count("\n") == 1, said


def test_perf_map(plures, kernel, initramfs):
    """perf's map names translated code by the guest's addresses."""
    with machine.Machine(machine.plures(kernel(), initrd=initramfs("echo here; sleep 100"), append=f"{machine.CONSOLE} quiet",
                                        options=["--engine-options", "perf-map"])) as vm:
        assert vm.read_until("here\n"), vm.output + vm.errors
        path = f"/tmp/perf-{vm.pid}.map"
        vm.kill()
    try:
        with open(path) as f:
            lines = f.read().splitlines()[:-1]  # the last may be half
    finally:
        os.unlink(path)
    found = [re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) guest(-kernel)?:([0-9a-f]+)", line) for line in lines]
    assert all(found) and len(found) > 1000
    assert any(m[3] and m[4].startswith("ffffffff") for m in found) and any(not m[3] for m in found)
    assert all(0 < int(m[1], 16) < 1 << 32 and 0 < int(m[2], 16) < 65536 for m in found)
