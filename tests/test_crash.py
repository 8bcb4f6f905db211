# SPDX-License-Identifier: Apache-2.0
"""Nothing that was acknowledged is lost: a guest writes with fsync, and the process is killed at a random moment, again and again on one
image. Each time every acknowledged record is there whole, the file system recovers, and the image's own metadata is sound."""
import os
import random
import re
import shutil
import signal
import subprocess
import threading

import pytest

import machine

pytestmark = pytest.mark.plures
MB = 1 << 20
SLOTS = 40
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where a user does not have what mends file systems

# Each record goes into a file of its own, anew, of a size that follows from its number; what nobody waits for goes beside it.
WRITER = r"""
echo "@mounting"
mount -t ext4 /dev/vda /mnt || exit
i=$(sed 's/.*start=\([0-9]*\).*/\1/' /proc/cmdline)
(while :; do dd if=/dev/urandom of=/mnt/noise bs=16k count=200 2>/dev/null; rm /mnt/noise; done) &
while :; do
    yes "record $i" | head -n $((i * 37 % 3000 + 1)) | dd of=/mnt/f$((i % SLOTS)) bs=8k conv=fsync 2>/dev/null && echo "@ack $i"
    i=$((i + 1))
done
""".replace("SLOTS", str(SLOTS)).replace("mount -t", "mkdir -p /mnt; mount -t")


def tool(*argv, fine=(0,)):
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env=os.environ | {"PATH": PATH})
    assert r.returncode in fine, f"{' '.join(r.args)}: {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout


class Image:
    """A disk of one of the kinds with an ext4 in it."""

    def __init__(self, folder, kind):
        for name in ("mke2fs", "e2fsck", "debugfs") + (("qemu-img",) if kind != "raw" else ()):
            if not shutil.which(name, path=PATH):
                pytest.skip(f"{name} is not installed")
        self.folder, self.kind = folder, kind
        self.path = base = folder / "raw"
        with open(base, "wb") as f:
            f.truncate(128 * MB)
        tool("mke2fs", "-q", "-t", "ext4", base)
        if kind != "raw":
            self.path = folder / "disk.qcow2"
        if kind == "qcow2":
            tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", base, self.path)
        elif kind == "qcow2 over raw":
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", self.path)

    @property
    def disk(self):
        return f"{self.path},format={'raw' if self.kind == 'raw' else 'qcow2'}"

    def files(self):
        """Checks a copy of the image as it is and returns what is in it."""
        copy, out = self.folder / "copy", self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if self.kind == "raw":
            tool("cp", "--sparse=always", self.path, copy)
        else:
            tool("qemu-img", "check", self.path, fine=(0, 3))  # 3: clusters leaked, which a crash may do
            tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, copy)
        tool("e2fsck", "-p", copy, fine=(0, 1))  # replays the journal, as mounting does
        tool("e2fsck", "-fn", copy)
        tool("debugfs", "-R", f"rdump / {out}", copy)
        return {int(p.name[1:]): p.read_bytes() for p in out.glob("f[0-9]*")}


def record(i):
    return f"record {i}\n".encode() * (i * 37 % 3000 + 1)


def killed(argv, delay, start):
    """Runs the writer, kills it that long after it has begun, and returns the last record that was acknowledged."""
    with machine.Machine(argv) as vm:
        assert vm.read_until("@mounting\n", timeout=60), vm.output + vm.errors
        timer = threading.Timer(delay, vm.process.kill)
        timer.start()
        vm.wait(60)  # what it said before is in the pipe
        timer.join()
        assert vm.code == -signal.SIGKILL and not vm.errors, vm.output + vm.errors
        return max((int(i) for i in re.findall(r"@ack (\d+)\n", vm.output)), default=start - 1)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 over raw"])
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_while_writing(argv, kernel, initramfs, modules, tmp_path, kind, kills):
    image = Image(tmp_path, kind)
    initrd = initramfs(WRITER, modules("virtio_pci", "virtio_blk"))
    chance = random.Random(f"{kind} {kills}")
    expected, start, acknowledged = {}, 0, 0
    for _ in range(kills):
        command = argv(kernel(), initrd=initrd, append=f"{machine.CONSOLE} quiet start={start}", disks=[image.disk])
        last = killed(command, chance.uniform(0, 2.5), start)
        for i in range(start, last + 1):
            expected[i % SLOTS] = i
        acknowledged += last + 1 - start
        expected.pop((last + 1) % SLOTS, None)  # was being written
        start = last + 2
        files = image.files()
        for slot, i in expected.items():
            assert files.get(slot) == record(i), f"record {i} of {last}: {files.get(slot, b'')[:100]!r}"
    assert acknowledged > kills, "the guest hardly came to write"
