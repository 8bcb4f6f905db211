# SPDX-License-Identifier: Apache-2.0
"""Labels of security modules: AppArmor profiles and SELinux contexts, where the kernel has one of them on. For SELinux a policy of a
few lines is loaded, in a kernel that has none and only warns. test_container_hosts.py boots both."""
import os
import pathlib
import shutil
import subprocess

import pytest

import containers
from containers import config, mount, shell

LSM = pathlib.Path("/sys/kernel/security/lsm")
MODULES = LSM.read_text().split(",") if LSM.exists() else []
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]

PROFILE = """profile plures-test flags=(attach_disconnected) {
  file,
  capability,
  deny /etc/secret r,
}
"""

SIDS = """kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket tcp_socket
sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod policy scmp_packet devnull""".split()
# All that the kernel has no rule for is allowed (handleunknown), and nothing is enforced.
POLICY = f"""(mls false) (handleunknown allow) (policycap network_peer_controls)
(sensitivity s0) (sensitivityorder (s0)) (level low (s0)) (levelrange range (low low))
(user u) (role r) (role object_r) (userrole u r) (userrole u object_r) (userlevel u low) (userrange u range)
(class process (fork transition dyntransition)) (classorder (process))
{" ".join(f"(type {t}) (roletype r {t}) (roletype object_r {t})" for t in ("kernel_t", "container_t", "container_file_t"))}
(allow kernel_t container_t (process (transition dyntransition)))
{" ".join(f"(sid {s}) (sidcontext {s} (u r kernel_t (low low)))" for s in SIDS)} (sidorder ({" ".join(SIDS)}))
(fsuse trans tmpfs (u object_r kernel_t (low low))) (fsuse trans mqueue (u object_r kernel_t (low low)))
"""


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


@pytest.fixture
def profile(tmp_path):
    if "apparmor" not in MODULES or not shutil.which("apparmor_parser"):
        pytest.skip("AppArmor is not on here, or apparmor is not installed")
    path = tmp_path / "profile"
    path.write_text(PROFILE)
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", path], check=True)
    yield "plures-test"
    subprocess.run(["apparmor_parser", "--remove", path], check=True)


@pytest.fixture(scope="module")
def selinux(tmp_path_factory):
    if "selinux" not in MODULES or not shutil.which("secilc"):
        pytest.skip("SELinux is not on here, or secilc is not installed")
    fs = pathlib.Path("/sys/fs/selinux")
    if not (fs / "load").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", fs], check=True)
    if (fs / "enforce").read_text() != "0":
        pytest.skip("a host that enforces keeps its policy")
    folder = tmp_path_factory.mktemp("policy")
    (folder / "policy.cil").write_text(POLICY)
    subprocess.run(["secilc", "-c", "31", "-o", folder / "policy", "-f", "/dev/null", folder / "policy.cil"], check=True)
    with open(fs / "load", "wb", buffering=0) as file:
        file.write((folder / "policy").read_bytes())


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_apparmor(runtime, profile, no_new_privileges):
    (runtime.rootfs / "etc/secret").write_text("secret")
    c = shell("cat /proc/self/attr/current; cat /etc/secret 2>/dev/null || echo refused", process__apparmorProfile=profile,
              process__noNewPrivileges=no_new_privileges)
    assert runtime.output(c) == f"{profile} (enforce)\nrefused\n"
    name = runtime.create(c | {"process": c["process"] | {"args": ["sleep", "1000"]}})
    runtime.call("start", name, check=True)
    r = runtime.call("exec", name, "cat", "/etc/secret")
    assert r.returncode == 1 and "Permission denied" in r.stderr
    other = config("cat", "/proc/self/attr/current", process__apparmorProfile="unconfined")
    assert runtime.output(other).startswith("unconfined")


def test_an_apparmor_profile_that_is_not_loaded(runtime, profile):
    r = runtime.run(config("true", process__apparmorProfile="no-such-profile"))
    assert r.returncode in (1, 126, 127) and "apparmorProfile" in r.stderr and "no-such-profile" in r.stderr, r.stderr


def test_selinux(runtime, selinux):
    label = "u:object_r:container_file_t"
    c = shell("tr -d '\\0' < /proc/self/attr/current; echo; grep -E ' /(dev|tmp|dev/shm) ' /proc/self/mountinfo",
              process__selinuxLabel="u:r:container_t", process__noNewPrivileges=False, linux__mountLabel=label)
    c["mounts"].append(mount("/tmp", "tmpfs", None))
    out = runtime.output(c).splitlines()
    assert out[0] == "u:r:container_t"
    mounts = [line for line in out if " - tmpfs " in line]
    assert len(mounts) == 3 and all(f"context={label}" in line or f'context="{label}"' in line for line in mounts), out
    name = runtime.create(c | {"process": c["process"] | {"args": ["sleep", "1000"]}})
    runtime.call("start", name, check=True)
    root = f"/proc/{runtime.state(name)['pid']}/root"
    assert os.getxattr(f"{root}/dev/shm", "security.selinux").rstrip(b"\0") == label.encode()
    assert runtime.call("exec", name, "cat", "/proc/self/attr/current", check=True).stdout.rstrip("\0\n") == "u:r:container_t"


def test_a_selinux_label_that_is_none(runtime, selinux):
    r = runtime.run(config("true", process__selinuxLabel="no:such:label_t"))
    assert r.returncode != 0 and "selinuxLabel" in r.stderr and "no:such:label_t" in r.stderr, r.stderr
    r = runtime.run(config("true", linux__mountLabel="no:such:label_t"))
    assert r.returncode != 0 and "mounts[" in r.stderr, r.stderr
