"""Checkpoints: a model written to a folder and read back, in our format, NX-AI's and Hugging Face's. Safetensors only.

`formats` says what the formats are, `files` reads and writes whole files, `folders` saves and loads models. Not here:
the state of a training run (training.py).
"""

from longshort.checkpoints.files import CheckpointError, write_atomically, write_json
from longshort.checkpoints.folders import export, load, newest, save
from longshort.checkpoints.formats import FORMATS

__all__ = ["FORMATS", "CheckpointError", "export", "load", "newest", "save", "write_atomically", "write_json"]
