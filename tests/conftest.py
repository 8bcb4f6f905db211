# SPDX-License-Identifier: Apache-2.0
"""What whole-program tests share. They run build/plures, or what PLURES names; with PLURES_TEST_MACHINE=qemu, tests that
boot a guest do it on QEMU's TCG instead, which is how the guests themselves are tested."""
import os
import pathlib
import re
import shutil
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "scripts"), str(TOP / "guests")]

import build as guest_build  # noqa: E402
import debian_image  # noqa: E402
import guest_assets  # noqa: E402
import machine  # noqa: E402

PEER = os.environ.get("PLURES_TEST_MACHINE") == "qemu"


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also the tests that take long")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long; only with --all")
    config.addinivalue_line("markers", "plures: of Plures itself; skipped when guests run on QEMU")


# The files that take longest in continuous integration: with several workers, they begin.
LONGEST = ["test_nested", "test_container", "test_boot", "test_net", "test_debian"]


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if item.path.stem.startswith(name)), len(LONGEST)))
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="takes long: ./dev test --all runs it"))
        if item.get_closest_marker("plures") and PEER:
            item.add_marker(pytest.mark.skip(reason="not about QEMU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several workers, a file's tests stay with one of them, and those of all containers too: they count what is left on
    the host. The longest begin first."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "containers" if file.startswith("tests/test_container") else file
    return ByFile(config, log)


@pytest.fixture(scope="session")
def plures():
    """The program under test."""
    path = machine.plures_path()
    if not path.exists():
        pytest.skip(f"{path} is not there: ./dev build makes it")
    return path


@pytest.fixture(scope="session")
def argv(request):
    """machine.plures or, with PLURES_TEST_MACHINE=qemu, machine.qemu: makes the command line of a machine."""
    if PEER:
        if not shutil.which("qemu-system-x86_64"):
            pytest.skip("qemu-system-x86_64 is not installed")
        return machine.qemu
    request.getfixturevalue("plures")
    return machine.plures


def asset(make, *args):
    try:
        return make(*args)
    except guest_assets.AssetError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def kernel():
    """kernel(name): the path of a Debian kernel."""
    return lambda name="cloud": asset(guest_assets.kernel, name)


@pytest.fixture(scope="session")
def initramfs():
    """initramfs(script, files): the path of an archive whose init runs the script."""
    return lambda script=None, files=None: asset(guest_assets.initramfs, script, files)


@pytest.fixture(scope="session")
def modules():
    """modules(name...): a kernel's modules as files for initramfs, loaded before the script runs."""
    return lambda *names, kernel="cloud": asset(lambda: guest_assets.modules(*names, name=kernel))


@pytest.fixture(scope="session")
def debian():
    """A debian_image.Image."""
    return asset(debian_image.image)


@pytest.fixture(scope="session")
def suite():
    """suite(bits): the path of the program suite."""
    def path(bits):
        program = guest_build.suite(bits)
        if program is None:
            pytest.skip("32-bit programs can't be compiled here: install gcc-multilib")
        return program
    return path


@pytest.fixture(scope="session")
def tiny():
    """tiny(name): the path of a tiny guest."""
    return guest_build.tiny


@pytest.fixture(scope="session")
def tool():
    """tool(name): a program of guests/tools as a file for initramfs."""
    return lambda name: {f"bin/{name}": guest_build.tool(name)}


@pytest.fixture(scope="session")
def stress():
    """The program of random work (guests/stress)."""
    try:
        return guest_build.stress()
    except guest_build.BuildError as e:
        pytest.skip(f"the stress program can't be compiled here (libtcc-dev?): {e}")


def job_results(text):
    """The lines in which that program says what came out of its jobs."""
    return re.findall(r"(?m)^jobs \d+ to \d+: \w+$", text)
