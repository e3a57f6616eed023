"""What every test runs under: one seed, uninitialised memory full of NaN, shape annotations checked."""

import pytest
import torch
from jaxtyping import install_import_hook

# Checks every annotated shape on every call. Only in tests: it breaks torch.compile(fullgraph=True). Not in the doors
# of functional.py, data.py and above: those check for themselves, and tests look at what they say.
install_import_hook(["longshort.cells", "longshort.ops", "longshort.blocks"], "beartype.beartype")


@pytest.fixture(autouse=True)
def same_start():
    """Seeds, and `torch.empty` filled with NaN, so that reading what was never written shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
