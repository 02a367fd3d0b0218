# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measures what merging tokens saves: time, FLOPs and memory of a model with merging off and on, beside other models.

A *configuration* is a resolution and a batch size. In each, the *contenders* (the model unmerged, merged at several
thresholds, transformers' plain ViT, other models) run on the same batch of different images, taking turns in one
process, and become one row each. `efficiency` is what is left of the saved work on the clock:

    efficiency = (time_unmerged / time_merged) / (flops_unmerged / flops_merged)

1.0 is the limit of merging itself. Times are medians; results are written after every configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..patch_grid import patch_grid
from ..refusals import require
from ..runs.models import config_settings
from ..runs.timing import Times, clock, time_in_turns
from ..token_merging import restore_tokens
from ..token_packs import TokenPack, drop_special_tokens
from .flops import count_flops
from .inputs import BenchmarkArguments, benchmark_images, build_other, build_segmenter, build_vit, digest
from .memory import peak_growth_of
from .report import describe_run
from .thresholds import TARGET_TOLERANCE, UNMERGED, BatchCosts, merged_settings


# Graphs of one function that torch.compile may keep: every threshold is one more.
RECOMPILE_LIMIT = 64


@dataclass
class Contender:
    """
    Something to be measured.

    Attributes:
        name (`str`): Its name in the results.
        kind (`str`): `"unmerged"`, `"dense"` (unmerged, post-processed by interpolate + argmax), `"merged"`,
            `"encoder"` (our encoder alone, merging off), `"vit"` (transformers' ViT) or `"other"`.
        model (`nn.Module`): What runs, with a `config`.
        settings (`dict`): Fields of the config while it runs.
        label_maps (`Callable`, *optional*): From outputs and sizes to label maps; `None` for encoders.
        target (`dict`, *optional*): The token or FLOP ratio for which the threshold was searched.
        compiled (`Callable`, *optional*): `torch.compile`'s version of the model.
    """

    name: str
    kind: str
    model: nn.Module
    settings: dict = field(default_factory=dict)
    label_maps: Callable[[Any, list[tuple[int, int]]], list[Tensor]] | None = None
    target: dict | None = None
    compiled: Callable | None = None

    def forward(self, pixel_values: Tensor) -> Any:
        return (self.model if self.compiled is None else self.compiled)(pixel_values)


def efficiency(seconds_unmerged: float, seconds_merged: float, flops_unmerged: float, flops_merged: float) -> float:
    """
    The share of the saved FLOPs that is saved time, 1.0 at most but for effects that have nothing to do with merging.

    Raises:
        ValueError: if one of them is not positive.
    """
    given = {"seconds_unmerged": seconds_unmerged, "seconds_merged": seconds_merged}
    given |= {"flops_unmerged": flops_unmerged, "flops_merged": flops_merged}
    for name, value in given.items():
        require(value > 0, name, value, "a number above 0")
    return (seconds_unmerged / seconds_merged) / (flops_unmerged / flops_merged)


def dense_label_maps(outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Label maps as transformers makes them: all class scores upsampled to the size of the image, then argmax."""
    if getattr(outputs, "masks_queries_logits", None) is not None:
        classes = outputs.class_queries_logits.softmax(dim=-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", classes, outputs.masks_queries_logits.sigmoid())
    else:
        scores = outputs.logits
    return [
        nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
        for image, size in zip(scores, sizes, strict=True)
    ]


class Bench:
    """One configuration: a batch of different images on a device, and the contenders that run on it.

    Args:
        arguments ([`BenchmarkArguments`])
        resolution (`tuple[int, int]`): Height and width in pixels of what the models see and of the label maps.
        images (`Sequence[Image.Image]`): The batch, of that size.
        segmenter (`tuple`): The model and its processor.
    """

    def __init__(self, arguments: BenchmarkArguments, resolution, images: Sequence[Image.Image], segmenter: tuple):
        self.arguments, self.resolution, self.images = arguments, tuple(resolution), list(images)
        self.model, self.processor = segmenter
        self.device, self.dtype = self.model.device, self.model.dtype
        self.pixel_values = self._pixels()
        self.costs = BatchCosts(self.model, self.pixel_values)
        self.skipped: list[dict] = []

    def _pixels(self) -> Tensor:
        return self.processor(self.images, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)

    def contenders(
        self, others: Sequence[tuple[str, nn.Module]] = (), vit: nn.Module | None = None
    ) -> list[Contender]:
        """Everything to be measured, unmerged first."""
        model, fast = self.model, self._fast_label_maps
        found = [Contender("unmerged", "unmerged", model, UNMERGED, fast)]
        if self.arguments.dense_row:
            found.append(Contender("unmerged, interpolate + argmax", "dense", model, UNMERGED, dense_label_maps))
        for settings, target in merged_settings(self.costs, self.arguments):
            name = f"merged, tau {settings['merge_threshold']:.6g}"
            if target is not None:
                name = "merged, " + ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in target.items())
            found.append(Contender(name, "merged", model, settings, fast, target))
        if vit is not None:
            found.append(Contender("encoder, merging off", "encoder", model.base_model, UNMERGED))
            found.append(Contender("transformers ViTModel", "vit", vit))
        if self.arguments.compile:
            found += [self._compiled(contender) for contender in found if contender.kind != "dense"]
        found += [Contender(name, "other", other, {}, dense_label_maps) for name, other in others]
        return found

    def _compiled(self, contender: Contender) -> Contender:
        """The contender on a compiled copy of its model; the other rows keep running uncompiled."""
        name, model = f"{contender.name}, compiled", contender.model
        if contender.kind == "vit":
            return replace(contender, name=name, compiled=torch.compile(model, dynamic=False))
        compiled = copy.deepcopy(model)
        # Shapes stay the same without merging: the strongest graph for them is one that knows them.
        compiled.compile(dynamic=contender.kind == "merged")
        return replace(contender, name=name, model=compiled, compiled=compiled)

    def _fast_label_maps(self, outputs: Any, sizes: list[tuple[int, int]]) -> list[Tensor]:
        return self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return [self.resolution] * len(self.images)

    def _end_to_end(self, contender: Contender) -> list[Tensor]:
        """From PIL images to label maps on the CPU."""
        outputs = contender.forward(self._pixels())
        return [label_map.cpu() for label_map in contender.label_maps(outputs, self._sizes)]

    @torch.inference_mode()
    def _facts(self, contender: Contender) -> dict:
        """What needs no clock: FLOPs, tokens, memory. The first run of a contender: what cannot run fails here."""
        row: dict[str, Any] = {"name": contender.name, "kind": contender.kind}
        row |= {"compiled": contender.compiled is not None, "target": contender.target}
        row["merge_threshold"] = contender.settings.get("merge_threshold")
        row["parameters"] = sum(parameter.numel() for parameter in contender.model.parameters())
        row |= dict.fromkeys(("tokens_mean", "tokens_final", "tokens_final_of_each_image"))
        has_tokens = contender.kind in ("unmerged", "dense", "merged", "encoder")
        if has_tokens:
            counts = self.costs.tokens(contender.settings)
            row["tokens_mean"], row["tokens_final"] = counts.mean().item(), counts[:, -1].mean().item()
            row["tokens_final_of_each_image"] = [int(count) for count in counts[:, -1]]
        with config_settings(contender.model, **contender.settings):
            if has_tokens and contender.compiled is not None:
                self._check_tokens(contender, counts)
            row["gflops_per_image"] = self._flops(contender) / len(self.images) / 1e9
            row["peak_memory_bytes"] = self._peak_memory(contender)
        return row

    def _flops(self, contender: Contender) -> int:
        """Of the batch, without compiling: the counter sees no compiled code."""
        if contender.kind in ("unmerged", "dense", "merged"):
            return self.costs.flops(contender.settings)
        model = self.model.base_model if contender.kind == "encoder" else contender.model
        with config_settings(self.model, **contender.settings):
            return count_flops(partial(model, self.pixel_values))

    def _check_tokens(self, contender: Contender, expected: Tensor) -> None:
        """Compiled kernels round differently: a row whose tokens differ is not the same work, and not comparable."""
        found = contender.compiled(self.pixel_values, output_token_merging=True).token_counts.double().cpu()
        if abs(found.sum() / expected.sum() - 1) > TARGET_TOLERANCE:
            raise RuntimeError(f"{found.mean():.1f} tokens, expected the {expected.mean():.1f} of the uncompiled row")

    def _peak_memory(self, contender: Contender) -> int | None:
        """Weights of the contender and all that forward and post-processing take at most; `None` where the device
        does not tell."""
        contender.forward(self.pixel_values)  # on every device: what cannot run fails here, not in the loop

        def run() -> None:
            outputs = contender.forward(self.pixel_values)
            if contender.label_maps is not None:
                contender.label_maps(outputs, self._sizes)

        weights = sum(parameter.numel() * parameter.element_size() for parameter in contender.model.parameters())
        if self.device.type == "cpu":
            growth = peak_growth_of(run)
            return None if growth is None else growth + weights
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before + weights

    @torch.inference_mode()
    def _time(self, contender: Contender) -> dict[str, float]:
        """Seconds of the parts of one run."""
        with config_settings(contender.model, **contender.settings):
            times = {}
            times["forward"], outputs = clock(partial(contender.forward, self.pixel_values), self.device)
            if contender.label_maps is None:
                return times
            times["post_processing"], _ = clock(partial(contender.label_maps, outputs, self._sizes), self.device)
            del outputs
            times["end_to_end"], _ = clock(partial(self._end_to_end, contender), self.device)
            if contender.kind == "merged" and contender.model.config.inference_mode == "whole":
                times["merging"], _ = clock(self._recorded_merging(contender), self.device)
        return times

    def _recorded_merging(self, contender: Contender) -> Callable[[], Any]:
        """Both merges and the restoring of one forward pass, alone, on the tokens of that pass."""
        encoder, config, steps = contender.model.base_model, contender.model.config, []

        def record(layer: nn.Module, inputs: tuple) -> tuple:
            """The inputs of a layer, with a merge that is noted with what it gets."""
            pack, merge, *rest = inputs

            def recorded(pack: TokenPack) -> TokenPack:
                steps.append(partial(merge, pack))
                return merge(pack)

            return pack, merge and recorded, *rest

        hooks = [layer.register_forward_pre_hook(record) for layer in encoder.layers]
        try:
            pack = encoder(self.pixel_values, output_packed=True).pack
        finally:
            for hook in hooks:
                hook.remove()
        grid_sizes = [patch_grid(self.resolution, config.patch_size)] * len(self.images)
        steps.append(partial(drop_special_tokens, pack, grid_sizes, config.num_special_tokens))
        patches = steps[-1]()
        logits = pack.hidden_states.new_zeros(patches.hidden_states.shape[0], config.num_labels)
        steps.append(partial(restore_tokens, logits, patches.token_index))
        return lambda: [step() for step in steps]

    def measure(self, contenders: Sequence[Contender], progress: Callable[[str], object] = lambda text: None) -> dict:
        """Runs the contenders in turns and returns the configuration's record, a row for each that can run."""
        rows, runners = [], []
        for contender in contenders:
            progress(f"counting: {contender.name}")
            try:
                rows.append(self._facts(contender))
            except Exception as error:
                # Out of memory, no compiler, a missing package, a model that does not take this size: the others are
                # still worth measuring.
                optional = contender.kind == "other" or contender.compiled is not None
                if not optional and not isinstance(error, torch.OutOfMemoryError):
                    raise
                self.skip(contender.name, error)
                continue
            runners.append(contender)
        runs = [partial(self._time, contender) for contender in runners]
        times = time_in_turns(runs, self.arguments.repeats, self.arguments.warmup, progress)
        for row, parts in zip(rows, times, strict=True):
            row |= _summary(parts, len(self.images))
        return {
            "resolution": list(self.resolution),
            "batch_size": len(self.images),
            "images": [digest(image) for image in self.images],
            **compare_rows(rows),
            "skipped": self.skipped,
        }

    def skip(self, name: str, error: Exception) -> None:
        """Note a row that could not be measured, and why, in one line."""
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        self.skipped.append({"name": name, "reason": reason})


def _summary(parts: Mapping[str, Times], batch_size: int) -> dict:
    """Milliseconds per image (median), least and middle half of the forward times, and images per second."""
    row: dict[str, Any] = {}
    for name in ("forward", "post_processing", "end_to_end", "merging"):
        row[f"{name}_ms"] = 1000 * parts[name].median / batch_size if name in parts else None
    minimum, lower, _, upper = (1000 * seconds / batch_size for seconds in parts["forward"])
    row |= {"forward_ms_quartiles": [lower, upper], "forward_ms_minimum": minimum}
    row["images_per_second"] = 1000 / row["forward_ms"]
    row["end_to_end_images_per_second"] = 1000 / row["end_to_end_ms"] if row["end_to_end_ms"] else None
    return row


def compare_rows(rows: list[dict]) -> dict:
    """
    Adds `token_ratio`, `flop_ratio`, `speed_up`, `end_to_end_speed_up`, `end_to_end_speed_up_over_dense` and, where
    tokens were merged, `efficiency` and `merging_share` (time of merges and restoring over the baseline's forward
    pass) to rows.

    The baseline is the fastest unmerged row, compiled or not. Encoders are compared with transformers' ViT instead,
    compiled ones with the compiled one; without it, with nothing. `compared_with` of a row names its counterpart.

    Returns:
        `dict`: `baseline`, the name of a row or `None`, and `rows`.
    """
    baseline = _fastest(rows, "unmerged")
    dense = _fastest(rows, "dense")
    for row in rows:
        alike = [other for other in rows if other["compiled"] == row["compiled"]]
        reference = _fastest(alike, "vit") if row["kind"] in ("encoder", "vit") else baseline
        row["compared_with"] = reference and reference["name"]
        row |= dict.fromkeys(("token_ratio", "flop_ratio", "speed_up", "efficiency", "merging_share"))
        row |= dict.fromkeys(("end_to_end_speed_up", "end_to_end_speed_up_over_dense"))
        if reference is None:
            continue
        row["flop_ratio"] = reference["gflops_per_image"] / row["gflops_per_image"]
        row["speed_up"] = reference["forward_ms"] / row["forward_ms"]
        if row["tokens_mean"] and baseline is not None:
            row["token_ratio"] = row["tokens_mean"] / baseline["tokens_mean"]
        if row["end_to_end_ms"]:
            row["end_to_end_speed_up"] = reference["end_to_end_ms"] / row["end_to_end_ms"]
            if dense is not None:
                row["end_to_end_speed_up_over_dense"] = dense["end_to_end_ms"] / row["end_to_end_ms"]
        if row["kind"] == "merged":
            if row["merging_ms"] is not None:  # in windows the merges are not those of one forward pass
                row["merging_share"] = row["merging_ms"] / reference["forward_ms"]
            row["efficiency"] = efficiency(
                reference["forward_ms"], row["forward_ms"], reference["gflops_per_image"], row["gflops_per_image"]
            )
    return {"baseline": baseline and baseline["name"], "rows": rows}


def _fastest(rows: Sequence[dict], kind: str) -> dict | None:
    return min((row for row in rows if row["kind"] == kind), key=lambda row: row["forward_ms"], default=None)


def run_benchmark(
    arguments: BenchmarkArguments,
    save: Callable[[dict], object],
    progress: Callable[[str], object] = lambda text: None,
) -> dict:
    """
    Measures every configuration, small ones first as they were given, and calls `save` with all results so far before
    the first and after each of them, so that an interruption loses at most the one that was running.

    Args:
        arguments ([`BenchmarkArguments`])
        save (`Callable[[dict], object]`): Gets `{"complete", "model", "environment", "configurations"}`.
        progress (`Callable[[str], object]`, *optional*): Gets a line of text whenever something begins.

    Returns:
        `dict`: What `save` got last.
    """
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"complete": False, "model": None, "environment": None, "configurations": []}
    limit = torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT) if arguments.compile else nullcontext()
    with limit:
        for resolution in arguments.sizes:
            segmenter = build_segmenter(arguments, resolution)
            vit, others, failures = _other_models(arguments, segmenter[0], resolution)
            if results["model"] is None:
                results |= describe_run(segmenter[0], arguments)
                save(results)
            images = benchmark_images(arguments, resolution, max(arguments.batch_sizes))
            for batch_size in arguments.batch_sizes:
                where = f"{resolution[0]} x {resolution[1]}, batch {batch_size}"

                def say(text: str, where: str = where) -> None:
                    progress(f"{where}: {text}")

                say("searching thresholds")
                try:
                    bench = Bench(arguments, resolution, images[:batch_size], segmenter)
                    for name, error in failures:
                        bench.skip(name, error)
                    record = bench.measure(bench.contenders(others, vit), say)
                except torch.OutOfMemoryError as error:
                    record = {"resolution": list(resolution), "batch_size": batch_size, "rows": []}
                    record["skipped"] = [{"name": where, "reason": f"OutOfMemoryError: {error}".splitlines()[0]}]
                results["configurations"].append(record)
                save(results)
    results["complete"] = True
    save(results)
    return results


def _other_models(arguments: BenchmarkArguments, model: nn.Module, resolution: tuple[int, int]) -> tuple:
    """transformers' ViT or `None`, `(name, model)` to compare with, and `(name, error)` of what cannot be built."""
    vit, others, failures = None, [], []
    if arguments.vit_row:
        try:
            vit = build_vit(arguments, model, resolution)
        except ValueError as error:
            failures.append(("transformers ViTModel", error))
    for name in arguments.compare:
        try:
            others.append((name, build_other(arguments, name, model.config.num_labels, resolution)))
        except (ImportError, OSError, RuntimeError) as error:  # a package it needs, or the network
            failures.append((name, error))
    return vit, others, failures


__all__ = ["Bench", "Contender", "compare_rows", "dense_label_maps", "efficiency", "run_benchmark"]
