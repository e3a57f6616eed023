"""From the sheet to the code: the library's layer with an exercise's numbers in it. The other way is `from_layer`."""

from typing import Any

from longshort.byhand.graph import Exercise

LAYERS = {"rnn": "", "lstm": "ifco", "slstm": "ifzo"}
"""The gates of each kind in the library's order; PyTorch's g is the C̃ of the LSTM sheet."""


def layer_of(exercise: Exercise) -> tuple[Any, Any, Any]:
    """The layer an exercise works by hand, its input (1, T, D) and its start state: `y, last = layer(x, state)`.

    In float64. For the RNN, the LSTM and the sLSTM, forward or backward. Raises ValueError for another exercise.

    >>> from longshort.byhand import exercise
    >>> layer, x, state = layer_of(exercise("lstm"))
    >>> y, last = layer(x, state)
    >>> [round(number, 3) for number in y[0, 0].tolist()]
    [0.632, -0.005]
    """
    import torch

    import longshort

    kind = exercise.name.removesuffix("-backward")
    if kind not in LAYERS:
        raise ValueError(f"exercise {exercise.name!r} is no single layer; those with one are {', '.join(LAYERS)}")

    def numbers(*names: str):
        return torch.cat([torch.tensor(exercise.values[name], dtype=torch.float64) for name in names])

    def start(*names: str):
        return tuple(numbers(name)[None, None] for name in names)

    D, H, options = exercise.sizes["D"], exercise.sizes["H"], {"batch_first": True, "dtype": torch.float64}
    weights = {}
    if kind == "slstm":
        N = exercise.sizes["N"]
        layer = longshort.sLSTM(D, H, num_heads=N, **options)
        R = numbers(*(f"R_{gate}" for gate in LAYERS[kind])).view(4, N, H // N, N, H // N)
        weights["weight_hh_l0"] = R.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # the blocks along the diagonal
        weights["weight_ih_l0"] = numbers(*(f"W_{gate}" for gate in LAYERS[kind]))
        weights["bias_l0"] = numbers(*(f"b_{gate}" for gate in LAYERS[kind]))
        state = start("h0", "c0", "n0", "m0")
    else:
        W, b = (numbers(*([f"{each}_{gate}" for gate in LAYERS[kind]] or [each])) for each in "Wb")
        layer = getattr(longshort, kind.upper())(D, H, **options)
        weights |= {"weight_ih_l0": W[:, :D], "weight_hh_l0": W[:, D:], "bias_ih_l0": b, "bias_hh_l0": 0 * b}
        state = start("h0", "C0") if kind == "lstm" else start("h0")[0]
    layer.load_state_dict(weights)
    return layer, torch.tensor([exercise.values["x"]], dtype=torch.float64), state
