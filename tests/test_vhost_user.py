# SPDX-License-Identifier: Apache-2.0
"""Devices whose back end is another process: disks of qemu-storage-daemon's, network cards of a small peer's."""
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

import machine
from test_boot import boot, check_dmesg, parts
from test_devices import END
from vhost_peer import Peer

pytestmark = pytest.mark.plures
needs_qsd = pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="qemu-storage-daemon (qemu-system-common) is not installed")


class StorageDaemon:
    """qemu-storage-daemon with a raw disk."""

    def __init__(self, folder, disk, *, readonly=False, queues=1):
        self.socket = folder / "disk.sock"
        self.socket.unlink(missing_ok=True)
        on = "off" if readonly else "on"
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={disk},discard=unmap,read-only={'on' if readonly else 'off'}", "--export",
             f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={self.socket},writable={on},num-queues={queues}"])
        deadline = time.monotonic() + 10
        while not self.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 20) + bytes(63 << 20))
    return path


@needs_qsd
@pytest.mark.parametrize("cpus,queues", [(1, 1), (2, 2)])
def test_disk(argv, kernel, initramfs, modules, disk, tmp_path, cpus, queues):
    script = r"""
        echo "@size"; cat /sys/block/vda/size; ls /sys/block/vda/mq | wc -l
        echo "@first"; head -c 1048576 /dev/vda | md5sum
        mkdir /tmp/d; mke2fs /dev/vda1 2>/dev/null; dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\0' z >/tmp/z; dd if=/tmp/z of=/dev/vda bs=1M seek=1 conv=fsync 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches; echo "@back"; dd if=/dev/vda bs=1M skip=1 count=40 2>/dev/null | cmp - /tmp/z && echo same""" + END
    with StorageDaemon(tmp_path, disk, queues=queues) as daemon:
        vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtio_blk")), cpus=cpus,
                        options=["--vhost-user", f"blk,socket={daemon.socket},queues={queues}"])
    found = parts(vm.output)
    assert "end" in found and vm.code == 0, said
    assert found["size"] == ["131072", str(queues)] and found["back"] == ["same"], said
    data = disk.read_bytes()
    assert found["first"][0].split()[0] == hashlib.md5(data[:1 << 20]).hexdigest()
    assert data[1 << 20:41 << 20] == b"z" * (40 << 20)
    check_dmesg(found)


@needs_qsd
def test_readonly_disk(argv, kernel, initramfs, modules, disk, tmp_path):
    before = disk.read_bytes()
    script = "echo @ro; cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=4096 count=1 2>/dev/null || echo refused" + END
    with StorageDaemon(tmp_path, disk, readonly=True) as daemon:
        vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtio_blk")), options=["--vhost-user", f"blk,socket={daemon.socket}"])
    assert parts(vm.output)["ro"] == ["1", "refused"], said
    assert disk.read_bytes() == before


@needs_qsd
def test_disk_dies_and_comes_back(argv, kernel, initramfs, modules, disk, tmp_path):
    """Reads fail instead of waiting; the user is told; a driver that starts anew has the disk that is there then."""
    script = r"""
        echo "@ready"; while dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; do :; done; echo "@failed"
        d=$(ls -d /sys/bus/virtio/drivers/virtio_blk/virtio*); d=${d##*/}
        while [ ! -e /sys/block/vda ] || ! dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; do
            echo $d >/sys/bus/virtio/drivers/virtio_blk/unbind; echo $d >/sys/bus/virtio/drivers/virtio_blk/bind; sleep 0.2
        done
        echo "@again"; head -c 1048576 /dev/vda | md5sum"""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(StorageDaemon(tmp_path, disk))
        argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_blk")), append=f"{machine.CONSOLE} quiet",
                    options=["--vhost-user", f"blk,socket={daemon.socket}"])
        vm = stack.enter_context(machine.Machine(argv))
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        time.sleep(0.3)
        daemon.process.kill()
        daemon.process.wait()
        assert vm.read_until("@failed\n"), vm.output + vm.errors
        stack.enter_context(StorageDaemon(tmp_path, disk))
        assert vm.wait(60) == 0
        assert parts(vm.output)["again"][0].split()[0] == hashlib.md5(disk.read_bytes()[:1 << 20]).hexdigest()
        assert f"warning: vhost-user blk at {daemon.socket}: lost the back end: it hung up" in vm.errors


@needs_qsd
def test_disk_reboot(argv, kernel, initramfs, modules, disk, tmp_path):
    """Resets in the middle of reads and writes: nothing of them reaches the next guest's memory, and it has the disk."""
    script = r"""
        n=$(dd if=/dev/vda bs=512 skip=4096 count=1 2>/dev/null | tr -d '\0'); [ -n "$n" ] || n=0; echo "@boot $n"; [ $n = 3 ] && exit
        echo $((n+1)) | dd of=/dev/vda bs=512 seek=4096 conv=sync,fsync,notrunc 2>/dev/null
        for i in 1 2 3; do (while :; do dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null; done) & done
        sleep 0.5; reboot -f"""
    with StorageDaemon(tmp_path, disk) as daemon:
        argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_blk")), append=f"{machine.CONSOLE} quiet", cpus=2,
                    options=["--reboot", "--vhost-user", f"blk,socket={daemon.socket}"])
        with machine.Machine(argv) as vm:
            assert vm.wait(120) == 0
            assert re.findall("@boot (.*)", vm.output) == ["0", "1", "2", "3"] and not vm.errors, vm.output + vm.errors


PING = r"""
ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0
echo "@mac"; cat /sys/class/net/eth0/address
echo "@ping"; ping -q -c 20 -i 0.02 -s 1400 10.0.0.1 | grep received; ping -c 1 -W 1 10.0.0.9 | grep received
"""


@contextlib.contextmanager
def peer_at(path, bad=None):
    peer = Peer(path, bad)
    try:
        yield peer
    finally:
        peer.close()


@pytest.mark.parametrize("cpus", [1, 2])
def test_net(argv, kernel, initramfs, modules, tmp_path, cpus):
    with peer_at(tmp_path / "net") as peer:
        vm, said = boot(argv, kernel(), initramfs(PING + END, modules("virtio_pci", "virtio_net")), cpus=cpus,
                        options=["--vhost-user", f"net,socket={peer.path},mac=52:54:00:01:02:03"])
    found = parts(vm.output)
    assert "end" in found and vm.code == 0, said
    assert found["mac"] == ["52:54:00:01:02:03"]
    assert found["ping"] == ["20 packets transmitted, 20 packets received, 0% packet loss", "1 packets transmitted, 0 packets received, 100% packet loss"], said
    assert peer.packets > 20 and not vm.errors
    check_dmesg(found)


@pytest.mark.parametrize("bad,says", [("leave", "it hung up|Broken pipe"), ("head", "it completed a request that it was not given"), ("noise", "it speaks without being asked")])
def test_bad_net(argv, kernel, initramfs, modules, tmp_path, bad, says):
    """A back end that goes mad takes the card with it and nothing else."""
    with peer_at(tmp_path / "net", bad) as peer:
        vm, said = boot(argv, kernel(), initramfs(PING.replace("-c 20", "-c 2 -W 1") + END, modules("virtio_pci", "virtio_net")),
                        options=["--vhost-user", f"net,socket={peer.path}"])
    assert "end" in parts(vm.output) and vm.code == 0, said
    assert len(re.findall("warning: ", vm.errors)) == 1 and re.search(says, vm.errors), vm.errors


@pytest.mark.parametrize("bad,says", [("mute", "it does not answer"), ("short", "makes no sense")])
def test_bad_beginning(argv, kernel, tmp_path, bad, says):
    with peer_at(tmp_path / "net", bad) as peer:
        vm = machine.run(argv(kernel(), options=["--vhost-user", f"net,socket={peer.path}"]), timeout=20)
    assert vm.code == 1 and f"vhost-user net at {peer.path}: " in vm.errors and says in vm.errors, vm.errors


def test_reset_of_the_driver(argv, kernel, initramfs, modules, tmp_path):
    """One connection, stopped and started again."""
    again = r"""
        d=$(ls -d /sys/bus/virtio/drivers/virtio_net/virtio*); d=${d##*/}
        for i in 1 2 3; do echo $d >/sys/bus/virtio/drivers/virtio_net/unbind; echo $d >/sys/bus/virtio/drivers/virtio_net/bind; done
        """
    with peer_at(tmp_path / "net") as peer:
        vm, said = boot(argv, kernel(), initramfs(PING + again + PING + END, modules("virtio_pci", "virtio_net")), options=["--vhost-user", f"net,socket={peer.path}"])
        assert parts(vm.output)["ping"][0].startswith("20 packets transmitted, 20"), said
        assert peer.connections == 1 and peer.stops >= 4


@pytest.mark.parametrize("options,says", [
    ("", "which device"),
    ("scsi,socket=/x", "use one of blk, fs, net"),
    ("blk", "socket=PATH"),
    ("blk,socket=" + "x" * 200, "too long for a socket"),
    ("fs,socket=/x", "tag=NAME"),
    ("blk,socket=/x,tag=y", "a tag is for fs only"),
    ("blk,socket=/x,mac=52:54:00:00:00:01", "a mac is for net only"),
    ("net,socket=/x,mac=1:2:3", "is not a MAC address"),
    ("net,socket=/x,mac=01:00:00:00:00:01", "is the address of a group"),
    ("blk,socket=/x,queues=0", "queues"),
    ("blk,socket=/nowhere/at/all", "vhost-user blk at /nowhere/at/all: can't connect to /nowhere/at/all: No such file"),
])
def test_bad_options(argv, kernel, options, says):
    vm = machine.run(argv(kernel(), options=["--vhost-user", options]), timeout=20)
    assert vm.code in (1, 2) and says in vm.errors, vm.errors
