# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
ALGM in PyTorch: a plain Vision Transformer that merges similar tokens twice, and a Segmenter decoder on the merged
tokens ("ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation with Plain Vision
Transformers", CVPR 2024, arXiv 2406.09936).

Between the embeddings and the logits the tokens of a batch live in a pack (see `token_merging.py`): every image keeps
as many tokens as it needs, so no image's result depends on what else is in the batch.
"""

from collections.abc import Callable, Sequence
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
from .patch_grid import patch_grid
from .refusals import require
from .rotary_positions import rotary_table
from .segmentation_decoders import AlgmLinearDecoder, AlgmMaskTransformerDecoder
from .segmentation_loss import check_labels, segmentation_loss
from .sliding_window import ScoredImage, slide
from .token_merging import global_merge, local_merge, restore_tokens
from .token_packs import (
    TokenPack,
    cumulated_lengths,
    drop_special_tokens,
    full_lengths,
    full_pack,
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
from .vit_embeddings import AlgmEmbeddings, GridSizes, ImageBatch, stack_images


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
        Compiles the attention and MLP blocks in place, each kind once for all layers and token counts; the rest runs
        as it is. Takes the arguments of `torch.compile`, `dynamic=True` unless given; refuses `fullgraph=True`.

        `torch.compile(model)` runs, too, but compiles again for new token counts until torch's limit.
        """
        expected = "False; attention of images with different token counts runs between the graphs"
        require(not kwargs.get("fullgraph"), "fullgraph", True, expected)
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
        self, pixel_values: Tensor | Sequence | ImageBatch, image_sizes: Tensor | None = None
    ) -> ImageBatch:
        """The images as one batch; refuses what does not fit. A batch that was prepared before is taken as it is."""
        if isinstance(pixel_values, ImageBatch):
            return pixel_values
        config, sizes = self.config, None
        config.validate_call_settings()
        expected = "False; merged images have attention maps of different sizes, which no tensor holds"
        require(not config.output_attentions, "output_attentions", True, expected)
        if not isinstance(pixel_values, Tensor):
            require(image_sizes is None, "image_sizes", image_sizes, "None; images in a list have their sizes")
            pixel_values, sizes = stack_images(pixel_values)
        shape = tuple(pixel_values.shape)
        expected = f"(batch_size, num_channels={config.num_channels}, height, width)"
        fits = len(shape) == 4 and shape[0] > 0 and shape[1] == config.num_channels
        require(fits, "pixel_values.shape", shape, expected)
        if image_sizes is not None:
            is_integer = isinstance(image_sizes, Tensor) and not image_sizes.dtype.is_floating_point
            require(is_integer, "image_sizes", image_sizes, "a tensor of integers")
            shape_of_sizes = tuple(image_sizes.shape)
            require(shape_of_sizes == (shape[0], 2), "image_sizes.shape", shape_of_sizes, f"({shape[0]}, 2)")
            sizes = [tuple(size) for size in image_sizes.tolist()]
        expected = f"at least one patch (patch_size={config.patch_size}) and at most pixel_values, {shape[-2:]}"
        for size in sizes or [shape[-2:]]:
            fits = all(config.patch_size <= side <= padded for side, padded in zip(size, shape[-2:], strict=True))
            require(fits, "height and width of an image", size, expected)
        return ImageBatch(pixel_values, sizes)


class AlgmModel(AlgmPreTrainedModel):
    """
    The encoder: a plain Vision Transformer that merges tokens after the attention of two layers and returns the
    features of all patches, so any head that expects a plain ViT works on top.
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
        pixel_values: Tensor | Sequence[Tensor] | ImageBatch,
        image_sizes: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_token_merging: bool | None = None,
        output_packed: bool = False,
    ) -> AlgmModelOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, or a list of images):
                Normalised images of any height and width of at least one patch; the model pads them with zeros to
                whole patches. As a list, tensors `(num_channels, height, width)` of any sizes. An [`ImageBatch`] is
                taken as it is.
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
        batch = self._prepare_inputs(pixel_values, image_sizes)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states

        hidden_states, grid_sizes = self.embeddings(*batch)
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

        device = batch.pixel_values.device
        return AlgmModelOutput(
            last_hidden_state=None if output_packed else self._restore(pack, grid_sizes),
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            token_counts=torch.tensor(token_counts, device=device).T.contiguous() if output_token_merging else None,
            patch_to_token=self._patch_to_token(pack, grid_sizes) if output_token_merging else None,
            grid_sizes=None if batch.sizes is None else torch.tensor(grid_sizes, device=device),
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
    """[`AlgmModel`] with one of Segmenter's decoders (ICCV 2021), which runs on the merged tokens."""

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
            pixel_values, image_sizes, output_hidden_states, output_token_merging:
                See [`AlgmModel.forward`].
            labels (`Tensor` of shape `(batch_size, height, width)`, integer, *optional*):
                Class of each pixel in `0..num_labels - 1`, or `config.semantic_loss_ignore_index`. Their values are
                checked where that costs nothing, on the CPU.

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
        config = self.config
        batch = self._prepare_inputs(pixel_values, image_sizes)
        slides = config.inference_mode == "slide" and not self.training
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        expected = "False with inference_mode='slide'; features exist in windows only, use AlgmModel or 'whole'"
        require(not (slides and output_hidden_states), "output_hidden_states", True, expected)
        if labels is not None:
            self._check_labels(labels, batch.pixel_values)

        if slides:
            output = self._forward_slide(batch, output_token_merging)
        else:
            output = self._forward_whole(batch, output_hidden_states, output_token_merging)
        if labels is None:
            return output
        loss = self._loss(output.logits, labels, batch.sizes, patch_size=1 if slides else config.patch_size)
        return AlgmSemanticSegmenterOutput(**{**output, "loss": loss})

    @torch.no_grad()
    def segment(self, pixel_values: Tensor) -> Tensor:
        """
        The class of each pixel `(batch_size, height, width)`, int64, with `inference_mode="slide"`, without ever
        holding the logits of a whole image: equal to the argmax of `forward`'s logits, ties to the lowest class. For
        images of one size whose `(num_labels, height, width)` logits do not fit.

        Beyond `window_batch_size` windows in the model it takes `4 * num_labels / patch_size**2` bytes for each pixel
        of all windows, and about 0.6 GB for a band of rows. Refuses a model that does not slide in evaluation mode.
        """
        require(not self.training, "training", True, "a model in evaluation mode (model.eval())")
        require(self.config.inference_mode == "slide", "inference_mode", self.config.inference_mode, "'slide'")
        batch = self._prepare_inputs(pixel_values)
        require(batch.sizes is None, "sizes of pixel_values", batch.sizes, "equal ones")
        label_maps = [
            torch.cat([band.argmax(0) for _, band in image.scores.bands()]) for image in self._slide(batch, False)
        ]
        return torch.stack(label_maps).to(batch.pixel_values.device)

    def _forward_whole(
        self, batch: ImageBatch, output_hidden_states: bool | None, output_token_merging: bool | None
    ) -> AlgmSemanticSegmenterOutput:
        """Logits of the patches."""
        encoded = self.algm(
            batch,
            output_hidden_states=output_hidden_states,
            output_token_merging=output_token_merging,
            output_packed=True,
            return_dict=True,
        )
        grid_sizes = batch.grid_sizes(self.config.patch_size)
        patches = drop_special_tokens(encoded.pack, grid_sizes, self.config.num_special_tokens)
        logits = self.decode_head(patches)
        logits = restore_tokens(logits, patches.token_index.to(logits.device))
        return AlgmSemanticSegmenterOutput(
            logits=to_grids(logits, grid_sizes),
            hidden_states=encoded.hidden_states,
            token_counts=encoded.token_counts,
            patch_to_token=encoded.patch_to_token,
            grid_sizes=encoded.grid_sizes,
        )

    def _forward_slide(self, batch: ImageBatch, output_token_merging: bool | None) -> AlgmSemanticSegmenterOutput:
        """Averaged logits of the pixels."""
        pixel_values, sizes = batch
        batch_size, _, height, width = pixel_values.shape
        logits = pixel_values.new_zeros(batch_size, self.config.num_labels, height, width, dtype=torch.float32)
        images = self._slide(batch, output_token_merging)
        for index, image in enumerate(images):
            for rows, band in image.scores.bands():
                logits[index, :, rows, : band.shape[-1]] = band
        return AlgmSemanticSegmenterOutput(
            logits=logits,
            token_counts=torch.stack([image.token_counts for image in images]) if output_token_merging else None,
            grid_sizes=None if sizes is None else torch.tensor(sizes, device=logits.device),
        )

    def _slide(self, batch: ImageBatch, output_token_merging: bool | None) -> list[ScoredImage]:
        sizes = batch.sizes or [batch.pixel_values.shape[-2:]] * batch.pixel_values.shape[0]
        images = [image[:, :height, :width] for image, (height, width) in zip(batch.pixel_values, sizes, strict=True)]

        def forward(windows: list[Tensor]) -> AlgmSemanticSegmenterOutput:
            return self._forward_whole(stack_images(windows), False, output_token_merging)

        return slide(forward, images, self.config)

    def _loss(self, logits: Tensor, labels: Tensor, sizes: GridSizes | None, patch_size: int) -> Tensor:
        config, labels = self.config, labels.to(logits.device)
        grids, grid_labels = [logits], [labels]
        if sizes is not None:
            grid_sizes = [patch_grid(size, patch_size) for size in sizes]
            grids = [grid[None, :, :rows, :columns] for grid, (rows, columns) in zip(logits, grid_sizes, strict=True)]
            grid_labels = [label[None, :height, :width] for label, (height, width) in zip(labels, sizes, strict=True)]
        return segmentation_loss(
            grids, grid_labels, config.semantic_loss_ignore_index, config.class_weights, patch_size
        )

    def _check_labels(self, labels: Tensor, pixel_values: Tensor) -> None:
        """Values are checked where that costs nothing: on the CPU."""
        config, weights = self.config, self.config.class_weights
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        require(labels.shape == expected, "labels.shape", tuple(labels.shape), f"that of pixel_values, {expected}")
        expected = (
            f"None or one number for each of num_labels={config.num_labels} "
            "(from_pretrained(..., class_weights=None) drops those of a checkpoint with other classes)"
        )
        require(weights is None or len(weights) == config.num_labels, "class_weights", weights, expected)
        if labels.device.type == "cpu":
            check_labels(labels, config.num_labels, config.semantic_loss_ignore_index)


__all__ = [
    "AlgmForSemanticSegmentation",
    "AlgmModel",
    "AlgmModelOutput",
    "AlgmPreTrainedModel",
    "AlgmSemanticSegmenterOutput",
]
