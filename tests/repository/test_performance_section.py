# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from places import ROOT, script


update_readme = script("update_readme")
BEGIN, END = update_readme.BEGIN, update_readme.END
performance_section, replace_section = update_readme.performance_section, update_readme.replace_section

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "benchmarks").glob("*.json"))]


def test_the_readme_shows_what_the_committed_results_say():
    assert replace_section(README, performance_section(ROOT / "benchmarks")) == README


def test_results_were_measured_on_a_committed_state_and_are_complete():
    for results in RESULTS:
        assert results["environment"]["commit"], results["command"]
        assert results["environment"]["uncommitted_changes"] in (False, None), results["command"]
        assert results.get("complete", True), results["command"]
        assert all(row["equal"] for row in results.get("label_maps", {}).values())


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"x\.json=\['a'\]"):
        performance_section(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"=\(0, 0\)"):
        performance_section(tmp_path)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_the_marks_is_refused(text):
    with pytest.raises(ValueError, match="marks="):
        replace_section(text, "section")
