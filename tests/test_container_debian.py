# SPDX-License-Identifier: Apache-2.0
"""A Debian from mmdebstrap as a container: Podman's image of it under plures-oci, and `plures container run` on the same tree. bash, dpkg with
maintainer scripts, apt with its sandbox user."""
import shutil
import subprocess

import pytest

import containers
import guest_assets
from test_container_podman import PODMAN, RUN, Podman

pytestmark = [pytest.mark.plures, pytest.mark.slow, pytest.mark.skipif(bool(containers.usable()) or not shutil.which("mmdebstrap"),
                                                                       reason=containers.usable() or "mmdebstrap is not installed")]
# A package whose scripts tell that they ran, made and installed inside, with apt as well as with dpkg.
SCRIPT = r"""set -e
echo "bash ${BASH_VERSINFO[0]}"; shopt -s extglob
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/p
printf 'Package: p\nVersion: %s\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n' 1 >/tmp/p/DEBIAN/control
printf '#!/bin/sh\nset -e\ngetent passwd _apt >/dev/null\nchown games:www-data /usr/share/p/file\necho configured\n' >/tmp/p/DEBIAN/postinst
chmod 755 /tmp/p/DEBIAN/postinst; echo text >/tmp/p/usr/share/p/file
dpkg-deb --root-owner-group --build /tmp/p /tmp/p.deb >/dev/null
dpkg -i /tmp/p.deb | grep -x configured
stat -c '%U:%G' /usr/share/p/file
dpkg --remove p >/dev/null; test ! -e /usr/share/p
apt-get install -y -o Debug::NoLocking=0 /tmp/p.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
dpkg --verify; dpkg-query -W -f '${Status}\n' p
su -s /bin/bash games -c 'id -un; cat /usr/share/p/file; touch /usr/share/p/x 2>/dev/null || echo refused'
"""
EXPECTED = ["bash", "configured", "games:www-data", "install ok installed", "games", "text", "refused"]


def check(out):
    lines = out.splitlines()
    assert lines[0].startswith("bash ") and lines[1:] == EXPECTED[1:], out


@pytest.fixture(scope="module")
def archive():
    def make(folder):
        guest_assets.run(["mmdebstrap", "--variant=apt", "bookworm", str(folder / "debian.tar")])

    try:
        return guest_assets.kept("container-debian", make, "container-debian") / "debian.tar"
    except guest_assets.AssetError as e:
        pytest.skip(str(e))


@pytest.mark.skipif(not PODMAN, reason="podman is not installed")
def test_podman_runs_an_image_of_debian(archive):
    podman = Podman()
    try:
        podman("import", archive, "debian", timeout=900)
        check(podman("run", "--rm", *RUN, "debian", "bash", "-c", SCRIPT, timeout=900).stdout)
        name = podman("run", "-d", *RUN, "debian", "sleep", "100000", timeout=900).stdout.strip()
        check(podman("exec", name, "bash", "-c", SCRIPT, timeout=900).stdout)
        assert podman("exec", "--user", "nobody", name, "bash", "-c", "id -un").stdout == "nobody\n"
    finally:
        podman.close()


def test_container_run_on_a_debian(archive, tmp_path):
    tree, state = tmp_path / "debian", tmp_path / "state"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xf", archive], check=True, timeout=900)

    def run(*args, command=("bash", "-c", SCRIPT)):
        r = subprocess.run([containers.TOP / "build/plures", "container", "run", "--root", state, *args, tree, "--", *command], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=900)
        assert r.returncode == 0, r.stdout + r.stderr
        return r.stdout

    state.mkdir(mode=0o700)
    check(run())
    check(run("--userns", "host"))
    check(run("--keep", tmp_path / "kept"))
    # The tree is as it was; what was kept is there again, with its owners.
    assert not (tree / "usr/share/p").exists()
    assert run("--keep", tmp_path / "kept", command=("stat", "-c", "%U:%G", "/usr/share/p/file")) == "games:www-data\n"
    assert (tmp_path / "kept/upper/usr/share/p/file").stat().st_uid == 5
    assert not list(state.iterdir())
