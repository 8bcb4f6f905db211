# SPDX-License-Identifier: Apache-2.0
"""An ordinary Debian installation boots from its disk to a login under systemd, and uses the machine."""
import contextlib
import functools
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import threading
import types

import pytest

import conftest
import machine
from debian_guest import Guest, free_port

NAME = "some.host.test"
ADDRESS = "192.0.2.77"  # of nobody: RFC 5737

# What Debian's kernel and services say at warning level on any machine.
HARMLESS = (r"CONFIG_IMA_DISABLE_HTABLE is disabled", r"hrtimer: interrupt took")


@pytest.fixture
def web(tmp_path):
    """A server of one file on the host: (port, its SHA-256)."""
    folder = tmp_path / "web"
    folder.mkdir()
    data = random.Random(1).randbytes(3_000_000)
    (folder / "file").write_bytes(data)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, hashlib.sha256(data).hexdigest()
        server.shutdown()
        thread.join()


def answer(query):
    """To a DNS query (RFC 1035, 4.1): NAME has one address of type A, and nothing else is known."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12:at + 5]
    known = ".".join(labels) == NAME
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(ADDRESS)
    has = known and question[-4:-2] == b"\0\1"
    return query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, has, 0, 0) + question + (record if has else b"")


@pytest.fixture
def resolver(tmp_path):
    """A name server on the host and the prefix of a command that makes the host's resolver of it: as root, in a mount
    namespace of its own. Without root there is no prefix, and nothing is known of what the host resolves."""
    if os.geteuid() or not shutil.which("unshare"):
        yield None
        return
    conf = tmp_path / "resolv.conf"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.77.53", 53))
        conf.write_text("nameserver 127.0.77.53\n")

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    query, peer = server.recvfrom(2000)
                    if not query:
                        return
                    server.sendto(answer(query), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield ["unshare", "--mount", "sh", "-c", f'mount --bind "{conf}" /etc/resolv.conf && exec "$@"', "sh"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.77.53", 53))
        thread.join()


@pytest.fixture
def disk(debian, tmp_path):
    """disk(kind): a disk of one test's own with the installation on it."""
    def make(kind):
        path = tmp_path / f"disk.{kind}"
        if kind == "raw":
            subprocess.run(["cp", "--sparse=always", debian.disk, path], check=True)
            path.chmod(0o600)
        else:
            if not shutil.which("qemu-img"):
                pytest.skip("qemu-img is not installed: apt-get install qemu-utils")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", debian.disk, path], check=True)
        return path
    return make


def check_disk(path, tmp_path):
    """The image has no error, and neither has the file system on it."""
    raw = path
    if path.suffix == ".qcow2":
        checked = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True)
        assert checked.returncode == 0 and "No errors were found" in checked.stdout, checked.stdout + checked.stderr
        raw = tmp_path / "converted"
        subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    # -n opens read-only; -f looks although the superblock says clean.
    checked = subprocess.run(["/usr/sbin/e2fsck", "-fn", raw], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def check_system(guest, cpus):
    """systemd is content, and the kernel has nothing to complain of."""
    state, _ = guest.run("systemctl is-system-running --wait")
    assert state.strip() == "running", guest.ask("systemctl --failed --no-pager --plain; systemctl list-jobs --no-pager")
    assert "0 loaded units" in guest.ask("systemctl --failed --no-pager")
    assert guest.ask("nproc") == str(cpus)
    warnings = guest.ask("journalctl -b -k -p warning -o cat --no-pager").splitlines()
    if not conftest.PEER:  # QEMU's two processors have clocks and MTRRs of their own
        assert not [line for line in warnings if not any(re.search(h, line) for h in HARMLESS)], warnings


def check_network(guest, web, resolver):
    port, digest = web
    assert re.search(r"inet 10\.0\.2\.\d+/24 .*\bdynamic\b", guest.ask("ip -4 address show scope global"))
    assert re.search(r"default via 10\.0\.2\.2 .*\bproto dhcp\b", guest.ask("ip route"))
    if resolver:
        assert guest.ask(f"getent ahostsv4 {NAME}").startswith(ADDRESS)
        assert guest.run("getent hosts nobody.knows.test")[1] == 2
    assert guest.ask(f"wget -q -O- http://10.0.2.2:{port}/file | sha256sum").split()[0] == digest


def ssh(image, port, command, **options):
    argv = ["ssh", "-p", str(port), "-i", image.key, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", command]
    return subprocess.run(argv, capture_output=True, timeout=60, **options)


def check_ssh(image, port):
    data = random.Random(2).randbytes(1_000_000)
    done = ssh(image, port, "cat >/root/over-ssh; sync; sha256sum </root/over-ssh; cat /root/over-ssh | tail -c 100 | od -An -tx1; exit 7",
               input=data)
    assert done.returncode == 7, done
    lines = done.stdout.decode().split()
    assert lines[0] == hashlib.sha256(data).hexdigest() and bytes.fromhex("".join(lines[2:])) == data[-100:], lines


def check_agent(path):
    """The guest agent answers; who connects early waits until it has started."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        for command, wanted in (("guest-ping", {}), ("guest-get-host-name", {"host-name": "debian"})):
            client.sendall(json.dumps({"execute": command}).encode() + b"\n")
            assert json.loads(client.makefile().readline()) == {"return": wanted}


@pytest.mark.parametrize("kind,cpus", [("raw", 1), ("qcow2", 2), pytest.param("raw", 2, marks=pytest.mark.slow),
                                       pytest.param("qcow2", 1, marks=pytest.mark.slow)])
def test_debian(argv, debian, disk, web, resolver, tmp_path, kind, cpus):
    path, port, agent, base = disk(kind), free_port(), tmp_path / "agent", debian.disk.stat()
    command = argv(debian.kernel, initrd=debian.initrd, append=f"{machine.CONSOLE} quiet {debian.append}", memory="1G", cpus=cpus,
                   disks=[path], forwards={port: 22}, agent=agent, options=["--reboot"])
    with machine.Machine((resolver or []) + command) as vm:
        guest = Guest(vm, debian)
        guest.login()
        check_system(guest, cpus)
        check_network(guest, web, resolver)
        check_ssh(debian, port)
        check_agent(agent)
        # A reset keeps the process and its devices, and what was written is there.
        boot = guest.ask("cat /proc/sys/kernel/random/boot_id")
        vm.send("reboot\n")
        guest.login()
        assert guest.ask("cat /proc/sys/kernel/random/boot_id") != boot and guest.ask("wc -c </root/over-ssh") == "1000000"
        check_system(guest, cpus)
        check_network(guest, web, resolver)
        guest.power_off()
    check_disk(path, tmp_path)
    if kind == "qcow2":
        assert debian.disk.stat().st_mtime_ns == base.st_mtime_ns


@pytest.mark.plures
@pytest.mark.slow
def test_guide(plures, tmp_path):
    """The commands of docs/guide/debian.md do what it says."""
    install, boot = re.findall(r"(?s)```sh\n(.*?)```", (conftest.TOP / "docs/guide/debian.md").read_text())[:2]
    home, port = tmp_path / "home", free_port()
    (home / ".ssh").mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh/id_ed25519"], check=True)
    env = {**os.environ, "HOME": str(home)}
    made = subprocess.run(["sh", "-e", "-c", install], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stderr[-3000:]
    image = types.SimpleNamespace(password=None, key=home / ".ssh/id_ed25519")
    env["PATH"] = f"{plures.parent}:{env['PATH']}"
    with machine.Machine(["sh", "-c", "exec " + boot.replace(":2222:", f":{port}:")], cwd=tmp_path, env=env) as vm:
        guest = Guest(vm, image)
        guest.login()
        check_system(guest, 2)
        assert ssh(image, port, "nproc").stdout == b"2\n"
        guest.power_off()
