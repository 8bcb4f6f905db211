# SPDX-License-Identifier: Apache-2.0
"""./dev bench speed measures what it says, and its programs give the same results in a guest as here."""
import json
import subprocess
import sys

import pytest
from conftest import TOP, asset, guest_build


def bench(*options):
    return subprocess.run([sys.executable, str(TOP / "bench" / "speed.py"), *options], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def programs():
    try:
        return asset(guest_build.speed)
    except guest_build.BuildError as e:
        pytest.skip(f"the measured programs can't be compiled here: {e}")


@pytest.mark.plures
def test_every_program(plures, programs, tmp_path):
    """All programs, shortly. A wrong checksum is a failure of bench itself."""
    file = tmp_path / "speed.json"
    r = bench("--group", "integer,vectors,kernel,smp", "--rounds", "1", "--time", "0.001", "--columns", "native,plures", "--json", str(file))
    assert r.returncode == 0, r.stdout + r.stderr
    result = json.loads(file.read_text())
    for group, least in (("integer", 15), ("vectors", 12), ("kernel", 14), ("smp", 3)):
        lines = {key: line for key, line in result["lines"].items() if key.startswith(f"{group}/")}
        assert len(lines) >= least, lines.keys()
        for key, line in lines.items():
            assert line["plures"]["median"] > 0 and line["ratio"]["plures"] > 0, key
            assert line["native"]["median"] > 0, key
            assert group == "smp" or line["plures"]["cpu"] > 0, key
    assert set(result["groups"]["all"]) == {"plures"}
    # The same file judges what is measured later.
    r = bench("--only", "sieve,syscall,boot", "--columns", "plures", "--quick", "--rounds", "1", "--cpu", "--against", str(file))
    assert r.returncode == 0, r.stdout + r.stderr
    assert "before/now" in r.stdout and "\nsieve " in r.stdout and "\nsyscall " in r.stdout and "\nboot " in r.stdout and "\nchase " not in r.stdout


@pytest.mark.plures
def test_pauses(plures, tmp_path):
    file = tmp_path / "pauses.json"
    r = subprocess.run([sys.executable, str(TOP / "bench" / "pauses.py"), "--only", "compile-2-small", "--time", "2", "--json", str(file)],
                       capture_output=True, text=True, timeout=300)
    if "can't be compiled" in r.stderr:
        pytest.skip(r.stderr)
    assert r.returncode == 0 and "\ncompile-2-small " in r.stdout, r.stdout + r.stderr
    numbers = json.loads(file.read_text())["compile-2-small"]
    assert numbers["evicted"] > 0 and numbers["evict"] > 0 and numbers["let_go"] > 0 and numbers["mb"] > 1


@pytest.mark.plures
def test_bad_arguments(plures, programs, tmp_path):
    for options, says in ((["--only", "sieve,nothing"], "no program is called nothing"), (["--group", "all"], "no group is called all"),
                          (["--columns", "bochs"], "no column is called bochs"),
                          (["--only", "sieve", "--columns", "native", "--quick", "--against", str(tmp_path / "none.json")], "none.json")):
        r = bench(*options)
        assert r.returncode and says in r.stderr and "Traceback" not in r.stderr, r.stderr
