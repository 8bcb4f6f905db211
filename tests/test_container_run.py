# SPDX-License-Identifier: Apache-2.0
"""`plures container`: as root, in a user namespace of root's, as an unprivileged user, and as one who has ranges in /etc/subuid.
Whatever a test does, afterwards nothing of it may be left: no process, mount, cgroup or folder."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

import pexpect
import pytest

import containers

NOBODY, TESTER = 65534, 54321
USUAL = [pathlib.Path("/usr/bin/pasta"), pathlib.Path("/usr/bin/slirp4netns")]
pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def owned(path, uid):
    subprocess.run(["chown", "-R", f"{uid}:{uid}", path], check=True)


class Host:
    """Whoever runs `plures container`, with a root folder that is theirs."""
    uid, prefix = 0, []

    def __init__(self, folder):
        self.tag = uuid.uuid4().hex[:8]
        self.folder = folder
        folder.chmod(0o755)
        self.rootfs = containers.make_rootfs(folder / "rootfs")
        # Where an unprivileged user can reach them.
        for name in ("plures", "plures-oci"):
            shutil.copy(containers.TOP / "build" / name, folder / name)
        self.program = folder / "plures"
        self.state = folder / "state"
        owned(self.rootfs, self.uid)
        self.state.mkdir(mode=0o700)
        owned(self.state, self.uid)

    def argv(self, verb, *args):
        return [*self.prefix, str(self.program), "container", verb, "--root", str(self.state), *map(str, args)]

    def call(self, verb, *args, timeout=60, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.argv(verb, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, **kwargs)

    def run(self, *args, **kwargs):
        return self.call("run", *args, **kwargs)

    def output(self, *args, **kwargs):
        r = self.run(*args, **kwargs)
        assert r.returncode == 0, (args, r.returncode, r.stdout, r.stderr)
        return r.stdout

    def shell(self, script, *options):
        return self.output(*options, self.rootfs, "--", "sh", "-c", script)

    def name(self):
        return f"t{self.tag}-{uuid.uuid4().hex[:6]}"

    def start(self, *args):
        """One that runs in the background; its name."""
        name = self.name()
        r = self.run("--detach", "--name", name, *args)
        assert r.returncode == 0 and r.stdout == name + "\n", r.stderr
        return name

    def background(self, *args, **kwargs):
        return subprocess.Popen(self.argv("run", *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)

    def pids(self):
        """Processes that have this test's folder in their command line or as their root, and what they are."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_text()
                if int(path.name) != os.getpid() and str(self.folder) in line and not containers.gone(path.name):
                    found[int(path.name)] = line.replace("\0", " ")
            except OSError:
                pass
        return found

    def left(self):
        """What a container may not leave behind."""
        mounts = [m for m in containers.Runtime.mounts() if str(self.folder) in m]
        return list(self.state.iterdir()), mounts, containers.cgroup_folders(self.tag), self.pids()

    def check_clean(self, seconds=15):
        end = time.monotonic() + seconds
        while any(self.left()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not any(self.left()), self.left()

    def close(self):
        for entry in self.state.iterdir():
            self.call("rm", "--force", entry.name)
        try:
            self.check_clean()
        finally:
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)


class InUserNamespace(Host):
    """Root of a namespace with one user."""

    def __init__(self, folder):
        super().__init__(folder)
        self.holder = subprocess.Popen(["unshare", "--user", "--map-root-user", "sh", "-c", "echo up; exec sleep 100000"], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.prefix = ["nsenter", f"--user=/proc/{self.holder.pid}/ns/user"]

    def close(self):
        try:
            super().close()
        finally:
            self.holder.kill()
            self.holder.wait()


class Unprivileged(Host):
    uid = NOBODY
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


class WithRanges(Host):
    """A user with ranges of users and groups, in files that only this test's processes see."""
    uid = TESTER

    def __init__(self, folder):
        super().__init__(folder)
        for name, text in (("passwd", f"tester:x:{TESTER}:{TESTER}::/:/bin/sh\n"), ("group", f"tester:x:{TESTER}:\n")):
            (folder / name).write_text(pathlib.Path("/etc", name).read_text() + text)
        for name in ("subuid", "subgid"):
            (folder / name).write_text(f"tester:{1 << 20}:65536\n")
            pathlib.Path("/etc", name).touch()
        script = "".join(f"mount --bind {folder}/{name} /etc/{name} && " for name in ("passwd", "group", "subuid", "subgid"))
        self.prefix = ["unshare", "--mount", "sh", "-c", script + f'exec setpriv --reuid={TESTER} --regid={TESTER} --clear-groups env LOGNAME=tester "$@"', "sh"]


KINDS = {"root": Host, "userns": InUserNamespace, "user": Unprivileged, "ranges": WithRanges}


def make(kind, folder):
    if kind in ("user", "ranges"):
        probe = subprocess.run([*Unprivileged.prefix, "unshare", "--user", "true"], capture_output=True)
        if probe.returncode:
            pytest.skip("unprivileged users may not make user namespaces here")
    if kind == "ranges" and not shutil.which("newuidmap"):
        pytest.skip("newuidmap is not installed")
    return KINDS[kind](folder)


@pytest.fixture
def place():
    """A folder that other users can reach, unlike tmp_path."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="plures-container-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=KINDS)
def host(request, place):
    h = make(request.param, place)
    h.kind = request.param
    yield h
    h.close()


@pytest.fixture
def root(place):
    h = Host(place)
    yield h
    h.close()


def test_a_command_and_its_status(host):
    assert host.shell("id -u; pwd; hostname; echo $container", "--name", "some-name").split() == ["0", "/", "some-name", "plures"]
    assert host.run(host.rootfs, "--", "sh", "-c", "exit 7").returncode == 7
    assert host.run(host.rootfs, "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert host.run(host.rootfs, "cat", "-", stdin=subprocess.PIPE, input=None).returncode == 0
    r = subprocess.run(host.argv("run", host.rootfs, "--", "cat"), input="through\n", capture_output=True, text=True, timeout=60)
    assert (r.returncode, r.stdout, r.stderr) == (0, "through\n", "")
    host.check_clean()


def test_the_root_stays_clean(host):
    before = sorted(str(p) for p in host.rootfs.rglob("*"))
    assert host.shell("touch /made /etc/made; rm /bin/seq; echo x > /etc/passwd; mkdir -p /a/b; rm -r /tmp; mkdir /tmp; ls /made; cat /etc/passwd") == "/made\nx\n"
    assert sorted(str(p) for p in host.rootfs.rglob("*")) == before and "root:x" in (host.rootfs / "etc/passwd").read_text()
    # The next one sees nothing of it.
    assert host.shell("ls /made 2>/dev/null; ls /bin/seq") == "/bin/seq\n"


def test_changes_are_kept(host):
    kept = host.folder / "mine" / "kept"
    kept.parent.mkdir()
    owned(kept.parent, host.uid)
    host.shell("echo new > /etc/new; rm /bin/seq; mkdir /tmp/x", "--keep", kept)
    assert (kept / "upper/etc/new").read_text() == "new\n" and (kept / "upper/etc/new").stat().st_uid == host.uid
    assert host.shell("cat /etc/new; ls /bin/seq 2>/dev/null || echo gone; ls -d /tmp/x", "--keep", kept) == "new\ngone\n/tmp/x\n"
    assert not (host.rootfs / "etc/new").exists() and (host.rootfs / "bin/seq").is_symlink()


def test_changes_in_place_and_a_root_that_is_read_only(host):
    assert host.shell("touch /made 2>/dev/null || echo refused", "--read-only") == "refused\n"
    host.shell("touch /made", "--in-place")
    made = host.rootfs / "made"
    assert made.stat().st_uid == host.uid


def test_binds(host):
    source = host.folder / "source"
    source.mkdir()
    (source / "file").write_text("bound\n")
    owned(source, host.uid)
    script = "cat /mnt/deep/file; echo new > /mnt/deep/made 2>/dev/null || echo refused"
    assert host.shell(script, "--bind", f"{source}:/mnt/deep:ro") == "bound\nrefused\n"
    assert host.shell(script, "--bind", f"{source}:/mnt/deep") == "bound\n"
    assert (source / "made").read_text() == "new\n" and (source / "made").stat().st_uid == host.uid
    assert host.shell("cat /f; stat -c %u /f", "--bind", f"{source / 'file'}:/f") == "bound\n0\n"
    assert host.shell("touch /here/x; mount | grep -c ' on /here '", "--tmpfs", "/here") == "1\n"


def test_environment_folder_and_names(host):
    os.environ["PLURES_TEST_VALUE"] = "from here"
    try:
        out = host.shell("env; pwd; hostname", "--env", "A=b c", "--env", "PLURES_TEST_VALUE", "--env", "NOT_SET_ANYWHERE", "--workdir", "/tmp", "--hostname", "inside")
    finally:
        del os.environ["PLURES_TEST_VALUE"]
    lines = out.splitlines()
    assert "A=b c" in lines and "PLURES_TEST_VALUE=from here" in lines and lines[-2:] == ["/tmp", "inside"]
    assert "NOT_SET_ANYWHERE" not in out and "LOGNAME" not in out and "HOME=/root" in lines


def test_what_it_sees_and_may_do(host):
    """Its own processes, few devices, no capability outside; nothing of the host's command line."""
    out = host.shell("ps; ls /dev; tr '\\0' ' ' < /proc/1/cmdline; ls -d /proc/[0-9]* | wc -l; grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status")
    assert str(host.folder) not in out and "1 root     init" in out
    assert not {"sda", "vda", "mem", "kmsg", "kvm", "fuse"} & set(out.split())
    status = dict(re.findall(r"^(\w+):\s+(\w+)$", out, re.M))
    assert status == {"CapBnd": "00000000800405fb", "NoNewPrivs": "0", "Seccomp": "2"}
    assert not int(status["CapBnd"], 16) & (1 << 21 | 1 << 12 | 1 << 16 | 1 << 17)  # SYS_ADMIN, NET_ADMIN, SYS_MODULE, SYS_RAWIO
    out = host.shell("grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status", "--no-new-privileges", "--no-seccomp", "--cap-drop", "all", "--cap-add", "chown")
    assert dict(re.findall(r"^(\w+):\s+(\w+)$", out, re.M)) == {"CapEff": "0000000000000001", "NoNewPrivs": "1", "Seccomp": "0"}


def test_the_filter(host):
    """A call that is refused to everybody, and one that is not with the capability for it."""
    script = "mount -t tmpfs none /tmp 2>&1 && echo mounted"
    assert "mounted" not in host.run(host.rootfs, "--", "sh", "-c", script).stdout
    assert "mounted" in host.run("--cap-add", "sys_admin", host.rootfs, "--", "sh", "-c", script).stdout


def test_networks(host):
    assert re.findall(r"^\d+: (\w+)", host.shell("ip addr show"), re.M) == ["lo"]
    inside = re.findall(r"^\d+: (\w+)", host.shell("ip addr show", "--net", "host"), re.M)
    assert inside == re.findall(r"^\d+: (\w+)", subprocess.run(["ip", "addr", "show"], capture_output=True, text=True).stdout, re.M)


@pytest.mark.skipif(not any(p.exists() for p in USUAL), reason="neither pasta nor slirp4netns is installed")
def test_a_network_of_its_own(host):
    out = host.shell("ip addr show; ip route; cat /etc/resolv.conf", "--net", "user")
    assert "inet 10.0.2.15/24" in out or "inet 10.0.2.100/24" in out, out
    assert "default via 10.0.2.2" in out and "nameserver 10.0.2.3" in out
    host.check_clean()
    # Its process goes with the container, however that ends.
    name = host.start("--net", "user", host.rootfs, "--", "sleep", "1000")
    assert any("pasta" in line or "slirp4netns" in line for line in host.pids().values()) or host.pids()
    host.call("stop", "--time", "0", name)
    host.check_clean()


def test_users(host):
    assert host.run("--user", "nobody-there", host.rootfs, "--", "true").returncode == 125
    r = host.run("--user", "user", host.rootfs, "--", "id")
    if host.kind in ("root", "ranges"):
        assert r.stdout.startswith("uid=1000(user) gid=1000(user)"), r.stderr
        assert host.run("--user", "1000:root", host.rootfs, "--", "id").stdout.startswith("uid=1000(user) gid=0(root)")
        assert host.run("--user", "user", host.rootfs, "--", "sh", "-c", "touch /etc/x 2>/dev/null || echo $HOME").stdout == "/home/user\n"
    else:
        assert r.returncode == 125 and "/etc/subuid" in r.stderr
    size = {"root": 65536, "ranges": 65536, "user": 1, "userns": 1}[host.kind]
    maps = [line.split() for line in host.shell("cat /proc/self/uid_map").splitlines()]
    assert int(maps[-1][2]) == size and (host.kind != "root" or int(maps[0][1]) >= 524288)
    maps = host.shell("cat /proc/self/uid_map", "--userns", "single").split()
    assert maps[0] == "0" and maps[2] == "1"
    r = host.run("--userns", "host", host.rootfs, "--", "cat", "/proc/self/uid_map")
    assert r.stdout.split() == ["0", "0", "4294967295"] if host.kind == "root" else r.returncode == 125 and "--userns host" in r.stderr


def test_a_root_that_belongs_to_the_range(place):
    """As mmdebstrap leaves it."""
    host = make("ranges", place)
    owned(host.rootfs, 1 << 20)
    try:
        assert host.shell("stat -c %u /etc; touch /etc/made; stat -c %u /etc/made; wc -l </proc/self/uid_map") == "0\n0\n1\n"
        assert host.shell("stat -c %u /etc", "--userns", "single") == "65534\n"
    finally:
        host.close()


def test_life_in_the_background(host):
    name = host.start(host.rootfs, "--", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    listed = json.loads(host.call("ps", "--json").stdout)
    assert [(c["id"], c["status"]) for c in listed] == [(name, "running")] and name in host.call("ps").stdout
    assert json.loads(host.call("state", name).stdout)["status"] == "running"
    r = host.call("exec", "--env", "A=b", "--workdir", "/tmp", name, "--", "sh", "-c", "hostname; pwd; echo $A; exit 4")
    assert (r.returncode, r.stdout.split()) == (4, [name, "/tmp", "b"]), r.stderr
    assert host.call("exec", name, "--", "no-such-program").returncode == 127
    r = host.run("--name", name, host.rootfs, "--", "true")
    assert r.returncode == 125 and "already" in r.stderr and json.loads(host.call("ps", "--json").stdout)
    assert host.call("rm", name).returncode == 1
    assert host.call("stop", name).returncode == 0
    host.check_clean()
    for verb in ("stop", "kill", "state", "rm", "pause"):
        r = host.call(verb, name)
        assert r.returncode == 1 and "does not exist" in r.stderr, (verb, r.stderr)
    r = host.call("exec", name, "--", "true")
    assert r.returncode == 125 and "does not exist" in r.stderr


def test_what_it_writes_in_the_background(host):
    log = host.folder / "mine" / "log"
    log.parent.mkdir()
    owned(log.parent, host.uid)
    host.start("--log", log, host.rootfs, "--", "sh", "-c", "echo out; echo err >&2")
    host.check_clean()
    assert log.read_text() == "out\nerr\n"
    r = host.run("--detach", "--log", "/nowhere/log", host.rootfs, "--", "true")
    assert r.returncode == 125 and "--log" in r.stderr
    # What keeps it from starting is said as in the foreground.
    r = host.run("--detach", host.rootfs, "--", "no-such-program")
    assert r.returncode == 127 and "no-such-program" in r.stderr and len(r.stderr.splitlines()) == 1


def test_pause(host):
    name = host.start(host.rootfs, "--", "sleep", "1000")
    r = host.call("pause", name)
    if not host.uid:
        assert r.returncode == 0 and json.loads(host.call("state", name).stdout)["status"] == "paused"
        assert host.call("resume", name).returncode == 0
        assert host.call("pause", name).returncode == 0
    else:
        assert r.returncode == 1 and "no cgroup" in r.stderr
    assert host.call("stop", "--time", "0", name).returncode == 0


def test_stop_kills_what_does_not_end(host):
    name = host.start(host.rootfs, "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    assert host.call("stop", "--time", "1", name).returncode == 0
    host.check_clean()


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_reach_the_command(host, number, status):
    """Also one that has no handler for it, which as the first process would be deaf."""
    p = host.background(host.rootfs, "--", "sh", "-c", "echo up; exec sleep 1000")
    assert p.stdout.readline() == "up\n"
    p.send_signal(number)
    assert p.wait(timeout=30) == status
    p = host.background(host.rootfs, "--", "sh", "-c", f"trap 'echo caught; exit 5' {number.name[3:]}; echo up; while :; do sleep 0.1; done")
    assert p.stdout.readline() == "up\n"
    p.send_signal(number)
    assert p.wait(timeout=30) == 5 and p.stdout.read() == "caught\n"
    host.check_clean()


def test_the_first_process(host):
    """Orphans are waited for; with the command everything ends; --no-init makes the command the first."""
    seconds = str(10 ** 9 + int(host.tag, 16) % 10 ** 9)
    assert host.shell(f"""(true &); (setsid sleep {seconds} &)
        until cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q '^.*sleep {seconds}'; do sleep 0.05; done
        i=0; while [ $i -lt 200 ] && cat /proc/[0-9]*/stat 2>/dev/null | grep -q ') Z '; do sleep 0.05; i=$((i+1)); done; [ $i -lt 200 ] && echo none""") == "none\n"
    host.check_clean()
    assert not [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if seconds in read(p)]
    assert host.output("--no-init", host.rootfs, "--", "sh", "-c", "echo $$") == "1\n"


def monitors(host):
    """The process that was called, or stays in the background, and the keeper: the keeper is its child."""
    return sorted(host.pids())


@pytest.mark.parametrize("options", [[], ["--net", "user"], ["--no-init"]])
def test_the_monitor_is_killed(host, options):
    if "user" in options and not any(p.exists() for p in USUAL):
        pytest.skip("neither pasta nor slirp4netns is installed")
    name = host.name()
    p = host.background("--name", name, *options, host.rootfs, "--", "sh", "-c", "echo up; exec sleep 1000")
    assert p.stdout.readline() == "up\n"
    inside = json.loads(host.call("state", name).stdout)["pid"]
    os.kill(p.pid, signal.SIGKILL)
    p.wait(timeout=30)
    host.check_clean()
    assert containers.gone(inside)


def test_monitor_and_keeper_are_killed(host):
    """What is left then is found by the next that looks."""
    name = host.start(host.rootfs, "--", "sleep", "1000")
    inside = json.loads(host.call("state", name).stdout)["pid"]
    for pid in monitors(host):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while not containers.gone(inside) and time.monotonic() < end:
        time.sleep(0.02)
    assert containers.gone(inside), "the container outlived the process that it is tied to"
    # The name is free again.
    assert host.run("--name", name, host.rootfs, "--", "true").returncode == 0
    name = host.start(host.rootfs, "--", "sleep", "1000")
    for pid in monitors(host):
        os.kill(pid, signal.SIGKILL)
    # They hold the lock until they are gone, which may be a moment after the signal.
    end = time.monotonic() + 20
    while host.call("ps", "--json").stdout.strip() != "[]" and time.monotonic() < end:
        time.sleep(0.02)
    host.check_clean()


def test_who_sweeps_does_not_disturb(root):
    """ps removes what nobody looks after, also at the moment in which a container is made."""
    stop = root.folder / "stop"
    loop = " ".join(f"'{word}'" for word in root.argv("ps"))
    sweeper = subprocess.Popen(["sh", "-c", f"until [ -e {stop} ]; do {loop}; done"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(20):
            assert root.run(root.rootfs, "--", "true").returncode == 0
    finally:
        stop.touch()
        assert sweeper.wait(timeout=60) == 0
    root.check_clean()


def test_bad_input(host):
    """One line each, which names what is wrong; nothing is left."""
    file = host.folder / "file"
    file.write_text("text")
    file.chmod(0o644)
    (host.rootfs / "not-executable").write_text("text")
    closed = host.folder / "closed"
    closed.mkdir(mode=0o700)
    wrong = [
        (125, "No such file", [host.folder / "nowhere", "--", "true"]),
        (125, "is no folder", [file, "--", "true"]),
        (2, "ROOTFS is missing", []),
        (2, "CMD is missing", [host.rootfs]),
        (2, "CMD is missing", [host.rootfs, "--"]),
        (127, "no-such-program", [host.rootfs, "--", "no-such-program"]),
        (127, "/no/such", [host.rootfs, "--", "/no/such"]),
        (126, "/not-executable", [host.rootfs, "--", "/not-executable"]),
        (126, "/bin", [host.rootfs, "--", "/bin"]),
        (2, "--memory", ["--memory", "much", host.rootfs, "--", "true"]),
        (2, "--memory", ["--memory", "0", host.rootfs, "--", "true"]),
        (2, "--memory", ["--memory", "99999999999G", host.rootfs, "--", "true"]),
        (2, "--cpus", ["--cpus", "-1", host.rootfs, "--", "true"]),
        (2, "--cpus", ["--cpus", "nan", host.rootfs, "--", "true"]),
        (2, "--pids", ["--pids", "0", host.rootfs, "--", "true"]),
        (2, "--net", ["--net", "bridge", host.rootfs, "--", "true"]),
        (2, "--userns", ["--userns", "some", host.rootfs, "--", "true"]),
        (2, "--no-such-option", ["--no-such-option", host.rootfs, "--", "true"]),
        (125, "--bind", ["--bind", f"{host.folder}/nowhere:/x", host.rootfs, "--", "true"]),
        (125, "--bind", ["--bind", f"{file}:relative", host.rootfs, "--", "true"]),
        (125, "--bind", ["--bind", f"{file}:/x:rx", host.rootfs, "--", "true"]),
        (125, "--bind", ["--bind", ":/x", host.rootfs, "--", "true"]),
        (125, "--tmpfs", ["--tmpfs", "relative", host.rootfs, "--", "true"]),
        (125, "--cap-add", ["--cap-add", "fly", host.rootfs, "--", "true"]),
        (125, "--env", ["--env", "=x", host.rootfs, "--", "true"]),
        (125, "--name", ["--name", "a/b", host.rootfs, "--", "true"]),
        (125, "--name", ["--name", "..", host.rootfs, "--", "true"]),
        (125, "--workdir", ["--workdir", "relative", host.rootfs, "--", "true"]),
        (125, "--workdir", ["--workdir", "/nowhere", host.rootfs, "--", "true"]),
        (125, "--hostname", ["--hostname", "x" * 65, host.rootfs, "--", "true"]),
        (125, "--keep", ["--keep", f"{host.folder}/nowhere/kept", host.rootfs, "--", "true"]),
        (125, "--keep", ["--keep", file, host.rootfs, "--", "true"]),
        (125, "--in-place", ["--in-place", "--keep", "x", host.rootfs, "--", "true"]),
    ]
    if host.uid:
        wrong.append((125, "closed", [closed, "--", "true"]))
    if host.uid:
        wrong.append((125, "systemd-run", ["--memory", "32M", host.rootfs, "--", "true"]))
    for status, said, args in wrong:
        r = host.run(*args, cwd=host.folder)
        lines = r.stderr.splitlines()
        assert r.returncode == status and r.stdout == "" and len(lines) == 1 and said in lines[0] and lines[0].startswith("plures: container run: "), \
            (args, r.returncode, r.stderr)
        assert not list(host.state.iterdir()), args
    host.check_clean()


def test_a_root_that_is_somebody_elses(place):
    """An unprivileged user runs from a root that is root's: it can be read, and a line says what can't be done."""
    host = make("user", place)
    owned(host.rootfs, 0)
    try:
        r = host.run(host.rootfs, "--", "sh", "-c", "cat /etc/group | wc -l; touch /etc/made 2>/dev/null || echo refused")
        assert r.stdout == "2\nrefused\n" and "belongs to user 0" in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr
    finally:
        host.close()


def test_the_hosts_own_root(root):
    """ROOTFS may be /, which then is this host, to be spoilt as one likes."""
    name = f"/usr/plures-test-{root.tag}"
    assert root.run("/", "--", "sh", "-c", f"touch {name} && ls {name}").stdout == name + "\n"
    assert not pathlib.Path(name).exists()


# ---- limits ----

def test_limits(root):
    r = root.run("--memory", "32M", root.rootfs, "--", "sh", "-c", "tail /dev/zero; echo status $?")
    assert "status 137" in r.stdout
    r = root.run("--pids", "20", root.rootfs, "--", "sh", "-c", "for i in $(seq 40); do sleep 5 & done; wait")
    assert "can't fork" in r.stderr
    out = root.shell("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max", "--cpus", "0.5")
    assert out == "50000\n"
    root.check_clean()


# ---- terminals ----

def terminal(host, *args, **kwargs):
    argv = host.argv("run", *args)
    return pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=30, echo=False, dimensions=(33, 77), **kwargs)


def test_a_terminal(host):
    """Job control, the window's size and its changes, Ctrl-C to what runs inside, the exit status."""
    t = terminal(host, host.rootfs, "--", "sh")
    t.expect("# ")
    t.sendline("tty; stty size")
    t.expect(r"/dev/pts/0\s+33 77")
    t.setwinsize(44, 88)
    for _ in range(100):
        t.sendline("stty size")
        t.expect(r"\d+ \d+\r\n")
        if t.after.strip() == "44 88":
            break
        time.sleep(0.05)
    assert t.after.strip() == "44 88"
    t.sendline("sleep 1000; echo ended $?")
    time.sleep(0.3)
    t.sendintr()
    t.expect("# ")
    t.sendline("sleep 1000")
    time.sleep(0.3)
    t.send("\x1a")
    t.expect("Stopped")
    t.sendline("fg")
    t.expect("sleep 1000")
    time.sleep(0.3)
    t.sendintr()
    t.expect("# ")
    t.sendline("exit 6")
    t.expect(pexpect.EOF)
    t.close()
    assert t.exitstatus == 6
    host.check_clean()


def test_a_terminal_that_goes_away(host):
    t = terminal(host, host.rootfs, "--", "sh")
    t.expect("# ")
    t.close(force=True)
    host.check_clean()


def test_exec_with_a_terminal(host):
    name = host.start(host.rootfs, "--", "sleep", "1000")
    argv = host.argv("exec", name, "--", "sh")
    t = pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=30, echo=False, dimensions=(33, 77))
    t.expect("# ")
    t.sendline("stty size; exit 5")
    t.expect("33 77")
    t.expect(pexpect.EOF)
    t.close()
    assert t.exitstatus == 5
    assert host.call("stop", "--time", "0", name).returncode == 0


def test_no_terminal_where_there_is_none(host):
    assert host.shell("tty 2>&1 || true") == "not a tty\n"
    t = terminal(host, "--no-tty", host.rootfs, "--", "sh", "-c", "tty || echo none")
    t.expect("not a tty|none")
    t.expect(pexpect.EOF)
    t.close()


# ---- failures on the way ----

FAILING = ["mkdir", "openat", "write", "clone3", "unshare", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "pivot_root", "umount2",
           "sendmsg", "recvmsg", "openat2", "mkdirat", "symlinkat", "setresuid", "capset", "prctl", "execve", "socketpair", "flock", "pipe2", "clone", "setsid",
           "seccomp", "fchdir"]


def traced(host, name, inject, follow=True):
    argv = ["strace", *(["-f"] if follow else []), "-o", str(host.folder / "trace"), "-e", "trace=all", *inject, *host.argv("run", "--name", name, host.rootfs, "--", "true")]
    with open(host.folder / "out", "wb") as out:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60).returncode


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("call", FAILING)
def test_a_failure_leaves_nothing(root, call):
    """One system call fails, of whichever process makes it first: it works all the same, or says why and cleans up."""
    root.program = containers.PROGRAM
    for n in (1, 3):
        name = root.name()
        status = traced(root, name, ["-e", f"inject={call}:error=ENOMEM:when={n}"])
        said = (root.folder / "out").read_text()
        assert status == 0 or "plures" in said or call in ("execve", "write"), (call, n, status, said)
        # What could not be removed for want of the very call is removed by the next that looks.
        if list(root.state.iterdir()):
            root.call("ps")
        root.check_clean()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_the_monitor_is_killed_at_every_system_call(root, step):
    root.program = containers.PROGRAM
    assert traced(root, root.name(), [], False) == 0
    seen, calls = {}, []
    for line in (root.folder / "trace").read_text().splitlines():
        match = re.match(r"(?:\d+ +)?([a-z_0-9]+)\(", line)
        if match and match[1] not in ("exit_group", "execve"):
            seen[match[1]] = seen.get(match[1], 0) + 1
            calls.append((match[1], seen[match[1]]))
    assert len(calls) > 100
    chosen, killed = calls[step // 2::step], 0
    for call, number in chosen:
        killed += traced(root, root.name(), ["-e", f"inject={call}:signal=KILL:when={number}"], False) in (-9, 137)
        # Only a folder that was taken when nobody could look after it yet is left to the next that looks.
        end = time.monotonic() + 5
        while any(root.left()) and time.monotonic() < end and list(root.state.glob("*/*")):
            time.sleep(0.01)
        root.call("ps")
        root.check_clean()
    assert killed > len(chosen) * 0.9


def test_the_manual_has_the_options_of_every_verb():
    """Of each verb of `plures container`."""
    program = containers.TOP / "build/plures"
    text = subprocess.run([program, "container", "--help"], check=True, capture_output=True, text=True).stdout
    verbs = re.findall(r"^ {7}(\w+) {2,}\S", text.split("VERBS")[1], re.M)
    assert len(verbs) > 6
    page = (containers.TOP / "docs/plures.1").read_text().replace("\\-", "-")
    for verb in verbs:
        text = subprocess.run([program, "container", verb, "--help"], check=True, capture_output=True, text=True).stdout
        assert max(map(len, text.splitlines())) <= 80, verb
        told = set(re.findall(r"^ {7}(?:-\w, )?--([a-z-]+)", text, re.M)) - {"help"}
        section = re.search(rf"\.SS plures container {verb}\b.*?(?=\n\.S[SH] )", page, re.S)[0]
        written = {a or b for a, b in re.findall(r"^\.BI? .*?--([a-z-]+)|^\.BR .*--([a-z-]+)", section, re.M)} - {"help"}
        assert told == written, verb


