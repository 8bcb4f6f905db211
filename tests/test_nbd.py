# SPDX-License-Identifier: Apache-2.0
"""Disks on NBD servers: nbdkit and qemu-nbd, started here, which also die, fall silent and come back."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from test_qcow2 import MIB, check, create, same, tool  # noqa: F401

pytestmark = [pytest.mark.plures, pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")]
SIZE = 16 * MIB


class Server:
    """A server that can be killed, stopped and started again."""

    def __init__(self, argv, ready):
        self.argv, self.ready = argv, ready
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not self.ready():
            assert self.process.poll() is None and time.monotonic() < end, self.argv
            time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()


def answers(path):
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        return True
    return False


@pytest.fixture
def nbdkit(tmp_path):
    """nbdkit(argument...): (its address, the server), on a socket."""
    servers = []

    def run(*args):
        path = tmp_path / f"nbd{len(servers)}"
        # nbdkit doesn't take a path that exists, and leaves it when it is killed.
        argv = ["sh", "-c", 'rm -f "$1"; shift; exec "$@"', "sh", path, "nbdkit", "-f", "-U", path, *map(str, args)]
        server = Server(argv, lambda: answers(path))
        servers.append(server)
        return f"nbd+unix:///?socket={path}", server
    yield run
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
        server.kill()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.raw"
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


def test_random_requests(tool, nbdkit, tmp_path, model):  # noqa: F811
    disk = tmp_path / "disk.raw"
    shutil.copy(model, disk)
    where, server = nbdkit("file", disk)
    assert tool("info", where).stdout == f"raw {SIZE} 512\n"
    tool("random", where, 1, 1000, model, 16)
    tool("random", where, 2, 300, model, 1)
    server.kill()
    assert disk.read_bytes() == model.read_bytes()


def test_over_tcp_with_an_export_name(tool, tmp_path, model):  # noqa: F811
    disk = tmp_path / "disk.raw"
    shutil.copy(model, disk)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    argv = ["qemu-nbd", "-t", "-b", "127.0.0.1", "-p", str(port), "-x", "disk", "-f", "raw", "--discard=unmap", str(disk)]
    server = Server(argv, lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    try:
        where = f"nbd://127.0.0.1:{port}/disk"
        tool("random", where, 1, 500, model, 16)
        done = tool("info", f"nbd://127.0.0.1:{port}/other", ok=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "other" in done.stderr
    finally:
        server.process.terminate()
        server.process.wait()
    assert disk.read_bytes() == model.read_bytes()


def test_servers_with_constraints(tool, nbdkit, model):  # noqa: F811
    """Units of 4096, at most 64K at a time, and no ways to discard or to write zeros."""
    where, _ = nbdkit("--filter=blocksize-policy", "--filter=nozero", "memory", SIZE, "blocksize-minimum=4096",
                      "blocksize-maximum=64K", "blocksize-preferred=4096", "blocksize-error-policy=error", "zeromode=none")
    assert tool("info", where).stdout == f"raw {SIZE} 4096\n"
    tool("random", where, 1, 500, model, 8)
    where, _ = nbdkit("--filter=blocksize-policy", "memory", SIZE, "blocksize-minimum=64K", "blocksize-preferred=64K")
    done = tool("info", where, ok=False)
    assert done.returncode == 2 and "65536" in done.stderr


def test_a_server_for_reading_only(tool, nbdkit):  # noqa: F811
    where, _ = nbdkit("-r", "memory", SIZE)
    done = tool("info", where, ok=False)
    assert done.returncode == 2 and "add readonly" in done.stderr
    assert tool("info", f"{where},readonly").stdout == f"raw {SIZE} 512\n"


def test_a_size_of_any_number(tool, nbdkit, tmp_path):  # noqa: F811
    where, _ = nbdkit("data", 'data="hello"*300')
    out = tmp_path / "out"
    assert tool("info", where).stdout == "raw 1536 512\n"
    tool("dump", where, out)
    assert out.read_bytes() == b"hello" * 300 + bytes(36)


def test_errors_of_the_server_are_the_guests(tool, nbdkit):  # noqa: F811
    where, _ = nbdkit("--filter=error", "memory", SIZE, "error-pread=EIO", "error-pread-rate=100%")
    done = tool("patient", f"{where},format=raw", 3)
    assert done.stdout == "Input/output error\n" * 3


def test_a_qcow2_image_on_a_server(tool, tmp_path, nbdkit, model):  # noqa: F811
    image = tmp_path / "a.qcow2"
    create(image, size=SIZE)
    os.truncate(image, 40 * MIB)  # room, since what a server has does not grow
    where, server = nbdkit("file", image)
    assert tool("info", where).stdout == f"qcow2 {SIZE} 512\n"
    tool("random", where, 1, 500, model, 16)
    server.kill()
    check(image)
    same(image, model)


def test_nobody_is_there(tool, tmp_path):  # noqa: F811
    for where in (f"nbd+unix:///?socket={tmp_path}/none", "nbd://127.0.0.1:1/disk", "nbd://"):
        done = tool("info", where, ok=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith(where), done.stderr


def test_it_dies_and_comes_back(tool, nbdkit, tmp_path, model):  # noqa: F811
    """In the middle of requests: every one of them ends well, and the user is told once of each."""
    disk = tmp_path / "disk.raw"
    shutil.copy(model, disk)
    where, server = nbdkit("--filter=delay", "file", disk, "rdelay=2ms", "wdelay=2ms")
    guest = subprocess.Popen([tool.path, "random", where, "1", "3000", model, "8"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        time.sleep(0.4)
        server.kill()
        time.sleep(0.3)
        server.start()
    out, err = guest.communicate(timeout=60)
    assert guest.returncode == 0, err
    told = [line.split(": ", 2)[2] for line in out.splitlines()]
    # On a fast host it may be through before the last of them.
    assert told == (["the connection broke; trying to connect again", "connected again"] * 3)[:len(told)] and len(told) >= 2
    server.kill()
    assert disk.read_bytes() == model.read_bytes()


def test_another_disk_is_not_taken_for_it(tool, nbdkit):  # noqa: F811
    where, server = nbdkit("memory", SIZE)
    guest = subprocess.Popen([tool.path, "patient", f"{where},format=raw", "25"], stdout=subprocess.PIPE, text=True)
    assert guest.stdout.readline() == "read\n"
    server.kill()
    argv = server.argv
    server.argv = [*argv[:-1], str(SIZE * 2)]
    server.start()
    time.sleep(1)
    server.kill()
    server.argv = argv
    server.start()
    out, _ = guest.communicate(timeout=60)
    assert out.count("connected again") == 1 and out.count("read\n") == 24


@pytest.mark.slow
def test_it_stays_away(tool, nbdkit):  # noqa: F811
    """The guest gets errors after a while, and its disk again when the server is back."""
    where, server = nbdkit("memory", SIZE)
    guest = subprocess.Popen([tool.path, "patient", f"{where},format=raw", "60"], stdout=subprocess.PIPE, text=True)
    assert guest.stdout.readline() == "read\n"
    server.kill()
    lines = []
    while "Input/output error\n" not in lines:
        lines.append(guest.stdout.readline())
        assert lines[-1]
    server.start()
    lines += guest.communicate(timeout=120)[0].splitlines(keepends=True)
    assert sum("not there for 30 seconds" in line for line in lines) == 1
    assert sum("connected again" in line for line in lines) == 1
    assert lines[-1] == "read\n"


@pytest.mark.slow
def test_it_falls_silent(tool, nbdkit):  # noqa: F811
    where, server = nbdkit("memory", SIZE)
    guest = subprocess.Popen([tool.path, "patient", f"{where},format=raw", "60"], stdout=subprocess.PIPE, text=True)
    assert guest.stdout.readline() == "read\n"
    server.process.send_signal(signal.SIGSTOP)
    while "does not answer" not in (line := guest.stdout.readline()):
        assert line
    server.process.send_signal(signal.SIGCONT)
    out, _ = guest.communicate(timeout=120)
    assert "connected again" in out and "error" not in out and out.endswith("read\n")


def test_under_a_machine(argv, kernel, initramfs, modules, nbdkit, tmp_path):  # noqa: F811
    """The server dies and comes back while a guest writes; then it stays away, which does not hold up the machine's end."""
    import machine
    script = r"""
        echo "@ready"; read -r line </dev/console
        for i in $(seq 64); do dd if=/dev/zero of=/dev/vda bs=64k count=1 seek=$i oflag=direct 2>/dev/null && echo "@wrote $i"; sleep 0.02; done
        tr '\0' x </dev/zero | dd of=/dev/vda bs=4k count=64 conv=fsync iflag=fullblock 2>/dev/null && echo "@synced"
        read -r line </dev/console; dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct & sleep 0.5; echo "@waits"; sleep 100"""
    disk = tmp_path / "served"
    with open(disk, "wb") as f:
        f.truncate(SIZE)
    address, server = nbdkit("file", disk)
    command = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_blk")), append=f"{machine.CONSOLE} quiet", disks=[address])
    with machine.Machine(command) as vm:
        assert vm.read_until("@ready\n", timeout=60), vm.output + vm.errors
        vm.send("go\n")
        assert vm.read_until("@wrote 5\n", timeout=60), vm.output + vm.errors
        server.kill()
        server.start()
        assert vm.read_until("@synced\n", timeout=60), vm.output + vm.errors
        assert all(f"@wrote {i}\n" in vm.output for i in range(1, 65)), vm.output
        server.kill()
        assert disk.read_bytes()[:256 << 10] == b"x" * (256 << 10)
        vm.send("go\n")
        assert vm.read_until("@waits\n", timeout=60), vm.output + vm.errors
        vm.process.terminate()
        assert vm.wait(60) == 3
        assert "connected again" in vm.errors and "not there for" not in vm.errors and "I/O error" not in vm.output, vm.errors
