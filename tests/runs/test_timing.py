# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from algm_hf.runs.timing import Times, clock, time_in_turns


def test_runs_take_turns_there_and_back_and_the_warm_up_does_not_count():
    order = []

    def run(name):
        order.append(name)
        return {"all": len(order) / 10}

    times = time_in_turns([lambda: run("a"), lambda: run("b")], repeats=2, warmup=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    # The 3rd and the 6th, and the 4th and the 5th run counted.
    assert [parts["all"].median for parts in times] == pytest.approx([0.45, 0.45])
    assert [parts["all"].minimum for parts in times] == pytest.approx([0.3, 0.4])


def test_the_middle_half_lies_between_the_quartiles_in_any_order():
    assert Times.of([5, 1, 4, 2, 3]) == Times(minimum=1, lower_quartile=2, median=3, upper_quartile=4)


def test_a_clock_hands_over_what_the_call_returns():
    seconds, result = clock(lambda: "result", torch.device("cpu"))
    assert result == "result"
    assert seconds >= 0


@pytest.mark.parametrize("fields", [{"repeats": 0, "warmup": 1}, {"repeats": 1, "warmup": -1}])
def test_too_few_turns_are_refused(fields):
    with pytest.raises(ValueError, match="repeats=0|warmup=-1"):
        time_in_turns([dict], **fields)
