# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""ALGM model configuration."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .refusals import is_integer, is_number, require, require_bool, require_choice, require_integer, require_number


DECODER_TYPES = ("linear", "mask_transformer")
INFERENCE_MODES = ("slide", "whole")
POSITION_INTERPOLATIONS = ("bicubic", "bicubic_antialias", "bilinear")
ROPE_COORDINATES = ("centered", "index")
# The range of cosine similarities.
MERGE_THRESHOLD_RANGE = (-1.0, 1.0)
# The paper's backbones as fields of the config, with the layer of the global merge (section 4.1: 5 of 12, 7 of 24).
BACKBONE_PRESETS = {
    name: {
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64,
        "num_hidden_layers": num_hidden_layers,
        "intermediate_size": 4 * hidden_size,
        "global_merge_layer": global_merge_layer,
    }
    for name, hidden_size, num_hidden_layers, global_merge_layer in (
        ("ti", 192, 12, 5),
        ("s", 384, 12, 5),
        ("b", 768, 12, 5),
        ("l", 1024, 24, 7),
    )
}


class AlgmConfig(PreTrainedConfig):
    r"""
    Configuration of [`AlgmModel`] and [`AlgmForSemanticSegmentation`]: a plain Vision Transformer, a Segmenter decoder
    and the two token merges of "ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation
    with Plain Vision Transformers" (CVPR 2024, arXiv 2406.09936). Takes its fields as keywords, each documented beside
    its default, and those of [`~transformers.PreTrainedConfig`], `num_labels` and `id2label` among them. Raises a
    `ValueError` that names the field, its value and what is expected.

    The defaults are the paper's ViT-S/16 for ADE20K. The fields of the method and of the inference mode are read at
    every call of the model, so they can be changed on a loaded model and take effect at once:

    ```python
    >>> from algm_hf import AlgmConfig, AlgmForSemanticSegmentation

    >>> model = AlgmForSemanticSegmentation(AlgmConfig(num_labels=150))
    >>> model.config.merge_threshold = 0.8  # lower merges more: faster, less accurate
    >>> model.config.use_token_merging = False  # the plain ViT with the same weights
    ```
    """

    model_type = "algm"
    # What Trainer leaves out when it gathers predictions: shapes that differ from batch to batch.
    keys_to_ignore_at_inference = ["hidden_states", "token_counts", "patch_to_token", "grid_sizes"]

    # --- The encoder
    hidden_size: int = 384  # channels of its tokens
    num_hidden_layers: int = 12  # number of its layers
    num_attention_heads: int = 6  # heads of a layer; a divisor of hidden_size
    intermediate_size: int = 1536  # channels inside the MLP of a layer
    hidden_act: str = "gelu"  # activation of its MLPs, a key of ACT2FN of transformers; "gelu" is the exact one
    hidden_dropout_prob: float = 0.0  # dropout in [0, 1) after embeddings, attention and MLP
    attention_probs_dropout_prob: float = 0.0  # dropout in [0, 1) on the attention weights
    initializer_range: float = 0.02  # standard deviation of the truncated normal initial weights
    layer_norm_eps: float = 1e-5  # epsilon of every LayerNorm: 1e-5 in Segmenter and ALGM, 1e-6 in most other ViTs
    # Side, or height and width, in pixels for which positions are stored: multiples of patch_size.
    image_size: int | list[int] = 512
    patch_size: int = 16  # side of a patch in pixels
    num_channels: int = 3  # channels of the images
    qkv_bias: bool = True  # whether queries, keys and values have a bias
    drop_path_rate: float = 0.0  # stochastic depth in [0, 1) of the last layer, linear from 0; 0.1 in the paper
    num_register_tokens: int = 0  # register tokens behind the other special tokens; none of them is ever merged
    use_class_token: bool = True  # whether a class token stands in front of the patches
    use_distillation_token: bool = False  # whether a distillation token (DeiT) stands behind the class token
    use_absolute_position_embeddings: bool = True  # learned ones
    # How positions are resized: "bilinear" (Segmenter), "bicubic" (most ViTs of transformers) or "bicubic_antialias"
    # (timm, DINOv2 with registers).
    position_interpolation: str = "bilinear"
    # Base > 0 of axial rotary positions, half of a head's channels for the row, half for the column; a merged token
    # stands at the mean of its patches, special tokens do not turn; 100 in DINOv3, 10000 in EVA-02, None for none.
    rope_theta: float | None = None
    # What the angles are proportional to: "centered", the centre of a patch with the image in [-1, 1], times 2 pi
    # (DINOv3); "index", row and column counted from 0 (EVA-02).
    rope_coordinates: str = "centered"
    rope_reference_grid_size: int | None = None  # with "index": rows and columns are scaled to this side, at least 1
    layer_scale_init_value: float | None = None  # initial layer scale behind attention and MLP; None for none
    use_gated_mlp: bool = False  # whether MLPs are gated, fc2(act(gate) * up); SwiGLU with hidden_act="silu"
    use_mlp_inner_norm: bool = False  # whether a LayerNorm stands before the MLP's last linear layer (EVA-02)

    # --- The decoder, one of the two of Segmenter (ICCV 2021)
    decoder_type: str = "mask_transformer"  # "mask_transformer" or "linear"
    decoder_num_hidden_layers: int = 2  # layers of the mask transformer
    decoder_hidden_size: int | None = None  # channels of the mask transformer; hidden_size by default
    # Heads of the mask transformer; by default decoder_hidden_size // 64, at least 1.
    decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None  # channels inside its MLPs; 4 * decoder_hidden_size by default
    # Dropout in [0, 1) on its attention weights, after the attention and after the MLP.
    decoder_dropout_prob: float = 0.1
    decoder_drop_path_rate: float = 0.0  # stochastic depth in [0, 1) of its last layer

    # --- The method
    use_token_merging: bool = True  # whether tokens are merged; False gives the plain ViT
    # Layer, in 1..num_hidden_layers, after whose attention similar tokens of a window merge (section 3.2); before
    # global_merge_layer; None for none.
    local_merge_layer: int | None = 1
    # Layer, in 1..num_hidden_layers, after whose attention similar tokens of the image merge (section 3.3): 5 of 12 or
    # 7 of 24 in the paper; None for none.
    global_merge_layer: int | None = 5
    merge_window_size: int = 2  # side of the windows of the local merge in patches, at least 2
    merge_threshold: float = 0.88  # tau in [-1, 1]: windows at least this similar become one token

    # --- The loss
    semantic_loss_ignore_index: int = 255  # integer label of pixels that do not count
    class_weights: list[float] | None = None  # weight >= 0 of each class in the cross-entropy, num_labels of them

    # --- Inference
    inference_mode: str = "whole"  # "whole", or "slide": in windows, averaged where they overlap, as the paper tests
    # Side of the inference windows in pixels, at least patch_size; needed for "slide".
    window_size: int | None = None
    window_stride: int | None = None  # distance between windows in pixels, in 1..window_size; window_size by default
    window_batch_size: int = 8  # windows at once, at least 1; memory, never the result, depends on it

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.image_size, tuple):
            self.image_size = list(self.image_size)
        if hasattr(self.class_weights, "tolist"):  # arrays and tensors
            self.class_weights = self.class_weights.tolist()
        if isinstance(self.class_weights, Sequence) and not isinstance(self.class_weights, (str, bytes)):
            self.class_weights = list(self.class_weights)
        if self.decoder_hidden_size is None:
            self.decoder_hidden_size = self.hidden_size
        if is_integer(self.decoder_hidden_size):
            if self.decoder_num_attention_heads is None:
                self.decoder_num_attention_heads = max(1, self.decoder_hidden_size // 64)
            if self.decoder_intermediate_size is None:
                self.decoder_intermediate_size = 4 * self.decoder_hidden_size
        super().__post_init__(**kwargs)
        self._validate_architecture()
        self.validate_call_settings()

    @property
    def num_special_tokens(self) -> int:
        """Number of tokens in front of the patch tokens: class, distillation and register tokens."""
        return int(self.use_class_token) + int(self.use_distillation_token) + self.num_register_tokens

    @property
    def position_grid_size(self) -> tuple[int, int]:
        """Height and width in patches of the grid for which position embeddings are stored."""
        height, width = self.image_size if isinstance(self.image_size, list) else (self.image_size, self.image_size)
        return height // self.patch_size, width // self.patch_size

    def validate_call_settings(self) -> None:
        """Refuses, with a `ValueError`, fields that may be changed on a loaded model; called at every forward."""
        self._validate_merging()
        self._validate_inference()
        require_integer("semantic_loss_ignore_index", self.semantic_loss_ignore_index)
        require_integer("num_labels", self.num_labels, 2)  # an object and its background are two classes
        # Their number is compared with num_labels where they are used: a checkpoint's weights must not keep it from
        # being loaded with other classes.
        weights = [] if self.class_weights is None else self.class_weights
        valid = isinstance(weights, (list, tuple)) and all(is_number(weight) and weight >= 0 for weight in weights)
        require(valid, "class_weights", self.class_weights, "None or numbers >= 0, one for each class")

    def _validate_merging(self) -> None:
        require_bool("use_token_merging", self.use_token_merging)
        require_integer("merge_window_size", self.merge_window_size, 2)
        require_number("merge_threshold", self.merge_threshold, *MERGE_THRESHOLD_RANGE)
        for name in ("local_merge_layer", "global_merge_layer"):
            layer, last = getattr(self, name), self.num_hidden_layers
            valid = layer is None or (is_integer(layer) and 1 <= layer <= last)
            require(valid, name, layer, f"None or an integer in 1..{last}, counted from 1")
        if None not in (self.local_merge_layer, self.global_merge_layer):
            expected = f"a layer before global_merge_layer={self.global_merge_layer}"
            in_order = self.local_merge_layer < self.global_merge_layer
            require(in_order, "local_merge_layer", self.local_merge_layer, expected)

    def _validate_inference(self) -> None:
        require_choice("inference_mode", self.inference_mode, INFERENCE_MODES)
        require_integer("window_batch_size", self.window_batch_size, 1)
        if self.window_size is not None or self.inference_mode == "slide":
            require_integer("window_size", self.window_size, self.patch_size)
            if self.window_stride is not None:
                require_integer("window_stride", self.window_stride, 1, self.window_size)

    def _validate_architecture(self) -> None:
        positive = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
        positive += ("num_channels", "decoder_hidden_size", "decoder_num_attention_heads", "decoder_intermediate_size")
        for name in positive:
            require_integer(name, getattr(self, name), 1)
        for name in ("num_register_tokens", "decoder_num_hidden_layers"):
            require_integer(name, getattr(self, name), 0)
        require(self.hidden_act in ACT2FN, "hidden_act", self.hidden_act, "an activation of transformers' ACT2FN")
        for name in ("initializer_range", "layer_norm_eps"):
            require_number(name, getattr(self, name), 0)
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        for name in (*rates, "decoder_dropout_prob", "decoder_drop_path_rate"):
            rate = getattr(self, name)
            require(is_number(rate) and 0 <= rate < 1, name, rate, "a number in [0, 1)")
        flags = ("qkv_bias", "use_class_token", "use_distillation_token", "use_absolute_position_embeddings")
        for name in (*flags, "use_gated_mlp", "use_mlp_inner_norm"):
            require_bool(name, getattr(self, name))
        scale = self.layer_scale_init_value
        require(scale is None or is_number(scale), "layer_scale_init_value", scale, "None or a number")
        require_choice("decoder_type", self.decoder_type, DECODER_TYPES)
        for prefix in ("", "decoder_"):
            heads, size = getattr(self, f"{prefix}num_attention_heads"), getattr(self, f"{prefix}hidden_size")
            expected = f"a divisor of {prefix}hidden_size={size}"
            require(size % heads == 0, f"{prefix}num_attention_heads", heads, expected)
        sides = self.image_size if isinstance(self.image_size, list) else [self.image_size, self.image_size]
        expected = f"an integer or (height, width), positive multiples of patch_size={self.patch_size}"
        valid = len(sides) == 2 and all(
            is_integer(side) and side > 0 and side % self.patch_size == 0 for side in sides
        )
        require(valid, "image_size", self.image_size, expected)
        self._validate_positions()

    def _validate_positions(self) -> None:
        require_choice("position_interpolation", self.position_interpolation, POSITION_INTERPOLATIONS)
        require_choice("rope_coordinates", self.rope_coordinates, ROPE_COORDINATES)
        if self.rope_reference_grid_size is not None:
            require_integer("rope_reference_grid_size", self.rope_reference_grid_size, 1)
        theta, head_dim = self.rope_theta, self.hidden_size // self.num_attention_heads
        if theta is not None:
            require(is_number(theta) and theta > 0, "rope_theta", theta, "None or a number > 0")
            expected = f"heads of a multiple of 4 channels, two for each axis, not of {head_dim}"
            require(head_dim % 4 == 0, "rope_theta", theta, expected)


__all__ = ["BACKBONE_PRESETS", "MERGE_THRESHOLD_RANGE", "AlgmConfig"]
