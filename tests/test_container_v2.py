# SPDX-License-Identifier: Apache-2.0
"""plures-oci on a host of cgroup v2 alone, as root: what v1 has not, or has in another way. test_container_hosts.py boots such a host."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

import containers
from containers import CONFIG, config, mount, shell

TOP = pathlib.Path("/sys/fs/cgroup")
CONTROLLERS = (TOP / "cgroup.controllers").read_text().split() if (TOP / "cgroup.controllers").exists() else []
WHY = containers.usable() or (not CONTROLLERS and "this host has not cgroup v2 alone")
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(WHY), reason=str(WHY))]


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


def need(controller):
    if controller not in CONTROLLERS:
        pytest.skip(f"no cgroup controller {controller}")


def started(runtime, configuration):
    name = runtime.create(configuration)
    runtime.call("start", name, check=True)
    return name


def folder(runtime, name):
    line = pathlib.Path(f"/proc/{runtime.state(name)['pid']}/cgroup").read_text().splitlines()[-1]
    return TOP / line.removeprefix("0::/")


def limited(runtime, **resources):
    """The folder of a container with these limits."""
    return folder(runtime, started(runtime, config("sleep", "1000", linux__resources=resources)))


def inside(script, **changes):
    """A configuration whose program organizes cgroups of its own."""
    c = shell(script, **changes)
    c["mounts"] = [m for m in CONFIG["mounts"] if m["type"] != "cgroup"] + [mount("/sys/fs/cgroup", "cgroup2", None, "nosuid", "noexec", "nodev", "rw")]
    c["linux"]["namespaces"] = CONFIG["linux"]["namespaces"] + [{"type": "cgroup"}]
    return c


# --- limits ---------------------------------------------------------------------------------------------------------------

def test_unified(runtime):
    path = limited(runtime, unified={"memory.high": "100003840", "memory.oom.group": "1", "pids.max": "7"})
    assert [(path / f).read_text().strip() for f in ("memory.high", "memory.oom.group", "pids.max")] == ["100003840", "1", "7"]
    for key, value in (("memory.nothing", "1"), ("memory.high", "much")):
        r = runtime.run(config("true", linux__resources={"unified": {key: value}}))
        assert r.returncode == 1 and f"linux.resources.unified[{key}]" in r.stderr, r.stderr


def test_all_are_killed_when_memory_runs_out(runtime):
    script = "(tail /dev/zero); echo went on"
    limit = {"memory": {"limit": 32 << 20, "swap": 32 << 20}}
    assert runtime.run(shell(script, linux__resources=limit)).stdout == "went on\n"
    r = runtime.run(shell(script, linux__resources=limit | {"unified": {"memory.oom.group": "1"}}))
    assert r.returncode == 137 and r.stdout == ""


def test_quota_and_period_change_alone(runtime):
    name = started(runtime, config("sleep", "1000", linux__resources={"cpu": {"quota": 20000, "period": 50000, "shares": 1024}}))
    path = folder(runtime, name)
    assert (path / "cpu.max").read_text() == "20000 50000\n" and (path / "cpu.weight").read_text() == "39\n"
    for options, expected in ((["--cpu-period", "100000"], "20000 100000\n"), (["--cpu-quota", "30000"], "30000 100000\n"),
                              (["--cpu-quota", "-1"], "max 100000\n"), (["--cpu-period", "40000"], "max 40000\n")):
        runtime.call("update", *options, name, check=True)
        assert (path / "cpu.max").read_text() == expected


def test_burst_and_idle(runtime):
    name = started(runtime, config("sleep", "1000", linux__resources={"cpu": {"quota": 20000, "period": 50000, "burst": 10000}}))
    path = folder(runtime, name)
    if not (path / "cpu.idle").exists():
        pytest.skip("the kernel has no cpu.idle")
    assert (path / "cpu.max.burst").read_text() == "10000\n"

    def update(cpu):
        runtime.call("update", "--resources", "-", name, check=True, input=json.dumps({"cpu": cpu}))
        return [(path / f).read_text().strip() for f in ("cpu.max", "cpu.max.burst", "cpu.idle")]

    assert update({"quota": 5000, "burst": 4000}) == ["5000 50000", "4000", "0"]
    assert update({"quota": 40000, "burst": 30000, "idle": 1}) == ["40000 50000", "30000", "1"]
    assert update({"idle": 0, "shares": 2048})[2] == "0" and (path / "cpu.weight").read_text() == "79\n"


def test_huge_pages(runtime):
    need("hugetlb")
    limit = 2 << 20
    pages = {"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]}
    path = limited(runtime, **pages)
    assert [(path / f"hugetlb.2MB.{f}").read_text().strip() for f in ("max", "rsvd.max")] == [str(limit)] * 2
    if int(pathlib.Path("/proc/sys/vm/nr_hugepages").read_text()) < 4 or not shutil.which("python3"):
        return
    # A reservation beyond it is refused, where a page fault would have killed.
    tries = "import mmap\nfor n in (1, 2):\n try: mmap.mmap(-1, n << 21, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000).close(); print(n)\n" \
            " except OSError as e: print(e.errno)"
    c = config("/usr/bin/python3", "-c", tries, linux__resources=pages)
    c["mounts"] += [mount(d, "none", d, "rbind", "ro") for d in ("/usr", "/lib", "/lib64") if os.path.exists(d)]
    assert runtime.output(c) == "1\n12\n"


def test_rdma(runtime):
    """With a device that the kernel makes of a network interface."""
    need("rdma")
    r = runtime.run(config("true", linux__resources={"rdma": {"nothing0": {"hcaHandles": 3}}}))
    assert r.returncode == 1 and "linux.resources.rdma" in r.stderr
    subprocess.run(["modprobe", "rdma_rxe"], capture_output=True)
    subprocess.run(["ip", "link", "add", "rdma-test", "type", "dummy"], capture_output=True)
    subprocess.run(["ip", "link", "set", "rdma-test", "up"], capture_output=True)
    made = subprocess.run(["rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "rdma-test"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("no RDMA device can be made here: " + made.stderr)
    try:
        path = limited(runtime, rdma={"rxe0": {"hcaHandles": 3, "hcaObjects": 10000}})
        assert "rxe0 hca_handle=3 hca_object=10000" in (path / "rdma.max").read_text()
        path = limited(runtime, rdma={"rxe0": {"hcaHandles": 4}})
        assert "rxe0 hca_handle=4 hca_object=max" in (path / "rdma.max").read_text()
    finally:
        subprocess.run(["rdma", "link", "delete", "rxe0"], check=True)
        subprocess.run(["ip", "link", "delete", "rdma-test"], check=True)


def test_block_io_weight(runtime):
    need("io")
    subprocess.run(["modprobe", "bfq"], capture_output=True)
    path = limited(runtime)
    if (path / "io.bfq.weight").exists():
        assert (limited(runtime, blockIO={"weight": 300}) / "io.bfq.weight").read_text().split()[1] == "300"
    elif (path / "io.weight").exists():
        assert (limited(runtime, blockIO={"weight": 1000}) / "io.weight").read_text().split()[1] == "10000"
    else:
        r = runtime.run(config("true", linux__resources={"blockIO": {"weight": 300}}))
        assert r.returncode == 1 and "linux.resources.blockIO.weight" in r.stderr


def test_devices_change(runtime):
    """The program that decides is replaced; another beside it would have to agree."""
    disk = next(iter(sorted(pathlib.Path("/sys/block").glob("[vs]d?"))), None)
    if disk is None:
        pytest.skip("no disk")
    major, minor = map(int, (disk / "dev").read_text().split(":"))
    device = {"path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600, "uid": 0, "gid": 0}
    deny, allow = {"allow": False, "access": "rwm"}, {"allow": True, "type": "b", "major": major, "minor": minor, "access": "r"}
    name = started(runtime, config("sleep", "1000", linux__devices=[device], linux__resources={"devices": [deny]}))

    def reads():
        r = runtime.call("exec", name, "sh", "-c", ": < /dev/disk")
        assert r.returncode == 0 or "not permitted" in r.stderr
        return r.returncode == 0

    assert not reads()
    for rules, expected in (([deny, allow], True), ([deny], False), ([deny, allow], True)):
        runtime.call("update", "--resources", "-", name, check=True, input=json.dumps({"devices": rules}))
        assert reads() == expected


# --- cgroups of the container's own ---------------------------------------------------------------------------------------

NEST = """cd /sys/fs/cgroup; mkdir -p init a/b/c; echo $$ > init/cgroup.procs; echo +pids > cgroup.subtree_control
sleep 1000 & echo $! > a/b/c/cgroup.procs; echo 1 > a/b/c/cgroup.freeze; touch /tmp/ready; exec sleep 1000"""


def test_processes_in_cgroups_below(runtime):
    """As an init system in a container organizes them: exec, ps, pause and the end reach all of them, and nothing is left."""
    name = started(runtime, inside(NEST, root__readonly=False))
    while not (runtime.rootfs / "tmp/ready").exists():
        assert runtime.status(name) == "running", runtime.log(name)
    path = folder(runtime, name).parent
    assert (path / "cgroup.subtree_control").read_text() == "pids\n"
    assert len(json.loads(runtime.call("ps", "--format", "json", name, check=True).stdout)) == 2
    assert runtime.call("exec", name, "cat", "/proc/self/cgroup").stdout == "0::/init\n"
    runtime.call("pause", name, check=True)
    assert runtime.status(name) == "paused" and "frozen 1" in (path / "init/cgroup.events").read_text()
    runtime.call("resume", name, check=True)
    runtime.call("kill", "--all", name, "KILL", check=True)
    runtime.wait(name)
    runtime.call("delete", name, check=True)
    assert not path.exists()


def test_a_folder_that_is_deep(runtime):
    """Deeper than a path may be long."""
    script = "cd /sys/fs/cgroup; n=$(seq -s '' 100); i=0; while [ $i -lt 40 ]; do mkdir $n && cd $n; i=$((i+1)); done; echo $i"
    assert runtime.output(inside(script)) == "40\n"


def test_the_user_owns_what_is_below(runtime):
    subprocess.run(["chown", "-R", "100000:100000", runtime.rootfs], check=True)
    c = inside("mkdir /sys/fs/cgroup/mine && echo 0 > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup; "
               "(echo 5 > /sys/fs/cgroup/pids.max) 2>/dev/null || echo refused; sleep 1000", linux__resources={"pids": {"limit": 99}})
    c["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        c["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 5000}]
    name = runtime.create(c)
    path = folder(runtime, name)
    owned = {p.name for p in path.iterdir() if p.stat().st_uid == 100000}
    assert path.stat().st_uid == 100000 and {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} <= owned
    assert "pids.max" not in owned and "cgroup.max.depth" not in owned
    runtime.call("start", name, check=True)
    while len(runtime.log(name).split()) < 2:
        assert runtime.status(name) == "running", runtime.log(name)
    assert runtime.log(name).split() == ["0::/mine", "refused"]
    # Read-only, or without a namespace, nothing changes hands.
    other = runtime.create(shell("true"))
    assert folder(runtime, other).stat().st_uid == 0
