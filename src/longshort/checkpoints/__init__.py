"""Checkpoints: a model written to a folder and read back, in our format, NX-AI's and Hugging Face's. Safetensors only.

`formats` says what the formats are, `folders` saves and loads models. Not here: how a file is written whole (files.py)
and the state of a training run (training.py).
"""

from longshort.checkpoints.folders import export, load, newest, pick_device, save
from longshort.checkpoints.formats import FORMATS
from longshort.files import CheckpointError

__all__ = ["FORMATS", "CheckpointError", "export", "load", "newest", "pick_device", "save"]
