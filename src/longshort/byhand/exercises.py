"""The exercises: the RNN, the article's LSTM, sLSTM, mLSTM, two residual blocks, and two backward passes.

Each is a function that gives an `Exercise`; `EXERCISES` lists them in reading order. The letters are the article's for
the LSTM, and the xLSTM paper's (Beck et al. 2024, arXiv 2405.04517) for the rest, with its equation numbers.

The LSTM exercise is Tom Yeh's (AI by Hand, June 2024), as told in "Deep Dive into LSTMs & xLSTMs by Hand" (S. Dey,
2024); weights and the mLSTM's numbers are from his MIT-licensed workbooks (see NOTICE).
"""

from collections.abc import Callable, Sequence
from typing import Any

from longshort.byhand.graph import Exercise, Given, Quantity, Stage
from longshort.config import suggest

Matrix = list[list[float]]


def q(name: str, formula: str, symbol: str, *shape: str, **more: Any) -> Quantity:
    return Quantity(name=name, formula=formula, symbol=symbol, shape=shape, **more)


def weight(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name, shape=shape, role="weight", **more)


def bias(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name, shape=shape, role="bias", **more)


def start(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name[:-1], shape=shape, role="start", **more)


X = Given(name="x", symbol="x", shape=("D",), role="input", each_step=True)
"""Inputs are called x everywhere, D numbers a step."""
TARGET = Given(name="y", symbol="y", shape=("H",), role="target", each_step=True, about="What h should have been.")


# ---- RNN -------------------------------------------------------------------------------------------------------------


def rnn() -> Exercise:
    """Elman's network: one layer that sees its own last output."""
    return Exercise(
        name="rnn",
        title="An RNN by hand",
        about=(
            "The whole memory is the last output h. Each step mixes it with the new input and squashes the sum.",
            "The numbers are ours. In code: longshort.RNN, cells/rnn.py.",
        ),
        sizes={"D": 3, "H": 2, "T": 3},
        decimals=1,
        givens=(weight("W", "H", "D+H"), bias("b", "H"), X, start("h0", "H")),
        quantities=(
            q("xh", "[x; h']", "[x; h]", "D+H"),
            q("z", "W @ xh + b", "z", "H", traced="pre"),
            q("h", "tanh(z)", "h", "H", traced="h"),
        ),
        stages=(
            Stage(at="each", title="Initialize", quantities=("xh",), about="Copy the input, and below it the last h."),
            Stage(at="each", title="Linear transform", quantities=("z",), about="Each row of W times [x; h], plus b."),
            Stage(at="each", title="Update hidden state", quantities=("h",), about="tanh squashes z between -1 and 1."),
        ),
        values={
            "W": [[0.5, -1, 0, 0.5, -1], [-1, 0.5, 0.5, 1, 0]],
            "b": [0.2, -0.3],
            "x": [[1, 2, 1], [2, 1, 0], [0, -1, 3]],
            "h0": [1, 1],
        },
    )


# ---- LSTM ------------------------------------------------------------------------------------------------------------

LSTM_GIVENS = (
    *(weight(f"W_{gate}", "H", "D+H") for gate in "fico"),
    *(bias(f"b_{gate}", "H") for gate in "fico"),
    X,
    start("h0", "H"),
    start("C0", "H"),
)
LSTM_QUANTITIES = (
    q("xh", "[x; h']", "[x; h]", "D+H"),
    q("z_f", "W_f @ xh + b_f", "z_f", "H", traced="f_pre"),
    q("z_i", "W_i @ xh + b_i", "z_i", "H", traced="i_pre"),
    q("z_c", "W_c @ xh + b_c", "z_c", "H", traced="g_pre"),
    q("z_o", "W_o @ xh + b_o", "z_o", "H", traced="o_pre"),
    q("f", "sigmoid(z_f)", "f", "H", traced="f", about="How much of the old memory stays."),
    q("i", "sigmoid(z_i)", "i", "H", traced="i", about="How much of the candidate is written."),
    q("C_cand", "tanh(z_c)", "C~", "H", traced="g", about="The candidate memory; g in PyTorch, z in the xLSTM paper."),
    q("o", "sigmoid(z_o)", "o", "H", traced="o", about="How much of the memory is shown."),
    q("forget_term", "f * C'", "", "H"),
    q("input_term", "i * C_cand", "", "H"),
    q("C", "forget_term + input_term", "C", "H", traced="c"),
    q("o_cand", "tanh(C)", "o~", "H", traced="tanh_c", about="The candidate output."),
    q("h", "o * o_cand", "h", "H", traced="h"),
)
Z = ("z_f", "z_i", "z_c", "z_o")
GATES = ("f", "i", "C_cand", "o")
MEMORY = ("forget_term", "input_term", "C")
LATER = (
    Stage(at="later", title="Initialize", quantities=("xh",), about="Copy h and C of the step before."),
    Stage(at="later", title="Linear transform", quantities=Z),
    Stage(at="later", title="Update memory", quantities=(*GATES, *MEMORY)),
    Stage(at="later", title="Update hidden state", quantities=("o_cand", "h")),
)
LSTM_STAGES = (
    Stage(at="first", title="Initialize", quantities=("xh",), about="Write the input, and below it the start h."),
    Stage(at="first", title="Linear transform", quantities=Z, about="Each row of each W times [x; h], plus its bias."),
    Stage(at="first", title="Non-linear transform", quantities=GATES, about="σ for the three gates, tanh for C̃."),
    Stage(at="first", title="Update memory", quantities=MEMORY, about="Forget some of the old, write some of the new."),
    Stage(at="first", title="Candidate output", quantities=("o_cand",), about="tanh of the new memory."),
    Stage(at="first", title="Update hidden state", quantities=("h",), about="The output gate decides what shows."),
    *LATER,
)
ARTICLE: dict[str, Any] = {
    "W_f": [[0, -1, 0, 0, -2], [-2, 0, -2, -2, 0]],
    "W_i": [[2, 0, 3, 1, 0], [0, 1, 0, 0, 2]],
    "W_c": [[0, 1, 0, 0, -1], [-1, 0, -1, -4, 0]],
    "W_o": [[1, 1, 0, 4, -3], [0, 0, -1, -2, -2]],
    **{f"b_{gate}": [0, 0] for gate in "fico"},
    "x": [[1, 2, 1], [2, 1, 0], [0, -1, 3]],
    "h0": [1, 1],
    "C0": [0.3, -0.5],
}


def lstm() -> Exercise:
    """The article's LSTM in its 14 steps.

    >>> lstm().work().value("h", 1)
    [0.7, 0.0]
    """
    return Exercise(
        name="lstm",
        title="An LSTM by hand",
        about=(
            "Three inputs, two memory cells, three time steps: the exercise of the article, in its 14 steps.",
            "W_o is reconstructed: the article's figure was not to be had, and the workbook's W_o does not give the "
            "values it prints, so one recurrent entry of each row was changed to fit them all. The rest is the "
            "workbook's.",
            "In code: longshort.LSTM, cells/lstm.py; PyTorch's gate order is i f g o, and its g is C̃ here.",
        ),
        sizes={"D": 3, "H": 2, "T": 3},
        decimals=1,
        givens=tuple(
            weight("W_o", "H", "D+H", about="Reconstructed.") if each.name == "W_o" else each for each in LSTM_GIVENS
        ),
        quantities=LSTM_QUANTITIES,
        stages=LSTM_STAGES,
        values=ARTICLE,
    )


def lstm_backward() -> Exercise:
    """Back-propagation through time for an LSTM, every derivative worked by hand."""
    return Exercise(
        name="lstm-backward",
        title="Back-propagation through an LSTM by hand",
        about=(
            "The loss is half the squared distance of h from its target y, added up over the steps.",
            "δ before a name is the derivative of the loss by it. What a step hands back to the one before arrives "
            "there as δh← and δC←; the gradients of the weights grow from the last step to the first.",
            "Small weights, so that no gate is saturated. In code: autograd.",
        ),
        sizes={"D": 2, "H": 2, "T": 2},
        decimals=3,
        givens=(*LSTM_GIVENS, TARGET),
        quantities=(*LSTM_QUANTITIES, *lstm_gradients()),
        stages=(
            Stage(at="each", title="Forward: linear transform", quantities=("xh", *Z)),
            Stage(at="each", title="Forward: gates and memory", quantities=(*GATES, *MEMORY)),
            Stage(at="each", title="Forward: output and error", quantities=("o_cand", "h", "e")),
            Stage(at="once", title="Loss", quantities=("loss",)),
            Stage(at="back", title="Back into the output", quantities=("dh", "do", "do_cand"),
                  about="The step's own error, and what the next step hands back."),
            Stage(at="back", title="Back into the memory", quantities=("dC", "df", "di", "dC_cand", "dC_back"),
                  about="tanh's slope is 1 - tanh². The forget gate alone scales what flows further back."),
            Stage(at="back", title="Back through the gates", quantities=("dz_f", "dz_i", "dz_c", "dz_o"),
                  about="σ's slope is σ(1 - σ)."),
            Stage(at="back", title="Back into input and hidden state", quantities=("dxh", "dx", "dh_back")),
            Stage(at="back", title="Gradients of the weights, added up",
                  quantities=tuple(f"d{kind}_{gate}" for kind in "Wb" for gate in "fico")),
        ),
        values={
            "W_f": [[0.5, -0.2, 0.3, 0.1], [-0.4, 0.6, 0.2, -0.3]],
            "W_i": [[0.3, 0.4, -0.5, 0.2], [0.7, -0.1, 0.4, 0.3]],
            "W_c": [[0.8, -0.6, 0.2, 0.5], [-0.3, 0.9, -0.4, 0.6]],
            "W_o": [[0.2, 0.5, 0.6, -0.4], [0.6, 0.3, -0.2, 0.1]],
            "b_f": [0.5, 0.5], "b_i": [0, 0.1], "b_c": [0, 0], "b_o": [0.2, -0.1],
            "x": [[1, 0.5], [-0.5, 1]],
            "h0": [0.2, -0.1],
            "C0": [0.3, -0.5],
            "y": [[0.5, 0], [0, 1]],
        },
    )  # fmt: skip


def lstm_gradients() -> tuple[Quantity, ...]:
    slope = {"f": ("f", "f * (1 - f)"), "i": ("i", "i * (1 - i)"), "o": ("o", "o * (1 - o)"),
             "c": ("C_cand", "(1 - C_cand * C_cand)")}  # fmt: skip
    return (
        q("e", "h - y", "e", "H"),
        q("loss", "sum(stack(e) * stack(e)) / 2", "L", each_step=False),
        q("dh", "e + next(dh_back)", "δh", "H"),
        q("do", "dh * o_cand", "δo", "H"),
        q("do_cand", "dh * o", "δo~", "H"),
        q("dC", "do_cand * (1 - o_cand * o_cand) + next(dC_back)", "δC", "H"),
        q("df", "dC * C'", "δf", "H"),
        q("di", "dC * C_cand", "δi", "H"),
        q("dC_cand", "dC * i", "δC~", "H"),
        q("dC_back", "dC * f", "δC←", "H"),
        *(q(f"dz_{gate}", f"d{of} * {formula}", f"δz_{gate}", "H") for gate, (of, formula) in slope.items()),
        q("dxh", " + ".join(f"T(W_{gate}) @ dz_{gate}" for gate in "fico"), "δ[x; h]", "D+H"),
        q("dx", "first(dxh, D)", "δx", "D"),
        q("dh_back", "last(dxh, H)", "δh←", "H"),
        *(q(f"dW_{g}", f"next(dW_{g}) + outer(dz_{g}, xh)", f"δW_{g}", "H", "D+H") for g in "fico"),
        *(q(f"db_{g}", f"next(db_{g}) + dz_{g}", f"δb_{g}", "H") for g in "fico"),
    )


# ---- sLSTM -----------------------------------------------------------------------------------------------------------

SLSTM_GIVENS = (
    *(weight(f"W_{gate}", "H", "D") for gate in "ifzo"),
    *(weight(f"R_{gate}", "H", "H", blocks="N") for gate in "ifzo"),
    *(bias(f"b_{gate}", "H") for gate in "ifzo"),
    X,
    *(start(f"{name}0", "H") for name in "hcnm"),
)
SLSTM_QUANTITIES = (
    *(q(f"{g}_pre", f"W_{g} @ x + R_{g} @ h' + b_{g}", f"{g}~", "H", traced=f"{g}_pre") for g in "ifzo"),
    q("log_f", "logsigmoid(f_pre)", "log f", "H", traced="log_f", about="The logarithm of σ(f̃)."),
    q("kept", "log_f + m'", "", "H"),
    q("m", "max(kept, i_pre)", "m", "H", traced="m", about="The stabiliser: the larger of the two exponents. (15)"),
    q("i", "exp(i_pre - m)", "i′", "H", traced="i", about="The stabilised input gate, at most 1. (16)"),
    q("f", "exp(kept - m)", "f′", "H", traced="f", about="The stabilised forget gate, at most 1. (17)"),
    q("z", "tanh(z_pre)", "z", "H", traced="z", about="What may be written. (11)"),
    q("o", "sigmoid(o_pre)", "o", "H", traced="o", about="The output gate stays a sigmoid. (14)"),
    q("forget_term", "f * c'", "", "H"),
    q("input_term", "i * z", "", "H"),
    q("c", "forget_term + input_term", "c", "H", traced="c", about="(8)"),
    q("n_kept", "f * n'", "", "H"),
    q("n", "n_kept + i", "n", "H", traced="n", about="The normaliser adds up the weights of all that was written. (9)"),
    q("ratio", "c / n", "h~", "H", about="A weighted mean of all z so far."),
    q("h", "o * ratio", "h", "H", traced="h", about="(10)"),
)
PRE = ("i_pre", "f_pre", "z_pre", "o_pre")
SLSTM_STAGES = (
    Stage(at="each", title="Linear transform", quantities=PRE, about="R mixes memories within a head, never across."),
    Stage(at="each", title="Stabilise", quantities=("log_f", "kept", "m"),
          about="Take the largest exponent out of both gates, so that neither exponential overflows."),
    Stage(at="each", title="Gates", quantities=("i", "f", "z", "o")),
    Stage(at="each", title="Update memory", quantities=("forget_term", "input_term", "c")),
    Stage(at="each", title="Update normaliser", quantities=("n_kept", "n")),
    Stage(at="each", title="Update hidden state", quantities=("ratio", "h")),
)  # fmt: skip
RAW = (
    q("i_raw", "exp(i_pre)", "i", "H", about="The input gate as it is: it may be huge. (12)"),
    q("f_raw", "sigmoid(f_pre)", "f", "H", about="(13)"),
    q("c_raw", "f_raw * c_raw' + i_raw * z", "c°", "H", start="c0 * exp(m0)"),
    q("n_raw", "f_raw * n_raw' + i_raw", "n°", "H", start="n0 * exp(m0)"),
    q("h_raw", "o * c_raw / n_raw", "h°", "H", about="The same h, until something overflows."),
)


def slstm() -> Exercise:
    """The sLSTM: the article's two cells as one head, two more as another."""
    within = {"i": [[1, 0], [0, 2]], "f": [[0, -2], [-2, 0]], "z": [[0, -1], [-4, 0]], "o": [[4, -3], [-2, -2]]}
    other = {"i": [[1, -1], [0, 1]], "f": [[1, 0], [-1, 1]], "z": [[1, 1], [0, -1]], "o": [[0, 1], [1, 0]]}
    inputs = {
        "i": [[2, 0, 3], [0, 1, 0], [1, -1, 0], [0, 1, -1]],
        "f": [[0, -1, 0], [-2, 0, -2], [1, 0, 1], [0, 1, 0]],
        "z": [[0, 1, 0], [-1, 0, -1], [1, -1, 1], [0, 1, -1]],
        "o": [[1, 1, 0], [0, 0, -1], [1, 0, 0], [0, 0, 1]],
    }
    return Exercise(
        name="slstm",
        title="An sLSTM by hand",
        about=(
            "Exponential gates, a normaliser n, a stabiliser m, and memory mixing within each head.",
            "Head 1 (rows 1 and 2) are the two cells of the LSTM exercise, so the pre-activations of step 1 are the "
            "same, and exp(6) = 403 shows why the stabiliser is there. Head 2 (rows 3 and 4) is ours.",
            "The last step of each time step works without the stabiliser: the same h, with numbers that may explode.",
            "The article says that all gates become exponential. In its own formulas and in the paper the output gate "
            "stays a sigmoid, and the forget gate may be either; here it is a sigmoid.",
            "Start: n0 = 1 and m0 = 0, as if something had been written before. In code: longshort.sLSTM, "
            "cells/slstm.py (the equation numbers are the paper's).",
        ),
        sizes={"D": 3, "H": 4, "N": 2, "T": 2},
        decimals=1,
        givens=SLSTM_GIVENS,
        quantities=(*SLSTM_QUANTITIES, *RAW),
        stages=(
            *SLSTM_STAGES,
            Stage(at="each", title="Without the stabiliser", quantities=tuple(each.name for each in RAW),
                  about="Compare h° with h."),
        ),
        values={
            **{f"W_{g}": inputs[g] for g in "ifzo"},
            **{f"R_{g}": in_blocks(within[g], other[g]) for g in "ifzo"},
            **{f"b_{g}": [0, 0, 0, 0] for g in "ifzo"},
            "x": [[1, 2, 1], [2, 1, 0]],
            "h0": [1, 1, 0, 0.5],
            "c0": [0.3, -0.5, 0.2, 0.4],
            "n0": [1, 1, 1, 1],
            "m0": [0, 0, 0, 0],
        },
    )  # fmt: skip


def in_blocks(*blocks: Sequence[Sequence[float]]) -> Matrix:
    """Matrices along the diagonal, zeros elsewhere."""
    width, at, rows = sum(len(block) for block in blocks), 0, []
    for block in blocks:
        for row in block:
            rows.append([0.0] * at + list(row) + [0.0] * (width - at - len(block)))
        at += len(block)
    return rows


def slstm_backward() -> Exercise:
    """Back-propagation through time for an sLSTM."""
    return Exercise(
        name="slstm-backward",
        title="Back-propagation through an sLSTM by hand",
        about=(
            "The loss is half the squared distance of h from its target y, added up over the steps.",
            "m carries no gradient: it is bookkeeping, and h does not depend on it. δ before a name is the derivative "
            "of the loss by it; δc← and δn← are what a step hands back to the one before.",
            "In code: autograd; the paper's equations (34)-(51).",
        ),
        sizes={"D": 2, "H": 2, "N": 1, "T": 2},
        decimals=3,
        givens=(*SLSTM_GIVENS, TARGET),
        quantities=(*SLSTM_QUANTITIES, *slstm_gradients()),
        stages=(
            Stage(at="each", title="Forward: linear transform", quantities=PRE),
            Stage(at="each", title="Forward: gates", quantities=("log_f", "kept", "m", "i", "f", "z", "o")),
            Stage(at="each", title="Forward: memory and output",
                  quantities=("forget_term", "input_term", "c", "n_kept", "n", "ratio", "h", "e")),
            Stage(at="once", title="Loss", quantities=("loss",)),
            Stage(at="back", title="Back into the output", quantities=("dh", "do", "dratio")),
            Stage(at="back", title="Back into memory and normaliser", quantities=("dc", "dn", "dc_back", "dn_back"),
                  about="h̃ = c / n: its slope is 1/n by c, and -h̃/n by n."),
            Stage(at="back", title="Back into the gates", quantities=("di", "df", "dz")),
            Stage(at="back", title="Back through the gates", quantities=tuple(f"d{g}_pre" for g in "ifzo"),
                  about="exp is its own slope; log σ(f̃) has the slope 1 - σ(f̃)."),
            Stage(at="back", title="Back into input and hidden state", quantities=("dx", "dh_back")),
            Stage(at="back", title="Gradients of the weights, added up",
                  quantities=tuple(f"d{kind}_{gate}" for kind in "WRb" for gate in "ifzo")),
        ),
        values={
            "W_i": [[0.3, 0.4], [0.7, -0.1]], "R_i": [[-0.5, 0.2], [0.4, 0.3]], "b_i": [0, 0.1],
            "W_f": [[0.5, -0.2], [-0.4, 0.6]], "R_f": [[0.3, 0.1], [0.2, -0.3]], "b_f": [0.5, 0.5],
            "W_z": [[0.8, -0.6], [-0.3, 0.9]], "R_z": [[0.2, 0.5], [-0.4, 0.6]], "b_z": [0, 0],
            "W_o": [[0.2, 0.5], [0.6, 0.3]], "R_o": [[0.6, -0.4], [-0.2, 0.1]], "b_o": [0.2, -0.1],
            "x": [[1, 0.5], [-0.5, 1]],
            "h0": [0.2, -0.1], "c0": [0.3, -0.5], "n0": [1, 1], "m0": [0, 0],
            "y": [[0.5, 0], [0, 1]],
        },
    )  # fmt: skip


def slstm_gradients() -> tuple[Quantity, ...]:
    return (
        q("e", "h - y", "e", "H"),
        q("loss", "sum(stack(e) * stack(e)) / 2", "L", each_step=False),
        q("dh", "e + next(dh_back)", "δh", "H"),
        q("do", "dh * ratio", "δo", "H"),
        q("dratio", "dh * o", "δh~", "H"),
        q("dc", "dratio / n + next(dc_back)", "δc", "H"),
        q("dn", "next(dn_back) - dratio * ratio / n", "δn", "H"),
        q("dc_back", "dc * f", "δc←", "H"),
        q("dn_back", "dn * f", "δn←", "H"),
        q("di", "dc * z + dn", "δi′", "H"),
        q("df", "dc * c' + dn * n'", "δf′", "H"),
        q("dz", "dc * i", "δz", "H"),
        q("di_pre", "di * i", "δi~", "H"),
        q("df_pre", "df * f * (1 - sigmoid(f_pre))", "δf~", "H"),
        q("dz_pre", "dz * (1 - z * z)", "δz~", "H"),
        q("do_pre", "do * o * (1 - o)", "δo~", "H"),
        q("dx", " + ".join(f"T(W_{g}) @ d{g}_pre" for g in "ifzo"), "δx", "D"),
        q("dh_back", " + ".join(f"T(R_{g}) @ d{g}_pre" for g in "ifzo"), "δh←", "H"),
        *(q(f"dW_{g}", f"next(dW_{g}) + outer(d{g}_pre, x)", f"δW_{g}", "H", "D") for g in "ifzo"),
        *(q(f"dR_{g}", f"next(dR_{g}) + outer(d{g}_pre, h')", f"δR_{g}", "H", "H", blocks="N") for g in "ifzo"),
        *(q(f"db_{g}", f"next(db_{g}) + d{g}_pre", f"δb_{g}", "H") for g in "ifzo"),
    )


# ---- mLSTM -----------------------------------------------------------------------------------------------------------


def mlstm() -> Exercise:
    """The mLSTM with the MIT workbook's numbers: recurrent, stabilised, and parallel, all with the same h."""
    return Exercise(
        name="mlstm",
        title="An mLSTM by hand",
        about=(
            "A memory that is a matrix: keys write values into it, queries read them out.",
            "Numbers of the MIT-licensed workbook xLSTM.xlsx. Erratum: its cells U40 and AE40 divide by "
            "max(|n·i|, 1) with the input gate i where its own label and equation (21) say n·q. At t = 2 that is "
            "452.86 instead of 4.92, and its h = [-0.016, 0.030] should be [-1.501, 2.750], as here.",
            "Three ways to the same h: as a recurrence (19)-(27); with the stabiliser m, where no exponential "
            "overflows; and in parallel over all steps, as in training.",
            "Our m has 0 as a third candidate (the paper takes the larger of two): any m gives the same h, and with "
            "this one the floor e^-m is never over 1. In code: longshort.mLSTM, cells/mlstm.py, which stores keys "
            "without the factor 1/√K and multiplies the query by it instead.",
        ),
        sizes={"D": 3, "K": 2, "V": 2, "T": 2},
        decimals=2,
        givens=(
            weight("W_q", "K", "D"), weight("W_k", "K", "D"), weight("W_v", "V", "D"),
            weight("w_i", "D"), weight("w_f", "D"), weight("W_o", "V", "D"),
            bias("b_q", "K"), bias("b_k", "K"), bias("b_v", "V"), bias("b_i"), bias("b_f"), bias("b_o", "V"),
            X,
            start("C0", "V", "K"), start("n0", "K"), start("m0"),
        ),
        quantities=(*MLSTM_RECURRENT, *MLSTM_STABILISED, *MLSTM_PARALLEL),
        stages=MLSTM_STAGES,
        values={
            "W_q": [[1, 0, 1], [0, 1, 1]], "b_q": [-1, -1],
            "W_k": [[0, 1, 0], [-1, 0, -1]], "b_k": [0, 1],
            "W_v": [[1, 0, 0.5], [-1, 1, 2]], "b_v": [-1, -2],
            "w_i": [1, -1, 1], "b_i": -1,
            "w_f": [0, -1, 0], "b_f": 0,
            "W_o": [[1, 1, 0], [0, 0, -1]], "b_o": [1, 2],
            "x": [[1, 2, 1], [2, -1, 1]],
            "C0": [[0, 0], [0, 0]], "n0": [1, 1], "m0": 0,
        },
    )  # fmt: skip


MLSTM_RECURRENT = (
    q("query", "W_q @ x + b_q", "q", "K", about="What is asked for. (22)"),
    q("key", "W_k @ x / sqrt(size(K)) + b_k", "k", "K", about="Where it is written. (23)"),
    q("value", "W_v @ x + b_v", "v", "V", about="What is written. (24)"),
    q("i_pre", "dot(w_i, x) + b_i", "i~"),
    q("f_pre", "dot(w_f, x) + b_f", "f~"),
    q("o_pre", "W_o @ x + b_o", "o~", "V"),
    q("i", "exp(i_pre)", "i", about="One number for the whole memory. (25)"),
    q("f", "sigmoid(f_pre)", "f", about="(26)"),
    q("o", "sigmoid(o_pre)", "o", "V", about="(27)"),
    q("write", "outer(value, key)", "", "V", "K", about="Every value times every key."),
    q("C", "f * C' + i * write", "C", "V", "K", start="C0 * exp(m0)", about="(19)"),
    q("n", "f * n' + i * key", "n", "K", start="n0 * exp(m0)", about="(20)"),
    q("read", "C @ query", "", "V"),
    q("match", "dot(n, query)", "", about="How much of what was written matches the query."),
    q("floor", "max(abs(match), 1)", ""),
    q("ratio", "read / floor", "h~", "V", about="(21)"),
    q("h", "o * ratio", "h", "V", about="(21)"),
)
MLSTM_STABILISED = (
    q("log_f", "logsigmoid(f_pre)", "log f"),
    q("kept", "log_f + m'", ""),
    q("m", "max(kept, i_pre, 0)", "m", about="(15), with 0 as a third candidate."),
    q("i_s", "exp(i_pre - m)", "i′", about="(16)"),
    q("f_s", "exp(kept - m)", "f′", about="(17)"),
    q("C_s", "f_s * C_s' + i_s * write", "C′", "V", "K", start="C0"),
    q("n_s", "f_s * n_s' + i_s * key", "n′", "K", start="n0"),
    q(
        "floor_s",
        "max(abs(dot(n_s, query)), exp(-m))",
        "",
        about="The 1 has become e^-m: both sides were divided by e^m.",
    ),
    q("h_s", "o * (C_s @ query) / floor_s", "h′", "V", about="The same h."),
)
MLSTM_PARALLEL = (
    q("Q", "stack(query)", "Q", "T", "K", each_step=False),
    q("Km", "stack(key)", "K", "T", "K", each_step=False),
    q("Vm", "stack(value)", "V", "T", "V", each_step=False),
    q("F", "cumsum(stack(log_f))", "F", "T", each_step=False,
      about="What is left of the start at each step, as a logarithm."),
    q("logD", "segsum(stack(log_f)) + row(stack(i_pre))", "D~", "T", "T", each_step=False, lower=True,
      about="Row t, column j: what is left at step t of what was written at step j. (72)-(74)"),
    q("mp", "max(rowmax(logD), F + m0, 0)", "m", "T", each_step=False, about="The stabiliser of each row. (75)"),
    q("D", "exp(logD - col(mp))", "D", "T", "T", each_step=False, lower=True, about="(76)"),
    q("A", "exp(F + m0 - mp)", "a", "T", each_step=False, about="The same for the start C0, n0."),
    q("S", "(Q @ T(Km)) * D", "S", "T", "T", each_step=False, lower=True, about="Queries meet keys, decayed. (77)"),
    q("B", "rowsum(S) + A * (Q @ n0)", "b", "T", each_step=False, about="n·q of every step."),
    q("floor_p", "max(abs(B), exp(-mp))", "", "T", each_step=False, about="(79)"),
    q("read_p", "S @ Vm + col(A) * (Q @ T(C0))", "", "T", "V", each_step=False),
    q("H_p", "stack(o) * read_p / col(floor_p)", "H", "T", "V", each_step=False, about="Row t is h of step t. (81)"),
)  # fmt: skip
MLSTM_STAGES = (
    Stage(at="each", title="Query, key and value", quantities=("query", "key", "value")),
    Stage(at="each", title="Gates", quantities=("i_pre", "f_pre", "o_pre", "i", "f", "o"),
          about="The input and forget gates are one number each, and see the input alone: so steps need not wait."),
    Stage(at="each", title="Update memory", quantities=("write", "C"), about="The outer product of value and key."),
    Stage(at="each", title="Update normaliser", quantities=("n",)),
    Stage(at="each", title="Read", quantities=("read", "match", "floor"), about="The memory times the query."),
    Stage(at="each", title="Update hidden state", quantities=("ratio", "h")),
    Stage(at="each", title="With the stabiliser",
          quantities=("log_f", "kept", "m", "i_s", "f_s", "C_s", "n_s", "floor_s", "h_s"), about="Compare h′ with h."),
    Stage(at="once", title="Parallel: all steps at once", quantities=("Q", "Km", "Vm", "F", "logD", "mp", "D", "A"),
          about="No step waits for another: every decay is a sum of logarithms."),
    Stage(at="once", title="Parallel: queries meet keys", quantities=("S", "B", "floor_p", "read_p", "H_p"),
          about="Compare the rows of H with the h of each step."),
)  # fmt: skip


# ---- xLSTM -----------------------------------------------------------------------------------------------------------


def xlstm() -> Exercise:
    """A stack of two residual blocks, one of each kind, in xLSTM-7B's frame."""
    return Exercise(
        name="xlstm",
        title="Two xLSTM blocks by hand",
        about=(
            "A residual stack: an mLSTM block, then an sLSTM block. Each adds to the stream what its cell says of the "
            "normed stream, then what a gated feed-forward layer says.",
            "The frame is that of xLSTM-7B (2503.13427): RMS norm before, layer norm after the cell, SwiGLU. One head; "
            "both memories start empty. Exact arithmetic, shown to three decimals.",
            "In code: longshort.xLSTM with block='7b', blocks.py.",
        ),
        sizes={"D": 3, "K": 2, "U": 2, "T": 2},
        decimals=3,
        givens=(*block_givens("A", MLSTM_MIXER), *block_givens("B", SLSTM_MIXER), *XLSTM_NUMBERS, X),
        quantities=(
            *norm_quantities("A_norm", "x"), *MLSTM_BLOCK, *feed_forward("A"),
            *norm_quantities("B_norm", "A_out"), *SLSTM_BLOCK, *feed_forward("B"),
        ),
        stages=XLSTM_STAGES,
        values=XLSTM_VALUES,
    )  # fmt: skip


MLSTM_MIXER = (
    ("W_q", "K", "D"), ("W_k", "K", "D"), ("W_v", "D", "D"), ("W_o", "D", "D"),
    ("w_i", "D"), ("w_f", "D"), ("b_i",), ("b_f",), ("g_h", "D"), ("W_down", "D", "D"),
)  # fmt: skip
SLSTM_MIXER = (
    *((f"{kind}_{gate}", *shape) for kind, *shape in (("W", "D", "D"), ("R", "D", "D"), ("b", "D")) for gate in "ifzo"),
    ("g_h", "D"),
)
XLSTM_NUMBERS = (
    Given(name="eps", symbol="ε", shape=(), role="rest", about="Added to the mean square in every norm."),
    Given(name="A_C0", symbol="C", shape=("D", "K"), role="start"),
    Given(name="A_n0", symbol="n", shape=("K",), role="start"),
    Given(name="A_m0", symbol="m", shape=(), role="start"),
    *(Given(name=f"B_{name}0", symbol=name, shape=("D",), role="start") for name in "hcnm"),
)


def block_givens(block: str, mixer) -> tuple[Given, ...]:
    frame = (("g_x", "D"), ("g_r", "D"), ("U_gate", "U", "D"), ("U_up", "U", "D"), ("U_down", "D", "U"))
    return tuple(
        Given(name=f"{block}_{name}", symbol=name, shape=tuple(shape), role="bias" if name[0] == "b" else "weight")
        for name, *shape in (frame[0], *mixer, *frame[1:])
    )


def norm_quantities(name: str, of: str) -> tuple[Quantity, ...]:
    """x over its root mean square, times a weight."""
    weight = f"{name[0]}_g_x" if name.endswith("norm") else f"{name[0]}_g_r"
    short = {"A_norm": "x^", "B_norm": "y^"}.get(name, "r^")
    return (
        q(f"{name}_rms", f"sqrt(mean({of} * {of}) + eps)", "rms"),
        q(name, f"{of} / {name}_rms * {weight}", short, "D", about="The normed stream."),
    )


def head_norm(block: str, of: str, symbol: str) -> tuple[Quantity, ...]:
    return (
        q(f"{block}_mean", f"mean({of})", "μ"),
        q(f"{block}_dev", f"{of} - {block}_mean", "", "D"),
        q(f"{block}_std", f"sqrt(mean({block}_dev * {block}_dev) + eps)", "s"),
        q(f"{block}_hn", f"{block}_dev / {block}_std * {block}_g_h", symbol, "D", about="Layer norm over the head."),
    )


def feed_forward(block: str) -> tuple[Quantity, ...]:
    return (
        *norm_quantities(f"{block}_ffn", f"{block}_mid"),
        q(f"{block}_gate", f"silu({block}_U_gate @ {block}_ffn)", "a", "U", about="SiLU: x σ(x)."),
        q(f"{block}_up", f"{block}_U_up @ {block}_ffn", "p", "U"),
        q(
            f"{block}_out",
            f"{block}_mid + {block}_U_down @ ({block}_gate * {block}_up)",
            "y",
            "D",
            about="The stream goes on.",
        ),
    )


MLSTM_BLOCK = (
    q("A_q", "A_W_q @ A_norm", "q", "K"),
    q("A_k", "A_W_k @ A_norm", "k", "K"),
    q("A_v", "A_W_v @ A_norm", "v", "D"),
    q("A_i_pre", "dot(A_w_i, A_norm) + A_b_i", "i~"),
    q("A_f_pre", "dot(A_w_f, A_norm) + A_b_f", "f~"),
    q("A_o", "sigmoid(A_W_o @ A_norm)", "o", "D"),
    q("A_log_f", "logsigmoid(A_f_pre)", "log f"),
    q("A_kept", "A_log_f + A_m'", ""),
    q("A_m", "max(A_kept, A_i_pre, 0)", "m"),
    q("A_i", "exp(A_i_pre - A_m)", "i′"),
    q("A_f", "exp(A_kept - A_m)", "f′"),
    q("A_C", "A_f * A_C' + A_i * outer(A_v, A_k)", "C", "D", "K"),
    q("A_n", "A_f * A_n' + A_i * A_k", "n", "K"),
    q("A_read", "A_C @ A_q / sqrt(size(K))", "", "D"),
    q("A_floor", "max(abs(dot(A_n, A_q) / sqrt(size(K))), exp(-A_m))", ""),
    q("A_h", "A_read / A_floor", "h~", "D"),
    *head_norm("A", "A_h", "h^"),
    q("A_mid", "x + A_W_down @ (A_o * A_hn)", "r", "D", about="The cell's word is added to the stream."),
)
SLSTM_BLOCK = (
    *(q(f"B_{g}_pre", f"B_W_{g} @ B_norm + B_R_{g} @ B_h' + B_b_{g}", f"{g}~", "D") for g in "ifzo"),
    q("B_kept", "logsigmoid(B_f_pre) + B_m'", "", "D"),
    q("B_m", "max(B_kept, B_i_pre)", "m", "D"),
    q("B_i", "exp(B_i_pre - B_m)", "i′", "D"),
    q("B_f", "exp(B_kept - B_m)", "f′", "D"),
    q("B_z", "tanh(B_z_pre)", "z", "D"),
    q("B_o", "sigmoid(B_o_pre)", "o", "D"),
    q("B_c", "B_f * B_c' + B_i * B_z", "c", "D"),
    q("B_n", "B_f * B_n' + B_i", "n", "D"),
    q("B_h", "B_o * B_c / B_n", "h", "D"),
    *head_norm("B", "B_h", "h^"),
    q("B_mid", "A_out + B_hn", "r", "D", about="The cell's word is added to the stream."),
)
XLSTM_STAGES = (
    Stage(at="each", title="mLSTM block: norm", quantities=("A_norm_rms", "A_norm")),
    Stage(at="each", title="mLSTM block: query, key, value, gates",
          quantities=("A_q", "A_k", "A_v", "A_i_pre", "A_f_pre", "A_o", "A_log_f", "A_kept", "A_m", "A_i", "A_f")),
    Stage(at="each", title="mLSTM block: memory", quantities=("A_C", "A_n", "A_read", "A_floor", "A_h")),
    Stage(at="each", title="mLSTM block: back to the stream", quantities=("A_mean", "A_dev", "A_std", "A_hn", "A_mid")),
    Stage(at="each", title="mLSTM block: feed-forward",
          quantities=("A_ffn_rms", "A_ffn", "A_gate", "A_up", "A_out")),
    Stage(at="each", title="sLSTM block: norm", quantities=("B_norm_rms", "B_norm")),
    Stage(at="each", title="sLSTM block: gates",
          quantities=("B_i_pre", "B_f_pre", "B_z_pre", "B_o_pre", "B_kept", "B_m", "B_i", "B_f", "B_z", "B_o")),
    Stage(at="each", title="sLSTM block: memory", quantities=("B_c", "B_n", "B_h")),
    Stage(at="each", title="sLSTM block: back to the stream", quantities=("B_mean", "B_dev", "B_std", "B_hn", "B_mid")),
    Stage(at="each", title="sLSTM block: feed-forward",
          quantities=("B_ffn_rms", "B_ffn", "B_gate", "B_up", "B_out")),
)  # fmt: skip
XLSTM_VALUES: dict[str, Any] = {
    "x": [[1, 0.5, -1], [0, -1, 2]],
    "eps": 1e-6,
    "A_g_x": [1, 1, 1], "A_g_h": [1, 1, 1], "A_g_r": [1, 1, 1],
    "A_W_q": [[1, 0, -0.5], [0.5, 1, 0]], "A_W_k": [[0, 1, -1], [1, 0.5, 0]],
    "A_W_v": [[1, 0, 0.5], [-0.5, 1, 0], [0, 0.5, 1]], "A_W_o": [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
    "A_w_i": [0.5, -0.5, 0], "A_b_i": 0, "A_w_f": [0, 0.5, 0.5], "A_b_f": 1,
    "A_W_down": [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
    "A_U_gate": [[1, -1, 0], [0, 1, 1]], "A_U_up": [[0.5, 0, 1], [1, 0, -0.5]],
    "A_U_down": [[0.5, 0], [0, 0.5], [-0.5, 0.5]],
    "A_C0": [[0, 0], [0, 0], [0, 0]], "A_n0": [0, 0], "A_m0": 0,
    "B_g_x": [1, 1, 1], "B_g_h": [1, 1, 1], "B_g_r": [1, 1, 1],
    "B_W_i": [[0.5, 0, -0.5], [0, 1, 0], [0.5, 0.5, 0]], "B_W_f": [[0, 0.5, 0], [0.5, 0, 0.5], [0, 0, 1]],
    "B_W_z": [[1, 0, 0.5], [0, -1, 0.5], [0.5, 0.5, -1]], "B_W_o": [[0.5, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0]],
    "B_R_i": [[0.5, 0, 0], [0, 0, 0.5], [0, 0.5, 0]], "B_R_f": [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0.5]],
    "B_R_z": [[0.5, -0.5, 0], [0, 0.5, 0], [0, 0, -0.5]], "B_R_o": [[0, 0, 0.5], [0.5, 0, 0], [0, 0.5, 0]],
    "B_b_i": [0, 0, 0], "B_b_f": [1, 1, 1], "B_b_z": [0, 0, 0], "B_b_o": [0, 0, 0],
    "B_U_gate": [[0.5, 0, 1], [1, -0.5, 0]], "B_U_up": [[1, 0.5, 0], [0, 1, -0.5]],
    "B_U_down": [[0.5, -0.5], [0, 0.5], [0.5, 0]],
    "B_h0": [0, 0, 0], "B_c0": [0, 0, 0], "B_n0": [0, 0, 0], "B_m0": [float("-inf")] * 3,
}  # fmt: skip


# ---- all of them -----------------------------------------------------------------------------------------------------

EXERCISES: dict[str, Callable[[], Exercise]] = {
    "rnn": rnn,
    "lstm": lstm,
    "slstm": slstm,
    "mlstm": mlstm,
    "xlstm": xlstm,
    "lstm-backward": lstm_backward,
    "slstm-backward": slstm_backward,
}


def exercise(name: str) -> Exercise:
    """An exercise by name: rnn, lstm, slstm, mlstm, xlstm, lstm-backward or slstm-backward."""
    if name not in EXERCISES:
        raise ValueError(f"no exercise {name!r}.{suggest(name, EXERCISES)} There are: {', '.join(EXERCISES)}")
    return EXERCISES[name]()
