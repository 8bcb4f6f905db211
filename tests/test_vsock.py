# SPDX-License-Identifier: Apache-2.0
"""Sockets between the guest and the host, with Debian's driver: both directions, many, large, half-closed, abandoned."""
import contextlib
import hashlib
import os
import re
import socket
import threading
import time

import pytest

import machine
from test_boot import boot, check_dmesg, parts
from test_devices import END

pytestmark = pytest.mark.plures

DRIVERS = "virtio_pci", "vmw_vsock_virtio_transport"
DATA = bytes(range(256)) * 40000 + b"end"


class Server:
    """Listens at a Unix socket and calls serve(connection) for each client, on threads of their own."""

    def __init__(self, path, serve):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1024)
        self.serve, self.failures = serve, []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.one, args=(client,), daemon=True).start()

    def one(self, client):
        with client:
            try:
                self.serve(client)
            except Exception as e:  # of the thread: the test shall see it
                self.failures.append(e)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        assert not self.failures, self.failures


def read_all(s):
    got = bytearray()
    while data := s.recv(65536):
        got += data
    return bytes(got)


def echo(s):
    while data := s.recv(65536):
        s.sendall(data)


def connect(path, port, timeout=30):
    """A connection to a port of the guest, or None when nobody listens there."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(path))  # with a timeout it would not wait for its turn
    s.settimeout(timeout)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        byte = s.recv(1)
        if not byte:
            s.close()
            return None
        line += byte
    assert re.fullmatch(rb"OK \d+\n", line)
    return s


@pytest.fixture
def vsock(argv, kernel, initramfs, modules, tool, tmp_path):
    """vsock(script, ...): a running machine with a vsock at tmp_path / "v"."""
    def start(script, cpus=1, **more):
        line = argv(kernel(), initrd=initramfs(script, {**modules(*DRIVERS), **tool("vsock")}), append=f"{machine.CONSOLE} quiet", cpus=cpus,
                    options=["--vsock", f"cid=7,path={tmp_path / 'v'}", *more.get("options", ())])
        return machine.Machine(line)
    return start


@pytest.mark.parametrize("cpus", [1, 2])
def test_from_the_guest(vsock, tmp_path, cpus):
    """Half-closed: the host answers after it has read to the end. And a port where nobody listens."""
    def digest(s):
        s.sendall(hashlib.md5(read_all(s)).hexdigest().encode() + b"\n")

    script = r"""
        echo "@cid"; vsock cid
        yes 'some line that is sent' | head -c 20000000 >/tmp/data
        echo "@digest"; vsock connect 1234 </tmp/data; md5sum </tmp/data
        echo "@refused"; vsock connect 99 2>&1
        echo "@source"; vsock connect 5 </dev/null | md5sum""" + END
    with Server(tmp_path / "v_1234", digest), Server(tmp_path / "v_5", lambda s: s.sendall(DATA)), vsock(script, cpus) as vm:
        assert vm.wait(60) == 0
    found = parts(vm.output)
    assert found["cid"] == ["7"]
    assert found["digest"][0] == found["digest"][1].split()[0], vm.output
    assert found["refused"] == ["connect: Connection reset by peer"]
    assert found["source"][0].split()[0] == hashlib.md5(DATA).hexdigest()
    check_dmesg(found)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("cpus", [1, 2])
def test_from_the_host(vsock, tmp_path, cpus):
    script = r"""
        vsock serve 1 md5sum & vsock serve 2 cat & vsock serve 3 sh -c 'read x; echo "got $x"; exec sleep 100' & sleep 0.3
        echo "@ready"; sleep 1000"""
    with vsock(script, cpus) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        path = tmp_path / "v"
        assert connect(path, 99) is None
        for _ in range(3):
            with connect(path, 1) as s:
                s.sendall(DATA)
                s.shutdown(socket.SHUT_WR)
                assert read_all(s).split()[0].decode() == hashlib.md5(DATA).hexdigest()
        with connect(path, 2) as s:  # both ways at once
            writer = threading.Thread(target=lambda: (s.sendall(DATA), s.shutdown(socket.SHUT_WR)), daemon=True)
            writer.start()
            assert hashlib.md5(read_all(s)).digest() == hashlib.md5(DATA).digest()
            writer.join()
        with connect(path, 3) as s:
            s.sendall(b"a line\n")
            assert s.recv(100) == b"got a line\n"
        # What a client says right behind its greeting is the guest's.
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(b"CONNECT 2\nearly")
            s.shutdown(socket.SHUT_WR)
            assert re.fullmatch(rb"OK \d+\nearly", read_all(s))


def test_many(vsock, tmp_path):
    """Hundreds at once in both directions."""
    script = "vsock serve 2 cat & sleep 0.3; echo '@ready'; vsock many 10 400; echo '@done'; sleep 1000"
    with Server(tmp_path / "v_10", echo), vsock(script, 2) as vm, contextlib.ExitStack() as stack:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        mine = [stack.enter_context(connect(tmp_path / "v", 2)) for _ in range(100)]
        for i, s in enumerate(mine):
            s.sendall(b"%08d" % i)
        for i, s in enumerate(mine):
            assert s.recv(8, socket.MSG_WAITALL) == b"%08d" % i
        assert vm.read_until("400 connections echo\n@done\n"), vm.output + vm.errors


def test_slow_ends_hold_up_nobody_else(vsock, tmp_path):
    """A client, and a guest's program, that read nothing: others go on, nothing grows, and nothing is lost."""
    script = r"""
        vsock serve 1 sleep 1000 & vsock serve 2 cat & vsock serve 3 sh -c 'yes | head -c 3000000; exec sleep 1000' & sleep 0.3
        echo "@ready"; sleep 1000"""
    with vsock(script) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        with connect(tmp_path / "v", 1, timeout=0.5) as stuck, connect(tmp_path / "v", 3) as slow:
            with pytest.raises(TimeoutError):
                stuck.sendall(bytes(20_000_000))
            time.sleep(0.3)
            with connect(tmp_path / "v", 2) as s:
                s.sendall(b"x" * 1000)
                assert s.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
            got = b""
            while len(got) < 3000000:
                got += slow.recv(65536)
            assert got == b"y\n" * 1500000


def test_ends_that_leave(vsock, tmp_path):
    """Clients that vanish at any point, and a guest's program that does: the other end sees it, and the place is free."""
    script = r"""
        vsock serve 1 sh -c 'cat >/dev/null; echo "@eof"' 2>/dev/null & vsock serve 2 sh -c 'exit' & vsock serve 3 sh -c 'yes >&1' 2>/dev/null & sleep 0.3
        echo "@ready"; sleep 1000"""
    with vsock(script) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        path = tmp_path / "v"
        for _ in range(1500):  # more than there is room for at once
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(path))
                s.sendall(b"CONNECT 2"[:_ % 10])
        for _ in range(20):
            connect(path, 3).close()
            connect(path, 1).close()
            with connect(path, 2) as s:
                assert read_all(s) == b""
        for words in (b"CONNECT 4294967295\n", b"CONNECT\n", b"CONNECT -1\n", b"HELLO\n", b"C" * 100, b"CONNECT 1 2\n"):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(path))
                s.settimeout(60)
                s.sendall(words)
                with contextlib.suppress(ConnectionResetError):
                    assert s.recv(10) == b""
        with connect(path, 1) as s:
            assert s


def test_what_was_sent_last_arrives(vsock, tmp_path):
    """A guest's program ends at once after it has sent what its client has not taken yet."""
    # More than a Unix socket takes at once; timeout ends the program, which would wait for an answer.
    script = "yes | head -c 250000 | timeout 2 vsock connect 1; echo '@gone'; sleep 1000"
    start, got = threading.Event(), []

    def late(s):
        start.wait(30)
        got.append(read_all(s))

    with Server(tmp_path / "v_1", late), vsock(script) as vm:
        assert vm.read_until("@gone\n"), vm.output + vm.errors
        start.set()
        deadline = time.monotonic() + 20
        while not got and time.monotonic() < deadline:
            time.sleep(0.05)
    assert got and got[0] == b"y\n" * 125000


def test_reboot(vsock, tmp_path):
    """Connections end with the guest that had them, and the next one has the sockets."""
    script = "vsock serve 2 cat & sleep 0.3; echo '@ready'; read x </dev/ttyS0; reboot -f"
    with vsock(script, 2, options=["--reboot"]) as vm:
        for turn in range(3):
            assert vm.read_until(r"(?s)\A" + r".*?@ready\n" * (turn + 1)), vm.output + vm.errors
            with connect(tmp_path / "v", 2) as s:
                s.sendall(b"before")
                assert s.recv(6, socket.MSG_WAITALL) == b"before"
                vm.send("go\n")
                with contextlib.suppress(ConnectionResetError):
                    assert s.recv(1) == b""


@pytest.mark.parametrize("options,says", [
    ("cid=7", "cid=3,path=PATH"),
    ("path=/x", "cid=3,path=PATH"),
    ("cid=2,path=/x", "cid"),
    ("cid=4294967295,path=/x", "cid"),
    ("cid=7,path=" + "x" * 100, "too long"),
    ("cid=7,path=/nowhere/at/all", "can't listen at /nowhere/at/all: No such file"),
    ("cid=7,path=/etc/passwd", "there is a file that is no socket"),
])
def test_bad_options(argv, kernel, options, says):
    vm = machine.run(argv(kernel(), options=["--vsock", options]), timeout=20)
    assert vm.code in (1, 2) and says in vm.errors, vm.errors
