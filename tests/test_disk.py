# SPDX-License-Identifier: Apache-2.0
"""Disks, through Debian's virtio_blk: what a guest writes is in the file, what is in the file it reads, and the host's errors are its
errors and the user's to know."""
import hashlib
import os
import random
import re
import resource
import shutil
import subprocess

import pytest

import machine
from test_badinput import refused
from test_boot import check_dmesg, parts

pytestmark = pytest.mark.plures
MB = 1 << 20


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def made(path, data):
    path.write_bytes(data)
    return path


def sparse(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    return path


@pytest.fixture
def guest(argv, kernel, initramfs, modules):
    """guest(script, disks): the command line of a machine that runs it."""
    def make(script, *disks, cpus=1, options=(), also=()):
        return argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtio_blk", *also)), append=f"{machine.CONSOLE} quiet",
                    cpus=cpus, disks=disks, options=options)
    return make


def run(argv, **options):
    vm = machine.run(argv, timeout=120, **options)
    said = f"{vm.output[-6000:]}\n{vm.errors}(exit status {vm.code})"
    assert machine.USERSPACE in vm.output, said
    return parts(vm.output), vm, said


# --- what is there -------------------------------------------------------------------------------------------------

EVERYTHING = r"""
echo "@what"; cat /sys/block/vda/size /sys/block/vda/serial; echo; cat /sys/block/vda/queue/write_cache /sys/block/vda/ro /sys/block/vdb/ro
ls /sys/block/vda/mq | wc -l
echo "@sums"; md5sum </dev/vda; md5sum </dev/vdb
# 3 MB in the page cache's manner, odd sectors around it, each alone and past the guest's cache.
dd if=/dev/vdb of=/dev/vda bs=1M count=3 seek=1 conv=fsync 2>/dev/null
dd if=/dev/vdb of=/dev/vda bs=512 count=777 seek=13001 oflag=direct 2>/dev/null
dd if=/dev/vdb of=/dev/vda bs=65536 count=20 seek=150 oflag=direct 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo "@after"; md5sum </dev/vda
echo "@direct"; dd if=/dev/vda bs=4k iflag=direct 2>/dev/null | md5sum
echo "@dmesg"; dmesg -r
echo "@end"
"""


@pytest.mark.parametrize("options,cpus", [
    ("", 2), ("cache=none", 1), ("aio=threads", 1), ("cache=unsafe,queues=1,iops=100000,bps=1G", 2),
    pytest.param("", 1, marks=pytest.mark.slow), pytest.param("cache=none,aio=threads", 2, marks=pytest.mark.slow),
])
def test_what_is_written_is_there(guest, tmp_path, options, cpus):
    data, other = bytearray(noise(16 * MB)), noise(4 * MB, 2)
    disk, source = made(tmp_path / "disk", data), made(tmp_path / "source", other)
    found, vm, said = run(guest(EVERYTHING, f"{disk},format=raw,serial=plures-1,{options}".rstrip(","), f"{source},readonly", cpus=cpus), )
    if "cache=none" in options and "around the page cache" in vm.errors:
        pytest.skip("no O_DIRECT here")
    assert "end" in found and vm.code == 0, said
    queues = 1 if "queues=1" in options else cpus
    assert found["what"] == [str(16 * MB // 512), "plures-1", "write back", "0", "1", str(queues)], said
    assert [line.split()[0] for line in found["sums"]] == [hashlib.md5(d).hexdigest() for d in (data, other)]
    for at, size in ((MB, 3 * MB), (13001 * 512, 777 * 512), (150 * 65536, 20 * 65536)):
        data[at:at + size] = other[:size]
    assert found["after"][0].split()[0] == found["direct"][0].split()[0] == hashlib.md5(data).hexdigest()
    assert disk.read_bytes() == data
    assert not vm.errors
    check_dmesg(found)


def test_both_cpus_at_once(guest, tmp_path):
    """Two CPUs, each on its queue, with interrupts of its own."""
    script = r"""
        for cpu in 0 1; do
            taskset -c $cpu sh -c "for i in 1 2 3; do dd if=/dev/vda of=/dev/vdb bs=4k count=500 skip=$((cpu * 2000)) seek=$((cpu * 2000)) iflag=direct oflag=direct 2>/dev/null; done" &
        done
        wait
        echo "@interrupts"; grep virtio /proc/interrupts
        echo "@dmesg"; dmesg -r
        echo "@end" """
    data = noise(16 * MB)
    disk, copy = made(tmp_path / "disk", data), sparse(tmp_path / "copy", 16 * MB)
    found, vm, said = run(guest(script, f"{disk},format=raw", f"{copy},format=raw", cpus=2))
    assert "end" in found, said
    got = copy.read_bytes()
    for cpu in range(2):
        at = cpu * 2000 * 4096
        assert got[at:at + 500 * 4096] == data[at:at + 500 * 4096]
    lines = [line.split() for line in found["interrupts"] if "req" in line]
    assert len(lines) == 4 and all(int(line[1]) + int(line[2]) > 0 for line in lines), said
    check_dmesg(found)


def test_discards_give_space_back(guest, tmp_path):
    script = r"""
        cat /sys/block/vda/queue/discard_granularity /sys/block/vda/queue/discard_max_bytes
        blkdiscard -o 4194304 -l 4194304 /dev/vda && echo "@discarded"
        blkdiscard -z -o 1048576 -l 1048576 /dev/vda && echo "@zeroed" || true
        sync; md5sum </dev/vda; echo "@end" """
    disk = made(tmp_path / "disk", noise(16 * MB))
    before = disk.stat().st_blocks
    found, vm, said = run(guest(script, f"{disk},format=raw"))
    assert "discarded" in found and "end" in found, said
    assert disk.stat().st_size == 16 * MB
    assert disk.stat().st_blocks <= before - 4 * MB // 512 * 0.9
    after = disk.read_bytes()
    assert after[:MB] == noise(16 * MB)[:MB] and after[8 * MB:] == noise(16 * MB)[8 * MB:]
    assert after[4 * MB:8 * MB] == bytes(4 * MB)


def test_a_reboot_keeps_the_disk(guest, tmp_path):
    """Reset while requests are under way, twice; what was synced is there each time."""
    script = r"""
        n=$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\0'); n=${n:-0}; echo "@boot $n"
        [ "$n" = 3 ] && poweroff -f
        echo $((n + 1)) | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null
        dd if=/dev/urandom of=/dev/vda bs=64k seek=16 oflag=direct 2>/dev/null &
        dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null &
        sleep 0.2; reboot -f"""
    disk = sparse(tmp_path / "disk", 64 * MB)
    with machine.Machine(guest(script, f"{disk},format=raw", cpus=2, options=["--reboot"])) as vm:
        assert vm.wait(120) == 0, vm.output + vm.errors
        assert re.findall(r"@boot (\d)", vm.output) == ["0", "1", "2", "3"]
        assert not vm.errors


def test_a_file_grows(guest, tmp_path):
    script = r"""
        echo "@ready"
        for i in $(seq 200); do [ $(cat /sys/block/vda/size) = 40960 ] && break; sleep 0.1; done
        echo "@size"; cat /sys/block/vda/size
        echo end | dd of=/dev/vda bs=512 seek=40959 conv=sync,fsync 2>/dev/null; echo "@end" """
    disk = sparse(tmp_path / "disk", 16 * MB)
    with machine.Machine(guest(script, f"{disk},format=raw")) as vm:
        assert vm.read_until("@ready", timeout=60), vm.output + vm.errors
        os.truncate(disk, 20 * MB)
        assert vm.wait(60) == 0
        assert parts(vm.output)["size"] == ["40960"], vm.output
    assert disk.read_bytes()[-512:].rstrip(b"\0") == b"end\n"


# --- the host's errors ---------------------------------------------------------------------------------------------

WRITES = r"""
dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>&1 && echo "@first"
dd if=/dev/zero of=/dev/vda bs=64k count=512 seek=SEEK oflag=direct 2>&1 || echo "@failed"
dd if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null && echo "@reads"
echo "@end"
"""


def limit_file_size():
    """Above what the guest's memory takes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (600 * MB, 600 * MB))


def test_a_file_that_may_not_grow(guest, tmp_path):
    """A limit on file sizes kills who writes past it, by default."""
    disk = sparse(tmp_path / "disk", 800 * MB)
    argv = guest(WRITES.replace("SEEK", str(599 * MB // 65536)), f"{disk},format=raw")
    r = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, preexec_fn=limit_file_size)
    found = parts(r.stdout)
    assert {"first", "failed", "reads", "end"} <= set(found) and r.returncode == 0, r.stdout + r.stderr
    assert f"plures: warning: {disk}: a write of " in r.stderr and "failed: File too large; the guest is told" in r.stderr


@pytest.fixture
def small(tmp_path):
    """A file system with room for 8 MB."""
    path = tmp_path / "small"
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize("options", ["", ",aio=threads"])
def test_a_host_disk_that_fills_up(guest, small, options):
    disk = sparse(small / "disk", 32 * MB)
    found, vm, said = run(guest(WRITES.replace("SEEK", "0"), f"{disk},format=raw{options}"))
    assert {"first", "failed", "reads", "end"} <= set(found) and vm.code == 0, said
    assert f"{disk}: a write of " in vm.errors and "No space left on device; the guest is told" in vm.errors
    assert len(vm.errors.splitlines()) <= 3, vm.errors


def test_a_file_that_is_cut_off(guest, tmp_path):
    """Reads behind the new end fail, or the disk is smaller by then; never zeros in the place of data."""
    script = r"""
        echo "@ready"; read -r line </dev/console
        dd if=/dev/vda bs=64k skip=128 count=1 iflag=direct 2>&1 >/tmp/got; ls -l /tmp/got | awk '{ print "@got " $5 }'
        dd if=/dev/vda bs=64k count=1 iflag=direct 2>/dev/null | md5sum; echo "@end" """
    data = noise(16 * MB)
    disk = made(tmp_path / "disk", data)
    with machine.Machine(guest(script, f"{disk},format=raw")) as vm:
        assert vm.read_until("@ready", timeout=60), vm.output + vm.errors
        os.truncate(disk, MB)
        vm.send("go\n")
        assert vm.wait(60) == 0
        assert "@got 0" in vm.output and hashlib.md5(data[:65536]).hexdigest() in vm.output, vm.output
        assert "Input/output error; the guest is told" in vm.errors or "capacity change" in vm.output or not vm.errors


@pytest.fixture
def loop(tmp_path):
    """A block device over a file of 16 MB: the device and the file."""
    disk = made(tmp_path / "under", noise(16 * MB))
    r = None if os.geteuid() or not shutil.which("losetup") else subprocess.run(["losetup", "-f", "--show", disk], capture_output=True, text=True)
    if not r or r.returncode:
        pytest.skip("loop devices take root and a kernel that has them")
    yield r.stdout.strip(), disk
    subprocess.run(["losetup", "-d", r.stdout.strip()], check=True)


@pytest.mark.parametrize("options", ["", ",cache=none"])
def test_a_block_device_that_fails(guest, loop, options):
    """It is a disk like any other; then what is under its second half goes away, for good."""
    device, under = loop
    script = r"""
        md5sum </dev/vda; dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null
        blkdiscard -o 2097152 -l 2097152 /dev/vda && echo "@discarded"
        echo "@ready"; read -r line </dev/console
        for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=64k skip=$((i * 50)) count=1 iflag=direct 2>/dev/null || echo "@failed $i"; done
        dd if=/dev/vda bs=64k skip=16 count=1 iflag=direct 2>/dev/null | md5sum; echo "@end" """
    data = noise(16 * MB)
    with machine.Machine(guest(script, f"{device},format=raw{options}")) as vm:
        assert vm.read_until("@ready", timeout=60), vm.output + vm.errors
        assert hashlib.md5(data).hexdigest() in vm.output and "@discarded" in vm.output, vm.output
        os.truncate(under, 3 * MB)
        subprocess.run(["blockdev", "--flushbufs", device], check=True)
        vm.send("go\n")
        assert vm.wait(60) == 0
        assert all(f"@failed {i}" in vm.output for i in (1, 2, 3)) and hashlib.md5(data[MB:MB + 65536]).hexdigest() in vm.output, vm.output
        assert f"{device}: a read of 65536 bytes at 3276800 failed: Input/output error; the guest is told" in vm.errors
    assert under.read_bytes()[:MB] == bytes(MB)


# --- who else uses it ----------------------------------------------------------------------------------------------

def qemu_tool(*argv):
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_one_writer_or_many_readers(guest, tmp_path):
    disk = sparse(tmp_path / "disk", 16 * MB)
    script = 'echo "@ready"; read -r line </dev/console'
    with machine.Machine(guest(script, f"{disk},format=raw")) as vm:
        assert vm.read_until("@ready", timeout=60), vm.output + vm.errors
        refused(guest("", f"{disk},format=raw"), disk, "another program uses it", "readonly")
        refused(guest("", f"{disk},readonly"), disk, "another program uses it")
        said = qemu_tool("qemu-io", "-f", "raw", "-c", "read 0 512", str(disk))
        assert said.returncode and "lock" in said.stderr
    with machine.Machine(guest(script, f"{disk},readonly")) as vm, machine.Machine(guest(script, f"{disk},readonly")) as other:
        assert vm.read_until("@ready", timeout=60) and other.read_until("@ready", timeout=60), vm.errors + other.errors
        refused(guest("", f"{disk},format=raw"), disk, "another program uses it")
        assert not qemu_tool("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", str(disk)).returncode


def test_qemus_lock_is_seen(guest, tmp_path):
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed")
    disk = sparse(tmp_path / "disk", 16 * MB)
    with subprocess.Popen(["qemu-io", "-f", "raw", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdin.write("length\n")
        other.stdin.flush()
        while "16 MiB" not in other.stdout.readline():
            pass
        refused(guest("", f"{disk},format=raw"), disk, "another program uses it")
        refused(guest("", f"{disk},readonly"), disk, "another program uses it")
        other.stdin.close()
    assert run(guest("echo ok", f"{disk},format=raw"))[1].code == 0


# --- what is no disk -----------------------------------------------------------------------------------------------

def test_what_is_no_disk(guest, tmp_path):
    empty, disk = made(tmp_path / "empty", b""), sparse(tmp_path / "disk", MB)
    refused(guest("", tmp_path / "none"), tmp_path / "none", "No such file")
    refused(guest("", empty), empty, "empty", "truncate")
    refused(guest("", tmp_path), tmp_path, "directory")
    refused(guest("", "/dev/null"), "/dev/null", "neither a file nor a block device")
    refused(guest("", "gopher://host/disk"), "gopher://host/disk", "addresses")
    for options, word in (("format=iso", "'iso'"), ("cache=all", "writeback, none or unsafe"), ("color=red", "'color'"), ("iops=many", "iops"),
                          ("serial=" + "x" * 21, "at most 20")):
        line = subprocess.run(guest("", f"{disk},{options}"), capture_output=True, text=True, timeout=30)
        assert line.returncode == 2 and word in line.stderr and "--disk" in line.stderr, line.stderr


def test_no_permission(guest, tmp_path):
    if os.geteuid():
        pytest.skip("takes root to become someone else")
    disk = sparse(tmp_path / "disk", MB)
    os.chmod(disk, 0o600)
    for path in (disk, *disk.parents):
        if path != disk and path.stat().st_uid == 0 and path != path.parent and not path.stat().st_mode & 0o1:
            path.chmod(path.stat().st_mode | 0o11)
    argv = guest("echo ok", f"{disk},format=raw")
    r = subprocess.run(argv, capture_output=True, text=True, timeout=30, user=65534, group=65534, extra_groups=[])
    assert r.returncode == 1 and str(disk) in r.stderr and "Permission denied" in r.stderr, r.stderr
    os.chmod(disk, 0o644)
    r = subprocess.run(argv, capture_output=True, text=True, timeout=30, user=65534, group=65534, extra_groups=[])
    assert r.returncode == 1 and "readonly would do without" in r.stderr, r.stderr
