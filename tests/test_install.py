# SPDX-License-Identifier: Apache-2.0
"""./dev install leaves a program that works and its man page."""
import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_install(tmp_path):
    r = subprocess.run([TOP / "dev", "install", "--prefix", tmp_path], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    assert r.stdout == f"installed {tmp_path}/bin/plures\n"
    version = subprocess.run([tmp_path / "bin/plures", "--version"], capture_output=True, text=True)
    assert version.returncode == 0 and "plures" in version.stdout
    assert (tmp_path / "share/man/man1/plures.1").read_text().startswith(".\\\"")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "bin/plures", "bin/plures-oci", "share/man/man1/plures.1", "share/man/man8/plures-oci.8"]
