# SPDX-License-Identifier: Apache-2.0
"""All devices in one machine, in use when it resets, and in use again afterwards."""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

import machine
from test_boot import check_dmesg, parts
from vhost_peer import Peer

pytestmark = pytest.mark.plures

MODULES = "virtio_pci", "virtio_rng", "virtio_balloon", "virtio_console", "virtio_blk", "virtio_net", "virtiofs", "vmw_vsock_virtio_transport"

# Each device does something that only works when it works; then they all work at once until the reset. The first is the machine's,
# with everything under way; the second a kernel's that reboots and lets go of its devices one by one, so each loop ends when its
# own fails. The cards are down by then: Debian's kernel may hang when it sends while it shuts a card down (docs/design/virtio.md).
SCRIPT = r"""
mkdir -p /tmp/s /tmp/d; mount -t virtiofs host /tmp/s
n=$(cat /tmp/s/count 2>/dev/null || echo 0); echo $((n+1)) >/tmp/s/count
echo "@use $n"
for i in 1 2 3; do head -c 10000 /dev/hwrng | wc -c; done
[ "$(head -c 1000000 /dev/vda | md5sum)" = "$(head -c 1000000 /tmp/s/disk | md5sum)" ] && echo disk
dd if=/tmp/s/disk of=/dev/vdb bs=64k count=16 conv=fsync 2>/dev/null; [ "$(head -c 1000000 /dev/vdb | md5sum)" = "$(head -c 1000000 /tmp/s/disk | md5sum)" ] && echo vhost disk
ip link set eth0 up; udhcpc -i eth0 -n -q -s /etc/udhcpc >/dev/null 2>&1 && echo net
ip link set eth1 up; ip addr add 10.0.0.2/24 dev eth1; ping -q -c 3 -i 0.05 10.0.0.1 | grep -c ' 3 packets received'
echo hello | vsock connect 5
for i in $(seq 100); do grep -qs test /sys/class/virtio-ports/*/name && break; sleep 0.1; done
for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = test ] && echo port >/dev/${p##*/}; done
awk '/^MemTotal/ { print ($2 < 460000) ? "balloon" : "whole" }' /proc/meminfo
echo "@dmesg"; dmesg -r; echo "@used"
[ $n = 2 ] && exit
(while cat /dev/hwrng; do :; done) >/dev/null & (while cat /dev/vda; do :; done) >/dev/null & (while cat /dev/vdb; do :; done) >/dev/null &
(while find / -xdev >/tmp/s/list && cat /tmp/s/list; do :; done) >/dev/null & ping -i 0.01 10.0.0.1 >/dev/null & (while echo x; do :; done) | vsock connect 6 &
(while head -c 100000 /dev/zero >/dev/vport*p1; do :; done) &
sleep 1
[ $n = 0 ] && echo b >/proc/sysrq-trigger
ip link set eth0 down; ip link set eth1 down; reboot -f
"""
DHCP = '#!/bin/sh\n[ "$1" = bound ] && ip addr add "$ip/24" dev "$interface"\nexit 0\n'


def serve(path, handle):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)

    def loop():
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=handle, args=(client,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
    return listener


def drain(client, answer=b""):
    with contextlib.suppress(OSError), client:
        while client.recv(65536):
            if answer:
                client.sendall(answer)
                return


def listen(path, heard, vm):
    """A client of a console port, and another when that is turned away: until the machine ends."""
    while vm.process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            while data := s.recv(65536):
                heard.append(data)
        time.sleep(0.05)


@pytest.mark.skipif(not os.path.exists("/usr/lib/qemu/virtiofsd") or not shutil.which("qemu-storage-daemon"), reason="qemu-system-common is not installed")
@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_reset_with_everything(argv, kernel, initramfs, modules, tool, tmp_path, cpus):
    shared, disk, other = tmp_path / "shared", tmp_path / "disk.img", tmp_path / "other.img"
    shared.mkdir()
    disk.write_bytes(os.urandom(8 << 20))
    other.write_bytes(bytes(8 << 20))
    (shared / "disk").write_bytes(disk.read_bytes())
    script = tmp_path / "udhcpc"
    script.write_text(DHCP)
    script.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(serve(tmp_path / "v_5", lambda c: drain(c, b"vsock\n"))))
        stack.enter_context(contextlib.closing(serve(tmp_path / "v_6", drain)))
        peer = Peer(tmp_path / "net")
        stack.callback(peer.close)
        daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={other}", "--export",
                                   f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={tmp_path / 'blk'},writable=on"])
        stack.callback(daemon.wait)
        stack.callback(daemon.kill)
        deadline = time.monotonic() + 60
        while not (tmp_path / "blk").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        vm = stack.enter_context(machine.Machine(argv(
            kernel(), initrd=initramfs(SCRIPT, {**modules(*MODULES), **tool("vsock"), "etc/udhcpc": script}),
            append=f"{machine.CONSOLE} quiet", cpus=cpus,
            options=["--reboot", "--rng", "--balloon", "64M,deflate-on-oom=off,stats=1", "--console-port", f"{tmp_path / 'port'},name=test",
                     "--disk", str(disk), "--vhost-user", f"blk,socket={tmp_path / 'blk'}", "--net", "user", "--vhost-user", f"net,socket={tmp_path / 'net'}",
                     "--share", f"{shared}:host", "--vsock", f"cid=9,path={tmp_path / 'v'}"])))
        heard = []
        threading.Thread(target=listen, args=(tmp_path / "port", heard, vm), daemon=True).start()
        assert vm.wait(240) == 0
        said = vm.output + vm.errors
        for turn in range(3):
            output = re.search(rf"(?s)@use {turn}\n(.*?)@used\n", vm.output)
            assert output, said
            found = parts(f"@use\n{output[1]}")
            assert found["use"] == ["10000"] * 3 + ["disk", "vhost disk", "net", "1", "vsock", "balloon"], said
            check_dmesg(found)
        assert len(re.findall(rb"^port\r?$", b"".join(heard), re.M)) == 3
        assert not vm.errors and other.read_bytes()[:1 << 20] == disk.read_bytes()[:1 << 20]
