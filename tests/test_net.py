# SPDX-License-Identifier: Apache-2.0
"""Network cards, with Debian's kernel and drivers in the guest and real programs at the other end."""
import contextlib
import hashlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import machine
import netlab
from test_boot import boot, check_dmesg, parts

pytestmark = pytest.mark.plures

END = """
echo "@dmesg"; dmesg -r
echo "@end"
"""


@pytest.fixture(scope="session")
def guest(argv, kernel, initramfs, modules):
    """guest(script, options): runs a script in a machine with a driver for its card; its output by headings."""
    def run(script, options, cpus=1, timeout=120):
        vm, said = boot(argv, kernel(), initramfs(script + END, modules("virtio_pci", "virtio_net")), cpus=cpus, options=options,
                        timeout=timeout)
        found = parts(vm.output)
        assert "end" in found and vm.code == 0, said
        check_dmesg(found)
        return found
    return run


def command(argv, kernel, initramfs, modules, script, options, **more):
    """The command line of such a machine."""
    return argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_net")), append=f"{machine.CONSOLE} quiet",
                options=options, **more)


@pytest.mark.parametrize("cpus", [1, 2])
def test_user(guest, cpus):
    """An address by DHCP, the host as 10.0.2.2, and bulk data both ways, unharmed; IPv6 besides."""
    data = netlab.bulk(20 << 20)
    with netlab.Server(data) as download, netlab.Server(take=True) as upload:
        found = guest(netlab.DHCP + f"""
            echo "@mac"; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu
            echo "@ping"; ping -c 2 10.0.2.2 | grep received
            echo "@down"; nc 10.0.2.2 {download.port} </dev/null | md5sum
            echo "@up"; nc 10.0.2.2 {download.port} </dev/null >/tmp/data; nc 10.0.2.2 {upload.port} </tmp/data; echo done
            echo "@refused"; nc 10.0.2.2 {netlab.free_port()} </dev/null 2>&1
            for i in 1 2 3 4 5 6 7 8 9 10; do ip -6 addr show eth0 | grep -q 'inet6 fec0:' && break; sleep 0.5; done
            echo "@ip6"; ping6 -c 1 fec0::2 | grep received""", ["--net", "user", "--name", "test"], cpus=cpus)
        assert found["lease"] == ["10.0.2.15 10.0.2.2 10.0.2.3"]
        assert re.fullmatch("02(:[0-9a-f]{2}){5}", found["mac"][0]) and found["mac"][1] == "1500"
        assert "2 packets received" in found["ping"][0]
        assert found["down"][0].split()[0] == hashlib.md5(data).hexdigest()
        for _ in range(50):
            if upload.sums:
                break
            time.sleep(0.1)
        assert upload.sums == [hashlib.md5(data).hexdigest()]
        assert "refused" in found["refused"][0]
        assert "1 packets received" in found["ip6"][0]


@pytest.mark.parametrize("driver", ["csum=0", "gso=0", "napi_tx=0"])
def test_user_with_fewer_offloads(argv, kernel, initramfs, modules, driver):
    """What the driver leaves out is done by the card: the bytes are the same."""
    data = netlab.bulk(4 << 20)
    files = modules("virtio_pci", "virtio_net")
    load = f"rmmod virtio_net; insmod /lib/modules/virtio_net.ko {driver}\n"
    with netlab.Server(data) as download, netlab.Server(take=True) as upload:
        script = load + netlab.DHCP + f"""
            nc 10.0.2.2 {download.port} </dev/null >/tmp/data
            echo "@down"; md5sum </tmp/data
            nc 10.0.2.2 {upload.port} </tmp/data""" + END
        vm, said = boot(argv, kernel(), initramfs(script, files), options=["--net", "user"])
        found = parts(vm.output)
        assert "end" in found, said
        assert found["down"][0].split()[0] == hashlib.md5(data).hexdigest()
        for _ in range(50):
            if upload.sums:
                break
            time.sleep(0.1)
        assert upload.sums == [hashlib.md5(data).hexdigest()]


def test_names(argv, kernel, initramfs, modules, tmp_path):
    """The guest's name server is the host's."""
    prefix = netlab.unshared("net", "mount")
    if not prefix:
        pytest.skip("no new network namespace can be made here")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    script = netlab.DHCP + f'echo "@name"; nslookup {netlab.NAME} 10.0.2.3; echo "@none"; nslookup nobody.test 10.0.2.3' + END
    with machine.Machine([*prefix, sys.executable, netlab.__file__, "names", str(resolv), "--",
                          *command(argv, kernel, initramfs, modules, script, ["--net", "user"])]) as vm:
        vm.wait(90)
        found = parts(vm.output)
        assert "end" in found, vm.output + vm.errors
        assert any(netlab.ADDRESS in line for line in found["name"]), found["name"]
        assert any("NXDOMAIN" in line or "can't find" in line for line in found["none"]), found["none"]


def test_forwards(argv, kernel, initramfs, modules):
    """The host's programs reach the guest, by TCP and by UDP, also after the driver was loaded anew and after a reboot."""
    tcp, udp = netlab.free_port(), netlab.free_port(socket.SOCK_DGRAM)
    script = netlab.DHCP + r"""
        echo hello from the guest >/tmp/index.html; httpd -p 80 -h /tmp
        echo "@ready"; read line </dev/console
        echo "@udp"; awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp  # datagrams for a port where nobody listens
        killall httpd; ip link set eth0 down; rmmod virtio_net; insmod /lib/modules/virtio_net.ko; ip link set eth0 up
        udhcpc -i eth0 -s /tmp/dhcp -n -q; httpd -p 80 -h /tmp
        echo "@again"; read line </dev/console
        reboot -f"""

    def fetch():
        with socket.create_connection(("127.0.0.1", tcp), 20) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: s.recv(4096), b""))

    argv = command(argv, kernel, initramfs, modules, script,
                   ["--reboot", "--net", f"user,forward=tcp:{tcp}:80,forward=udp:127.0.0.1:{udp}:7"], cpus=2)
    with machine.Machine(argv) as vm:
        assert vm.read_until("@ready\n", timeout=60), vm.output + vm.errors
        for _ in range(3):
            assert b"hello from the guest" in fetch()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for _ in range(3):
                s.sendto(b"to the guest", ("127.0.0.1", udp))
            time.sleep(1)
        vm.send("\n")
        assert vm.read_until("@again\n", timeout=60), vm.output + vm.errors
        assert parts(vm.output)["udp"][0] == "3"
        assert b"hello from the guest" in fetch()
        vm.send("\n")
        assert vm.read_until(r"(?s)@again\n.*@ready\n", timeout=60), vm.output + vm.errors
        assert b"hello from the guest" in fetch()


@pytest.fixture(scope="session")
def tap_prefix():
    prefix = netlab.unshared("net")
    if not prefix or subprocess.run([*prefix, "ip", "tuntap", "add", "tap9", "mode", "tap"], capture_output=True).returncode:
        pytest.skip("no tap interface can be made in a network namespace here")
    return prefix


TAP_UP = """ip link set lo up; ip link set eth0 up; ip addr add 192.168.77.2/24 dev eth0
for i in 1 2 3 4 5; do ping -c 1 -W 1 192.168.77.1 >/dev/null && break; done
"""


@pytest.mark.parametrize("queues", [1, 2])
def test_tap(argv, kernel, initramfs, modules, tap_prefix, tmp_path, queues):
    """Bulk data both ways with offloads and without, on each CPU's queue, also after the driver was loaded anew."""
    size, sums = 8 << 20, tmp_path / "sums"
    total = hashlib.md5(netlab.bulk(size)).hexdigest()
    script = f"""
        both() {{ for cpu in 0 1; do taskset -c $cpu nc {netlab.TAP} 5000 </dev/null >/tmp/data; md5sum </tmp/data
                 taskset -c $cpu nc {netlab.TAP} 5001 </tmp/data; done; }}
        {TAP_UP}
        echo "@queues"; ls /sys/class/net/eth0/queues
        echo "@first"; both
        ip link set eth0 down; rmmod virtio_net; insmod /lib/modules/virtio_net.ko csum=0 gso=0
        {TAP_UP}
        echo "@second"; both
        echo "@interrupts"; grep -E 'virtio.*(in|out)put' /proc/interrupts""" + END
    prefix = [*tap_prefix, sys.executable, netlab.__file__, "tap", str(queues), str(size), str(sums), "--"]
    with machine.Machine([*prefix, *command(argv, kernel, initramfs, modules, script, ["--net", f"tap,name=tap0,queues={queues}"],
                                            cpus=2)]) as vm:
        vm.wait(120)
        found = parts(vm.output)
        assert "end" in found, vm.output + vm.errors
        assert len(found["queues"][0].split()) == 2 * queues
        assert [line.split()[0] for line in found["first"] + found["second"] if "-" in line] == [total] * 4, vm.output
        assert sums.read_text().split().count(total) == 4
        for line in found["interrupts"]:
            assert sum(map(int, re.findall(r"\s(\d+)(?=\s)", line)[:2])) > 0, line
        check_dmesg(found)


def test_tap_goes(argv, kernel, initramfs, modules, tap_prefix, tmp_path):
    """An interface that is deleted while a machine uses it: the card loses its link, the user is told, nothing else."""
    script = TAP_UP + """echo "@ready"; read line </dev/console
        for i in $(seq 50); do [ "$(cat /sys/class/net/eth0/carrier)" = 0 ] && break; sleep 0.1; done
        echo "@carrier"; cat /sys/class/net/eth0/carrier; ping -c 1 -W 1 192.168.77.1 >/dev/null""" + END
    prefix = [*tap_prefix, sys.executable, netlab.__file__, "tap", "1", "32", str(tmp_path / "sums"), "--"]
    with machine.Machine([*prefix, *command(argv, kernel, initramfs, modules, script, ["--net", "tap"])]) as vm:
        assert vm.read_until("@ready\n", timeout=60), vm.output + vm.errors
        subprocess.run(["nsenter", "-t", str(vm.pid), "-n", "-U", "--preserve-credentials", "ip", "link", "del", "tap0"]
                       if "--user" in tap_prefix else ["nsenter", "-t", str(vm.pid), "-n", "ip", "link", "del", "tap0"], check=True)
        vm.send("\n")
        vm.wait(60)
        assert parts(vm.output)["carrier"] == ["0"], vm.output + vm.errors
        assert "the interface tap0 is gone" in vm.errors and len(vm.errors.splitlines()) == 1, vm.errors


def test_tap_without_rights(argv, kernel, tap_prefix):
    """One line that says what to do: nobody's process, an interface in use, one that is no tap."""
    if os.getuid() == 0:
        vm = machine.run(argv(kernel(), options=["--net", "tap,name=tap7"]), timeout=20, user=65534)
        assert vm.code == 1 and ("/dev/net/tun: have root" in vm.errors or "ip tuntap add tap7 mode tap" in vm.errors), vm.errors
    for setup, name, says in (("ip link add br0 type bridge", "br0", "br0 is no tap interface"),
                              ("ip tuntap add tap3 mode tap", "tap3,queues=2", "no tap interface with several queues"),
                              ("true", "tap%d", "can't be an interface's name"),
                              ("true", "a-name-much-too-long", "can't be an interface's name")):
        vm = machine.run([*tap_prefix, "sh", "-c", f'{setup} && exec "$@"', "sh",
                          *argv(kernel(), options=["--net", f"tap,name={name}"])], timeout=20)
        assert vm.code in (1, 2) and says in vm.errors and len(vm.errors.splitlines()) <= 2, vm.errors


def switched(argv, kernel, initramfs, modules, folder, number, script, *more):
    """The command line of a machine 10.9.0.NUMBER on a private network."""
    script = f"ip link set lo up; ip link set eth0 up; ip addr add 10.9.0.{number}/24 dev eth0\n{script}"
    return command(argv, kernel, initramfs, modules, script,
                   ["--net", f"switch,path={folder}", "--name", f"machine-{number}", *more])


def test_switch(argv, kernel, initramfs, modules, tmp_path):
    """Three machines on a private network reach each other, with bulk data; the first to have come dies, and the others go on."""
    folder, size = tmp_path / "net", 8 << 20
    total = hashlib.md5(bytes(size)).hexdigest()
    wait = "for i in $(seq 60); do ping -c 1 -W 1 10.9.0.{0} >/dev/null && break; done\n"
    serve = f'dd if=/dev/zero bs=64k count={size >> 16} of=/tmp/data 2>/dev/null; httpd -p 80 -h /tmp; echo "@ready"; read line </dev/console'
    # The second has a driver that knows no offload, in either direction.
    plain = "rmmod virtio_net; insmod /lib/modules/virtio_net.ko csum=0 gso=0\nip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0\n"
    fetch = f"""
        {wait.format(1)}{wait.format(2)}
        echo "@one"; wget -q -O - http://10.9.0.1/data | md5sum
        echo "@two"; wget -q -O - http://10.9.0.2/data | md5sum
        echo "@first"; read line </dev/console
        ping -c 1 -W 1 10.9.0.1 >/dev/null || echo "@gone"
        echo "@again"; wget -q -O - http://10.9.0.2/data | md5sum""" + END
    with machine.Machine(switched(argv, kernel, initramfs, modules, folder, 1, serve)) as one:
        assert one.read_until("@ready\n", timeout=60), one.output + one.errors
        with machine.Machine(switched(argv, kernel, initramfs, modules, folder, 2, plain + serve)) as two, \
             machine.Machine(switched(argv, kernel, initramfs, modules, folder, 3, fetch)) as three:
            assert two.read_until("@ready\n", timeout=60), two.output + two.errors
            assert three.read_until("@first\n", timeout=90), three.output + three.errors
            one.kill()  # by SIGKILL: its socket stays behind
            three.send("\n")
            assert three.wait(60) == 0
            found = parts(three.output)
            assert [found[name][0].split()[0] for name in ("one", "two", "again")] == [total] * 3, three.output
            assert "gone" in found
            check_dmesg(found)
            two.kill()
    assert sorted(p.name.split("-")[0] for p in folder.iterdir()) == ["card", "card", "lock"]  # of the two that were killed
    vm = machine.run(switched(argv, kernel, initramfs, modules, folder, 4, "true"), timeout=60)
    assert vm.code == 0 and [p.name for p in folder.iterdir()] == ["lock"], vm.errors


def test_switch_folders(argv, kernel, tmp_path):
    shared, notes = tmp_path / "shared", tmp_path / "notes"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    notes.write_text("mine")
    for where, says in ((shared, "is open to other users"), (notes, "is no folder"), (tmp_path / "x" / "y", "can't make the folder"),
                        ("x" * 120, "too long")):
        vm = machine.run(argv(kernel(), options=["--net", f"switch,path={where}"]), timeout=20)
        assert vm.code == 1 and says in vm.errors and len(vm.errors.splitlines()) == 1, vm.errors
    assert notes.read_text() == "mine"


def test_peer_that_resets(guest):
    """A server that neither reads nor waits, and a guest that doesn't read either: when every buffer between them is full, the
    server resets the connection."""
    def serve(listener):
        client, _ = listener.accept()
        client.setblocking(False)
        for _ in range(40):
            time.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 16))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, netlab.Server(b"still there") as other:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        found = guest(netlab.DHCP + f"""
            echo 'exec cat /dev/zero' >/tmp/push; chmod +x /tmp/push
            timeout 8 nc 10.0.2.2 {listener.getsockname()[1]} -e sh /tmp/push
            echo "@after"; nc 10.0.2.2 {other.port} </dev/null; echo""", ["--net", "user"])
    assert found["after"] == ["still there"]


def test_restricted(guest):
    with netlab.Server(b"secret") as server:
        found = guest(netlab.DHCP + f'echo "@got"; timeout 3 nc 10.0.2.2 {server.port} </dev/null 2>&1; echo', ["--net", "user,restrict"])
    assert found["lease"] and "secret" not in "".join(found["got"])


def test_rate(guest):
    """A limit of bytes a second holds: in so many seconds come so many bytes, and not many fewer."""
    data = netlab.bulk(64 << 20)
    with netlab.Server(data) as server:
        found = guest(netlab.DHCP + f"""
            a=$(cut -d' ' -f1 /proc/uptime); timeout 4 nc 10.0.2.2 {server.port} </dev/null | wc -c >/tmp/n
            b=$(cut -d' ' -f1 /proc/uptime); echo "@bytes"; cat /tmp/n; echo $a $b""", ["--net", "user,bps=2M"])
    size = int(found["bytes"][0])
    start, end = map(float, found["bytes"][1].split())
    assert 0.4 < size / ((end - start) * (2 << 20)) < 1.15, found["bytes"]


def test_several_cards(guest):
    """Cards come in order, each with an address of its own, which comes of the machine's name."""
    script = 'for i in 0 1 2; do echo "@eth$i"; cat /sys/class/net/eth$i/address /sys/class/net/eth$i/mtu; done; ' \
             'ip link set eth2 up; ip link set eth0 up; sleep 1; echo "@carrier"; cat /sys/class/net/eth2/carrier /sys/class/net/eth0/carrier'
    options = ["--net", "user", "--net", "user,mac=02:00:00:00:00:42,mtu=9000", "--net", "none"]
    found = guest(script, options)
    assert found["eth1"] == ["02:00:00:00:00:42", "9000"]
    assert found["eth0"][0] != found["eth2"][0]
    assert found["carrier"] == ["0", "1"]
    named = guest(script, options + ["--name", "other"])
    assert named["eth0"] != found["eth0"] and named["eth1"] == found["eth1"]


def test_port_in_use(argv, kernel):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        for kind, port in (("tcp", taken.getsockname()[1]), ("udp", udp.getsockname()[1])):
            vm = machine.run(argv(kernel(), options=["--net", f"user,forward={kind}:{port}:80"]), timeout=20)
            assert vm.code == 1 and f"can't forward {kind.upper()} port {port} of 127.0.0.1: it is in use" in vm.errors, vm.errors


@pytest.mark.parametrize("options,says", [
    (["--net", "wire"], "can't be connected to 'wire': use one of user"),
    (["--net", "user,forward=80:80"], "'80:80' is no forward: write tcp:"),
    (["--net", "user,forward=tcp:99999:80"], "the host's port"),
    (["--net", "user,forward=tcp:80:0"], "the guest's port"),
    (["--net", "user,forward=tcp:host:80:80"], "'host' is no IPv4 address"),
    (["--net", "user,mac=1234"], "'1234' is no MAC address"),
    (["--net", "user,mac=01:02:03:04:05:06"], "a group's address"),
    (["--net", "user,mtu=9"], "mtu"),
    (["--net", "none"] * 32, "room for 31 devices"),
    (["--net", "user,forward=tcp:192.0.2.1:8080:80"], "can't forward TCP port 8080 of 192.0.2.1: Cannot assign"),
])
def test_bad_options(argv, kernel, options, says):
    vm = machine.run(argv(kernel(), options=options), timeout=20)
    assert vm.code in (1, 2) and says in vm.errors, vm.errors
    assert len(vm.errors.splitlines()) <= 2
