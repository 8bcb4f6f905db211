# SPDX-License-Identifier: Apache-2.0
"""Podman as the client: plures-oci in the place of runc. Storage, state and home are folders of the test's own."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pexpect
import pytest

import containers

PODMAN = shutil.which("podman")
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()) or not PODMAN, reason=containers.usable() or "podman is not installed")]
# What a machine without CAP_SYS_RESOURCE needs, since Podman's defaults raise limits.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
RUN = [*LIMITS, "--network", "none"]


class Podman:
    def __init__(self, runtime=containers.PROGRAM):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="plures-podman-"))
        for name in ("run", "tmp"):
            (self.home / name).mkdir()
        self.env = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home / "run"), "TMPDIR": str(self.home / "tmp"),
                    "PATH": os.environ["PATH"] + ":/usr/sbin", "TERM": "xterm"}
        self.base = [PODMAN, "--runtime", str(runtime), "--root", str(self.home / "storage"), "--runroot", str(self.home / "runroot"),
                     "--tmpdir", str(self.home / "libpod"), "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs",
                     "--events-backend", "file"]
        self.cgroups = set(pathlib.Path("/sys/fs/cgroup").rglob("libpod*"))

    def __call__(self, *args, check=True, timeout=60, **kwargs):
        kwargs.setdefault("cwd", self.home)  # conmon notes there that it saw an out-of-memory kill
        r = subprocess.run([*self.base, *map(str, args)], env=self.env, capture_output=True, text=True, timeout=timeout, **kwargs)
        if check:
            assert r.returncode == 0, f"podman {args}: {r.returncode}: {r.stdout}{r.stderr}"
        return r

    def close(self):
        self("pod", "rm", "-a", "-f", "-t", "0", check=False)
        self("rm", "-a", "-f", "-t", "0", check=False)
        for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
            where = line.split()[4]
            if where.startswith(str(self.home)):
                subprocess.run(["umount", "-l", where])
        shutil.rmtree(self.home, ignore_errors=True)
        left = set(pathlib.Path("/sys/fs/cgroup").rglob("libpod*")) - self.cgroups
        for path in sorted(left, reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        # Podman's own are the parent and conmon's; those of containers are the runtime's to remove.
        assert not [p for p in left if p.name.startswith("libpod-") and "conmon" not in p.name and p.exists()]


@pytest.fixture(scope="module")
def podman():
    p = Podman()
    rootfs = containers.make_rootfs(p.home / "rootfs")
    tar = subprocess.run(["tar", "-C", rootfs, "-c", "."], stdout=subprocess.PIPE, check=True).stdout
    r = subprocess.run([*p.base, "import", "-", "test"], input=tar, env=p.env, capture_output=True, timeout=120)
    if r.returncode:
        p.close()
        pytest.skip(f"podman does not work here: {r.stderr.decode()[-200:]}")
    yield p
    p.close()


@pytest.fixture
def up(podman):
    """up(options...): the name of a container that runs."""
    names = []

    def start(*options, command=("sleep", "1000")):
        name = f"c{len(names)}-{time.monotonic_ns()}"
        names.append(name)
        podman("run", "-d", "--name", name, *RUN, *options, "test", *command)
        return name

    yield start
    for name in names:
        podman("rm", "-f", "-t", "0", name, check=False)


def test_run(podman):
    r = podman("run", "--rm", *RUN, "test", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (r.returncode, r.stdout, r.stderr) == (9, "out\n", "err\n")
    assert podman("run", "--rm", "-i", *RUN, "test", "cat", input="through").stdout == "through"


def test_status_of_what_can_not_be_run(podman):
    r = podman("run", "--rm", *RUN, "test", "nothing", check=False)
    assert r.returncode == 127 and "nothing" in r.stderr and "not found" in r.stderr
    r = podman("run", "--rm", *RUN, "test", "/etc/passwd", check=False)
    assert r.returncode == 126 and "ermission denied" in r.stderr


def test_run_with_a_terminal(podman):
    argv = [*podman.base, "run", "--rm", "-it", *RUN, "test", "sh"]
    child = pexpect.spawn(argv[0], argv[1:], env=podman.env, timeout=30, encoding="utf-8")
    child.expect("# ")
    child.sendline("tty; stty size; echo $((40+2))")
    child.expect("/dev/pts/0")
    child.expect("42")
    child.sendline("exit 3")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3


def test_create_start_attach_logs(podman):
    name = podman("create", *RUN, "test", "sh", "-c", "echo one; echo two").stdout.strip()
    assert podman("inspect", "--format", "{{.State.Status}}", name).stdout.strip() == "created"
    assert podman("start", "--attach", name).stdout == "one\ntwo\n"
    assert podman("logs", name).stdout == "one\ntwo\n"
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).stdout.strip() == "exited 0"
    podman("start", name)
    podman("wait", name)
    assert podman("logs", name).stdout == "one\ntwo\none\ntwo\n"
    podman("rm", name)


def test_exec(podman, up):
    name = up()
    r = podman("exec", "-e", "A=b", "-w", "/tmp", "-u", "1000", name, "sh", "-c", "echo $A; pwd; id -u; exit 4", check=False)
    assert (r.returncode, r.stdout) == (4, "b\n/tmp\n1000\n")
    assert podman("exec", "-i", name, "cat", input="in").stdout == "in"
    r = podman("exec", name, "nothing", check=False)
    assert r.returncode == 127
    r = podman("exec", name, "/etc/passwd", check=False)
    assert r.returncode == 126
    argv = [*podman.base, "exec", "-it", name, "sh"]
    child = pexpect.spawn(argv[0], argv[1:], env=podman.env, timeout=30, encoding="utf-8")
    child.expect("# ")
    child.sendline("tty; echo $((40+2))")
    child.expect("/dev/pts/0")
    child.expect("42")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    podman("exec", "-d", name, "touch", "/tmp/made")
    end = time.monotonic() + 10
    while podman("exec", name, "ls", "/tmp").stdout != "made\n" and time.monotonic() < end:
        time.sleep(0.1)
    assert podman("exec", name, "ls", "/tmp").stdout == "made\n"


def test_pause_stop_kill(podman, up):
    name = up(command=("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"))
    podman("pause", name)
    assert podman("inspect", "--format", "{{.State.Status}}", name).stdout.strip() == "paused"
    podman("unpause", name)
    podman("stop", "-t", "10", name)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "5"
    podman("start", name)
    podman("kill", "--signal", "KILL", name)
    assert podman("wait", name).stdout.strip() == "137"
    podman("rm", name)


def test_limits(podman, up):
    name = up("--memory", "64m", "--cpus", "0.5", "--pids-limit", "33", "--cpu-shares", "512")
    # The script reads its own cgroup's files by the path that /proc shows.
    pid = podman("inspect", "--format", "{{.State.Pid}}", name).stdout.strip()
    where = {c: line.split(":")[2] for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines() for c in line.split(":")[1].split(",")}
    v1 = "memory" in where

    def value(controller, v1_file, v2_file):
        base = pathlib.Path("/sys/fs/cgroup") / (controller if v1 else "") / where[controller if v1 else ""].lstrip("/")
        return (base / (v1_file if v1 else v2_file)).read_text().strip()

    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert value("pids", "pids.max", "pids.max") == "33"
    assert value("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", name).stdout)[0]
    assert stats["name"] == name and int(stats["pids"]) >= 1
    assert "sleep 1000" in podman("top", name, "args").stdout


def test_update(podman, up):
    name = up("--memory", "64m")
    r = podman("update", "--memory", "80m", name, check=False)
    if r.returncode and "unrecognized command" in r.stderr:
        pytest.skip("this podman has no update")
    assert r.returncode == 0, r.stderr


def test_security_options(podman):
    out = podman("run", "--rm", *RUN, "--cap-drop", "all", "--cap-add", "kill", "--read-only", "--security-opt", "no-new-privileges", "test", "sh",
                 "-c", "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; touch /x || echo refused; touch /tmp/x && echo tmp")
    assert out.stdout.split() == ["CapBnd:", "0000000000000020", "NoNewPrivs:", "1", "Seccomp:", "2", "refused", "tmp"]


def test_seccomp_profile(podman, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}))
    r = podman("run", "--rm", *RUN, "--security-opt", f"seccomp={tmp_path / 'p.json'}", "test", "mkdir", "/tmp/x", check=False)
    assert r.returncode == 1 and "Function not implemented" in r.stderr


def test_volumes_and_user(podman, tmp_path):
    (tmp_path / "in").write_text("given")
    tmp_path.chmod(0o777)
    podman("volume", "create", "vol")
    out = podman("run", "--rm", *RUN, "-v", f"{tmp_path}:/data", "-v", "vol:/vol", "--user", "1000:1000", "--tmpfs", "/scratch", "test", "sh", "-c",
                 "cat /data/in; echo made > /data/out; id -u; grep scratch /proc/mounts | wc -l").stdout
    assert out == "given1000\n1\n" and (tmp_path / "out").read_text() == "made\n"
    podman("run", "--rm", *RUN, "-v", "vol:/vol", "test", "sh", "-c", "echo kept > /vol/f")
    assert podman("run", "--rm", *RUN, "-v", "vol:/vol:ro", "test", "cat", "/vol/f").stdout == "kept\n"


def test_user_namespace(podman):
    r = podman("run", "--rm", *RUN, "--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", "test", "sh", "-c",
               "cat /proc/self/uid_map; id -u; stat -c %u /bin; touch /x; stat -c %u /x")
    assert r.stdout.split() == ["0", "100000", "5000", "0", "0", "0"]


def test_pod(podman):
    podman("pod", "create", "--name", "pod", "--infra=false")
    podman("run", "-d", "--pod", "pod", "--name", "first", *RUN, "test", "sleep", "1000")
    podman("run", "-d", "--pod", "pod", "--name", "second", *LIMITS, "--network", "container:first", "--ipc", "container:first", "--pid",
           "container:first", "test", "sleep", "2000")
    assert "sleep 1000" in podman("exec", "second", "ps").stdout
    podman("pod", "pause", "pod")
    podman("pod", "unpause", "pod")
    podman("pod", "rm", "-f", "-t", "0", "pod")


def test_health_check(podman, up):
    name = up("--health-cmd", "test -e /tmp/well", "--health-interval", "disable")
    assert podman("healthcheck", "run", name, check=False).returncode == 1
    podman("exec", name, "touch", "/tmp/well")
    assert podman("healthcheck", "run", name).returncode == 0


def test_init_and_restart(podman, up):
    name = up("--stop-signal", "KILL")
    podman("restart", "-t", "1", name)
    assert podman("inspect", "--format", "{{.State.Status}}", name).stdout.strip() == "running"


def test_out_of_memory(podman, up):
    name = f"oom-{time.monotonic_ns()}"
    r = podman("run", "--name", name, *RUN, "--memory", "16m", "--memory-swap", "16m", "test", "sh", "-c", "tail /dev/zero", check=False)
    assert r.returncode in (137, 1, 143)
    podman("rm", name)
