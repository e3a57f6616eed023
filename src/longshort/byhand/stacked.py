"""Two residual blocks of xLSTM-7B's kind, worked by hand: an mLSTM, then an sLSTM. In code: blocks.py."""

from typing import Any

from longshort.byhand.graph import Exercise, Given, Quantity, Stage
from longshort.byhand.recipes import SIGNS, X, q


def xlstm() -> Exercise:
    """A stack of two residual blocks, one of each kind, in xLSTM-7B's frame."""
    return Exercise(
        name="xlstm",
        title="Two xLSTM blocks by hand",
        about=(
            "A residual stack: an mLSTM block, then an sLSTM block. Each adds to the stream what its cell says of the "
            "normed stream, then what a gated feed-forward layer says.",
            "The frame is that of xLSTM-7B (2503.13427): RMS norm before, layer norm after the cell, SwiGLU. One head; "
            "both memories start empty.",
            *SIGNS["xlstm"],
            "SiLU(z) = z σ(z).",
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
