"""The RNN, the LSTM and the sLSTM of one's own: shown whole, or some units with the rest folded into given numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from longshort.byhand.exercises import LSTM_QUANTITIES, LSTM_STAGES, SLSTM_QUANTITIES, SLSTM_STAGES
from longshort.byhand.from_layer.shown import Choice, about, dense, given_steps, rest, starts, title
from longshort.byhand.from_layer.sources import Source
from longshort.byhand.graph import Exercise, Given, Quantity, Stage
from longshort.byhand.recipes import X, bias, q, start, weight

LINEAR = "Each row of R times the last h, plus a."

# ---- RNN and LSTM ----------------------------------------------------------------------------------------------------


def of_rnn(source: Source, choice: Choice, decimals: int | None) -> Exercise:
    squash = q("h", "tanh(z)" if source.nonlinearity == "tanh" else "max(z, 0)", "h", "H", traced="h")
    last = Stage(at="each", title="Update hidden state", quantities=("h",))
    values = starts(source, {"h0": "h"}, choice)
    sizes = {"H": len(choice.units), "T": choice.steps}
    if choice.whole:
        givens, more = with_inputs(source, choice, {"": ("pre", 0)})
        quantities = (q("xh", "[x; h']", "[x; h]", "D+H"), q("z", "W @ xh + b", "z", "H", traced="pre"), squash)
        sizes = {"D": source.x.shape[-1], **sizes}  # type: ignore[union-attr]
        first = (Stage(at="each", title="Initialize", quantities=("xh",), about="Copy the input, and below it h."),)
    else:
        givens, more = folded(source, choice, {"": ("pre", 0)})
        quantities, first = (q("z", "R @ h' + a", "z", "H", traced="pre"), squash), ()
    return Exercise(
        name="my-rnn",
        title=title(source, choice.units, source.width("h")),
        about=about(source, choice, "In code: longshort.RNN, cells/rnn.py."),
        sizes=sizes,
        decimals=decimals,
        givens=(*givens, start("h0", "H")),
        quantities=quantities,
        stages=(*first, Stage(at="each", title="Linear transform", quantities=("z",)), last),
        values={**more, **values},
    )


def with_inputs(
    source: Source, choice: Choice, gates: Mapping[str, tuple[str, int]], out: str = "H"
) -> tuple[tuple[Given, ...], dict[str, Any]]:
    """Each gate's weights on [x; h], its bias, and the inputs. `gates`: by suffix, its name in a trace and place."""
    import torch

    assert source.W is not None and source.x is not None
    values: dict[str, Any] = {"x": source.x[: choice.steps].tolist()}
    width = source.W.shape[0] // (source.R.shape[0] if source.R is not None else 1)
    for suffix, (_, gate) in gates.items():
        rows = [gate * width + unit for unit in choice.units]
        R = dense(source, gate)[choice.units][:, choice.outputs]
        values["W" + suffix] = torch.cat([source.W[rows], R], 1).tolist()
        values["b" + suffix] = source.b[rows].tolist() if source.b is not None else [0.0] * len(rows)
    weights = [weight("W" + suffix, "H", f"D+{out}") for suffix in gates]
    return (*weights, *(bias("b" + suffix, "H") for suffix in gates), X), values


def folded(
    source: Source, choice: Choice, gates: Mapping[str, tuple[str, int]], out: str = "H"
) -> tuple[tuple[Given, ...], dict[str, Any]]:
    """Each gate's weights among the shown units, and what all else contributes to it."""
    values: dict[str, Any] = {}
    for suffix, (traced, gate) in gates.items():
        values["R" + suffix] = dense(source, gate)[choice.units][:, choice.outputs].tolist()
        values["a" + suffix] = rest(source, gate, traced, choice).tolist()
    rests = [given_steps("a" + suffix, "H", about="Of inputs, biases and the units not shown.") for suffix in gates]
    return (*(weight("R" + suffix, "H", out) for suffix in gates), *rests), values


def of_lstm(source: Source, choice: Choice, decimals: int | None) -> Exercise:
    order = "ifco" if source.forget != "one" else "ico"
    gates = {f"_{gate}": (f"{'g' if gate == 'c' else gate}_pre", at) for at, gate in enumerate(order)}
    projected = source.proj is not None
    out = "P" if projected else "H"
    sizes = {"H": len(choice.units)} | ({"P": len(choice.outputs)} if projected else {}) | {"T": choice.steps}
    if choice.whole:
        sizes = {"D": source.x.shape[-1], **sizes}  # type: ignore[union-attr]
        givens, values = with_inputs(source, choice, gates, out)
    else:
        givens, values = folded(source, choice, gates, out)
    quantities = [each for each in LSTM_QUANTITIES if choice.whole or each.name != "xh"]
    if choice.whole:
        quantities = [replace(each, shape=(f"D+{out}",)) if each.name == "xh" else each for each in quantities]
    else:
        quantities = [
            replace(each, formula=f"R_{each.name[2]} @ h' + a_{each.name[2]}") if each.name[:2] == "z_" else each
            for each in quantities
        ]
    if source.forget == "one":
        quantities = [
            replace(each, formula="C' + input_term") if each.name == "C" else each
            for each in quantities
            if each.name not in ("z_f", "f", "forget_term")
        ]
    if projected:
        projection, more = projected_h(source, choice)
        quantities = [*quantities[:-1], replace(quantities[-1], name="r", symbol="r", traced=""), projection]
        givens, values = (*givens, *more[0]), {**values, **more[1]}
    notes = ["In code: longshort.LSTM, cells/lstm.py; PyTorch's gate order is i f g o, and its g is C̃ here."]
    notes += ["No forget gate: the memory keeps all it has (Hochreiter & Schmidhuber 1997)."] * (source.forget == "one")
    return Exercise(
        name="my-lstm",
        title=title(source, choice.units, source.width("c")),
        about=about(source, choice, *notes),
        sizes=sizes,
        decimals=decimals,
        givens=(*givens, start("h0", out), start("C0", "H")),
        quantities=tuple(quantities),
        stages=stages_of(LSTM_STAGES, quantities, choice.whole),
        values={**values, **starts(source, {"h0": "h", "C0": "c"}, choice)},
    )


def projected_h(source: Source, choice: Choice) -> tuple[Quantity, tuple[tuple[Given, ...], dict[str, Any]]]:
    """h where it is a projection of what the cells show."""
    import torch

    assert source.proj is not None
    matrix = torch.block_diag(*source.proj)[choice.outputs][:, choice.units]
    shown = source.flat("o", choice.units) * source.flat("tanh_c", choice.units)
    others = (source.flat("h", choice.outputs) - shown @ matrix.T)[: choice.steps]
    about_h = "The layer's output: what the cells show, projected."
    givens, values = (weight("W_h", "P", "H"),), {"W_h": matrix.tolist()}
    if choice.whole:
        return q("h", "W_h @ r", "h", "P", traced="h", about=about_h), (givens, values)
    more = given_steps("a_h", "P", about="Of the units not shown.")
    return q("h", "W_h @ r + a_h", "h", "P", traced="h", about=about_h), (
        (*givens, more),
        {**values, "a_h": others.tolist()},
    )


def stages_of(stages: tuple[Stage, ...], quantities: Sequence[Quantity], whole: bool) -> tuple[Stage, ...]:
    """The stages of the built-in exercise, with the quantities that are there."""
    names = [each.name for each in quantities]
    found = []
    for stage in stages:
        kept = [name for name in stage.quantities if name in names]
        if "h" in kept and "r" in names:
            kept.insert(kept.index("h"), "r")
        linear = stage.title == "Linear transform" and not whole
        if kept:
            found.append(replace(stage, quantities=tuple(kept), about=LINEAR if linear else stage.about))
    return tuple(found)


# ---- sLSTM -----------------------------------------------------------------------------------------------------------


def of_slstm(source: Source, choice: Choice, decimals: int | None) -> Exercise:
    gates = {f"_{gate}": (f"{gate}_pre", at) for at, gate in enumerate("ifzo")}
    sizes = {"H": len(choice.units), "T": choice.steps}
    quantities = SLSTM_QUANTITIES
    if choice.whole:
        givens, values = with_inputs(source, choice, gates)
        in_order = choice.units == list(range(len(choice.units)))
        sizes = {"D": source.x.shape[-1], "N": source.heads if in_order else 1, **sizes}  # type: ignore[union-attr]
        for gate in "ifzo":  # the exercise has W and R apart
            rows, D = values[f"W_{gate}"], sizes["D"]
            values |= {f"W_{gate}": [row[:D] for row in rows], f"R_{gate}": [row[D:] for row in rows]}
        givens = (
            *(weight(f"W_{gate}", "H", "D") for gate in "ifzo"),
            *(weight(f"R_{gate}", "H", "H", blocks="N") for gate in "ifzo"),
            *givens[len(gates) :],
        )
    else:
        givens, values = folded(source, choice, gates)
        quantities = tuple(
            replace(each, formula=f"R_{each.name[0]} @ h' + a_{each.name[0]}") if each.name.endswith("_pre") else each
            for each in quantities
        )
    notes = ["In code: longshort.sLSTM, cells/slstm.py (the equation numbers are the paper's, arXiv 2405.04517)."]
    if source.forget == "exp":
        quantities = tuple(
            replace(each, formula="f_pre + m'") if each.name == "kept" else each
            for each in quantities
            if each.name != "log_f"
        )
        notes.append("The forget gate is an exponential too, so f̃ is its own logarithm.")
    begins = starts(source, {f"{name}0": name for name in "hcnm"}, choice)
    # As the cell does: a memory that holds nothing counts as empty, whatever its m.
    begins["m0"] = [m if n else float("-inf") for m, n in zip(begins["m0"], begins["n0"], strict=True)]
    return Exercise(
        name="my-slstm",
        title=title(source, choice.units, source.width("h")),
        about=about(source, choice, *notes),
        sizes=sizes,
        decimals=decimals,
        givens=(*givens, *(start(f"{name}0", "H") for name in "hcnm")),
        quantities=quantities,
        stages=stages_of(SLSTM_STAGES, quantities, choice.whole),
        values={**values, **begins},
    )
