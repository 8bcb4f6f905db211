# SPDX-License-Identifier: Apache-2.0
"""Files that are not what they should be, made from a real kernel and given to the real command: each ends at once with
status 1 and one line that names the file and what to do, and no machine is left running. test_cli.py has the options."""
import random
import subprocess

import pytest

import machine

pytestmark = pytest.mark.plures


def refused(argv, *words, status=1):
    r = subprocess.run(argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    said = f"{r.stdout[-1000:]}{r.stderr}(exit status {r.returncode})"
    assert r.returncode == status, said
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("plures: "), said
    for word in words:
        assert str(word) in lines[0], said
    assert not r.stdout, said
    return lines[0]


@pytest.fixture
def argv(plures):
    return machine.plures


def made(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


ARM64 = b"\x4d\x5a\x40\xfa" + bytes(52) + b"ARM\x64" + bytes(100000)  # Documentation/arch/arm64/booting.rst
ELF_ARM64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xb7\0\x01\0\0\0" + bytes(1000)
KERNELS = {
    "text": (lambda k: b"#!/bin/sh\necho this is no kernel\n" * 100, "text file"),
    "empty": (lambda k: b"", "empty"),
    "a-setup-sector": (lambda k: k[:512], "short"),
    "half": (lambda k: k[:len(k) // 2], "short"),
    "all-but-a-bit": (lambda k: k[:len(k) - 4096], "short"),
    "arm64": (lambda k: ARM64, "arm64"),
    "arm64-elf": (lambda k: ELF_ARM64, "arm64"),
    "zeros": (lambda k: bytes(1 << 20), ""),
    "noise": (lambda k: random.Random(1).randbytes(1 << 20), ""),
    "gzip": (lambda k: __import__("gzip").compress(k[:1 << 20]), ""),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_files(argv, kernel, tmp_path, name):
    make, word = KERNELS[name]
    path = made(tmp_path, name, make(kernel().read_bytes()))
    refused(argv(path), path, word)


@pytest.mark.parametrize("debian", ["cloud", "generic"])
def test_truncated_anywhere(argv, kernel, tmp_path, debian):
    """Wherever a download stopped."""
    whole = kernel(debian).read_bytes()
    for size in (1, 100, 0x1f1, 0x202, 0x268, 1024, 20000, 1 << 20, len(whole) - 4096):  # a signature follows
        path = made(tmp_path, "kernel", whole[:size])
        refused(argv(path), path)


@pytest.mark.parametrize("debian", ["cloud", "generic"])
def test_spoiled_payload(argv, kernel, tmp_path, debian):
    """The header is right and what it describes is not. Compressed formats with a checksum are found out by the host."""
    data = bytearray(kernel(debian).read_bytes())
    middle = len(data) // 2
    data[middle:middle + 4096] = bytes(4096)
    path = made(tmp_path, "kernel", bytes(data))
    r = subprocess.run(argv(path, memory="256M", append=machine.CONSOLE), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert r.returncode in (0, 1, 3), r.stderr
    assert r.returncode == 0 or len(r.stderr.splitlines()) == 1, r.stderr


def test_no_such_files(argv, kernel, tmp_path):
    refused(argv(tmp_path / "none"), tmp_path / "none", "No such file")
    refused(argv(kernel(), initrd=tmp_path / "none"), tmp_path / "none", "No such file")
    refused(argv(tmp_path), tmp_path)
    refused(argv(kernel(), initrd=tmp_path), tmp_path)


def test_unreadable_kernel(argv, kernel, tmp_path):
    path = made(tmp_path, "secret", b"x")
    path.chmod(0)
    try:
        path.read_bytes()
        pytest.skip("this user may read everything")
    except PermissionError:
        refused(argv(path), path, "Permission denied")


def test_initrd_larger_than_memory(argv, kernel, tmp_path):
    path = tmp_path / "initrd"
    with open(path, "wb") as f:
        f.truncate(200 << 20)
    line = refused(argv(kernel(), initrd=path, memory="128M"), path, "memory")
    assert "128M" in line
    refused(argv(kernel(), initrd=path, memory="200M"), path, "memory")


def test_kernel_larger_than_memory(argv, kernel):
    refused(argv(kernel(), memory="16M"), "memory")


def test_command_line_too_long(argv, kernel):
    line = refused(argv(kernel(), append="a" * 5000), "command line", "2047")
    assert "5000" in line


def test_longest_command_line(argv, kernel, initramfs):
    """2047 bytes are taken, to the last one."""
    append = f"{machine.CONSOLE} quiet filler="
    append += "x" * (2047 - len(append) - len(" LAST=word")) + " LAST=word"
    vm = machine.run(argv(kernel(), initrd=initramfs("cat /proc/cmdline; echo LAST is $LAST"), append=append), timeout=60)
    assert append in vm.output and "LAST is word" in vm.output, vm.output + vm.errors


def test_spoiled_initrd(argv, kernel, initramfs, tmp_path):
    """The guest's mistake to find: it panics on its console, and asked to reboot on panic it ends."""
    data = initramfs(":").read_bytes()
    path = made(tmp_path, "initrd", random.Random(2).randbytes(len(data)))
    vm = machine.run(argv(kernel(), initrd=path, append=f"{machine.CONSOLE} panic=-1"), timeout=60)
    assert vm.code == 0 and "Kernel panic" in vm.output, vm.output[-2000:] + vm.errors
