"""The figures have the colors of the report.

Reference: its style sheet.
"""

import re

from tests.helpers.paths import ROOT
from vitas_ds.search import colors


def test_the_colors_are_those_of_the_page():
    css = (ROOT / "vitas_ds" / "reports" / "templates" / "page.css").read_text()
    light = dict(re.findall(r"--c(\d): (#\w{6})", css.partition("@media")[0]))
    names = {"1": colors.BLUE, "2": colors.ORANGE, "3": colors.GREEN, "4": colors.PALE, "6": colors.RED}
    assert {number: light[number] for number in names} == names
