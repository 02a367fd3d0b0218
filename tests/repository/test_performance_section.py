# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
from places import ROOT, script


update_readme = script("update_readme")
BEGIN, END = update_readme.BEGIN, update_readme.END
performance_section, replace_section = update_readme.performance_section, update_readme.replace_section

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "benchmarks").glob("*.json"))]


NAMES = {"ti": "ViT-Ti", "s": "ViT-S", "b": "ViT-B", "l": "ViT-L"}


def tables():
    """Each table of the section as a list of dictionaries from column to cell."""
    section, found = README.split(BEGIN)[1].split(END)[0], []
    for block in re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def number(cell):
    return float(re.match(r"-?[\d.]+", cell).group())


def test_the_readme_shows_what_the_committed_results_say():
    assert replace_section(README, performance_section(ROOT / "benchmarks")) == README


def test_the_merging_table_follows_from_the_times_flops_and_tokens_in_the_results():
    """Every cell computed anew from what was measured, not from the ratios that the results hold as well."""
    expected = []
    for results in RESULTS:
        for record in results.get("configurations", []):
            rows = [row for row in record["rows"] if not row["compiled"]]
            kinds = {row["kind"]: row for row in rows}
            # The opponent is the fastest unmerged row, compiled ones counted.
            plain = min((r for r in record["rows"] if r["kind"] == "unmerged"), key=lambda row: row["forward_ms"])
            for merged in (row for row in rows if row["kind"] == "merged"):
                speed_up = plain["forward_ms"] / merged["forward_ms"]
                flop_ratio = plain["gflops_per_image"] / merged["gflops_per_image"]
                values = [
                    100 * merged["tokens_mean"] / plain["tokens_mean"],
                    flop_ratio,
                    speed_up,
                    speed_up / flop_ratio,
                    100 * merged["merging_ms"] / plain["forward_ms"],
                    kinds["dense"]["end_to_end_ms"] / merged["end_to_end_ms"] if "dense" in kinds else None,
                    kinds["vit"]["forward_ms"] / kinds["encoder"]["forward_ms"],
                ]
                expected.append((NAMES[results["model"]["name"]], str(record["batch_size"]), values))
    table = tables()[0]
    assert len(table) == len(expected) >= 5
    columns = ["Tokens kept", "FLOP ratio", "Speed-up", "Efficiency", "Merging itself"]
    columns += ["End to end over interpolate + argmax", "Merging off, against ViTModel"]

    def agrees(row, model, batch_size, values):
        cells = [row[column] for column in columns]
        numbers = [None if cell == "-" else number(cell) for cell in cells]
        return (row["Model"], row["Batch"]) == (model, batch_size) and all(
            shown is value
            if None in (shown, value)
            else abs(shown - value) <= {"Tokens kept": 0.501, "Merging itself": 0.0501}.get(column, 0.00501)
            for shown, value, column in zip(numbers, values, columns, strict=True)
        )

    for row in table:
        assert any(agrees(row, *entry) for entry in expected), row


def test_the_tables_of_compiled_rows_and_heads_follow_from_the_results():
    *_, compiled, heads = tables()
    times = {}
    for results in RESULTS:
        for record in results.get("configurations", []):
            for row in record["rows"]:
                times.setdefault((NAMES[results["model"]["name"]], row["name"]), []).append(row["forward_ms"])
    for row in compiled:
        before, after = number(row["Uncompiled ms"]), number(row["Compiled ms"])
        assert any(abs(value - before) <= 0.051 for value in times[row["Model"], row["Row"]])
        assert any(abs(value - after) <= 0.051 for value in times[row["Model"], f"{row['Row']}, compiled"])
        assert number(row["Compiled is"]) == pytest.approx(before / after, abs=0.006)
    (measured,) = [results for results in RESULTS if "label_maps" in results]
    known = {**measured["label_maps"], "loss": measured["loss"]}
    assert len(heads) == len(known)
    for row, entry in zip(heads, known.values(), strict=True):
        assert number(row["Speed-up"]) == pytest.approx(entry["plain_ms"] / entry["ours_ms"], abs=0.051)
        for column, field in (("Plain ms", "plain_ms"), ("Ours ms", "ours_ms"), ("Plain peak MiB", "plain_peak_mib")):
            assert number(row[column]) == pytest.approx(entry[field], abs=0.51)


def test_a_quoted_number_that_was_changed_by_hand_is_found():
    number = re.search(r"\d\.\d\d(?=x)", README.split(BEGIN)[1]).group()
    forged = README.replace(number, "9.87")
    assert replace_section(forged, performance_section(ROOT / "benchmarks")) != forged


def test_results_were_measured_on_a_committed_state_and_are_complete():
    for results in RESULTS:
        assert results["environment"]["commit"], results["command"]
        assert results["environment"]["uncommitted_changes"] in (False, None), results["command"]
        assert results.get("complete", True), results["command"]
        assert all(row["equal"] for row in results.get("label_maps", {}).values())


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
