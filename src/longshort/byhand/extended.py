"""The sLSTM and the mLSTM, worked by hand, and the sLSTM's backward pass. In code: cells/slstm.py and cells/mlstm.py.

Letters and equation numbers are the xLSTM paper's (Beck et al. 2024, arXiv 2405.04517). The mLSTM's numbers are from
Tom Yeh's MIT-licensed workbook xLSTM.xlsx (see NOTICE).
"""

from collections.abc import Sequence

from longshort.byhand.graph import Exercise, Quantity, Stage
from longshort.byhand.recipes import SIGNS, TARGET, X, bias, q, start, weight

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
    q("h_raw", "o * c_raw / n_raw", "h°", "H", about="The same h, but for rounding, until something overflows."),
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
            *SIGNS["slstm"],
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
                  about="In exact arithmetic h° is h; rounded, they may differ in the last place."),
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


def in_blocks(*blocks: Sequence[Sequence[float]]) -> list[list[float]]:
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
            *SIGNS["slstm"],
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
            *SIGNS["mlstm"],
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
    q("h_s", "o * (C_s @ query) / floor_s", "h′", "V", about="The same h, but for rounding."),
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
          quantities=("log_f", "kept", "m", "i_s", "f_s", "C_s", "n_s", "floor_s", "h_s"),
          about="In exact arithmetic h′ is h; rounded, they may differ in the last places."),
    Stage(at="once", title="Parallel: all steps at once", quantities=("Q", "Km", "Vm", "F", "logD", "mp", "D", "A"),
          about="No step waits for another: every decay is a sum of logarithms."),
    Stage(at="once", title="Parallel: queries meet keys", quantities=("S", "B", "floor_p", "read_p", "H_p"),
          about="In exact arithmetic the rows of H are the h of each step; rounded, they may differ a little."),
)  # fmt: skip
