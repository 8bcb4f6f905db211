# SPDX-License-Identifier: Apache-2.0
"""The tests of containers on hosts that the machine at hand is not: Debian guests with cgroup v2 alone, with v1 alone, with systemd,
AppArmor and SELinux. Each is booted in a virtual machine of our own, runs the tests with the host's plures-oci, and hands back
what became of each."""
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

import conftest
import containers
import debian_image
import machine
from debian_guest import Guest

pytestmark = [pytest.mark.plures, pytest.mark.slow,
              pytest.mark.skipif(not os.path.exists("/usr/lib/qemu/virtiofsd"), reason="virtiofsd (qemu-system-common) is not installed")]

# With the kernel for all machines, which can make RDMA devices.
KERNEL = "linux-image-amd64"
PACKAGES = ("podman crun runc containerd busybox-static python3-pytest python3-pexpect uidmap apparmor secilc strace file slirp4netns "
            "dbus-user-session kmod").split()
V1 = "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"
# A host's kernel options, and tests that may not be skipped there.
HOSTS = {
    "v2-apparmor": ("", ["test_rdma", "test_huge_pages", "test_devices_change", "test_a_scope", "test_a_user", "test_apparmor[True]",
                         "test_apparmor[False]", "test_block_io", "test_processes_in_cgroups_below", "test_idmapped_mount[userns]"]),
    "v1-selinux": (f"{V1} security=selinux selinux=1", ["test_a_scope", "test_selinux", "test_resources", "test_block_io", "test_huge_pages_v1"]),
}
QUICK = ["container_v2", "container_systemd", "container_labels", "container", "container_limits", "container_security", "container_rootless"]
LONG = ["container_podman", "container_containerd", "container_faults"]


@pytest.fixture(scope="session")
def image():
    return conftest.asset(lambda: debian_image.image(*PACKAGES, kernel=KERNEL))


@pytest.fixture
def shared(tmp_path):
    """What the guest needs: the tests, and the program."""
    folder = tmp_path / "shared"
    (folder / "build").mkdir(parents=True)
    (folder / "tests").mkdir()
    shutil.copy(containers.PROGRAM, folder / "build/plures-oci")
    for path in (conftest.TOP / "tests").glob("*container*.py"):
        shutil.copy(path, folder / "tests")
    return folder


def outcomes(report):
    """{test: (outcome, why)} of a report of pytest's."""
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name, outcome, why = f"{case.get('classname').split('.')[-1]}::{case.get('name')}", "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome, why = {"error": "failure"}.get(child.tag, child.tag), f"{child.get('message')}\n{child.text}"
        found[name] = (outcome, why)
    return found


@pytest.mark.parametrize("what", ["quick", "long"])
@pytest.mark.parametrize("host", HOSTS)
def test_host(plures, image, shared, tmp_path, host, what):
    append, wanted = HOSTS[host]
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image.disk, disk], check=True)
    command = machine.plures(image.kernel, initrd=image.initrd, append=f"{machine.CONSOLE} quiet {image.append} hugepages=8 {append}", memory="2G",
                             cpus=2, disks=[disk], options=["--share", f"{shared}:host"])
    with machine.Machine(command) as vm:
        guest = Guest(vm, image)
        guest.login(600)
        guest.ask("mount -t virtiofs host /mnt && cp -r /mnt /work && cd /work")
        for name in QUICK if what == "quick" else LONG:
            # Of what takes long, only that which needs no time to be measured; a machine in a machine is slow.
            guest.run(f"python3 -m pytest -q --noconftest -m 'not slow' -p no:cacheprovider -W ignore --junitxml=/tmp/{name}.xml tests/test_{name}.py "
                      f">/tmp/{name}.log 2>&1; cp /tmp/{name}.* /mnt", timeout=3000)
        guest.run("cd /; umount /mnt")
        guest.power_off()
    found = {}
    for name in QUICK if what == "quick" else LONG:
        report = shared / f"{name}.xml"
        log = shared / f"{name}.log"
        assert report.exists(), f"{name} has no end: {log.read_text()[-3000:] if log.exists() else ''}"
        found |= outcomes(report)
    failed = {name: why for name, (outcome, why) in found.items() if outcome == "failure"}
    skipped = {name: why.splitlines()[0] for name, (outcome, why) in found.items() if outcome == "skipped"}
    print(f"{host}: {len(found) - len(failed) - len(skipped)} passed, {len(failed)} failed, {len(skipped)} skipped")
    print("\n".join(f"skipped {name}: {why}" for name, why in sorted(skipped.items())))
    assert not failed, "\n\n".join(f"{name}\n{why[-2500:]}" for name, why in failed.items())
    if what == "quick":
        missing = [name for name in wanted if not any(full.endswith(f"::{name}") and outcome == "passed" for full, (outcome, _) in found.items())]
        assert not missing, f"did not run on {host}: {missing}"
