# SPDX-License-Identifier: Apache-2.0
"""plures-oci as root: the life of a container, and what the configuration's fields do (runtime-spec; docs/containers-spec.md says
which test is for which section)."""
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

import containers
from containers import CONFIG, config, mount, shell

pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


# --- operations -----------------------------------------------------------------------------------------------------------

def test_run_passes_output_and_status(runtime):
    r = runtime.run(shell("echo out; echo err >&2; exit 7"))
    assert (r.returncode, r.stdout, r.stderr) == (7, "out\n", "err\n")


def test_run_reads_standard_input(runtime):
    assert runtime.run(config("cat"), input="through\n").stdout == "through\n"


def test_run_reports_signals(runtime):
    assert runtime.run(shell("kill -TERM $$; sleep 5"), ).returncode in (0, 128 + signal.SIGTERM)
    assert runtime.run(shell("sh -c 'kill -9 $$'; exit $?")).returncode == 137


def test_life(runtime):
    name = runtime.create(shell("echo started; sleep 100"))
    state = runtime.state(name)
    assert state["status"] == "created" and state["id"] == name and state["pid"] > 0 and state["ociVersion"].startswith("1.")
    assert runtime.log(name) == ""
    runtime.call("start", name, check=True)
    assert runtime.status(name) == "running"
    again = runtime.call("start", name)
    assert again.returncode == 1 and "running" in again.stderr
    r = runtime.call("delete", name)
    assert r.returncode == 1 and "not stopped" in r.stderr and runtime.status(name) == "running"
    runtime.call("kill", name, "KILL", check=True)
    runtime.wait(name)
    assert runtime.state(name)["pid"] == 0 and runtime.log(name) == "started\n"
    r = runtime.call("kill", name, "KILL")
    assert r.returncode == 1 and "container not running" in r.stderr
    runtime.call("delete", name, check=True)
    r = runtime.call("state", name)
    assert r.returncode == 1 and "does not exist" in r.stderr


def test_delete_of_a_created_container(runtime):
    name = runtime.create(config("true"))
    pid = runtime.state(name)["pid"]
    runtime.call("delete", name, check=True)
    assert containers.gone(pid)


def test_delete_force(runtime):
    name = runtime.create(shell("trap '' TERM; sleep 100"))
    runtime.call("start", name, check=True)
    runtime.call("delete", "--force", name, check=True)
    assert runtime.call("delete", "--force", name).returncode == 0
    r = runtime.call("delete", name)
    assert r.returncode == 1 and "does not exist" in r.stderr


def test_run_detached_and_kept(runtime):
    name = runtime.name()
    with open(runtime.folder / f"{name}.out", "wb") as out:
        subprocess.run(runtime.argv("run", "-d", "-b", runtime.bundle(config("sleep", "100")), "--pid-file", runtime.folder / "pid", name), stdout=out, stderr=out, check=True)
    assert runtime.status(name) == "running"
    assert int((runtime.folder / "pid").read_text()) == runtime.state(name)["pid"]
    runtime.call("kill", name, "SIGKILL", check=True)
    runtime.wait(name)
    kept = runtime.name()
    assert runtime.run(config("true"), "--keep", name=kept).returncode == 0
    assert runtime.status(kept) == "stopped"


def test_list(runtime):
    assert json.loads(runtime.call("list", "--format", "json", check=True).stdout) == []
    names = sorted(runtime.create(config("true", annotations={"a": "b"})) for _ in range(2))
    listed = json.loads(runtime.call("list", "--format=json", check=True).stdout)
    assert sorted(c["id"] for c in listed) == names
    assert {c["status"] for c in listed} == {"created"} and listed[0]["annotations"] == {"a": "b"}
    assert sorted(runtime.call("list", "-q", check=True).stdout.split()) == names
    table = runtime.call("list", check=True).stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"] and len(table) == 3


def test_kill_by_name_and_number(runtime):
    name = runtime.create(shell("trap 'echo usr1' USR1; trap 'echo usr2; exit' USR2; echo up; while :; do sleep 0.05; done"))
    runtime.call("start", name, check=True)
    wait_for(lambda: runtime.log(name) == "up\n")
    runtime.call("kill", name, "10", check=True)
    wait_for(lambda: runtime.log(name) == "up\nusr1\n")
    runtime.call("kill", name, "SIGUSR2", check=True)
    runtime.wait(name)
    assert runtime.log(name) == "up\nusr1\nusr2\n"


def wait_for(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_pause(runtime):
    name = runtime.create(shell("while :; do echo x; sleep 0.01; done"))
    runtime.call("start", name, check=True)
    wait_for(lambda: runtime.log(name))
    runtime.call("pause", name, check=True)
    assert runtime.status(name) == "paused"
    before = runtime.log(name)
    time.sleep(0.2)
    assert runtime.log(name) == before
    r = runtime.call("exec", name, "true")
    assert r.returncode == 1 and "paused" in r.stderr
    runtime.call("resume", name, check=True)
    wait_for(lambda: len(runtime.log(name)) > len(before))
    assert runtime.call("resume", name).returncode == 1
    runtime.call("pause", name, check=True)
    runtime.call("kill", name, "KILL", check=True)
    runtime.wait(name)


# --- exec -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def sleeper(runtime):
    name = runtime.create(config("sleep", "1000"))
    runtime.call("start", name, check=True)
    return name


def test_exec(runtime, sleeper):
    r = runtime.call("exec", sleeper, "sh", "-c", "echo $0 $$; hostname; exit 5", input="")
    assert r.returncode == 5 and r.stdout.splitlines()[1] == "inside", r.stderr
    pid = runtime.state(sleeper)["pid"]
    links = runtime.call("exec", sleeper, "sh", "-c", "cd /proc/self/ns; for n in mnt net pid ipc uts; do readlink $n; done", check=True).stdout.split()
    assert links == [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("mnt", "net", "pid", "ipc", "uts")]
    inside = runtime.call("exec", sleeper, "cat", "/proc/self/cgroup", check=True).stdout
    assert inside == pathlib.Path(f"/proc/{pid}/cgroup").read_text()


def test_exec_options(runtime, sleeper):
    r = runtime.call("exec", "--cwd", "/tmp", "-e", "A=b", "--env", "C=d", "-u", "1000:1000", "-g", "7", sleeper, "sh", "-c",
                     "pwd; echo $A$C; id -u; id -G; grep NoNewPrivs /proc/self/status", check=True)
    assert r.stdout.split() == ["/tmp", "bd", "1000", "1000", "7", "NoNewPrivs:", "1"]


def test_exec_with_process_file(runtime, sleeper, tmp_path):
    process = config("sh", "-c", "echo $X; ulimit -n; exit 3")["process"]
    process["env"].append("X=y")
    process["rlimits"][0] = {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}
    (tmp_path / "p.json").write_text(json.dumps(process))
    r = runtime.call("exec", "--process", tmp_path / "p.json", "--pid-file", tmp_path / "pid", sleeper)
    assert (r.returncode, r.stdout) == (3, "y\n99\n"), r.stderr
    assert (tmp_path / "pid").read_text().isdigit()


def test_exec_detached(runtime, sleeper, tmp_path):
    subprocess.run(runtime.argv("exec", "-d", "--pid-file", tmp_path / "pid", sleeper, "sleep", "50"), check=True, timeout=20,
                   stdout=subprocess.DEVNULL)
    pid = int((tmp_path / "pid").read_text())
    assert pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0050\x00"
    assert pid in json.loads(runtime.call("ps", "--format", "json", sleeper, check=True).stdout)


def test_exec_of_what_is_not_there(runtime, sleeper):
    r = runtime.call("exec", sleeper, "nothing")
    assert r.returncode == 127 and "executable file `nothing` not found in $PATH" in r.stderr
    assert runtime.call("exec", sleeper, "/etc/passwd").returncode == 126
    assert runtime.call("exec", sleeper, "/etc").returncode == 126
    assert runtime.call("exec", sleeper, "/no/where").returncode == 127


def test_exec_in_a_stopped_container(runtime):
    name = runtime.name()
    runtime.run(config("true"), "--keep", name=name)
    r = runtime.call("exec", name, "true")
    assert r.returncode == 1 and "cannot exec in a stopped container" in r.stderr


# --- process --------------------------------------------------------------------------------------------------------------

def test_process_fields(runtime):
    c = shell("id -u; id -g; id -G; pwd; umask; echo $HOME; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj",
              process__user={"uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [5, 6]}, process__cwd="/tmp",
              process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}], process__oomScoreAdj=500)
    assert runtime.output(c).split() == ["1000", "1000", "1000", "5", "6", "/tmp", "0027", "/home/user", "64", "128", "500"]


def test_limits_that_are_low(runtime):
    c = shell("ulimit -n; ulimit -u; ulimit -f; ulimit -c", process__rlimits=[
        {"type": "RLIMIT_NOFILE", "soft": 4, "hard": 5}, {"type": "RLIMIT_NPROC", "soft": 3, "hard": 3},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 512}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615}])
    r = runtime.run(c)
    # Without CAP_SYS_RESOURCE a hard limit can only go down.
    if "RLIMIT_CORE to 0:18446744073709551615: Operation not permitted" not in r.stderr:
        assert r.stdout.split() == ["4", "3", "0", "0"], r.stderr
    c["process"]["rlimits"].pop()
    assert runtime.output(c).split()[:3] == ["4", "3", "0"]


def capabilities(text):
    return {line.split(":")[0][3:]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}


def test_capabilities(runtime):
    chown, kill, raw = 1 << 0, 1 << 5, 1 << 13
    c = config("cat", "/proc/self/status", process__capabilities={
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}, process__user={"uid": 1000, "gid": 1000})
    caps = capabilities(runtime.output(c))
    assert caps == {"Inh": chown, "Prm": chown, "Eff": chown, "Bnd": chown | kill | raw, "Amb": chown}
    c["process"]["user"] = {"uid": 0, "gid": 0}
    c["process"]["capabilities"]["ambient"] = []
    c["process"]["noNewPrivileges"] = False  # with it, root's programs gain nothing either
    caps = capabilities(runtime.output(c))
    assert caps["Prm"] == chown | kill | raw and caps["Bnd"] == chown | kill | raw and caps["Amb"] == 0


def test_unknown_capability_is_a_warning(runtime):
    r = runtime.run(config("true", process__capabilities={"bounding": ["CAP_NONSENSE"]}))
    assert r.returncode == 0 and "process.capabilities.bounding" in r.stderr and "CAP_NONSENSE" in r.stderr


@pytest.mark.parametrize("on", [True, False])
def test_no_new_privileges(runtime, on):
    assert f"NoNewPrivs:\t{int(on)}\n" in runtime.output(config("cat", "/proc/self/status", process__noNewPrivileges=on))


def test_scheduler_and_io_priority(runtime):
    c = shell("cat /proc/self/stat", process__scheduler={"policy": "SCHED_BATCH", "nice": 7},
              process__ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0})
    fields = runtime.output(c).rsplit(")", 1)[1].split()
    assert fields[16] == "7" and fields[38] == "3"  # nice, policy


def test_personality(runtime):
    assert runtime.output(config("cat", "/proc/self/personality", linux__personality={"domain": "LINUX32"})) == "00000008\n"


def test_environment_is_the_configurations(runtime):
    out = runtime.output(config("env", process__env=["PATH=/bin", "ONE=1", "EMPTY="]))
    assert sorted(out.split()) == ["EMPTY=", "HOME=/root", "ONE=1", "PATH=/bin"]


# --- namespaces -----------------------------------------------------------------------------------------------------------

def namespaces(text):
    return dict(line.split(":", 1) for line in text.split())


def test_namespaces_are_new(runtime):
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", "time"]
    c = shell("cd /proc/self/ns; for n in pid net ipc uts mnt cgroup time user; do readlink $n; done",
              linux__namespaces=[{"type": k} for k in kinds])
    inside = namespaces(runtime.output(c))
    for name in ("pid", "net", "ipc", "uts", "mnt", "cgroup", "time"):
        assert inside[name] != os.readlink(f"/proc/self/ns/{name}").split(":")[1], name
    assert inside["user"] == os.readlink("/proc/self/ns/user").split(":")[1]


def test_namespaces_are_joined(runtime, sleeper):
    pid = runtime.state(sleeper)["pid"]
    files = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    c = shell("cd /proc/self/ns; for n in pid net ipc uts mnt; do readlink $n; done; ps",
              linux__namespaces=[{"type": "mount"}] + [{"type": k, "path": f"/proc/{pid}/ns/{f}"} for k, f in files.items()], hostname=None)
    out = runtime.output(c)
    inside = namespaces("\n".join(out.splitlines()[:5]))
    for name in files.values():
        assert f"{name}:{inside[name]}" == os.readlink(f"/proc/{pid}/ns/{name}")
    assert inside["mnt"] != os.readlink(f"/proc/{pid}/ns/mnt").split(":")[1]
    assert "sleep 1000" in out


def test_time_offsets(runtime):
    c = config("cat", "/proc/uptime", linux__timeOffsets={"boottime": {"secs": 86400, "nanosecs": 5}, "monotonic": {"secs": 100}})
    c["linux"]["namespaces"].append({"type": "time"})
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    assert abs(float(runtime.output(c).split()[0]) - uptime - 86400) < 60


def test_names(runtime):
    c = shell("hostname; cat /proc/sys/kernel/domainname", hostname="some-name", domainname="some.domain")
    assert runtime.output(c).split() == ["some-name", "some.domain"]
    assert os.uname().nodename != "some-name"


def test_network_has_a_loopback_that_is_up(runtime):
    assert "UP" in runtime.output(config("ip", "link", "show", "lo"))


def test_sysctl(runtime):
    c = shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
              linux__sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "12345"})
    assert runtime.output(c).split() == ["1", "12345"]
    for name, value in (("kernel.panic", "1"), ("vm.swappiness", "1"), ("net.../x", "1")):
        r = runtime.run(config("true", linux__sysctl={name: value}))
        assert r.returncode == 1 and name in r.stderr


# --- mounts ---------------------------------------------------------------------------------------------------------------

def mount_line(text, where):
    lines = [line.split() for line in text.splitlines() if line.split()[4] == where]
    assert lines, f"{where} is not mounted:\n{text}"
    return lines[-1]


OPTIONS = [(["ro"], "ro"), (["nosuid"], "nosuid"), (["nodev"], "nodev"), (["noexec"], "noexec"), (["noatime"], "noatime"),
           (["relatime"], "relatime"), (["nodiratime"], "nodiratime"), (["ro", "rw"], "rw"), (["nosymfollow"], "nosymfollow"),
           (["nosuid", "suid"], "!nosuid"), (["strictatime"], "!relatime"), (["nodev", "dev"], "!nodev"), (["noexec", "exec"], "!noexec"),
           (["rro"], "ro"), (["rnosuid"], "nosuid"), (["rnoatime"], "noatime")]


@pytest.mark.parametrize("options,expected", OPTIONS, ids=lambda o: "+".join(o) if isinstance(o, list) else o)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_mount_options(runtime, kind, options, expected):
    source = runtime.folder / "source"
    source.mkdir()
    extra = mount("/tmp", "tmpfs", "tmpfs", *options) if kind == "tmpfs" else mount("/tmp", "none", str(source), "bind", *options)
    c = config("cat", "/proc/self/mountinfo", mounts=CONFIG["mounts"] + [extra])
    flags = mount_line(runtime.output(c), "/tmp")[5].split(",")
    assert (expected[1:] not in flags) if expected[0] == "!" else (expected in flags)


def test_recursive_options_reach_mounts_below(runtime):
    c = config("cat", "/proc/self/mountinfo", mounts=CONFIG["mounts"] + [mount("/tmp", "none", "/sys", "rbind", "rro", "rnoexec")])
    lines = [line.split() for line in runtime.output(c).splitlines() if line.split()[4].startswith("/tmp")]
    assert len(lines) > 1
    for line in lines:
        assert {"ro", "noexec"} <= set(line[5].split(",")), line


@pytest.mark.parametrize("option,expected", [("rprivate", ""), ("rshared", "shared:"), ("rslave", "master:"), ("runbindable", "unbindable")])
def test_propagation(runtime, option, expected):
    source = runtime.folder / "source"
    source.mkdir()
    subprocess.run(["mount", "--bind", source, source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    try:
        c = config("cat", "/proc/self/mountinfo", mounts=CONFIG["mounts"] + [mount("/tmp", "none", str(source), "rbind", option)])
        fields = mount_line(runtime.output(c), "/tmp")[6]
        assert fields.startswith(expected) if expected else fields == "-"
    finally:
        subprocess.run(["umount", source], check=True)


@pytest.mark.parametrize("host", ["shared", "private"])
@pytest.mark.parametrize("value", ["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"])
def test_rootfs_propagation(runtime, value, host):
    """Also where the host's mount below is shared, as systemd has it; what the container mounts stays in it."""
    place = runtime.folder / "place"
    place.mkdir()
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", f"--make-{host}", place], check=True)
    try:
        containers.make_rootfs(place / "rootfs")
        before = runtime.mounts()
        c = config("cat", "/proc/self/mountinfo", linux__rootfsPropagation=value, root={"path": str(place / "rootfs")})
        name = runtime.create(c)
        assert runtime.mounts() == before
        runtime.call("start", name, check=True)
        runtime.wait(name)
        fields = mount_line(runtime.log(name), "/")
        runtime.call("delete", name, check=True)
        tags = " ".join(fields[6:fields.index("-")])
        assert {"shared": "shared:" in tags, "slave": "shared:" not in tags, "private": not tags,
                "unbindable": tags == "unbindable"}[value.lstrip("r")], tags
    finally:
        subprocess.run(["umount", place], check=True)


def test_bind_mounts(runtime):
    (runtime.folder / "file").write_text("content\n")
    (runtime.folder / "dir").mkdir()
    (runtime.folder / "dir/inner").write_text("inner\n")
    extra = [mount("/etc/new/file", "none", str(runtime.folder / "file"), "bind", "ro"), mount("/tmp/a/b", "none", str(runtime.folder / "dir"), "rbind")]
    c = shell("cat /etc/new/file /tmp/a/b/inner; echo x > /tmp/a/b/made; (echo y > /etc/new/file) 2>/dev/null || echo refused",
              mounts=CONFIG["mounts"] + extra)
    assert runtime.output(c) == "content\ninner\nrefused\n"
    assert (runtime.folder / "dir/made").read_text() == "x\n"


def test_tmpcopyup(runtime):
    (runtime.rootfs / "etc/deep/er").mkdir(parents=True)
    (runtime.rootfs / "etc/deep/er/file").write_text("here\n")
    (runtime.rootfs / "etc/deep/link").symlink_to("er/file")
    os.chown(runtime.rootfs / "etc/deep/er/file", 12, 13)
    (runtime.rootfs / "etc/deep/er/file").chmod(0o666)
    c = shell("cat /etc/deep/link; stat -c %u:%g /etc/deep/er/file; echo new > /etc/deep/er/file",
              mounts=CONFIG["mounts"] + [mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "mode=755")])
    assert runtime.output(c) == "here\n12:13\n"
    assert (runtime.rootfs / "etc/deep/er/file").read_text() == "here\n"


def test_root_readonly(runtime):
    script = "touch /x && echo written; touch /dev/shm/x && echo shm"
    assert runtime.run(shell(script)).stdout == "shm\n"
    assert runtime.output(shell(script, root__readonly=False)) == "written\nshm\n"


def test_masked_and_readonly_paths(runtime):
    c = shell("cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/domainname) 2>/dev/null || echo refused;"
              "(echo 1 > /etc/passwd) 2>/dev/null || echo refused", root__readonly=False)
    c["linux"]["readonlyPaths"].append("/etc/passwd")
    c["linux"]["maskedPaths"].append("/not/there")
    assert runtime.output(c).split() == ["0", "0", "refused", "refused"]


def test_devices(runtime):
    c = shell("cd /dev; stat -c '%n %t %T %a' null zero full random urandom tty /dev/mine; for l in fd stdin stdout stderr ptmx; do readlink $l; done;"
              "head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 1 /dev/mine >/dev/null && echo mine;"
              "mknod /tmp/sda b 8 0 && (head -c 1 /tmp/sda || echo denied) 2>/dev/null",
              process__capabilities={"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]},
              root__readonly=False,
              linux__devices=[{"type": "c", "path": "/dev/mine", "major": 1, "minor": 9, "fileMode": 0o644, "uid": 3, "gid": 4}])
    lines = runtime.output(c).splitlines()
    assert lines[:7] == ["null 1 3 666", "zero 1 5 666", "full 1 7 666", "random 1 8 666", "urandom 1 9 666", "tty 5 0 666", "/dev/mine 1 9 644"]
    assert lines[7:12] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert lines[12:] == ["3", "mine", "denied"]


def test_cgroup_mount(runtime):
    for kinds in (["pid", "mount", "uts", "ipc"], ["pid", "mount", "uts", "ipc", "cgroup"]):
        c = shell("ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/cgroup.procs",
                  linux__namespaces=[{"type": k} for k in kinds])
        out = runtime.output(c).split()
        assert "1" in out and "plures" not in " ".join(out)


# --- descriptors ----------------------------------------------------------------------------------------------------------

def test_no_descriptor_of_the_host_is_left(runtime):
    with open("/etc/passwd") as leak:
        r = subprocess.run(runtime.argv("run", "-b", runtime.bundle(config("ls", "/proc/self/fd")), runtime.name()), pass_fds=[leak.fileno()],
                           capture_output=True, text=True)
    assert r.stdout.split() == ["0", "1", "2", "3"], r.stderr  # 3 is the folder that ls reads


def test_preserve_fds(runtime):
    read, write = os.pipe()
    os.set_inheritable(write, True)
    c = runtime.bundle(shell("echo through >&3"))
    pid = os.fork()
    if not pid:
        os.dup2(write, 3)
        os.closerange(4, 100)
        os.execv(runtime.program, runtime.argv("run", "--preserve-fds", "1", "-b", c, runtime.name()))
    os.close(write)
    assert os.read(read, 100) == b"through\n"
    assert os.waitpid(pid, 0)[1] == 0
    os.close(read)


# --- hooks ----------------------------------------------------------------------------------------------------------------

def test_hooks(runtime):
    log = runtime.folder / "hooks"
    script = runtime.folder / "hook"
    script.write_text(f"#!/bin/sh\nread -r line\n(printf '%s ' \"$1\"; echo \"$line\"; cat) | tr -d '\\n' | sed 's/$/\\n/' >> {log}\n")
    script.chmod(0o755)
    (runtime.rootfs / "bin/hook").write_text("#!/bin/sh\ncat > /tmp/state; hostname >> /tmp/state\n")
    (runtime.rootfs / "bin/hook").chmod(0o755)
    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    hooks = {k: [{"path": str(script), "args": ["hook", k], "env": ["PATH=/bin:/usr/bin"]}] for k in kinds}
    hooks["startContainer"] = [{"path": "/bin/hook"}]
    name = runtime.create(shell("cat /tmp/state", hooks=hooks, root__readonly=False))
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "createRuntime", "createContainer"]
    runtime.call("start", name, check=True)
    runtime.wait(name)
    runtime.call("delete", name, check=True)
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == kinds
    states = [json.loads(line[1]) for line in lines]
    assert [s["status"] for s in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert {s["id"] for s in states} == {name} and states[0]["pid"] > 0
    inside = runtime.log(name)
    assert json.loads(inside[:inside.rindex("}") + 1])["status"] == "created" and inside.endswith("inside\n")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_stops_create(runtime, kind):
    r = runtime.run(config("true", hooks={kind: [{"path": "/bin/false"}]}))
    assert r.returncode == 1 and f"hooks.{kind}[0] (/bin/false): exit status 1" in r.stderr


def test_hook_timeout_and_absence(runtime):
    r = runtime.run(config("true", hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}))
    assert r.returncode == 1 and "timeout" in r.stderr
    r = runtime.run(config("true", hooks={"createRuntime": [{"path": "/no/hook"}]}))
    assert r.returncode != 0 and "/no/hook" in r.stderr
    log = runtime.folder / "log"
    hooks = {kind: [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} >> {log}"]}] for kind in ("poststart", "poststop")}
    r = runtime.run(config("true", hooks=hooks))
    assert r.returncode == 0 and "hooks.poststart[0]" in r.stderr and "hooks.poststop[0]" in r.stderr
    assert log.read_text() == "poststart\npoststop\n"


# --- the runtime itself ---------------------------------------------------------------------------------------------------

def test_features(runtime):
    features = json.loads(runtime.call("features", check=True).stdout)
    assert features["ociVersionMax"] == "1.1.0" and set(features["hooks"]) == {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
    assert {"ro", "rro", "idmap", "rbind", "tmpcopyup"} <= set(features["mountOptions"])
    assert len(features["linux"]["namespaces"]) == 8 and "CAP_BPF" in features["linux"]["capabilities"]
    assert "SCMP_ACT_NOTIFY" in features["linux"]["seccomp"]["actions"]


def test_spec_can_be_run(runtime):
    bundle = runtime.folder / "new"
    bundle.mkdir()
    runtime.call("spec", "-b", bundle, check=True)
    c = json.loads((bundle / "config.json").read_text())
    c["process"] |= {"terminal": False, "args": ["/bin/echo", "well"]}
    c["root"]["path"] = str(runtime.rootfs)
    (bundle / "config.json").write_text(json.dumps(c))
    assert runtime.call("run", "-b", bundle, runtime.name(), check=True).stdout == "well\n"
    again = runtime.call("spec", "-b", bundle)
    assert again.returncode == 1 and "config.json" in again.stderr


def test_version_for_containerd(runtime):
    lines = runtime.call("--version", check=True).stdout.splitlines()
    assert " version " in lines[0] and lines[1].startswith("commit: ") and lines[2].startswith("spec: ")
