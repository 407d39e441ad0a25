"""What the module of a task holds of a model: its tensors, which of them travel, and values on their way in and out."""

from broker.modules.model_tensors import ModelTensors
from broker.modules.selection import ALL, selected

__all__ = ["ALL", "ModelTensors", "selected"]
