# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a training: which are complete, which one to go on with, which to remove."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..refusals import require


STATE_NAME = "trainer_state.json"  # the last file of a checkpoint to be written


def checkpoints(output_dir: str | Path) -> tuple[list[Path], list[Path]]:
    """The folders `checkpoint-<step>` in a folder, by their step.

    Args:
        output_dir (`str` or `Path`): Where a training writes.

    Returns:
        `tuple[list[Path], list[Path]]`: those that are complete, and those that a killed training left unfinished.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    complete, unfinished = [], []
    for folder in sorted(folders, key=_step_of):
        try:
            json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
            (complete if _saved_processes(folder) else unfinished).append(folder)
        except (OSError, ValueError):
            unfinished.append(folder)
    return complete, unfinished


def _step_of(folder: Path) -> int:
    return int(folder.name[11:])


def _saved_processes(folder: Path) -> int:
    """How many processes have saved their random state in a checkpoint."""
    return len(list(folder.glob("rng_state*.pth"))) + len(list(folder.glob("random_states_*.pkl")))


def checkpoint_to_resume(requested: str | None, output_dir: str | Path, num_processes: int = 1) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        requested (`str`, *optional*): A folder; `"last"` or `"true"`; `"auto"`; `None` or `"false"` to begin anew.
        output_dir (`str` or `Path`): Where the training writes.
        num_processes (`int`, *optional*, defaults to 1): Processes of the training; a checkpoint of fewer or more
            cannot be gone on with, as they would see other images.

    Returns:
        `str` or `None`: The folder, or `None` to begin anew.

    Raises:
        `ValueError`: If there is no such complete checkpoint, it comes from another number of processes, or the
            training would mix with another one.
    """
    complete, unfinished = checkpoints(output_dir)
    choice = (requested or "false").lower()
    if choice == "false":
        found = "".join([path.name for path in (*complete, *unfinished)][-1:])
        expected = f"a folder without {found}, or --resume_from_checkpoint last to go on"
        require(not found, "output_dir", str(output_dir), expected)
        return None
    if choice in ("last", "true", "auto"):
        expected = f"a complete checkpoint in {output_dir} (auto begins anew where there is none)"
        require(complete or choice == "auto", "resume_from_checkpoint", requested, expected)
        return str(_last_of(complete, num_processes)) if complete else None
    folder = Path(requested)
    is_complete = folder in checkpoints(folder.parent)[0]
    require(is_complete, "resume_from_checkpoint", requested, "the folder of a complete checkpoint")
    later = [path.name for path in complete if _step_of(path) > _step_of(folder)]
    expected = f"a folder without the later {', '.join(later)} than {requested}"
    require(not later, "output_dir", str(output_dir), expected)
    _last_of([folder], num_processes)  # refuses those of other numbers of processes
    return requested


def _last_of(complete: Sequence[Path], num_processes: int) -> Path:
    """The last checkpoint that as many processes have saved; one in which some are missing was left unfinished."""
    fitting = [folder for folder in complete if _saved_processes(folder) == num_processes]
    expected = (
        f"a checkpoint of the {num_processes} processes of this training; others only begin a new one (init_from)"
    )
    require(fitting, complete[-1], f"saved by {_saved_processes(complete[-1])}", expected)
    return fitting[-1]


def is_finished(output_dir: str | Path, step: int) -> bool:
    """Whether the results of a training that ended after `step` steps are there: its state is written last."""
    try:
        state = json.loads((Path(output_dir) / STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step", -1) >= step


def remove_old_checkpoints(output_dir: str | Path, limit: int | None, kept: Sequence[str | Path] = ()) -> None:
    """Removes the oldest checkpoints beyond `limit` (none, if `None` or 0), never the last one or one of `kept`."""
    complete, _ = checkpoints(output_dir)
    if not limit:
        return
    spared = {folder.resolve() for folder in (*complete[-1:], *map(Path, kept))}
    removable = [folder for folder in complete if folder.resolve() not in spared]
    for folder in removable[: max(0, len(complete) - limit)]:
        shutil.rmtree(folder)


__all__ = ["checkpoint_to_resume", "checkpoints", "is_finished", "remove_old_checkpoints"]
