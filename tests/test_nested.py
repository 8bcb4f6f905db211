# SPDX-License-Identifier: Apache-2.0
"""The kvm engine on a true KVM, on any host: `./dev test nested`. See scripts/nested.py."""
import re
import shutil

import pytest

import build as guest_build
import guest_assets
import machine
import nested
import netlab
from test_boot import HARMLESS, parts
from test_cpu import seen_in
from test_kvm import LATE
from test_tiny import FAILED, OK

pytestmark = pytest.mark.plures

# The verdict of the probe is test_info_and_tiny_guests' business.
SLOW = "--engine-options kvm:slow"


@pytest.fixture(scope="module")
def l1(plures):
    """l1(script, files): what L1's console said when it ran the script to its end."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("qemu-system-x86_64 is not installed")
    if "-asan" in str(machine.plures_path()):
        pytest.skip("the sanitizers' shadow does not fit into a small L1")

    def run(script, files=None, timeout=600, **options):
        try:
            argv = nested.argv(script, files, **options)
        except guest_assets.AssetError as e:
            pytest.skip(str(e))
        vm = machine.run(argv, timeout=timeout)
        said = vm.output + vm.errors
        assert "@end" in vm.output, said
        return vm.output, said
    return run


@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_info_and_tiny_guests(l1, cpus):
    """auto takes kvm, and every tiny guest finds what the manual says."""
    # Two processors that pass messages to each other would wait for L1's scheduler each time if they had to share one.
    names = [name for name in guest_build.tiny_names() if name != "multiboot" and (cpus > 1 or name != "smp")]
    # The probe measures, and an L1 that is itself kept waiting measures wrong now and then.
    script = "".join(f"echo '@{name}'; for i in 1 2 3 4 5 6 7 8; do {command} >/tmp/said 2>&1 </dev/null; grep -q 'runs guest kernel mode' /tmp/said && break; done;"
                     " cat /tmp/said\n"
                     for name, command in {"info": "plures info", "auto": "plures run -v -m 64M --debug-exit --kernel /l2/hello"}.items())
    for name in names:
        script += (f"echo '@{name}'; plures run --engine kvm {SLOW} -m 64M --cpus {2 if name == 'smp' else 1} --append tcg --debug-exit"
                   f" {'' if name == 'reset' else '--no-reboot'} --kernel /l2/{name} </dev/null 2>&1; echo status $?\n")
    for engine in ("kvm", "soft"):  # QEMU's TCG has no virtual-8086 extensions
        script += f"echo '@level {engine}'; plures run --engine {engine} {SLOW} -m 64M --cpu x86-64-v2,-vme --debug-exit --kernel /l2/features </dev/null 2>&1\n"
    script += "echo '@end'"
    output, said = l1(script, {f"l2/{name}": guest_build.tiny(name) for name in names}, cpus=cpus)
    found = parts(output)
    assert any(re.search(r"kvm .*: works, the CPU runs guest kernel mode, \d+\.\d ns an instruction", line) for line in found["info"]), said
    assert any("auto   the first of them that works: kvm" in line for line in found["info"]), said
    assert any("engine kvm: the CPU runs guest kernel mode" in line for line in found["auto"]), said
    for name in names:
        lines = found[name]
        wrong = [line for line in lines if "FAILED" in line or "unexpected" in line]
        assert {line.removeprefix("FAILED: ") for line in wrong} <= LATE, "\n".join(lines)
        status = {"acpi": 0, "triple": 3}.get(name, FAILED if wrong else OK)
        assert lines[-1] == f"status {status}", "\n".join(lines)
    assert found["hello"][0] == "hello from ring 0, 64 bits"
    assert cpus == 1 or "cpus 2" in found["smp"]
    assert [line for line in found["reset"] if line.startswith("boot")] == ["boot 0", "boot 1", "boot 2", "boot 3"]
    assert "triple fault" in found["triple"][-2]
    assert {"pni", "sse4_2"} <= seen_in("\n".join(found["level kvm"])) == seen_in("\n".join(found["level soft"])), said


# Where engines may differ: XSAVEOPT tracks host addresses; what is paravirtual, with its registers; mitigations of the CPU.
MAY_DIFFER = r"cpuid d 1:|cpuid 40000001 |msr 4b564d0[2-7] |cpuid 7 0:|cpuid 80000008 |cpuid 80000021 |msr (48|49|10a|10b|c001011f) "


def test_what_a_guest_sees(l1):
    """All that a guest can find out is the same on both engines: but for what docs/design/kvm.md says, and without exception in
    a machine that may move."""
    runs = {"soft": "--engine soft", "kvm": "--engine kvm", "movable soft": "--engine soft --move-to kvm,3600000",
            "movable kvm": "--engine kvm --move-to soft,3600000"}
    script = "".join(f"echo '@{name}'; plures run {options} {SLOW} -m 64M --debug-exit --kernel /l2/facts </dev/null 2>&1; echo status $?\n"
                     for name, options in runs.items())
    output, said = l1(script + "echo '@end'", {"l2/facts": guest_build.tiny("facts")})
    found = parts(output)
    for name in runs:
        assert found[name][-1] == f"status {OK}" and len(found[name]) > 200, said
    assert found["movable soft"] == found["movable kvm"]
    same = {name: [line for line in found[name] if not re.match(MAY_DIFFER, line)] for name in ("soft", "kvm")}
    assert same["soft"] == same["kvm"]


# QEMU 7.2's TCG does not tell a hypervisor of XSETBV, so L1's KVM would not know what a guest's XCR0 is.
APPEND = "noxsave nowatchdog"

L2 = netlab.DHCP + r"""
echo "@net"; nc 10.0.2.2 5000 </dev/null | md5sum
echo "@cpus"; nproc
echo "@features"; grep -m1 ^flags /proc/cpuinfo
echo "@random"; dd if=/dev/hwrng bs=1000 count=20 2>/dev/null | wc -c
echo "@disk"; md5sum </dev/vda; dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null; head -c 1048576 /dev/vda | md5sum
echo "@steal"; cut -d' ' -f9 /proc/stat | head -1
echo "@work"; for i in 1 2 3 4; do (i=0; while [ $i -lt 300 ]; do i=$((i + 1)); done; echo done) & done; wait
echo "@interrupts"; cat /proc/interrupts
echo "@dmesg"; dmesg -r
echo "@well"
"""


@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_debian(l1, modules, cpus):
    """Debian's kernel, as packaged, boots, uses what is paravirtual, and powers off."""
    initrd = guest_assets.initramfs(L2, modules("virtio_pci", "virtio_rng", "virtio_blk", "virtio_net"))
    script = ("mkdir /d; mount -t tmpfs tmp /d; dd if=/dev/urandom of=/d/disk bs=1M count=4 2>/dev/null; echo '@before'; md5sum </d/disk\n"
              "ip link set lo up; cp /d/disk /d/served; nc -l -p 5000 -e cat /d/served &\n"
              f"plures run --engine kvm {SLOW} --cpus {cpus} -m 192M --rng --disk /d/disk --net user --kernel /l2/vmlinuz --initrd /l2/initrd"
              f" --append 'console=ttyS0 quiet {APPEND}' </dev/null 2>&1; echo status $?; echo '@after'; head -c 1048576 /d/disk | md5sum; echo '@end'")
    output, said = l1(script, {"l2/initrd": initrd})
    found = parts(output)
    assert "well" in found and "status 0" in found["well"], said
    assert found["cpus"] == [str(cpus)] and found["random"] == ["20000"] and found["work"] == ["done"] * 4, said
    assert found["disk"] == [found["before"][0], found["after"][0]], said
    assert found["lease"] == ["10.0.2.15 10.0.2.2 10.0.2.3"] and found["net"] == found["before"][:1], said
    assert "hypervisor" in found["features"][0].split() and "x2apic" in found["features"][0].split()
    rows = {line.split(":")[0].strip(): line for line in found["interrupts"] if ":" in line}
    assert any("PCI-MSI" in line and "virtio0" in line and any(map(int, line.split()[1:1 + cpus])) for line in found["interrupts"]), said
    assert int(rows["LOC"].split()[1]) > 0
    dmesg = "\n".join(found["dmesg"])
    for says in ["Hypervisor detected: KVM", "kvm-clock: Using msrs 4b564d01 and 4b564d00", "x2apic enabled"] + (
            ["KVM setup pv remote TLB flush", "setup PV IPIs", "setup PV sched yield", "PV spinlocks enabled"] if cpus > 1 else []):
        assert says in dmesg, f"{says}\n{said}"
    warnings = [line for line in found["dmesg"] if re.match(r"<[0-4]>", line) and not any(re.search(p, line) for p in HARMLESS + OF_L1)]
    assert not warnings, "\n".join(warnings)


# What a guest's kernel says because of the CPU that TCG emulates, or because everything is slow.
OF_L1 = [
    r"Speculative Return Stack Overflow", r"RETBleed", r"AMD Zen1 FPDSS", r"Unstable clock detected", r"trace_clock=local",
    r"If you want to keep using the local clock", r"on the kernel command line", r"hrtimer: interrupt took",
]


@pytest.mark.slow
def test_debian_moves_between_engines(l1, modules):
    """Two processors, from kvm to soft and back, twice, with true KVM semantics: they idle, write to a disk and fetch over the
    user network."""
    ticks = 8
    initrd = guest_assets.initramfs(netlab.DHCP + f"""
        (nc 10.0.2.2 5000 </dev/null | md5sum >/tmp/sum) &
        for i in $(seq {ticks}); do dd if=/dev/urandom of=/dev/vda bs=64k seek=$i count=1 conv=fsync,notrunc 2>/dev/null; sleep 1; echo "tick $i"; done
        wait; echo "@net"; cat /tmp/sum; echo 3 >/proc/sys/vm/drop_caches; echo "@disk"; md5sum </dev/vda; echo "@dmesg"; dmesg -r; echo "@well" """,
        modules("virtio_pci", "virtio_blk", "virtio_net"))
    script = ("mkdir /d; mount -t tmpfs tmp /d; dd if=/dev/urandom of=/d/disk bs=1M count=1 2>/dev/null; dd if=/dev/urandom of=/d/served bs=1M count=8 2>/dev/null\n"
              "echo '@before'; md5sum </d/served; ip link set lo up; nc -l -p 5000 -e cat /d/served &\n"
              f"plures run --engine kvm {SLOW} -v --cpus 2 -m 160M --disk /d/disk --net user --kernel /l2/vmlinuz --initrd /l2/initrd"
              " --move-to soft,15000 --move-to kvm,8000 --move-to soft,3000 --move-to kvm,8000"
              f" --append 'console=ttyS0 quiet {APPEND}' </dev/null 2>&1; echo status $?; echo '@after'; md5sum </d/disk; echo '@end'")
    output, said = l1(script, {"l2/initrd": initrd})
    found = parts(output)
    assert [int(n) for n in re.findall(r"^tick (\d+)$", output, re.M)] == list(range(1, ticks + 1)), said
    assert "status 0" in output, said
    assert found["net"] == found["before"][:1] and found["disk"] == found["after"], said
    assert len(re.findall("engine soft: binary translation", output)) >= 1, said
    assert not re.search("BUG|Oops|stall|Call Trace|nobody cared", output), said


def test_tiny_guests_move_between_engines(l1):
    script = ""
    for name in MOVED:
        for first, second in (("soft", "kvm"), ("kvm", "soft")):
            # A frequency that is measured in an L1 which is kept waiting is wrong now and then, and so are the clocks made of it.
            script += (f"echo '@{name} {first}'; for i in 1 2 3; do"
                       f" plures run --engine {first} {SLOW} --move-to {second},40 --move-to {first},40 --move-to {second},40"
                       f" -m 64M --append tcg --debug-exit --kernel /l2/{name} >/tmp/said 2>&1 </dev/null; echo status $? >>/tmp/said;"
                       " grep -q FAILED /tmp/said || break; done; cat /tmp/said\n")
    output, said = l1(script + "echo '@end'", {f"l2/{name}": guest_build.tiny(name) for name in MOVED})
    found = parts(output)
    for name in MOVED:
        for first in ("soft", "kvm"):
            lines = found[f"{name} {first}"]
            assert lines[-1] == f"status {OK}" and not [line for line in lines if "FAILED" in line], "\n".join(lines)


MOVED = ["clock", "smc", "interrupts", "strings"]
