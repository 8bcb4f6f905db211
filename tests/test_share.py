# SPDX-License-Identifier: Apache-2.0
"""Folders of the host's in a guest, through Debian's virtiofsd."""
import hashlib
import os
import pathlib
import re
import signal
import time

import pytest

import machine
from test_boot import boot, check_dmesg, parts
from test_devices import END

pytestmark = [pytest.mark.plures,
              pytest.mark.skipif(not os.path.exists("/usr/lib/qemu/virtiofsd"), reason="virtiofsd (qemu-system-common) is not installed")]

MOUNT = "mkdir /tmp/s; mount -t virtiofs host /tmp/s || echo '@nomount'; cd /tmp/s\n"


def daemons(folder):
    """Processes that are virtiofsd for that folder or what is in it, and neither dead nor dying."""
    found = set()
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes()
            if b"virtiofsd" in words.split(b"\0")[0] and bytes(folder) in words and "\nState:\tZ" not in (proc / "status").read_text():
                found.add(int(proc.name))
        except OSError:
            pass
    return found


@pytest.fixture(autouse=True)
def nothing_left(tmp_path):
    yield
    deadline = time.monotonic() + 20
    while daemons(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not daemons(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A folder that any user can write to and reach."""
    for p in (tmp_path, *tmp_path.parents):
        if p == pathlib.Path("/tmp"):
            break
        p.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "hello").write_text("from the host\n")
    (shared / "hello").chmod(0o666)
    return shared


@pytest.mark.parametrize("cpus", [1, 2])
def test_share(argv, kernel, initramfs, modules, folder, cpus):
    """Both sides see what the other writes; large files are whole; a program runs from the share."""
    (folder / "big").write_bytes(os.urandom(20_000_000))
    script = MOUNT + r"""
        echo "@hello"; cat hello
        echo "@big"; md5sum <big
        echo "@made"; seq 200000 >made; md5sum <made; mkdir -p a/b; mv made a/b/moved; ln -s b/moved a/link; chmod 700 a/b/moved
        echo "@many"; mkdir many; for i in $(seq 300); do echo $i >many/$i; done; ls many | wc -l; rm many/1*; ls many | wc -l
        mkdir x y; cp /bin/busybox x; echo "@program"; x/busybox echo from a shared program; cp x/busybox y; y/busybox echo twice
        echo "@gone"; rm hello; ls hello; df . | tail -1
        cd /; umount /tmp/s; mount -t virtiofs host /tmp/s; cat /tmp/s/a/link | wc -l""" + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtiofs")), cpus=cpus, options=["--share", f"{folder}:host"])
    found = parts(vm.output)
    assert "end" in found and vm.code == 0, said
    assert found["hello"] == ["from the host"]
    assert found["big"][0].split()[0] == hashlib.md5((folder / "big").read_bytes()).hexdigest()
    moved = folder / "a/b/moved"
    assert found["made"][0].split()[0] == hashlib.md5(moved.read_bytes()).hexdigest()
    assert os.readlink(folder / "a/link") == "b/moved" and moved.stat().st_mode & 0o777 == 0o700
    assert found["many"] == ["300", "189"] and len(list((folder / "many").iterdir())) == 189
    assert found["program"] == ["from a shared program", "twice"]
    assert not (folder / "hello").exists() and found["gone"][-1] == "200000"
    check_dmesg(found)


def test_programs_that_change(argv, kernel, initramfs, modules, folder):
    """A page of the guest's memory that was code is read into anew by the other process: what ran there before runs no
    more. Without caches each run reads its program again, and frees what it was read into."""
    script = MOUNT + r"""
        cp /bin/busybox one
        n=0; for i in $(seq 12); do
            # The same program with another name of the function that says so: its code lies elsewhere each time.
            dd if=/dev/zero bs=4096 count=$i 2>/dev/null >pad; rm -rf run; mkdir run; cp one run/busybox; sync
            echo 3 >/proc/sys/vm/drop_caches
            [ "$(run/busybox seq 3 | run/busybox md5sum | run/busybox cut -c 1-8)" = "$(seq 3 | md5sum | cut -c 1-8)" ] && n=$((n+1))
            cat pad >/dev/null; echo 3 >/proc/sys/vm/drop_caches
        done; echo "@right"; echo $n""" + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtiofs")), memory="128M", options=["--share", f"{folder}:host"])
    assert parts(vm.output).get("right") == ["12"], said


def test_readonly_and_several(argv, kernel, initramfs, modules, folder, tmp_path):
    other = tmp_path / "with space"
    other.mkdir()
    (other / "inside").mkdir()
    script = MOUNT + r"""
        mkdir /tmp/o; mount -t virtiofs second /tmp/o
        echo "@try"; exec 2>/dev/null; echo x >new || echo refused; echo x >>hello || echo refused; rm hello || echo refused; chmod 600 hello || echo refused; cat hello
        touch /tmp/o/new; ls -1 /tmp/o""" + END
    vm, said = boot(argv, kernel(), initramfs(script, modules("virtio_pci", "virtiofs")),
                    options=["--share", f"{folder}:host,readonly", "--share", f"{other}:second"])
    found = parts(vm.output)
    assert "end" in found and found["try"] == ["refused"] * 4 + ["from the host", "inside", "new"], said
    assert [p.name for p in folder.iterdir()] == ["hello"] and (other / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
@pytest.mark.parametrize("readonly", ["", ",readonly"])
def test_unprivileged(argv, kernel, initramfs, modules, folder, readonly):
    """What the guest makes is the user's own."""
    script = MOUNT + 'echo "@made"; exec 2>/dev/null; echo made >made && cat made; cat hello' + END
    vm = machine.run(argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtiofs")), append=f"{machine.CONSOLE} quiet",
                          options=["--share", f"{folder}:host{readonly}"]), timeout=60, user=65534, cwd="/")
    said = vm.output + vm.errors
    if "can't make a user namespace" in vm.errors:
        pytest.skip("this host has no user namespaces for users")
    assert parts(vm.output).get("made") == (["from the host"] if readonly else ["made", "from the host"]), said
    assert (folder / "made").exists() != bool(readonly)
    if not readonly:
        assert (folder / "made").stat().st_uid == 65534


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_daemon_ends_with_the_machine(argv, kernel, initramfs, modules, folder, how):
    argv = argv(kernel(), initrd=initramfs(MOUNT + "echo '@ready'; while :; do cat hello >/dev/null; done", modules("virtio_pci", "virtiofs")),
                append=f"{machine.CONSOLE} quiet", options=["--share", f"{folder}:host"])
    with machine.Machine(argv) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        assert daemons(folder)
        os.kill(vm.pid, how)
        assert vm.wait(20) == (3 if how == signal.SIGTERM else -how)


def test_daemon_dies(argv, kernel, initramfs, modules, folder):
    """The guest gets errors, the user a message, and a driver that starts anew has the folder again."""
    script = MOUNT + r"""
        echo "@ready"; while cat hello >/dev/null 2>&1; do :; done; echo "@failed"; cat hello; ls
        cd /; umount -l /tmp/s; sleep 0.5; d=$(ls -d /sys/bus/virtio/drivers/virtiofs/virtio*); d=${d##*/}
        echo $d >/sys/bus/virtio/drivers/virtiofs/unbind; echo $d >/sys/bus/virtio/drivers/virtiofs/bind
        mount -t virtiofs host /tmp/s; echo "@again"; cat /tmp/s/hello""" + END
    argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtiofs")), append=f"{machine.CONSOLE} quiet",
                options=["--share", f"{folder}:host"])
    with machine.Machine(argv) as vm:
        assert vm.read_until("@ready\n"), vm.output + vm.errors
        for pid in daemons(folder):
            os.kill(pid, signal.SIGKILL)
        assert vm.wait(60) == 0
        found = parts(vm.output)
        assert any("not connected" in line for line in found["failed"]), vm.output + vm.errors
        assert found["again"] == ["from the host"], vm.output + vm.errors
        assert len(re.findall("warning: share host: lost the back end: it hung up", vm.errors)) == 1, vm.errors


def test_reboot(argv, kernel, initramfs, modules, folder):
    """A machine that resets in the middle of everything has its share again."""
    script = MOUNT + r"""
        n=$(cat count 2>/dev/null || echo 0); echo $((n+1)) >count; echo "@boot $n"; [ $n = 3 ] && exit
        (while :; do find / -xdev >list; cat list >copy; done) & sleep 0.7; reboot -f"""
    argv = argv(kernel(), initrd=initramfs(script, modules("virtio_pci", "virtiofs")), append=f"{machine.CONSOLE} quiet", cpus=2,
                options=["--reboot", "--share", f"{folder}:host"])
    with machine.Machine(argv) as vm:
        assert vm.wait(120) == 0
        assert re.findall("@boot (.*)", vm.output) == ["0", "1", "2", "3"], vm.output + vm.errors
        assert not vm.errors


@pytest.mark.parametrize("share,says", [
    ("/tmp", "DIR:TAG"),
    (":x", "DIR:TAG"),
    ("/tmp:", "a tag has 1 to 36 bytes"),
    ("/tmp:" + "x" * 37, "a tag has 1 to 36 bytes"),
    ("/nowhere/at/all:x", "can't share /nowhere/at/all: No such file"),
    ("/etc/passwd:x", "/etc/passwd: it is not a folder"),
    ("/tmp:x,colour=red", "'colour' is not among"),
])
def test_bad_shares(argv, kernel, share, says):
    vm = machine.run(argv(kernel(), options=["--share", share]), timeout=20)
    assert vm.code in (1, 2) and says in vm.errors, vm.errors
