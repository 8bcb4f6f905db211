# SPDX-License-Identifier: Apache-2.0
"""plures-oci --systemd-cgroup: systemd makes the cgroups, over D-Bus, for root and for a user whose systemd has them delegated.
test_container_hosts.py boots hosts that have systemd."""
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import time

import pytest

import containers
from containers import config, shell

TOP = pathlib.Path("/sys/fs/cgroup")
V2 = (TOP / "cgroup.controllers").exists()
WHY = containers.usable() or (not os.path.exists("/run/systemd/system") and "systemd is not the init of this host")
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(WHY), reason=str(WHY))]


class Systemd(containers.Runtime):
    def argv(self, *args):
        program, *rest = super().argv(*args)
        return [program, "--systemd-cgroup", *rest]


class User(Systemd):
    """As a user with a systemd of its own."""

    name_of_user = "plures-test"

    def __init__(self):
        subprocess.run(["useradd", "-m", self.name_of_user], capture_output=True)
        self.user = pwd.getpwnam(self.name_of_user)
        subprocess.run(["loginctl", "enable-linger", self.name_of_user], check=True)
        self.bus = f"/run/user/{self.user.pw_uid}/bus"
        end = time.monotonic() + 60
        while not os.path.exists(self.bus) and time.monotonic() < end:
            time.sleep(0.1)
        super().__init__()
        self.program = self.folder / "program"
        shutil.copy(containers.PROGRAM, self.program)
        self.own(self.folder)

    def own(self, path):
        subprocess.run(["chown", "-R", f"{self.user.pw_uid}:{self.user.pw_gid}", path], check=True)

    def argv(self, *args):
        return ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups", "env",
                "-u", "DBUS_SESSION_BUS_ADDRESS", f"XDG_RUNTIME_DIR=/run/user/{self.user.pw_uid}", f"HOME={self.user.pw_dir}", *super().argv(*args)]

    def bundle(self, configuration, rootfs=None):
        path = super().bundle(configuration, rootfs)
        self.own(path)
        return path

    def config(self, *args, **changes):
        c = config(*args, **changes)
        c["linux"]["namespaces"] = c["linux"]["namespaces"] + [{"type": "user"}, {"type": "cgroup"}]
        c["linux"]["uidMappings"] = [{"containerID": 0, "hostID": self.user.pw_uid, "size": 1}]
        c["linux"]["gidMappings"] = [{"containerID": 0, "hostID": self.user.pw_gid, "size": 1}]
        for m in c["mounts"]:
            m["options"] = [o for o in m.get("options", []) if o != "gid=5"]
        return c


@pytest.fixture
def runtime():
    r = Systemd()
    yield r
    r.close()


@pytest.fixture
def user():
    if not V2:
        pytest.skip("only cgroup v2 is delegated to users")
    r = User()
    yield r
    r.close()


def show(unit, *names):
    r = subprocess.run(["systemctl", "show", unit, *[f"-p{n}" for n in names]], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in r.stdout.splitlines())


def place(pid, controller):
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == ("" if V2 else controller) or controller in names.split(","):
            return TOP / names.removeprefix("name=") / path.lstrip("/")
    raise AssertionError(f"no cgroup of {controller}")


def value(pid, controller, v1, v2):
    return (place(pid, controller) / (v2 if V2 else v1)).read_text().strip()


RESOURCES = {"memory": {"limit": 64 << 20, "swap": 128 << 20}, "pids": {"limit": 40}, "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "0"}}


def files(pid):
    quota = value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max") + ("" if V2 else " " + value(pid, "cpu", "cpu.cfs_period_us", "cpu.max"))
    return [value(pid, "memory", "memory.limit_in_bytes", "memory.max"), value(pid, "pids", "pids.max", "pids.max"), quota,
            value(pid, "cpu", "cpu.shares", "cpu.weight"), value(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")]


def test_a_scope(runtime):
    """The container is a scope in the slice that was asked for, and its limits stay when systemd writes what it knows."""
    name = runtime.create(config("sleep", "1000", linux__cgroupsPath=f"plures-test.slice:test:{runtime.tag}", linux__resources=RESOURCES))
    unit, pid = f"test-{runtime.tag}.scope", runtime.state(name)["pid"]
    shown = show(unit, "ActiveState", "Slice", "Delegate", "TasksMax", "MemoryMax", "MemoryLimit", "CPUQuotaPerSecUSec")
    assert shown["ActiveState"] == "active" and shown["Slice"] == "plures-test.slice" and shown["Delegate"] == "yes"
    assert shown["TasksMax"] == "40" and shown["MemoryMax" if V2 else "MemoryLimit"] == str(64 << 20) and shown["CPUQuotaPerSecUSec"] == "400ms"
    expected = [str(64 << 20), "40", "20000 50000", "20" if V2 else "512", "0"]
    assert place(pid, "memory").parts[-2:] == ("plures-test.slice", unit) and files(pid) == expected
    runtime.call("start", name, check=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "set-property", "--runtime", unit, "IPAccounting=no", "TasksMax=40"], check=True)
    assert files(pid) == expected and runtime.status(name) == "running"
    r = runtime.call("exec", name, "cat", "/proc/self/cgroup", check=True)
    assert unit in r.stdout
    runtime.call("pause", name, check=True)
    assert runtime.status(name) == "paused"
    runtime.call("resume", name, check=True)
    runtime.call("kill", name, "KILL", check=True)
    runtime.wait(name)
    runtime.call("delete", name, check=True)
    assert show(unit, "LoadState")["LoadState"] == "not-found"


def test_update(runtime):
    name = runtime.create(config("sleep", "1000", linux__resources=RESOURCES))
    unit, pid = f"plures-{name}.scope", runtime.state(name)["pid"]
    assert show(unit, "Slice")["Slice"] == "system.slice"
    runtime.call("start", name, check=True)
    runtime.call("update", "--memory", "96M", "--memory-swap", "-1", "--pids-limit", "50", "--cpu-quota", "30000", "--cpu-share", "1024", name, check=True)
    expected = [str(96 << 20), "50", "30000 50000", "39" if V2 else "1024", "0"]
    assert files(pid) == expected
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert files(pid) == expected and show(unit, "TasksMax")["TasksMax"] == "50"
    runtime.call("update", "--memory", "-1", "--pids-limit", "-1", "--cpu-quota", "-1", name, check=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert files(pid)[1] == "max" and files(pid)[2].split()[0] in ("max", "-1")


def test_run_and_its_end(runtime):
    r = runtime.run(shell("cat /proc/self/cgroup; exit 5", linux__resources=RESOURCES), name=f"run-{runtime.tag}")
    assert r.returncode == 5 and f"plures-run-{runtime.tag}.scope" in r.stdout, r.stderr
    assert show(f"plures-run-{runtime.tag}.scope", "LoadState")["LoadState"] == "not-found"


def test_systemd_stops_it(runtime):
    name = runtime.create(config("sleep", "1000"))
    runtime.call("start", name, check=True)
    subprocess.run(["systemctl", "kill", "--signal=KILL", f"plures-{name}.scope"], check=True)
    runtime.wait(name)
    runtime.call("delete", name, check=True)


def test_what_systemd_refuses(runtime):
    for path, expected in (("/a/b", "slice:prefix:name"), ("no-slice:x:y", "no-slice"), ("a/b.slice:x:y", "a/b.slice")):
        r = runtime.run(config("true", linux__cgroupsPath=path))
        assert r.returncode == 1 and expected in r.stderr, r.stderr
    first = runtime.create(config("sleep", "1000", linux__cgroupsPath=f":twice:{runtime.tag}"))
    r = runtime.run(config("true", linux__cgroupsPath=f":twice:{runtime.tag}"))
    assert r.returncode == 1 and f"twice-{runtime.tag}.scope" in r.stderr
    assert runtime.status(first) == "created"


def test_without_the_bus(runtime):
    env = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/no/such/bus"}
    r = runtime.run(config("true"), env=env)
    assert r.returncode == 1 and "--systemd-cgroup" in r.stderr and "/no/such/bus" in r.stderr
    assert not json.loads(runtime.call("list", "--format", "json").stdout)


def test_a_user(user):
    """Limits without root."""
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 40}, "cpu": {"quota": 20000, "period": 50000}}
    resources = {k: v for k, v in resources.items() if k in delegated(user)}
    name = user.create(user.config("sleep", "1000", linux__resources=resources))
    pid = user.state(name)["pid"]
    path = place(pid, "memory")
    assert f"user@{user.user.pw_uid}.service" in str(path) and path.name == f"plures-{name}.scope"
    assert (path / "memory.max").read_text() == f"{64 << 20}\n" and (path / "pids.max").read_text() == "40\n"
    user.call("start", name, check=True)
    assert user.call("exec", name, "cat", "/proc/self/cgroup", check=True).stdout == "0::/\n"
    stats = json.loads(user.call("events", "--stats", name, check=True).stdout)["data"]
    assert stats["pids"]["limit"] == 40 and stats["memory"]["usage"]["limit"] == 64 << 20
    user.call("update", "--pids-limit", "50", name, check=True)
    assert (path / "pids.max").read_text() == "50\n"
    user.call("pause", name, check=True)
    assert user.status(name) == "paused"
    user.call("resume", name, check=True)
    user.call("delete", "--force", name, check=True)
    assert not path.exists()
    r = user.run(user.config("tail", "/dev/zero", linux__resources={"memory": {"limit": 32 << 20, "swap": 32 << 20}}))
    assert r.returncode == 137, r.stderr


def delegated(user):
    path = TOP / f"user.slice/user-{user.user.pw_uid}.slice/user@{user.user.pw_uid}.service/cgroup.controllers"
    return path.read_text().split()
