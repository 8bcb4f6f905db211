# SPDX-License-Identifier: Apache-2.0
"""A guest's memory goes back to the host and returns, as it is asked while it runs: `plures balloon`, and the socket behind it."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import machine
from test_devices import status

pytestmark = pytest.mark.plures


@pytest.fixture
def runtime():
    """An environment with a runtime directory of its own, whose path is short enough for a socket in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="plures-test-", dir="/tmp"))
    yield {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    left = [p for p in (folder / "plures").glob("*")] if (folder / "plures").exists() else []
    shutil.rmtree(folder)
    assert not left


def balloon(runtime, *args):
    return subprocess.run([machine.plures_path(), "balloon", *map(str, args)], env=runtime, capture_output=True, text=True, timeout=20)


def ask(runtime, *args):
    r = balloon(runtime, *args, "--json")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


@pytest.fixture
def guest(argv, kernel, initramfs, modules, runtime):
    """guest(script, options...): a running machine of 512 MB or as much as wanted."""
    def start(script, *options, memory="512M", cpus=1):
        return machine.Machine(argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_balloon")), memory=memory, cpus=cpus,
                                    append=f"{machine.CONSOLE} quiet", options=options), env=runtime)
    return start


IDLE = "echo '@ready'; while read -r x; do awk '/^MemTotal/ { print \"@total\", int($2 / 1024) }' /proc/meminfo; done </dev/ttyS0"
MB = 1 << 20


def total(vm):
    before = len(vm.output)
    vm.send("x\n")
    assert vm.read_until(r"(?s)\A.{%d,}@total \d+\n" % before, 20)
    return int(re.findall(r"@total (\d+)", vm.output)[-1])


def test_target_changes(guest, runtime):
    with guest(IDLE, "--name", "small.vm-1", "--balloon", "0,stats=1,deflate-on-oom=off") as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        whole = total(vm)
        assert ask(runtime, "small.vm-1")["actual"] == 0
        assert ask(runtime, vm.pid, "200M")["target"] == 200 * MB  # by its number
        assert wait_until(lambda: ask(runtime, "small.vm-1")["actual"] == 200 * MB)
        assert total(vm) == whole - 200
        assert wait_until(lambda: ask(runtime, "small.vm-1")["statistics"].get("free", 0) > 0)
        statistics = ask(runtime, "small.vm-1")["statistics"]
        assert 0 < statistics["free"] <= statistics["total"] <= 512 * MB
        text = balloon(runtime, "small.vm-1", "50M").stdout
        assert re.search(r"^target +50M$", text, re.M) and re.search(r"^free +\d+$", text, re.M)
        assert wait_until(lambda: ask(runtime, "small.vm-1")["actual"] == 50 * MB)
        assert total(vm) == whole - 50
        os.kill(vm.pid, signal.SIGTERM)
        assert vm.wait(20) == 3


@pytest.mark.parametrize("how", ["reporting", pytest.param("balloon", marks=pytest.mark.slow)])
def test_memory_of_a_large_guest_goes_back(guest, runtime, how):
    """Of what a guest of 2 GB used and freed, nine tenths leave the process: as free pages that it reports, or asked by hand."""
    script = r"""
        mkdir /tmp/big; mount -t tmpfs -o size=1600M tmpfs /tmp/big
        dd if=/dev/zero of=/tmp/big/file bs=1M count=1400 2>/dev/null; ls -l /tmp/big/file
        echo "@full"; read x </dev/ttyS0; umount /tmp/big; echo "@freed"; sleep 1000"""
    with guest(script, "--balloon", "0" if how == "reporting" else "0,reporting=off", memory="2G") as vm:
        assert vm.read_until("@full\n", 120), vm.output + vm.errors
        full = status(vm.pid, "RssShmem")
        assert full > 1400
        vm.send("x\n")
        assert vm.read_until("@freed\n", 60), vm.output + vm.errors
        if how == "balloon":
            time.sleep(1)
            assert status(vm.pid, "RssShmem") > full - 100  # nothing goes by itself
            assert balloon(runtime, vm.pid, "1700M").returncode == 0
        assert wait_until(lambda: status(vm.pid, "RssShmem") < full - 0.9 * 1400, 60), (full, status(vm.pid, "RssShmem"))
        os.kill(vm.pid, signal.SIGTERM)
        assert vm.wait(20) == 3


def test_names(guest, runtime):
    with guest(IDLE, "--name", "one", "--balloon", "0") as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        with guest(IDLE, "--name", "one") as other:
            assert other.wait(20) == 1 and "a machine called one is running" in other.errors
        with guest(IDLE, "--name", "a/b") as other:
            assert other.wait(20) == 2 and "a machine can't be called 'a/b'" in other.errors
        os.kill(vm.pid, signal.SIGKILL)
        vm.wait(20)
        r = balloon(runtime, "one")
        assert r.returncode == 1 and "no machine called 'one' is running" in r.stderr
        with guest(IDLE, "--name", "one", "--balloon", "64M") as again:  # takes over what the other left
            assert again.read_until("@ready\n"), again.output + again.errors
            assert ask(runtime, "one")["target"] == 64 * MB
            os.kill(again.pid, signal.SIGTERM)
            assert again.wait(20) == 3


def test_two_at_once_and_what_the_killed_leave(guest, runtime, tiny):
    """Of several that start with one name at the same moment, one runs; the next of any name removes the folders of the dead."""
    folder = pathlib.Path(runtime["XDG_RUNTIME_DIR"]) / "plures"
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(guest(IDLE, "--name", "twin")) for _ in range(4)]
        assert wait_until(lambda: sum(vm.process.poll() is None for vm in started) == 1, 60)
        alive = [vm for vm in started if vm.process.poll() is None]
        assert all(vm.wait(20) == 1 and "a machine called twin is running" in vm.errors for vm in started if vm not in alive)
        assert alive[0].read_until("@ready\n", 60), alive[0].output + alive[0].errors
        nameless = stack.enter_context(guest(IDLE))
        assert nameless.read_until("@ready\n", 60), nameless.output + nameless.errors
        for vm in (alive[0], nameless):
            os.kill(vm.pid, signal.SIGKILL)
            vm.wait(20)
    assert sorted(p.name for p in folder.iterdir()) == sorted([str(nameless.pid), "twin"])
    argv = [machine.plures_path(), "run", "--kernel", tiny("hello"), "--memory", "64M", "--debug-exit"]
    assert subprocess.run(argv, env=runtime, capture_output=True, timeout=60).returncode == 33
    assert not list(folder.iterdir())


@contextlib.contextmanager
def running(guest, *options):
    with guest(IDLE, "--name", "m", *options) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        yield vm
        os.kill(vm.pid, signal.SIGTERM)
        assert vm.wait(20) == 3


def test_refusals(guest, runtime):
    with running(guest):
        r = balloon(runtime, "m")
        assert r.returncode == 1 and "machine m: it has no balloon: start it with --balloon 0" in r.stderr
    with running(guest, "--balloon", "0"):
        r = balloon(runtime, "m", "600M")
        assert r.returncode == 1 and "600M is more than its memory, which is 512M" in r.stderr
        for args, says in [((), "which machine?"), (("m", "1M", "2M"), "one machine and one size"), (("m", "lots"), "not a size"), (("m", "--x"), "unknown option")]:
            r = balloon(runtime, *args)
            assert r.returncode == 2 and says in r.stderr, r.stderr
    for nobody in ("m", "1", "../x", "x" * 300):
        assert balloon(runtime, nobody).returncode == 1


def http(runtime, data, *, close=True):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(f"{runtime['XDG_RUNTIME_DIR']}/plures/m/socket")
        s.sendall(data)
        if close:
            s.shutdown(socket.SHUT_WR)
        got = b""
        while part := s.recv(65536):
            got += part
        return got


def test_socket(guest, runtime):
    """Anything may come to the socket; curl's words are understood."""
    def body(data):
        return b"PUT /balloon HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)

    with running(guest, "--balloon", "0") as vm:
        head, answer = http(runtime, b"GET /machine HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", close=False).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and f"Content-Length: {len(answer)}".encode() in head
        assert json.loads(answer) == {"name": "m", "pid": vm.pid, "engine": "soft", "memory": 512 * MB, "cpus": 1}
        for request, code in [(b"GET / HTTP/1.1\r\n\r\n", 404), (b"POST /balloon HTTP/1.1\r\n\r\n", 405), (body(b"[]"), 400), (body(b"{"), 400), (body(b"{}"), 400),
                              (body(b'{"target":-1}'), 400), (body(b'{"target":"1M"}'), 400), (body(b'{"target":1e30}'), 400), (body(b'{"target":999999999999}'), 400),
                              (body(b'{"target":1,"target":2}'), 400), (b"HELLO\r\n\r\n", 400), (b"GET  HTTP/1.1\r\n\r\n", 400), (b"\r\n\r\n", 400),
                              (b"GET /balloon HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 400), (b"GET /balloon HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
                              (b"HTTP/1.1 200 OK\r\n\r\n", 400), (b"x" * 30000, 400), (body(b'{"target":4096}'), 200)]:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not listen to the end
                assert http(runtime, request).startswith(b"HTTP/1.1 %d " % code), request[:60]
        assert http(runtime, b"GET /bal") == b""
        idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]  # who say nothing hold up nobody
        for s in idle:
            s.connect(f"{runtime['XDG_RUNTIME_DIR']}/plures/m/socket")
        assert ask(runtime, "m")["target"] == 4096
        for s in idle:
            s.close()
