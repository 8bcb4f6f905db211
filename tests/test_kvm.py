# SPDX-License-Identifier: Apache-2.0
"""The kvm engine: what it says of hosts that it can't work on, and tiny guests that run on both engines.

A /dev/kvm that only emulates guest kernel mode does for tiny guests. What needs true KVM semantics is in
tests/test_nested.py."""
import hashlib
import json
import os
import random
import re
import subprocess
import tempfile

import pytest

import machine
import netlab
from test_boot import check_dmesg, parts
from test_host import AS_NOBODY

pytestmark = pytest.mark.plures


def run(plures, *args, before=(), env=None):
    return subprocess.run([*before, str(plures), *map(str, args)], capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL,
                          env={**os.environ, **(env or {})})


def only_line(result, status=1):
    assert result.returncode == status, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("plures: "), result.stderr
    return lines[0]


def in_dev(script):
    """Runs what follows with a /dev of its own, made by the script."""
    if os.geteuid():
        pytest.skip("only root can take /dev away")
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


@pytest.fixture
def start(tiny):
    return ["run", "--engine", "kvm", "--kernel", tiny("hello"), "--memory", "64M", "--debug-exit"]


def test_no_device(plures, start):
    line = only_line(run(plures, *start, before=in_dev("mount -t tmpfs none /dev")))
    assert "there is no /dev/kvm" in line and "kvm_intel or kvm_amd" in line


def test_no_permission_says_which_group(plures, start):
    with tempfile.TemporaryDirectory(prefix="plures-test-") as folder:
        os.chmod(folder, 0o755)
        subprocess.run(["cp", str(plures), start[4], folder], check=True)
        start[4] = f"{folder}/hello"
        for mode, says in ((0o660, "for the group daemon: `usermod -aG daemon USER`"), (0o600, "its owner must give it to one")):
            script = f"mount -t tmpfs none /dev && mknod /dev/kvm c 10 232 && chgrp daemon /dev/kvm && chmod {mode:o} /dev/kvm"
            line = only_line(run(f"{folder}/plures", *start, before=[*in_dev(script), *AS_NOBODY]))
            assert "no permission to open /dev/kvm" in line and says in line


def test_no_kvm_behind_the_device(plures, start):
    line = only_line(run(plures, *start, before=in_dev("mount -t tmpfs none /dev && mknod /dev/kvm c 10 231")))
    assert "nothing behind it" in line and "kvm_intel or kvm_amd" in line


# Answers for KVM what a test wants to hear; all other calls go through.
SHIM = r"""
#define _GNU_SOURCE
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	va_start(args, request);
	unsigned long arg = va_arg(args, unsigned long);
	va_end(args);
	if (request == KVM_GET_API_VERSION && getenv("SHIM_API"))
		return atoi(getenv("SHIM_API"));
	if (request == KVM_CHECK_EXTENSION && getenv("SHIM_CAP") && arg == (unsigned long)atoi(getenv("SHIM_CAP")))
		return atoi(getenv("SHIM_VALUE"));
	return syscall(SYS_ioctl, fd, request, arg);
}
"""
CAP_MAX_VCPUS, CAP_MSR_FILTER = 66, 189


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm can't be opened here")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c"], check=True)
    if "-asan" in str(machine.plures_path()):
        pytest.skip("a library that is loaded before the sanitizer's")
    return lambda **env: {"LD_PRELOAD": str(folder / "shim.so"), **{k: str(v) for k, v in env.items()}}


def test_another_version_of_the_interface(plures, start, shim):
    line = only_line(run(plures, *start, env=shim(SHIM_API=11)))
    assert "KVM has version 11 of its interface" in line and "version 12" in line


def test_an_old_kernel(plures, start, shim):
    line = only_line(run(plures, *start, env=shim(SHIM_CAP=CAP_MSR_FILTER, SHIM_VALUE=0)))
    assert "lacks an MSR filter" in line and "Linux 5.10" in line


def test_more_cpus_than_kvm_allows(plures, start, shim):
    line = only_line(run(plures, *start, "--engine-options", "slow", "--cpus", "3", env=shim(SHIM_CAP=CAP_MAX_VCPUS, SHIM_VALUE=2)))
    assert "KVM allows 2 CPUs: use --cpus 2 or less" in line


def test_auto_says_what_it_chose_and_why(plures, tiny):
    told = json.loads(run(plures, "info", "--json").stdout)
    works = [e["name"] for e in told["engines"] if e["works"]]
    assert told["auto"] == works[0]
    assert f"auto   the first of them that works: {works[0]}" in run(plures, "info").stdout
    result = run(plures, "run", "-v", "--kernel", tiny("hello"), "--memory", "64M", "--debug-exit")
    assert result.returncode == 33, result.stderr
    assert f"engine {works[0]}\n" in result.stderr
    assert ("not kvm: " in result.stderr) == (works[0] != "kvm")


def test_auto_without_kvm_is_soft(plures, tiny):
    result = run(plures, "run", "-v", "--kernel", tiny("hello"), "--memory", "64M", "--debug-exit", before=in_dev("mount -t tmpfs none /dev"))
    assert result.returncode == 33 and "engine soft: not kvm: there is no /dev/kvm" in result.stderr


@pytest.fixture(scope="module")
def kvm_engine(plures):
    """The options that make the kvm engine run here, or a skip."""
    told = json.loads(run(plures, "info", "--json").stdout)
    engine = next(e for e in told["engines"] if e["name"] == "kvm")
    if engine["works"]:
        return ["--engine", "kvm"]
    if "emulates guest kernel mode" not in engine["detail"]:
        pytest.skip(f"kvm: {engine['detail']}")
    return ["--engine", "kvm", "--engine-options", "slow"]


def test_an_emulating_host_is_refused_unless_asked_for(plures, start, kvm_engine):
    if "slow" not in kvm_engine:
        pytest.skip("this host runs guest kernel mode on the CPU")
    line = only_line(run(plures, *start))
    assert re.search(r"emulates guest kernel mode, \d+\.\d ns an instruction", line) and "--engine-options slow" in line
    assert run(plures, *start, "--engine-options", "slow").returncode == 33


@pytest.mark.parametrize("options,says", [("fast", "unknown option 'fast' of the kvm engine"), ("slow,halt-poll=x", "halt-poll")])
def test_bad_engine_options(plures, start, kvm_engine, options, says):
    assert says in only_line(run(plures, *start, "--engine-options", f"slow,{options}"))


def test_device_is_not_held_by_soft(plures, kernel):
    """A machine on soft has no descriptor of KVM's, auto's probe included."""
    argv = [plures, "run", "--engine", "auto", "--kernel", kernel(), "--append", machine.CONSOLE, "--memory", "128M", "-v"]
    with machine.Machine(argv) as vm:
        assert vm.read_until("Linux version"), vm.errors  # without a root it stays at its panic
        links = [os.readlink(f"/proc/{vm.pid}/fd/{n}") for n in os.listdir(f"/proc/{vm.pid}/fd")]
        if "engine soft" in vm.errors:
            assert not [name for name in links if "kvm" in name], links
        else:
            assert [name for name in links if "kvm" in name], links


# --- the state of a machine, from one engine to the other ---------------------------------------------------------

def moved(plures, tiny, guest, first, moves, *options):
    args = ["run", "--engine", first, "--kernel", tiny(guest), "--memory", "64M", "--debug-exit", "--engine-options", "kvm:slow", *options]
    for engine, ms in moves:
        args += ["--move-to", f"{engine},{ms}"]
    return run(plures, *args)


GUESTS = ["clock", "smc", "interrupts", "strings", "timer"]
# What a KVM that emulates guest kernel mode is known to get wrong.
EMULATOR = {"released by CR8", "STI; NOP; NOP lets it in", "and has written what came before", "the higher vector first, each once",
            "a handler with interrupts on", "a higher one interrupts a handler, a lower one waits", "x2APIC: SELF IPI",
            "x2APIC: an IPI by one write"}


# What a guest finds where it gets the CPU late: a busy host is no fault.
LATE = {"as fast as it was asked", "TSC against the 8254, twice"}


@pytest.mark.parametrize("guest", GUESTS)
def test_stopped_anywhere_and_continued(plures, tiny, guest):
    """A guest that is stopped at random and goes on in a new machine finds nothing."""
    moves = [("soft", random.Random(f"{guest} {i}").randrange(30)) for i in range(8)]
    result = moved(plures, tiny, guest, "soft", moves)
    failed = set(re.findall("FAILED: (.*)", result.stdout))
    assert failed <= LATE and result.returncode == (35 if failed else 33), f"{moves}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("options", [[], ["--net", "user"]], ids=["anew", "in place"])
@pytest.mark.parametrize("first", ["soft", "kvm"])
@pytest.mark.parametrize("guest", GUESTS)
def test_from_one_engine_to_the_other(plures, tiny, kvm_engine, guest, first, options):
    """In a new machine, and, where a device keeps it, in the same one."""
    other = {"soft": "kvm", "kvm": "soft"}
    moves, engine = [], first
    for i in range(6):
        engine = other[engine]
        moves.append((engine, random.Random(f"{guest} {first} {i}").randrange(30)))
    result = moved(plures, tiny, guest, first, moves, *options)
    failed = set(re.findall("FAILED: (.*)", result.stdout))
    assert not failed - LATE - (EMULATOR if "slow" in kvm_engine else set()), f"{moves}\n{result.stdout}{result.stderr}"
    assert result.returncode == (35 if failed else 33), result.stderr


def test_what_a_guest_sees(plures, tiny, kvm_engine):
    """The same on both engines of a machine that may move. A KVM that emulates lets CPUID through, and what hangs on it."""
    def facts(first, second):
        result = run(plures, "run", "--engine", first, "--move-to", f"{second},3600000", "--engine-options", "kvm:slow", "--kernel", tiny("facts"),
                     "--memory", "64M", "--debug-exit", *(["--append", "tcg"] if "slow" in kvm_engine else []))
        assert result.returncode == 33, result.stdout + result.stderr
        return [line for line in result.stdout.splitlines() if "slow" not in kvm_engine or not re.match("cpuid|msr c0000103", line)]

    here = facts("soft", "kvm")
    assert len(here) > 100 and here == facts("kvm", "soft")


def test_debian_moves_while_it_idles(plures, kernel, initramfs):
    """To new machines of the same engine: its clock goes on, its timers fire, its processors talk to each other."""
    script = """
        echo "@start"; for i in 1 2 3 4; do sleep 0.5; (sleep 0.1; echo "other $i") & wait; echo "tick $i"; done
        echo "@uptime"; cat /proc/uptime; echo "@dmesg"; dmesg -r; echo "@end" """
    argv = machine.plures(kernel(), initrd=initramfs(script), append=f"{machine.CONSOLE} quiet", cpus=2, memory="128M",
                          options=["-v", *[f"--move-to=soft,{ms}" for ms in (1500, 300, 470, 90, 600)]])
    vm = machine.run(argv, timeout=120)
    said = vm.output + vm.errors
    found = parts(vm.output)
    assert vm.code == 0 and "end" in found, said
    assert [line for line in found["start"] if line] == [f"{word} {i}" for i in (1, 2, 3, 4) for word in ("other", "tick")], said
    assert vm.errors.count("engine soft:") == 6, vm.errors
    check_dmesg(found)


def test_debian_moves_with_its_devices(plures, kernel, initramfs, modules, tmp_path):
    """A disk under writes with fsync and a TCP connection on the user network: the devices stay, the CPUs move."""
    data = netlab.bulk(8 << 20)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    with netlab.Server(data) as download:
        script = netlab.DHCP + f"""
            (for i in 1 2 3; do nc 10.0.2.2 {download.port} </dev/null | md5sum; done) >/tmp/sums &
            i=0; while [ $i -lt 128 ] || [ $(cut -d. -f1 /proc/uptime) -lt 5 ]; do
                dd if=/dev/urandom of=/dev/vda bs=64k seek=$((i % 128)) count=1 conv=fsync,notrunc 2>/dev/null; i=$((i + 1)); done
            wait; echo "@net"; cat /tmp/sums; echo 3 >/proc/sys/vm/drop_caches
            echo "@disk"; md5sum </dev/vda; echo "@dmesg"; dmesg -r; echo "@end" """
        moves = [2000] + [random.Random(i).randrange(20, 400) for i in range(7)]
        argv = machine.plures(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_blk", "virtio_net")), cpus=2, memory="128M",
                              append=f"{machine.CONSOLE} quiet", disks=[disk],
                              options=["-v", "--net", "user", "--console-port", f"{tmp_path}/port", *[f"--move-to=soft,{ms}" for ms in moves]])
        vm = machine.run(argv, timeout=120)
    said = vm.output + vm.errors
    found = parts(vm.output)
    assert vm.code == 0 and "end" in found, said
    assert vm.errors.count("engine soft:") > 2, said
    assert [line.split()[0] for line in found["net"]] == [hashlib.md5(data).hexdigest()] * 3, said
    assert found["disk"][0].split()[0] == hashlib.md5(disk.read_bytes()).hexdigest(), said
    check_dmesg(found)


@pytest.mark.parametrize("options,status,says", [
    (["--engine", "auto", "--move-to", "soft"], 2, "--move-to needs an --engine to move from"),
    (["--engine", "soft", "--move-to", "warp"], 2, "no engine is called 'warp'"),
    (["--engine", "soft", "--move-to", "soft,x"], 2, "MILLISECONDS"),
    (["--engine", "soft", "--move-to", "soft,0", "--console-port", "@", "--profile", "@.profile"], 1, "a profile is of one engine"),
])
def test_bad_moves(plures, tiny, tmp_path, options, status, says):
    options = [o.replace("@", str(tmp_path / "socket")) for o in options]
    assert says in only_line(run(plures, "run", "--kernel", tiny("timer"), "--memory", "64M", "--debug-exit", *options), status)
