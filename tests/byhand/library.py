"""What the library itself computes of an exercise: every quantity with a counterpart, by (name, t); gradients too."""

from typing import Any

import torch
from torch import Tensor

import longshort
from longshort.blocks import Block
from longshort.byhand import Exercise
from longshort.functional import MLSTMState, mlstm

Found = dict[tuple[str, int], Any]


def tensor(value) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def given(exercise: Exercise) -> dict[str, Tensor]:
    return {name: tensor(value) for name, value in exercise.values.items()}


def library(exercise: Exercise) -> Found:
    """Everything the library computes of an exercise made by hand."""
    kind = exercise.name.removesuffix("-backward")
    run = {"rnn": rnn, "lstm": lstm, "slstm": slstm, "mlstm": mlstm_cell, "xlstm": blocks}[kind]
    if exercise.name == kind:
        return run(exercise, given(exercise))
    return gradients(exercise, run)


def traced(exercise: Exercise, layer, x: Tensor, state) -> Found:
    """The quantities of a layer's run that the exercise names, each as a list over units."""
    seen = longshort.trace(layer, x[None], state)["l0"]
    return {
        (quantity.name, t): seen[quantity.traced][0, t - 1].flatten()
        for quantity in exercise.quantities
        if quantity.traced
        for t in range(1, exercise.sizes["T"] + 1)
    }


def rnn(exercise: Exercise, v: dict[str, Tensor]) -> Found:
    D, H = exercise.sizes["D"], exercise.sizes["H"]
    layer = longshort.RNN(D, H, batch_first=True, dtype=torch.float64)
    layer = with_weights(layer, weight_ih_l0=v["W"][:, :D], weight_hh_l0=v["W"][:, D:], bias_ih_l0=v["b"])
    return traced(exercise, layer, v["x"], v["h0"][None, None])


def lstm(exercise: Exercise, v: dict[str, Tensor]) -> Found:
    D, H = exercise.sizes["D"], exercise.sizes["H"]
    W, b = (torch.cat([v[f"{kind}_{gate}"] for gate in "ifco"]) for kind in "Wb")  # PyTorch's order, and g is c here
    layer = longshort.LSTM(D, H, batch_first=True, dtype=torch.float64)
    layer = with_weights(layer, weight_ih_l0=W[:, :D], weight_hh_l0=W[:, D:], bias_ih_l0=b)
    return traced(exercise, layer, v["x"], (v["h0"][None, None], v["C0"][None, None]))


def slstm(exercise: Exercise, v: dict[str, Tensor]) -> Found:
    D, H, N = (exercise.sizes[name] for name in "DHN")
    layer = longshort.sLSTM(D, H, num_heads=N, batch_first=True, dtype=torch.float64)
    W, b = (torch.cat([v[f"{kind}_{gate}"] for gate in "ifzo"]) for kind in "Wb")
    width = H // N
    R = torch.stack([
        torch.stack([v[f"R_{gate}"][at : at + width, at : at + width] for at in range(0, H, width)]) for gate in "ifzo"
    ])  # fmt: skip
    layer = with_weights(layer, weight_ih_l0=W, weight_hh_l0=R, bias_l0=b)
    return traced(exercise, layer, v["x"], tuple(v[f"{name}0"][None, None] for name in "hcnm"))


def with_weights(layer, **weights: Tensor):
    """The layer with these weights, as they are (so that gradients reach them), and every other one 0."""
    for name in dict(layer.named_parameters()):
        value = weights.get(name, torch.zeros_like(getattr(layer, name)))
        delattr(layer, name)
        setattr(layer, name, value)
    return layer


def mlstm_cell(exercise: Exercise, v: dict[str, Tensor], kernel: str = "reference") -> Found:
    """The recurrence, fed with keys times √K: the library scales the query at read-out, the exercise the key."""
    root = exercise.sizes["K"] ** 0.5
    x = v["x"]
    q, value = x @ v["W_q"].T + v["b_q"], x @ v["W_v"].T + v["b_v"]
    k = x @ v["W_k"].T / root + v["b_k"]
    i_pre, f_pre = x @ v["w_i"] + v["b_i"], x @ v["w_f"] + v["b_f"]
    o = torch.sigmoid(x @ v["W_o"].T + v["b_o"])
    start = MLSTMState((v["C0"].T * root)[None, None], (v["n0"] * root)[None, None], v["m0"][None, None])
    heads = [each[None, :, None] for each in (q, k * root, value, i_pre, f_pre)]
    h, last = mlstm(*heads, start, kernel=kernel)
    h, T = o * h[0, :, 0], exercise.sizes["T"]
    scale = last.m[0, 0].exp() / root
    found: Found = {("H_p", 0): h, ("C", T): last.C[0, 0].T * scale, ("n", T): last.n[0, 0] * scale}
    found |= {("C_s", T): last.C[0, 0].T / root, ("n_s", T): last.n[0, 0] / root, ("m", T): last.m[0, 0]}
    return found | {(name, t + 1): h[t] for t in range(T) for name in ("h", "h_s")}


def blocks(exercise: Exercise, v: dict[str, Tensor]) -> Found:
    """Two blocks of xLSTM-7B's frame, one after the other."""
    D, K, U = (exercise.sizes[name] for name in "DKU")
    config = longshort.xLSTMConfig(
        embedding_dim=D, blocks=("mlstm", "slstm"), num_heads=1, block="7b", conv1d_kernel_size=0, round_up_to=1,
        qk_dim_factor=(K + 0.5) / D, ffn_proj_factor=(U + 0.5) / D, gate_soft_cap=0.0, norm_eps=v["eps"].item(),
    )  # fmt: skip
    A, B = (Block(config, at).double() for at in (0, 1))
    shared = {"norm": "g_x", "mixer.norm": "g_h", "ffn_norm": "g_r", "ffn.gate": "U_gate", "ffn.up": "U_up",
              "ffn.down": "U_down"}  # fmt: skip
    ours = {"mixer.q": "W_q", "mixer.k": "W_k", "mixer.v": "W_v", "mixer.o_gate": "W_o", "mixer.down": "W_down",
            "mixer.i_gate": "w_i", "mixer.f_gate": "w_f"}  # fmt: skip
    weights_A = {f"{theirs}.weight": v[f"A_{name}"] for theirs, name in (shared | ours).items()}
    weights_A |= {f"mixer.{g}_gate.bias": v[f"A_b_{g}"] for g in "if"}
    weights_B = {f"{theirs}.weight": v[f"B_{name}"] for theirs, name in shared.items()}
    weights_B |= {f"mixer.{g}_proj.weight": v[f"B_W_{g}"] for g in "ifzo"}
    for name, kind in (("R", "R"), ("bias", "b")):
        weights_B[f"mixer.{name}"] = torch.stack([v[f"B_{kind}_{g}"] for g in "ifzo"])
    for block, weights in ((A, weights_A), (B, weights_B)):
        shapes = {name: weight.shape for name, weight in block.named_parameters()}
        block.load_state_dict({name: weight.reshape(shapes[name]) for name, weight in weights.items()})
    y, _ = A(v["x"][None])
    z, _ = B(y)
    return {(f"{name}_out", t + 1): out[0, t] for name, out in (("A", y), ("B", z)) for t in range(len(v["x"]))}


def gradients(exercise: Exercise, run) -> Found:
    """The loss, and its derivative by every given: what autograd finds."""
    v = {name: value.requires_grad_() for name, value in given(exercise).items()}
    found = run(exercise, v)
    T = exercise.sizes["T"]
    h = torch.stack([found["h", t] for t in range(1, T + 1)])
    loss = (h - v["y"]).square().sum() / 2
    wanted = [name for name in v if f"d{name}" in exercise.by_name]
    grads = dict(zip([*wanted, "h0"], torch.autograd.grad(loss, [*(v[name] for name in wanted), v["h0"]]), strict=True))
    found |= {("loss", 0): loss, ("dh_back", 1): grads["h0"]}
    for name in wanted:
        each = exercise.by_name[name].each_step
        found |= {(f"d{name}", t + 1): grads[name][t] for t in range(T)} if each else {(f"d{name}", 1): grads[name]}
    return found
