# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""ALGM model configuration."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .refusals import is_integer, is_number, require_bool, require_integer, require_number


DECODER_TYPES = ("linear", "mask_transformer")
INFERENCE_MODES = ("slide", "whole")
POSITION_INTERPOLATIONS = ("bicubic", "bicubic_antialias", "bilinear")
ROPE_COORDINATES = ("centered", "index")
# The paper's backbones as fields of the config, with the layer of the global merge (section 4.1: 5 of 12, 7 of 24).
BACKBONE_PRESETS = {
    name: {
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64,
        "num_hidden_layers": num_hidden_layers,
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
    with Plain Vision Transformers" (CVPR 2024, arXiv 2406.09936).

    The defaults are the paper's ViT-S/16 for ADE20K. The fields of the method and of the inference mode are read at
    every call of the model, so they can be changed on a loaded model and take effect at once:

    ```python
    >>> model.config.merge_threshold = 0.8  # lower merges more: faster, less accurate
    >>> model.config.use_token_merging = False  # the plain ViT with the same weights
    ```

    Args:
        hidden_size (`int`, *optional*, defaults to 384):
            Number of channels `C` of the encoder's tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of encoder layers.
        num_attention_heads (`int`, *optional*, defaults to 6):
            Number of attention heads of an encoder layer; divides `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 1536):
            Number of channels inside the MLP of an encoder layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the encoder's MLPs, a key of `transformers.activations.ACT2FN`. `"gelu"` is the exact one,
            and always that of the mask transformer.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout in [0, 1) after the embeddings, the attention and the MLP of the encoder.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout in [0, 1) on the attention weights of the encoder.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal distribution that initialises the weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of every LayerNorm. 1e-5 is what the released Segmenter and ALGM checkpoints expect; most other
            ViTs use 1e-6.
        image_size (`int` or `(int, int)`, *optional*, defaults to 512):
            Height and width in pixels for which the position embeddings are stored, multiples of `patch_size`. Other
            sizes resize them; see `position_interpolation`.
        patch_size (`int`, *optional*, defaults to 16):
            Side of a patch in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Number of channels of the images.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether queries, keys and values have a bias.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth in [0, 1) of the last encoder layer; it grows linearly from 0 at the first. An image's
            residual is dropped as a whole. The paper trains with 0.1.
        num_register_tokens (`int`, *optional*, defaults to 0):
            Number of register tokens behind the class and distillation tokens. Special tokens are never merged.
        use_class_token (`bool`, *optional*, defaults to `True`):
            Whether a class token stands in front of the patches.
        use_distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a distillation token (DeiT) stands behind the class token.
        use_absolute_position_embeddings (`bool`, *optional*, defaults to `True`):
            Whether learned position embeddings are added to the patches and the class token.
        position_interpolation (`str`, *optional*, defaults to `"bilinear"`):
            How they are resized to other grids: `"bilinear"` as Segmenter does, `"bicubic"` as most ViTs of
            transformers, or `"bicubic_antialias"` as timm and DINOv2 with registers.
        rope_theta (`float`, *optional*):
            Base > 0 of axial rotary positions: half of the channels of a head turn with the row, half with the column
            of a token. A merged token stands at the mean of its patches' positions; special tokens do not turn.
            `None` for none. 100 in DINOv3, 10000 in EVA-02.
        rope_coordinates (`str`, *optional*, defaults to `"centered"`):
            What the angles are proportional to: `"centered"`, the centre of a patch with the image in [-1, 1], times
            2 pi (DINOv3); or `"index"`, row and column counted from 0 (EVA-02).
        rope_reference_grid_size (`int`, *optional*):
            With `"index"`: rows and columns are scaled as if the grid had this side. `None` leaves them.
        layer_scale_init_value (`float`, *optional*):
            Initial factor of the learned scale of each channel behind the attention and behind the MLP of an encoder
            layer (layer scale). `None` for none.
        use_gated_mlp (`bool`, *optional*, defaults to `False`):
            Whether the MLPs of the encoder are gated, `fc2(act(gate) * up)` with `intermediate_size` channels each;
            with `hidden_act="silu"` this is SwiGLU.
        use_mlp_inner_norm (`bool`, *optional*, defaults to `False`):
            Whether a LayerNorm stands before the last linear layer of the MLPs of the encoder (EVA-02).
        decoder_type (`str`, *optional*, defaults to `"mask_transformer"`):
            `"mask_transformer"` or `"linear"`, the two decoders of Segmenter (ICCV 2021).
        decoder_num_hidden_layers (`int`, *optional*, defaults to 2):
            Number of layers of the mask transformer.
        decoder_hidden_size (`int`, *optional*):
            Number of channels of the mask transformer. Defaults to `hidden_size`.
        decoder_num_attention_heads (`int`, *optional*):
            Number of heads of the mask transformer. Defaults to `decoder_hidden_size // 64`, at least 1.
        decoder_intermediate_size (`int`, *optional*):
            Number of channels inside the MLPs of the mask transformer. Defaults to `4 * decoder_hidden_size`.
        decoder_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout in [0, 1) of the mask transformer: on attention weights, after the attention and after the MLP.
        decoder_drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth in [0, 1) of the last layer of the mask transformer.
        use_token_merging (`bool`, *optional*, defaults to `True`):
            Whether tokens are merged. `False` gives the plain ViT.
        local_merge_layer (`int`, *optional*, defaults to 1):
            Layer, **counted from 1**, after whose attention similar tokens of one window are merged (paper, section
            3.2). In 1..`num_hidden_layers`, and before `global_merge_layer`; `None` switches the local merge off.
        global_merge_layer (`int`, *optional*, defaults to 5):
            Layer, **counted from 1**, after whose attention similar tokens of the whole image are merged (paper,
            section 3.3). In 1..`num_hidden_layers`; the paper takes 5 of 12 and 7 of 24. `None` switches it off.
        merge_window_size (`int`, *optional*, defaults to 2):
            Side of the square windows of the local merge, in patches; at least 2.
        merge_threshold (`float`, *optional*, defaults to 0.88):
            The threshold tau in [-1, 1]: a window whose mean cosine similarity reaches it becomes one token. Lower
            merges more.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label value that the loss ignores.
        class_weights (`list[float]`, *optional*):
            Weight >= 0 of each class in the cross-entropy, `num_labels` values.
        inference_mode (`str`, *optional*, defaults to `"whole"`):
            How [`AlgmForSemanticSegmentation`] treats an image in evaluation mode: `"whole"` in one piece; `"slide"`
            in windows whose logits are upsampled and averaged where they overlap, as the paper tests.
        window_size (`int`, *optional*):
            Side of the inference windows in pixels. Needed for `"slide"`.
        window_stride (`int`, *optional*):
            Distance between inference windows in pixels, in 1..`window_size`. Defaults to `window_size`.
        window_batch_size (`int`, *optional*, defaults to 8):
            Number of inference windows that go through the model at once. Memory, never the result, depends on it.

    Raises:
        ValueError: if a field is outside its range; the message names the field, its value and what is expected.

    Example:

    ```python
    >>> from algm_hf import AlgmConfig, AlgmForSemanticSegmentation

    >>> configuration = AlgmConfig(num_labels=150)
    >>> model = AlgmForSemanticSegmentation(configuration)
    ```
    """

    model_type = "algm"
    # What Trainer leaves out when it gathers predictions: shapes that differ from batch to batch.
    keys_to_ignore_at_inference = ["hidden_states", "token_counts", "patch_to_token", "grid_sizes"]

    def __init__(
        self,
        hidden_size: int = 384,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        intermediate_size: int = 1536,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.0,
        attention_probs_dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-5,
        image_size: int | Sequence[int] = 512,
        patch_size: int = 16,
        num_channels: int = 3,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        num_register_tokens: int = 0,
        use_class_token: bool = True,
        use_distillation_token: bool = False,
        use_absolute_position_embeddings: bool = True,
        position_interpolation: str = "bilinear",
        rope_theta: float | None = None,
        rope_coordinates: str = "centered",
        rope_reference_grid_size: int | None = None,
        layer_scale_init_value: float | None = None,
        use_gated_mlp: bool = False,
        use_mlp_inner_norm: bool = False,
        decoder_type: str = "mask_transformer",
        decoder_num_hidden_layers: int = 2,
        decoder_hidden_size: int | None = None,
        decoder_num_attention_heads: int | None = None,
        decoder_intermediate_size: int | None = None,
        decoder_dropout_prob: float = 0.1,
        decoder_drop_path_rate: float = 0.0,
        use_token_merging: bool = True,
        local_merge_layer: int | None = 1,
        global_merge_layer: int | None = 5,
        merge_window_size: int = 2,
        merge_threshold: float = 0.88,
        semantic_loss_ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        inference_mode: str = "whole",
        window_size: int | None = None,
        window_stride: int | None = None,
        window_batch_size: int = 8,
        **kwargs: Any,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.image_size = list(image_size) if isinstance(image_size, (list, tuple)) else image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.qkv_bias = qkv_bias
        self.drop_path_rate = drop_path_rate
        self.num_register_tokens = num_register_tokens
        self.use_class_token = use_class_token
        self.use_distillation_token = use_distillation_token
        self.use_absolute_position_embeddings = use_absolute_position_embeddings
        self.position_interpolation = position_interpolation
        self.rope_theta = rope_theta
        self.rope_coordinates = rope_coordinates
        self.rope_reference_grid_size = rope_reference_grid_size
        self.layer_scale_init_value = layer_scale_init_value
        self.use_gated_mlp = use_gated_mlp
        self.use_mlp_inner_norm = use_mlp_inner_norm
        self.decoder_type = decoder_type
        self.decoder_num_hidden_layers = decoder_num_hidden_layers
        self.decoder_hidden_size = hidden_size if decoder_hidden_size is None else decoder_hidden_size
        if decoder_num_attention_heads is None and is_integer(self.decoder_hidden_size):
            decoder_num_attention_heads = max(1, self.decoder_hidden_size // 64)
        self.decoder_num_attention_heads = decoder_num_attention_heads
        if decoder_intermediate_size is None and is_integer(self.decoder_hidden_size):
            decoder_intermediate_size = 4 * self.decoder_hidden_size
        self.decoder_intermediate_size = decoder_intermediate_size
        self.decoder_dropout_prob = decoder_dropout_prob
        self.decoder_drop_path_rate = decoder_drop_path_rate
        self.use_token_merging = use_token_merging
        self.local_merge_layer = local_merge_layer
        self.global_merge_layer = global_merge_layer
        self.merge_window_size = merge_window_size
        self.merge_threshold = merge_threshold
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        self.class_weights = None if class_weights is None else list(class_weights)
        self.inference_mode = inference_mode
        self.window_size = window_size
        self.window_stride = window_stride
        self.window_batch_size = window_batch_size
        super().__init__(**kwargs)
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
        """
        Check the fields that may be changed on a loaded model. The models call this at every forward.

        Raises:
            ValueError: naming the field, its value and what is expected.
        """
        self._validate_merging()
        self._validate_inference()
        require_integer("semantic_loss_ignore_index", self.semantic_loss_ignore_index)
        if self.num_labels < 2:
            raise ValueError(
                f"num_labels={self.num_labels}: expected at least 2; an object and its background are two classes"
            )
        # Their number is compared with num_labels where they are used: a checkpoint's weights must not keep it from
        # being loaded with other classes.
        weights = self.class_weights
        if weights is not None and not all(is_number(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"class_weights={weights!r}: expected None or numbers >= 0, one for each class")

    def _validate_merging(self) -> None:
        require_bool("use_token_merging", self.use_token_merging)
        require_integer("merge_window_size", self.merge_window_size, 2)
        require_number("merge_threshold", self.merge_threshold, -1.0, 1.0)
        for name in ("local_merge_layer", "global_merge_layer"):
            layer = getattr(self, name)
            if layer is not None and not (is_integer(layer) and 1 <= layer <= self.num_hidden_layers):
                raise ValueError(
                    f"{name}={layer!r}: expected None or an integer in 1..{self.num_hidden_layers} "
                    f"(layers are counted from 1, num_hidden_layers={self.num_hidden_layers})"
                )
        local_layer, global_layer = self.local_merge_layer, self.global_merge_layer
        if local_layer is not None and global_layer is not None and local_layer >= global_layer:
            raise ValueError(
                f"local_merge_layer={local_layer} and global_merge_layer={global_layer}: expected the local merge "
                "before the global one (local_merge_layer < global_merge_layer)"
            )

    def _validate_inference(self) -> None:
        if self.inference_mode not in INFERENCE_MODES:
            raise ValueError(f"inference_mode={self.inference_mode!r}: expected one of {', '.join(INFERENCE_MODES)}")
        require_integer("window_batch_size", self.window_batch_size, 1)
        if self.window_size is None:
            if self.inference_mode == "slide":
                raise ValueError(
                    "window_size=None: inference_mode='slide' expects the side of the windows in pixels, "
                    f"at least patch_size={self.patch_size}"
                )
            return
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
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        for name in (*rates, "decoder_dropout_prob", "decoder_drop_path_rate"):
            rate = getattr(self, name)
            if not (is_number(rate) and 0 <= rate < 1):
                raise ValueError(f"{name}={rate!r}: expected a number in [0, 1)")
        flags = ("qkv_bias", "use_class_token", "use_distillation_token", "use_absolute_position_embeddings")
        for name in (*flags, "use_gated_mlp", "use_mlp_inner_norm"):
            require_bool(name, getattr(self, name))
        if self.layer_scale_init_value is not None and not is_number(self.layer_scale_init_value):
            raise ValueError(f"layer_scale_init_value={self.layer_scale_init_value!r}: expected None or a number")
        if self.decoder_type not in DECODER_TYPES:
            raise ValueError(f"decoder_type={self.decoder_type!r}: expected one of {', '.join(DECODER_TYPES)}")
        for heads, size in (
            ("num_attention_heads", "hidden_size"),
            ("decoder_num_attention_heads", "decoder_hidden_size"),
        ):
            if getattr(self, size) % getattr(self, heads):
                raise ValueError(f"{heads}={getattr(self, heads)}: expected a divisor of {size}={getattr(self, size)}")
        sides = self.image_size if isinstance(self.image_size, list) else [self.image_size, self.image_size]
        if len(sides) != 2 or not all(is_integer(side) and side > 0 and side % self.patch_size == 0 for side in sides):
            raise ValueError(
                f"image_size={self.image_size!r}: expected an integer or (height, width), positive multiples of "
                f"patch_size={self.patch_size}"
            )
        self._validate_positions()

    def _validate_positions(self) -> None:
        for name, choices in (
            ("position_interpolation", POSITION_INTERPOLATIONS),
            ("rope_coordinates", ROPE_COORDINATES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}")
        if self.rope_reference_grid_size is not None:
            require_integer("rope_reference_grid_size", self.rope_reference_grid_size, 1)
        if self.rope_theta is None:
            return
        if not (is_number(self.rope_theta) and self.rope_theta > 0):
            raise ValueError(f"rope_theta={self.rope_theta!r}: expected None or a number > 0")
        head_dim = self.hidden_size // self.num_attention_heads
        if head_dim % 4:
            raise ValueError(
                f"rope_theta={self.rope_theta!r}: expected heads of a multiple of 4 channels, two for each axis, but "
                f"hidden_size / num_attention_heads = {head_dim}"
            )


__all__ = ["BACKBONE_PRESETS", "AlgmConfig"]
