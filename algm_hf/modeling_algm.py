# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
ALGM in PyTorch: a plain Vision Transformer that merges similar tokens twice, and a Segmenter decoder on the merged
tokens ("ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation with Plain Vision
Transformers", CVPR 2024, arXiv 2406.09936).

Between the embeddings and the logits the tokens of a batch live in a pack (see `token_merging.py`): every image keeps
as many tokens as it needs, so no image's result depends on what else is in the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_algm import AlgmConfig

# The Auto classes of older transformers copy only the files that this one imports itself, not those that those import.
from .packed_attention import packed_attention  # noqa: F401
from .refusals import require  # noqa: F401
from .rotary_positions import rotary_table
from .segmentation_decoders import AlgmLinearDecoder, AlgmMaskTransformerDecoder
from .segmentation_loss import check_labels, segmentation_loss, upsample_logits
from .sliding_window import averaged_bands, window_starts
from .token_merging import global_merge, local_merge, restore_tokens
from .token_packs import (
    TokenPack,
    cumulated_lengths,
    drop_special_tokens,
    full_lengths,
    full_pack,
    stack_images,
    to_batch,
    to_grids,
)
from .transformer_layers import (
    AlgmAttentionBlock,
    AlgmLayer,
    AlgmLayerScale,
    AlgmMlpBlock,
    drop_path_rates,
)
from .vit_embeddings import AlgmEmbeddings


GridSizes = Sequence[tuple[int, int]]

# The image segmentation pipeline looks for class names in this table only, and logs that any other class "is not
# supported" before it goes on and works. No Auto class reads this entry: they go by the configs transformers ships.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault("algm", "AlgmForSemanticSegmentation")


@dataclass
class AlgmModelOutput(ModelOutput):
    """
    Output of [`AlgmModel`]. All sequences are restored: every position of the full sequence has its token's features.
    When images of different sizes are given, shorter sequences are padded with zeros at the end.

    Args:
        last_hidden_state (`Tensor` of shape `(batch_size, num_special_tokens + num_patches, hidden_size)`):
            Features after the final LayerNorm; `None` with `output_packed=True`.
        hidden_states (`tuple[Tensor]`, *optional*, with `output_hidden_states=True`):
            `num_hidden_layers + 1` tensors of that shape: the embeddings and the output of each layer.
        token_counts (`Tensor` of shape `(batch_size, num_hidden_layers)`, int64, *optional*):
            With `output_token_merging=True`: tokens of each image after each layer, special tokens counted.
        patch_to_token (`Tensor` of shape `(batch_size, num_patches)`, int64, *optional*):
            With `output_token_merging=True`: index of each patch's token in its image's final sequence, special
            tokens counted; -1 for padding.
        grid_sizes (`Tensor` of shape `(batch_size, 2)`, int64, *optional*, with `image_sizes`):
            Height and width of each image in patches.
        pack ([`TokenPack`], *optional*, with `output_packed=True`):
            The merged sequences as they are, after the final LayerNorm, special tokens included.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    token_counts: Tensor | None = None
    patch_to_token: Tensor | None = None
    grid_sizes: Tensor | None = None
    pack: TokenPack | None = None


@dataclass
class AlgmSemanticSegmenterOutput(ModelOutput):
    """
    Output of [`AlgmForSemanticSegmentation`].

    Args:
        loss (`Tensor` of shape `()`, *optional*, with `labels`):
            Cross-entropy averaged over the pixels with a label.
        logits (`Tensor` of shape `(batch_size, num_labels, grid_height, grid_width)`):
            Scores of each class for each patch. With `inference_mode="slide"` in evaluation mode they are the averaged
            scores of each pixel, `(batch_size, num_labels, height, width)`.
        hidden_states (`tuple[Tensor]`, *optional*, with `output_hidden_states=True`):
            See [`AlgmModelOutput`].
        token_counts (`Tensor` of shape `(batch_size, num_hidden_layers)`, int64, *optional*):
            With `output_token_merging=True`: tokens of each image after each encoder layer, special tokens counted;
            the sum over its windows with `inference_mode="slide"`.
        patch_to_token (`Tensor` of shape `(batch_size, num_patches)`, int64, *optional*):
            With `output_token_merging=True`: index of each patch's token in its image's final sequence, special
            tokens counted; -1 for padding, `None` with `inference_mode="slide"`.
        grid_sizes (`Tensor` of shape `(batch_size, 2)`, int64, *optional*, with `image_sizes`):
            Rows and columns of `logits` that belong to each image; the others are zero.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    token_counts: Tensor | None = None
    patch_to_token: Tensor | None = None
    grid_sizes: Tensor | None = None


class AlgmPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading, saving and sharing of the ALGM models."""

    config_class = AlgmConfig
    config: AlgmConfig
    base_model_prefix = "algm"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["AlgmEmbeddings", "AlgmLayer", "AlgmLinearDecoder", "AlgmMaskTransformerDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # The loss is an average over pixels with a label; Trainer divides it by its accumulation steps (it would not, were
    # `num_items_in_batch` accepted), since the number of labelled pixels is not the number of labels unequal to -100.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, AlgmEmbeddings):
            for name in ("position_embeddings", "cls_token", "distillation_token", "register_tokens"):
                if getattr(module, name) is not None:
                    init.trunc_normal_(getattr(module, name), mean=0.0, std=std)
        elif isinstance(module, AlgmLayerScale):
            init.constant_(module.weight, module.init_value)
        elif isinstance(module, AlgmMaskTransformerDecoder):
            init.trunc_normal_(module.class_embeddings, mean=0.0, std=std)

    def compile(self, **kwargs) -> None:
        """
        Compiles the attention and MLP blocks in place, each kind once for all layers and token counts; embeddings,
        merges and the attention of images with different token counts run as they are. Images of other token counts
        compile nothing anew.

        `torch.compile(model)` runs, too, but meets the merges inside its graphs and compiles again for new token
        counts until torch's limit.

        Args:
            kwargs: those of `torch.compile`; `dynamic=True` unless given.

        Raises:
            ValueError: with `fullgraph=True`; which attention kernels run depends on the token counts.
        """
        if kwargs.get("fullgraph"):
            raise ValueError(
                "fullgraph=True: expected False; attention of images with different token counts runs between the "
                "graphs"
            )
        for module in self.modules():
            if isinstance(module, (AlgmAttentionBlock, AlgmMlpBlock)):
                module.compile(**{"dynamic": True, **kwargs})

    def save_pretrained(self, save_directory, *args, **kwargs):
        """
        [`~transformers.PreTrainedModel.save_pretrained`], which also copies this code when the classes are registered
        for the Auto classes; the folder then loads through both `AutoModel` and `AutoModelForSemanticSegmentation`,
        whichever of the two was saved.
        """
        if self._auto_class is not None and type(self) in (AlgmModel, AlgmForSemanticSegmentation):
            module = AlgmModel.__module__.rsplit(".", 1)[-1]
            # Both entries are set anew: those of a model that came from the Hub name the repository it came from.
            entries = {
                "AutoModel": f"{module}.AlgmModel",
                "AutoModelForSemanticSegmentation": f"{module}.AlgmForSemanticSegmentation",
            }
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **entries}
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _prepare_inputs(
        self, pixel_values: Tensor | Sequence, image_sizes: Tensor | None
    ) -> tuple[Tensor, list[tuple[int, int]] | None]:
        """Refuse what does not fit; the images as one tensor and, where they differ, their sizes in pixels."""
        config = self.config
        config.validate_call_settings()
        if config.output_attentions:
            raise ValueError(
                "output_attentions=True: expected False; merged images have attention maps of different sizes, which "
                "no tensor holds"
            )
        if not isinstance(pixel_values, Tensor):
            if image_sizes is not None:
                raise ValueError(
                    f"image_sizes={image_sizes!r} with a list of images: expected None, the images have their sizes"
                )
            pixel_values, image_sizes = stack_images(pixel_values)
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[0] == 0 or shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values has shape {shape}: expected (batch_size, num_channels={config.num_channels}, height, "
                "width)"
            )
        sizes = [shape[-2:]]
        if image_sizes is not None:
            if not isinstance(image_sizes, Tensor) or image_sizes.dtype.is_floating_point:
                kind = getattr(image_sizes, "dtype", type(image_sizes).__name__)
                raise ValueError(f"image_sizes is of type {kind}: expected a tensor of integers")
            if tuple(image_sizes.shape) != (shape[0], 2):
                raise ValueError(f"image_sizes has shape {tuple(image_sizes.shape)}: expected ({shape[0]}, 2)")
            sizes = [tuple(size) for size in image_sizes.tolist()]
        for height, width in sizes:
            if not (config.patch_size <= height <= shape[-2] and config.patch_size <= width <= shape[-1]):
                raise ValueError(
                    f"an image has {height} x {width} pixels: expected at least one patch (patch_size="
                    f"{config.patch_size}) and at most the {shape[-2]} x {shape[-1]} pixels of pixel_values"
                )
        return pixel_values, None if image_sizes is None else sizes


class AlgmModel(AlgmPreTrainedModel):
    """
    The encoder: a plain Vision Transformer that merges tokens after the attention of two layers and returns the
    features of all patches, so any head that expects a plain ViT works on top.

    Args:
        config ([`AlgmConfig`])
    """

    def __init__(self, config: AlgmConfig):
        super().__init__(config)
        rates = drop_path_rates(config.drop_path_rate, config.num_hidden_layers)
        self.embeddings = AlgmEmbeddings(config)
        self.layers = nn.ModuleList([AlgmLayer(config, config, rate) for rate in rates])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | Sequence[Tensor],
        image_sizes: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_token_merging: bool | None = None,
        output_packed: bool = False,
    ) -> AlgmModelOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, or a list of images):
                Normalised images of any height and width of at least one patch; the model pads them with zeros to
                whole patches. As a list, tensors `(num_channels, height, width)` of any sizes.
            image_sizes (`Tensor` of shape `(batch_size, 2)`, int64, *optional*):
                Height and width of each image in pixels, when images of different sizes were padded right and bottom
                to one tensor. Each image then gets what it gets alone.
            output_hidden_states (`bool`, *optional*):
                Whether to return the features after each layer. Defaults to `config.output_hidden_states`.
            output_token_merging (`bool`, *optional*, defaults to `False`):
                Whether to return `token_counts` and `patch_to_token`.
            output_packed (`bool`, *optional*, defaults to `False`):
                Whether to return the merged sequences themselves as `pack`, for heads that run on merged tokens,
                instead of `last_hidden_state`.

        Returns:
            [`AlgmModelOutput`], or a tuple of its fields that are not `None` with `return_dict=False`.

        Raises:
            ValueError: if an input or a field of the config does not fit.
        """
        config = self.config
        pixel_values, sizes = self._prepare_inputs(pixel_values, image_sizes)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states

        hidden_states, grid_sizes = self.embeddings(pixel_values, sizes)
        pack = full_pack(hidden_states, full_lengths(grid_sizes, config.num_special_tokens))
        all_hidden_states = [self._restore(pack, grid_sizes)] if output_hidden_states else None
        rotary = rotary_table(config, pack, grid_sizes)
        token_counts = []
        for number, layer in enumerate(self.layers, start=1):
            merge = self._merge_of_layer(number, grid_sizes)
            pack = layer(pack, merge, rotary)
            if merge is not None:
                rotary = rotary_table(config, pack, grid_sizes)
            token_counts.append(pack.lengths)
            if output_hidden_states:
                all_hidden_states.append(self._restore(pack, grid_sizes))
        pack = pack.with_hidden_states(self.layernorm(pack.hidden_states))

        device = pixel_values.device
        return AlgmModelOutput(
            last_hidden_state=None if output_packed else self._restore(pack, grid_sizes),
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            token_counts=torch.tensor(token_counts, device=device).T.contiguous() if output_token_merging else None,
            patch_to_token=self._patch_to_token(pack, grid_sizes) if output_token_merging else None,
            grid_sizes=None if sizes is None else torch.tensor(grid_sizes, device=device),
            pack=pack if output_packed else None,
        )

    def _merge_of_layer(self, number: int, grid_sizes: GridSizes) -> Callable[[TokenPack], TokenPack] | None:
        """What the layer with this number, counted from 1, does between its attention and its MLP."""
        config = self.config
        common = {"grid_sizes": grid_sizes, "num_special_tokens": config.num_special_tokens}
        if config.use_token_merging and number == config.local_merge_layer:
            return partial(
                local_merge, **common, window_size=config.merge_window_size, threshold=config.merge_threshold
            )
        if config.use_token_merging and number == config.global_merge_layer:
            return partial(global_merge, **common, layer=number)
        return None

    def _restore(self, pack: TokenPack, grid_sizes: GridSizes) -> Tensor:
        """The features of all positions, `(batch_size, num_special_tokens + num_patches, hidden_size)`."""
        lengths = full_lengths(grid_sizes, self.config.num_special_tokens)
        return to_batch(restore_tokens(pack.hidden_states, pack.token_index), lengths)

    def _patch_to_token(self, pack: TokenPack, grid_sizes: GridSizes) -> Tensor:
        """Index of each patch's token in its own image's sequence, `(batch_size, num_patches)`."""
        num_special_tokens = self.config.num_special_tokens
        index = to_batch(pack.token_index, full_lengths(grid_sizes, num_special_tokens), padding_value=-1)
        starts = cumulated_lengths(torch.tensor(pack.lengths, device=index.device))[:-1, None]
        return torch.where(index < 0, index, index - starts)[:, num_special_tokens:].contiguous()


class AlgmForSemanticSegmentation(AlgmPreTrainedModel):
    """
    [`AlgmModel`] with one of Segmenter's decoders (ICCV 2021), which runs on the merged tokens.

    Args:
        config ([`AlgmConfig`])
    """

    def __init__(self, config: AlgmConfig):
        super().__init__(config)
        decoders = {"linear": AlgmLinearDecoder, "mask_transformer": AlgmMaskTransformerDecoder}
        self.algm = AlgmModel(config)
        self.decode_head = decoders[config.decoder_type](config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | Sequence[Tensor],
        image_sizes: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_token_merging: bool | None = None,
    ) -> AlgmSemanticSegmenterOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, or a list of images):
                Normalised images of any height and width of at least one patch. As a list, tensors
                `(num_channels, height, width)` of any sizes.
            image_sizes (`Tensor` of shape `(batch_size, 2)`, int64, *optional*):
                Height and width of each image in pixels, when images of different sizes were padded right and bottom
                to one tensor. Each image then gets what it gets alone.
            labels (`Tensor` of shape `(batch_size, height, width)`, integer, *optional*):
                Class of each pixel in `0..num_labels - 1`, or `config.semantic_loss_ignore_index`. Their values are
                checked where that costs nothing, on the CPU.
            output_hidden_states (`bool`, *optional*):
                Whether to return the encoder's features after each layer. Defaults to `config.output_hidden_states`.
            output_token_merging (`bool`, *optional*, defaults to `False`):
                Whether to return `token_counts` and `patch_to_token`.

        Returns:
            [`AlgmSemanticSegmenterOutput`], or a tuple of its fields that are not `None` with `return_dict=False`.

        Raises:
            ValueError: if an input, a label or a field of the config does not fit.

        Example:

        ```python
        >>> import torch
        >>> from PIL import Image
        >>> from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        >>> processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        >>> model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)
        >>> image = Image.open(path)
        >>> with torch.inference_mode():
        ...     outputs = model(**processor(image, return_tensors="pt"))
        >>> label_map = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]
        ```
        """
        pixel_values, sizes = self._prepare_inputs(pixel_values, image_sizes)
        self._check_labels(labels, pixel_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if self.config.inference_mode == "slide" and not self.training:
            if output_hidden_states:
                raise ValueError(
                    "output_hidden_states=True: expected False with inference_mode='slide'; the features of an image "
                    "exist in windows only, use AlgmModel or inference_mode='whole'"
                )
            output = self._forward_windows(pixel_values, sizes, output_token_merging)
        else:
            output = self._forward_whole(pixel_values, sizes, output_hidden_states, output_token_merging)
        if labels is None:
            return output
        return AlgmSemanticSegmenterOutput(**{**output, "loss": self._loss(output.logits, labels, sizes)})

    @torch.no_grad()
    def segment(self, pixel_values: Tensor) -> Tensor:
        """
        The class of each pixel with `inference_mode="slide"`, without ever holding the logits of the whole image:
        equal to the argmax of `forward`'s logits, ties to the lowest class. For images whose
        `(num_labels, height, width)` logits do not fit.

        Beyond the model's own needs for `window_batch_size` windows it takes about
        `8 * num_labels * window_size * width` bytes an image: 3.7 GB for 150 classes, windows of 512 and a width
        of 6000.

        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images.

        Returns:
            `Tensor` of shape `(batch_size, height, width)`, int64

        Raises:
            ValueError: if the model is not in evaluation mode with `inference_mode="slide"`, or an input does not fit.
        """
        if self.training or self.config.inference_mode != "slide":
            raise ValueError(
                f"inference_mode={self.config.inference_mode!r}, training={self.training}: expected a model in "
                "evaluation mode (model.eval()) with inference_mode='slide'"
            )
        pixel_values, sizes = self._prepare_inputs(pixel_values, None)
        if sizes is not None and len(set(sizes)) > 1:
            raise ValueError(f"pixel_values holds images of the sizes {sizes}: expected equal sizes")
        bands = self._window_bands(pixel_values)
        return torch.cat([logits.argmax(dim=1) for _, logits in bands], dim=1)

    def _forward_whole(
        self,
        pixel_values: Tensor,
        sizes: GridSizes | None,
        output_hidden_states: bool | None = None,
        output_token_merging: bool | None = None,
    ) -> AlgmSemanticSegmenterOutput:
        config = self.config
        image_sizes = None if sizes is None else torch.tensor(sizes)
        encoded = self.algm(
            pixel_values,
            image_sizes=image_sizes,
            output_hidden_states=output_hidden_states,
            output_token_merging=output_token_merging,
            output_packed=True,
            return_dict=True,
        )
        sizes = [pixel_values.shape[-2:]] * pixel_values.shape[0] if sizes is None else sizes
        grid_sizes = [(-(-height // config.patch_size), -(-width // config.patch_size)) for height, width in sizes]
        patches = drop_special_tokens(encoded.pack, grid_sizes, config.num_special_tokens)
        logits = self.decode_head(patches)
        logits = restore_tokens(logits, patches.token_index.to(logits.device))
        return AlgmSemanticSegmenterOutput(
            logits=to_grids(logits, grid_sizes),
            hidden_states=encoded.hidden_states,
            token_counts=encoded.token_counts,
            patch_to_token=encoded.patch_to_token,
            grid_sizes=encoded.grid_sizes,
        )

    def _forward_windows(
        self, pixel_values: Tensor, sizes: GridSizes | None, output_token_merging: bool | None
    ) -> AlgmSemanticSegmenterOutput:
        batch_size, _, height, width = pixel_values.shape
        logits = pixel_values.new_zeros(batch_size, self.config.num_labels, height, width, dtype=torch.float32)
        if sizes is None:
            batches = [(slice(0, batch_size), height, width)]
        else:
            batches = [(slice(image, image + 1), *size) for image, size in enumerate(sizes)]
        token_counts = []
        for images, image_height, image_width in batches:
            batch = pixel_values[images, :, :image_height, :image_width]
            window_counts: list[Tensor] | None = [] if output_token_merging else None
            for top, band in self._window_bands(batch, window_counts):
                logits[images, :, top : top + band.shape[2], :image_width] = band
            if output_token_merging:
                # Windows come row by row, in a row image by image.
                columns = len(window_starts(image_width, *self._window_geometry))
                counts = torch.stack(window_counts).unflatten(0, (-1, batch.shape[0], columns))
                token_counts.append(counts.sum(dim=(0, 2)))
        return AlgmSemanticSegmenterOutput(
            logits=logits,
            token_counts=torch.cat(token_counts) if output_token_merging else None,
            grid_sizes=None if sizes is None else torch.tensor(sizes, device=logits.device),
        )

    @property
    def _window_geometry(self) -> tuple[int, int]:
        size, stride = self.config.window_size, self.config.window_stride
        return size, size if stride is None else stride

    def _window_bands(self, images: Tensor, window_counts: list[Tensor] | None = None) -> Iterator[tuple[int, Tensor]]:
        """
        The averaged logits of images of one size in bands of rows; see [`averaged_bands`]. Appends the token counts
        `(num_hidden_layers,)` of each window to `window_counts`.
        """
        config = self.config

        def window_logits(windows: Tensor) -> Iterator[Tensor]:
            output = self._forward_whole(windows, None, False, window_counts is not None)
            if window_counts is not None:
                window_counts.extend(output.token_counts)
            for logits in output.logits:
                yield upsample_logits(logits[None].float(), windows.shape[-2:], config.patch_size)[0]

        size, stride = self._window_geometry
        return averaged_bands(window_logits, images, config.num_labels, size, stride, config.window_batch_size)

    def _loss(self, logits: Tensor, labels: Tensor, sizes: GridSizes | None) -> Tensor:
        config, labels = self.config, labels.to(logits.device)
        weights = config.class_weights
        if weights is not None and len(weights) != config.num_labels:
            raise ValueError(
                f"class_weights={weights!r}: expected one number for each of num_labels={config.num_labels}, or None "
                "(from_pretrained(..., class_weights=None) drops those of a checkpoint with other classes)"
            )
        is_pixel_level = config.inference_mode == "slide" and not self.training
        patch_size = 1 if is_pixel_level else config.patch_size
        grids, grid_labels = [logits], [labels]
        if sizes is not None:
            grids, grid_labels = [], []
            for image, (height, width) in enumerate(sizes):
                rows, columns = -(-height // patch_size), -(-width // patch_size)
                grids.append(logits[image : image + 1, :, :rows, :columns])
                grid_labels.append(labels[image : image + 1, :height, :width])
        return segmentation_loss(grids, grid_labels, config.semantic_loss_ignore_index, weights, patch_size)

    def _check_labels(self, labels: Tensor | None, pixel_values: Tensor) -> None:
        if labels is None:
            return
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}: expected (batch_size, height, width) = {expected}, the size "
                "of pixel_values"
            )
        if labels.device.type == "cpu":
            check_labels(labels, self.config.num_labels, self.config.semantic_loss_ignore_index)


__all__ = [
    "AlgmForSemanticSegmentation",
    "AlgmModel",
    "AlgmModelOutput",
    "AlgmPreTrainedModel",
    "AlgmSemanticSegmenterOutput",
]
