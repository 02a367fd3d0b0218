# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""ALGM for transformers. Importing this package registers its classes for the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForSemanticSegmentation

# Not from the top level, where transformers before 5.18 asks for torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .configuration_algm import AlgmConfig
from .conversion.plain_vit import from_vit
from .conversion.segmenter_release import convert_segmenter_checkpoint
from .image_processing_algm import AlgmImageProcessor, AlgmImageProcessorPil
from .modeling_algm import (
    AlgmForSemanticSegmentation,
    AlgmModel,
    AlgmModelOutput,
    AlgmPreTrainedModel,
    AlgmSemanticSegmenterOutput,
)
from .publishing.upload import push_model_to_hub


__version__ = "0.1.0"

# Local use: AutoModel.from_pretrained and friends know the model type without remote code.
AutoConfig.register("algm", AlgmConfig)
AutoModel.register(AlgmConfig, AlgmModel)
AutoModelForSemanticSegmentation.register(AlgmConfig, AlgmForSemanticSegmentation)
AutoImageProcessor.register(
    AlgmConfig, image_processor_classes={"torchvision": AlgmImageProcessor, "pil": AlgmImageProcessorPil}
)

# Sharing: save_pretrained and push_to_hub carry the code.
AlgmConfig.register_for_auto_class()
AlgmModel.register_for_auto_class("AutoModel")
AlgmForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
AlgmImageProcessor.register_for_auto_class("AutoImageProcessor")
AlgmImageProcessorPil.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "AlgmConfig",
    "AlgmForSemanticSegmentation",
    "AlgmImageProcessor",
    "AlgmImageProcessorPil",
    "AlgmModel",
    "AlgmModelOutput",
    "AlgmPreTrainedModel",
    "AlgmSemanticSegmenterOutput",
    "convert_segmenter_checkpoint",
    "from_vit",
    "push_model_to_hub",
]
