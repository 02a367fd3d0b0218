# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path

import pytest

from algm_hf.performance_section import BEGIN, END, performance_section, replace_section


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "benchmarks").glob("*.json"))]


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for entry in value for number in numbers_in(entry)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_the_readme_shows_what_the_committed_results_say():
    assert replace_section(README, performance_section(ROOT / "benchmarks")) == README


def test_every_number_of_a_measurement_in_the_readme_is_in_a_committed_result():
    """Found without the code that wrote the section: each quoted number, rounded as quoted, is some JSON value, a
    hundred times one (percent), or the ratio of two times (compiled rows)."""
    section = README.split(BEGIN)[1].split(END)[0].split("```")[0]
    values = [number for results in RESULTS for number in numbers_in(results)]
    values += [100 * value for value in values]
    for results in RESULTS:
        for record in results.get("configurations", []):
            times = [row["forward_ms"] for row in record["rows"]]
            values += [slow / fast for slow in times for fast in times]
    quoted = set(re.findall(r"\d+\.\d+", section))
    assert len(quoted) >= 30
    for number in quoted:
        decimals = len(number.partition(".")[2])
        assert any(f"{value:.{decimals}f}" == number for value in values), f"{number} is in no file under benchmarks/"


def test_a_quoted_number_that_was_changed_by_hand_is_found():
    number = re.search(r"\d\.\d\d(?=x)", README.split(BEGIN)[1]).group()
    forged = README.replace(number, "9.87")
    assert replace_section(forged, performance_section(ROOT / "benchmarks")) != forged


def test_results_were_measured_on_a_committed_state_and_are_complete():
    for results in RESULTS:
        assert results["environment"]["commit"], results["command"]
        assert results["environment"]["uncommitted_changes"] in (False, None), results["command"]
        assert results.get("complete", True), results["command"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"x\.json has the keys \['a'\]: expected a result of one of the benchmarks"):
        performance_section(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 0 and 0 results: expected at least one of each script"):
        performance_section(tmp_path)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_the_marks_is_refused(text):
    with pytest.raises(ValueError, match="the README has no single pair of marks"):
        replace_section(text, "section")
