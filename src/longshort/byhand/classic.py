"""The RNN and the LSTM, worked by hand, and the LSTM's backward pass. In code: cells/rnn.py and cells/lstm.py.

The LSTM exercise is Tom Yeh's (AI by Hand, June 2024), as told in "Deep Dive into LSTMs & xLSTMs by Hand" (S. Dey,
2024), and so are its letters; the weights are from his MIT-licensed workbook (see NOTICE).
"""

from typing import Any

from longshort.byhand.graph import Exercise, Quantity, Stage
from longshort.byhand.recipes import SIGNS, TARGET, X, bias, q, start, weight

# ---- RNN -------------------------------------------------------------------------------------------------------------


def rnn() -> Exercise:
    """Elman's network: one layer that sees its own last output."""
    return Exercise(
        name="rnn",
        title="An RNN by hand",
        about=(
            "The whole memory is the last output h. Each step mixes it with the new input and squashes the sum.",
            *SIGNS["rnn"],
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
    Stage(
        at="later",
        title="Initialize",
        quantities=("xh",),
        about="Copy the new x and the last h. C of the step before is used as it stands there.",
    ),
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
            'Three inputs, two memory cells, three time steps: the exercise of "Deep Dive into LSTMs & xLSTMs by Hand" '
            "(S. Dey, 2024, after Tom Yeh), in its 14 steps.",
            *SIGNS["lstm"],
            "W_o is reconstructed: the article's figure was not to be had, and the W_o of Tom Yeh's workbook does not "
            "give the values it prints, so one recurrent entry of each row was changed to fit them all. The rest is "
            "the workbook's.",
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
            *SIGNS["lstm"],
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
