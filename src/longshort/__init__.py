"""longshort: recurrent networks, from an LSTM worked by hand to an xLSTM language model.

Importing runs nothing and loads nothing: every public name is fetched on first use (PEP 562).
"""
from importlib import import_module

__version__ = "0.1.0"
_NAMES = {n: m for m, ns in {"config": ["xLSTMConfig"], "model": ["xLSTM", "xLSTMLM"]}.items() for n in ns}
def __getattr__(name):
    if name in _NAMES: return getattr(import_module(f"longshort.{_NAMES[name]}"), name)
    raise AttributeError(name)
