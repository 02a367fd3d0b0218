# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""Serves a page to try a checkpoint on: images, sliders, and what merging tokens changes. Needs gradio.

    pip install -e ".[app]"
    python scripts/app.py --model outputs/demo/model

opens on http://127.0.0.1:7860, for this machine only. The model is what the command line names; the page cannot load
another, and no code of a checkpoint is run. With --export_space, the page is written as a Hugging Face Space instead:

    python scripts/app.py --model user/model --export_space my_space
    hf upload user/my_space my_space --repo-type space
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from algm_hf.refusals import require_choice, require_integer


@dataclass
class AppArguments:
    """Which model, and where the page is served."""

    model: str = field(
        metadata={"help": "Folder of a saved model and processor, or its name on the Hugging Face Hub."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    name: str | None = field(default=None, metadata={"help": "What the page calls the model; its folder or Hub name."})
    device: str = field(
        default="auto", metadata={"help": "cpu, cuda, cuda:1, ...; auto takes cuda where there is one."}
    )
    dtype: str = field(default="float32", metadata={"help": "float32, float16 or bfloat16."})
    host: str = field(
        default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 opens the page to the network."}
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on."})
    export_space: str | None = field(
        default=None, metadata={"help": "Write a Hugging Face Space into this new folder and serve nothing."}
    )

    def __post_init__(self):
        require_choice("--dtype", self.dtype, ("float32", "float16", "bfloat16"))
        require_integer("--port", self.port, 1, 65535)


def main() -> None:
    arguments: AppArguments = HfArgumentParser(AppArguments).parse_args_into_dataclasses()[0]
    if arguments.export_space is not None:
        from algm_hf.app.space import export_space

        files = export_space(arguments.export_space, arguments.model, arguments.revision, arguments.name)
        print(f"{len(files)} files in {arguments.export_space}; publish them with")
        print(f"  hf upload USER/SPACE {arguments.export_space} --repo-type space")
        return
    try:
        from algm_hf.app.page import build_app, launch_app
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError('the page needs gradio: pip install -e ".[app]"') from error
    from algm_hf.app.segmenter import DemoSegmenter

    segmenter = DemoSegmenter.from_pretrained(
        arguments.model, arguments.revision, arguments.device, arguments.dtype, arguments.name
    )
    launch_app(build_app(segmenter), arguments.host, arguments.port)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
