# SPDX-License-Identifier: Apache-2.0
"""The man page and --help tell of the same options."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent


def test_the_man_page_has_the_options_of_run():
    text = subprocess.run([TOP / "build/plures", "run", "--help"], check=True, capture_output=True, text=True).stdout
    told = set(re.findall(r"^ {7}(?:-\w, )?--([a-z-]+)", text, re.M))
    page = (TOP / "docs/plures.1").read_text().replace("\\-", "-")
    section = page[page.index(".SS plures run"):page.index(".SS plures info")]
    written = set(re.findall(r"^\.BI? .*?--([a-z-]+)|^\.BR .*--([a-z-]+)", section, re.M))
    written = {a or b for a, b in written}
    # A flag is shown in the form that does something: --no-reboot.
    assert told and told - {"help"} == written - {"help"}


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_is_well_formed():
    r = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", TOP / "docs/plures.1"], capture_output=True, text=True)
    assert r.returncode == 0
    assert not [line for line in r.stderr.splitlines() if "can't" not in line]


def test_the_guide_has_the_table_of_paravirtual_interfaces():
    rows = re.findall(r'^PARAVIRT\((\d+), (\w+), (\w+), (\w+), "(.*)"\)$', re.sub(r'"\s*\n\s*"', "", (TOP / "src/vm/paravirt.def").read_text()), re.M)
    guide = (TOP / "docs/guide/paravirtualization.md").read_text()
    written = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| (\S+) \| (.*) \|$", guide, re.M)
    assert rows and [(bit, name, {"ANYWHERE": "all", "KERNEL": "kernel"}[where], "-" if msr == "0" else msr, gain)
                     for bit, name, where, msr, gain in rows] == written
