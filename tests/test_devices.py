# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel finds the machine's devices on the PCI bus and uses them, with Debian's own drivers."""
import hashlib
import re
import socket
import time

import pytest

import machine
from test_boot import boot, check_dmesg, parts

pytestmark = pytest.mark.plures

PCI = r"""
echo "@pci"; for d in /sys/bus/pci/devices/*; do echo "${d##*/} $(cat $d/vendor) $(cat $d/device) $(cat $d/class)"; done
echo "@virtio"; for d in /sys/bus/virtio/devices/*; do echo "$(cat $d/device) $(cat $d/status) $(basename $(readlink $d/driver))"; done
"""
END = """
echo "@interrupts"; cat /proc/interrupts
echo "@dmesg"; dmesg -r
echo "@end"
"""


def status(pid, field):
    """A number of /proc/PID/status, in MB."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(rf"{field}:\s+(\d+)", f.read())[1]) / 1024


@pytest.mark.parametrize("cpus", [1, 2])
def test_rng(argv, kernel, initramfs, modules, cpus):
    script = PCI + r"""
        echo "@current"; cat /sys/class/misc/hw_random/rng_current
        echo "@random"; for i in 1 2; do dd if=/dev/hwrng bs=1000 count=20 2>/dev/null | md5sum; done
        """ + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtio_rng")), cpus=cpus, options=["--rng"])
    found = parts(vm.output)
    assert "end" in found and vm.code == 0, said
    assert found["pci"] == ["0000:00:00.0 0x1b36 0x0008 0x060000", "0000:00:01.0 0x1af4 0x1044 0x00ff00"]
    assert found["virtio"] == ["0x0004 0x0000000f virtio_rng"]
    assert found["current"] == ["virtio_rng.0"]
    assert len(set(found["random"])) == 2 and all(re.match("[0-9a-f]{32} ", line) for line in found["random"])
    assert any("PCI-MSI" in line and "virtio0" in line for line in found["interrupts"])
    check_dmesg(found)


@pytest.mark.parametrize("append", ["pci=nomsi", "pci=nommconf",
                                    pytest.param("noapic pci=nomsi", marks=pytest.mark.slow),
                                    pytest.param("pci=nocrs", marks=pytest.mark.slow)])
def test_other_ways_through_pci(argv, kernel, initramfs, modules, append):
    """Interrupts by INTA, configuration by ports, and the guest's own idea of where things are."""
    script = "dd if=/dev/hwrng bs=1000 count=20 2>/dev/null | wc -c" + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtio_rng")), append=append, options=["--rng"])
    found = parts(vm.output)
    assert "end" in found and "\n20000\n" in vm.output, said
    if "nomsi" in append:
        line = next(line for line in found["interrupts"] if "virtio0" in line)
        assert "MSI" not in line and 0 < int(line.split()[1]) < 100000, line


def test_reset_with_devices(argv, kernel, initramfs, modules):
    """A machine that resets while its devices are in use has them again."""
    script = "dd if=/dev/hwrng of=/dev/null bs=1000 2>/dev/null & sleep 0.5; dd if=/dev/hwrng bs=1000 count=5 2>/dev/null | wc -c; reboot -f"
    argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_rng")), append=f"{machine.CONSOLE} quiet", cpus=2,
                options=["--reboot", "--rng", "--balloon", "0"])
    with machine.Machine(argv) as vm:
        for _ in range(3):
            assert vm.read_until(r"(?s)\A(.*\n5000\n){3}" if _ == 2 else r"\n5000\n", timeout=120), vm.output + vm.errors


def test_balloon_inflates(argv, kernel, initramfs, modules):
    script = PCI + r"""
        for i in $(seq 100); do free=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo); [ $free -lt 250 ] && break; sleep 0.1; done
        echo "@total"; awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo
        echo "@free"; awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo""" + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtio_balloon")), options=["--balloon", "256M,deflate-on-oom=off,stats=1"])
    found = parts(vm.output)
    assert "end" in found and vm.code == 0, said
    assert found["virtio"] == ["0x0005 0x0000000f virtio_balloon"]
    assert int(found["total"][0]) < 250, said
    check_dmesg(found)


def test_free_pages_leave_the_host(argv, kernel, initramfs, modules):
    """What a guest used and freed leaves the process, without anyone asking."""
    script = r"""
        mkdir /tmp/big; mount -t tmpfs -o size=400M tmpfs /tmp/big
        dd if=/dev/zero bs=1M count=320 2>/dev/null | tr '\0' x >/tmp/big/file; ls -l /tmp/big/file
        echo "@full"; sleep 1; umount /tmp/big; echo "@freed"; sleep 30"""
    argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_balloon")), append=f"{machine.CONSOLE} quiet",
                options=["--balloon", "0"])
    with machine.Machine(argv) as vm:
        assert vm.read_until("@full\n", timeout=120), vm.output + vm.errors
        full = status(vm.pid, "RssShmem")
        assert full > 320, full
        assert vm.read_until("@freed\n", timeout=60), vm.output + vm.errors
        deadline = time.monotonic() + 25
        while status(vm.pid, "RssShmem") > full - 320 * 0.9 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert status(vm.pid, "RssShmem") < full - 320 * 0.9


def connect(path, deadline=10):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(deadline)
    client.connect(str(path))
    return client


@pytest.mark.parametrize("cpus", [1, 2])
def test_console_ports(argv, kernel, initramfs, modules, tmp_path, cpus):
    """Channels carry bytes both ways, as many as one likes, and survive a client's leaving."""
    script = r"""
        # Ports come and have their names when the device has told of them.
        for i in $(seq 100); do grep -qs guest_agent /sys/class/virtio-ports/*/name && [ -e /dev/hvc0 ] && break; sleep 0.1; done
        for p in /sys/class/virtio-ports/*; do n=$(cat $p/name); [ -n "$n" ] && ln -s /dev/${p##*/} "/tmp/$n"; done
        echo "@ports"; cat /sys/class/virtio-ports/*/name; ls /dev/hvc0
        echo "@ready"
        # The guest agent's part: an answer to each line.
        exec 3<>/tmp/org.qemu.guest_agent.0
        # Without a client there is nothing to read, and no waiting for it either.
        line() { while ! read -r line <&3 || [ -z "$line" ]; do sleep 0.1; done; }
        for i in 1 2; do line; echo "answer $i to $line" >&3; done
        echo "@bulk"; line
        head -c 2000000 <&3 | md5sum
        dd if=/dev/zero bs=1000 count=2000 2>/dev/null | tr '\0' y >&3
        echo from the console >/dev/hvc0""" + END
    agent, console = tmp_path / "agent", tmp_path / "console"
    argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_console")), append=f"{machine.CONSOLE} quiet", cpus=cpus,
                options=["--console-port", f"{console},console", "--guest-agent", str(agent)])
    with machine.Machine(argv) as vm:
        assert vm.read_until("@ready\n", timeout=60), vm.output + vm.errors
        assert {"org.qemu.guest_agent.0", "/dev/hvc0"} <= set(parts(vm.output)["ports"])
        with connect(console) as listener:
            for i in (1, 2):  # by a new client each time
                with connect(agent) as client:
                    client.sendall(f"line {i}\n".encode())
                    assert client.makefile().readline() == f"answer {i} to line {i}\n"
            assert vm.read_until("@bulk\n", timeout=60), vm.output + vm.errors
            with connect(agent, 60) as client:
                client.sendall(b"bulk\n" + b"x" * 2000000)
                got = b""
                while len(got) < 2000000:
                    got += client.recv(65536)
                assert got == b"y" * 2000000
            assert listener.recv(100).startswith(b"from the console")
        assert vm.wait(60) == 0
        assert hashlib.md5(b"x" * 2000000).hexdigest() in vm.output
        check_dmesg(parts(vm.output))
    assert not agent.exists() and not console.exists()


@pytest.mark.parametrize("options,says", [
    (["--balloon", "lots"], "not a size"),
    (["--balloon", "1G,color=red"], "'color' is not among what can be set: size, deflate-on-oom, reporting, stats"),
    (["--console-port", "name=x"], "a port needs a socket"),
    (["--console-port", "/nowhere/at/all"], "can't listen at /nowhere/at/all: No such file or directory"),
    (["--guest-agent", "/etc/passwd"], "there is a file that is no socket"),
    (["--balloon", "0"] * 32, "room for 31 devices"),
])
def test_bad_options(argv, kernel, options, says):
    vm = machine.run(argv(kernel(), options=options), timeout=20)
    assert vm.code in (1, 2) and says in vm.errors, vm.errors
