# SPDX-License-Identifier: Apache-2.0
"""plures-oci in a user namespace that root makes, and as an unprivileged user. What a user may not do is skipped by name: pausing,
statistics and limits need cgroups, devices are the host's mounted."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

import containers
from containers import CONFIG, config, mount, shell

NOBODY = 65534
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]


class Rootless(containers.Runtime):
    """Runs everything as nobody, from a copy of the program that nobody can reach."""

    def __init__(self):
        super().__init__()
        self.program = self.folder / "program"
        shutil.copy(containers.PROGRAM, self.program)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", self.folder], check=True)

    def argv(self, *args):
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *super().argv(*args)]

    def bundle(self, configuration, rootfs=None):
        path = super().bundle(configuration, rootfs)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", path], check=True)
        return path


class InUserNamespace(containers.Runtime):
    """Root, whose containers have user namespaces."""

    def __init__(self):
        super().__init__()
        subprocess.run(["chown", "-R", "100000:100000", self.rootfs], check=True)


@pytest.fixture(params=["rootless", "userns"])
def runtime(request):
    if request.param == "rootless":
        probe = subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "unshare", "-U", "true"], capture_output=True)
        if probe.returncode:
            pytest.skip("unprivileged users may not make user namespaces here")
    r = Rootless() if request.param == "rootless" else InUserNamespace()
    r.rootless = request.param == "rootless"
    yield r
    r.close()


def mapped(runtime, c):
    """The configuration with a user namespace."""
    host, size = (NOBODY, 1) if runtime.rootless else (100000, 5000)
    c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"]] + [{"type": "user"}]
    for name in ("uidMappings", "gidMappings"):
        c["linux"][name] = [{"containerID": 0, "hostID": host, "size": size}]
    if runtime.rootless:
        c["linux"]["resources"] = {}
        c["mounts"] = [mount(m["destination"], m["type"], m["source"], *[o for o in m.get("options", []) if o != "gid=5"]) for m in c["mounts"]]
    return c


def test_run(runtime):
    c = mapped(runtime, shell("id -u; cat /proc/self/uid_map; touch /made; stat -c %u /made; hostname; head -c 2 /dev/zero | wc -c; exit 3",
                              root__readonly=False))
    r = runtime.run(c)
    host = NOBODY if runtime.rootless else 100000
    assert r.returncode == 3 and r.stdout.split() == ["0", "0", str(host), "1" if runtime.rootless else "5000", "0", "inside", "2"], r.stderr
    assert (runtime.rootfs / "made").stat().st_uid == host


def test_life_and_exec(runtime):
    name = runtime.create(mapped(runtime, config("sleep", "1000")))
    assert runtime.status(name) == "created"
    runtime.call("start", name, check=True)
    assert runtime.status(name) == "running"
    r = runtime.call("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map | wc -l; readlink /proc/self/ns/user; exit 4")
    assert r.returncode == 4 and r.stdout.split() == ["0", "1", os.readlink(f"/proc/{runtime.state(name)['pid']}/ns/user")], r.stderr
    runtime.call("kill", name, "KILL", check=True)
    runtime.wait(name)
    runtime.call("delete", name, check=True)


def test_mounts(runtime):
    (runtime.folder / "file").write_text("bound\n")
    c = mapped(runtime, shell("cat /etc/f; (echo x > /etc/f) 2>/dev/null || echo refused; cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l",
                              root__readonly=False))
    c["mounts"].append(mount("/etc/f", "none", str(runtime.folder / "file"), "bind", "ro"))
    assert runtime.output(c).split() == ["bound", "refused", "0", "0"]


def test_capabilities_are_the_namespaces(runtime):
    c = mapped(runtime, shell("grep CapEff /proc/self/status; hostname new 2>&1 || echo refused",
                              process__capabilities={s: ["CAP_CHOWN"] for s in ("bounding", "effective", "permitted")}))
    assert runtime.output(c).split()[:2] == ["CapEff:", "0000000000000001"]


def test_seccomp_and_no_new_privileges(runtime):
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    for on in (True, False):
        c = mapped(runtime, config("mkdir", "/tmp/x", process__noNewPrivileges=on, linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
        r = runtime.run(c)
        assert r.returncode == 1 and "not supported" in r.stderr


def test_a_joined_user_namespace(runtime):
    """As a pod's second container does, with a PID namespace of its own."""
    if runtime.rootless:
        pytest.skip("setns to a PID namespace needs the user namespace first: pods of unprivileged users are their engine's namespaces")
    name = runtime.create(mapped(runtime, config("sleep", "1000")))
    pid = runtime.state(name)["pid"]
    c = shell("id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; ps | wc -l", hostname=None)
    c["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid"}, {"type": "user", "path": f"/proc/{pid}/ns/user"},
                                {"type": "network", "path": f"/proc/{pid}/ns/net"}, {"type": "ipc", "path": f"/proc/{pid}/ns/ipc"}]
    out = runtime.output(c).split()
    assert out[:3] == ["0", os.readlink(f"/proc/{pid}/ns/user"), os.readlink(f"/proc/{pid}/ns/net")] and int(out[3]) <= 5


def test_idmapped_mount(runtime):
    """Files of the host's root are the container's own, and what it makes is the host's root's."""
    if runtime.rootless:
        pytest.skip("only root may map a host's filesystem")
    source = runtime.folder / "source"
    source.mkdir()
    (source / "file").write_text("x")
    c = mapped(runtime, shell("stat -c %u:%g /tmp/file; echo y > /tmp/made"))
    c["mounts"].append(mount("/tmp", "none", str(source), "rbind", "idmap"))
    r = runtime.run(c)
    if r.returncode and "does the filesystem allow it" in r.stderr:
        pytest.skip("this filesystem can't be idmapped")
    assert r.returncode == 0 and r.stdout == "0:0\n", r.stderr
    assert (source / "made").stat().st_uid == 0
    c["process"]["args"][2] = "stat -c %u:%g /tmp/file"
    c["mounts"][-1] |= {"options": ["bind"], "uidMappings": [{"containerID": 0, "hostID": 100007, "size": 1}],
                        "gidMappings": [{"containerID": 0, "hostID": 100008, "size": 1}]}
    assert runtime.output(c) == "7:8\n"


def test_limits_without_cgroups_are_an_error(runtime):
    if not runtime.rootless:
        pytest.skip("root has cgroups")
    c = mapped(runtime, config("true"))
    c["linux"]["resources"] = {"memory": {"limit": 1 << 26}}
    r = runtime.run(c)
    assert r.returncode == 1 and "linux.resources.memory.limit" in r.stderr


def test_maps_that_are_not_allowed(runtime):
    if not runtime.rootless:
        pytest.skip("root may map anything")
    c = mapped(runtime, config("true"))
    c["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 10}]
    r = runtime.run(c)
    assert r.returncode != 0 and "linux.uidMappings" in r.stderr and ("newuidmap" in r.stderr)
