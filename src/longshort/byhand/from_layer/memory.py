"""The mLSTM of one's own: one head, some columns of its values and some entries of its keys."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longshort.byhand.from_layer.shown import (
    MOST_INPUTS,
    Choice,
    about,
    given_steps,
    head_of,
    listed,
    some,
    steps_shown,
)
from longshort.byhand.from_layer.sources import Source
from longshort.byhand.graph import Exercise, Given, Quantity, Stage
from longshort.byhand.recipes import X, bias, q, start, weight

if TYPE_CHECKING:
    from torch import Tensor


def of_mlstm(source: Source, units: Any, steps: Any, head: Any, keys: Any, decimals: int | None) -> Exercise:
    K, V = source.part["k"].shape[3], source.part["v"].shape[3]
    head = head_of(source, head)
    if head is None and units is not None:
        through = some("units", units, source.heads * V)
        if len(heads := sorted({unit // V for unit in through})) > 1:
            raise ValueError(
                f"units={list(units)} lie in heads {listed(heads)}; each mLSTM head has a memory of its own ({V} units "
                "each): choose units of one head"
            )
        head, units = heads[0], [unit % V for unit in through]
    head = head or 0
    columns, rows = some("units", units, V), some("keys", keys, K)
    T = steps_shown(source, steps)
    small = source.x is not None and source.x.shape[-1] <= MOST_INPUTS
    whole = small and columns == list(range(V)) and rows == list(range(K))
    choice = Choice(units=columns, outputs=columns, steps=T, whole=bool(whole))
    shown = Memory(source, head, rows, columns, T)
    givens, values = shown.inputs() if whole else shown.given()
    more, quantities, others = shown.reading(len(rows) == K, len(columns) == V)
    here = [*(INPUTS_OF_HEAD if whole else ()), *MLSTM_MEMORY, *quantities]
    has_gate = "o_pre" in source.part
    if not has_gate:
        here = [each for each in here if each.name not in ("o_pre", "o")]
    sizes = {"K": len(rows), "V": len(columns), "T": T}
    of = "" if source.heads == 1 else f"head {head} of {source.heads}, "
    names = "" if len(columns) == V and not of else f"unit{'s' * (len(columns) > 1)} {listed(columns)} of {V}"
    left_out = [name for name, few, all_of in (("keys", rows, K), ("units", columns, V)) if len(few) < all_of]
    return Exercise(
        name="my-mlstm",
        title=f"Your mLSTM by hand: {of}{names}".removesuffix(": "),
        about=about(
            source,
            choice,
            *([f"Not all {' and '.join(left_out)} of the head are shown."] if left_out else []),
            "Keys are stored as they are and the query is divided by √K, K counting all keys of the head; m has 0 as a "
            "third candidate. In code: longshort.mLSTM, cells/mlstm.py, whose C has a row for each key.",
        ),
        sizes={"D": source.x.shape[-1], **sizes} if whole else sizes,  # type: ignore[union-attr]
        decimals=decimals,
        givens=(*givens, *more, start("C0", "V", "K"), start("n0", "K"), start("m0")),
        quantities=tuple(here),
        stages=memory_stages(here),
        values={**values, **others, **shown.start()},
    )


INPUTS_OF_HEAD = (
    q("query", "W_q @ x + b_q", "q", "K", traced="q", about="What is asked for. (22)"),
    q("key", "W_k @ x + b_k", "k", "K", traced="k", about="Where it is written. (23)"),
    q("value", "W_v @ x + b_v", "v", "V", traced="v", about="What is written. (24)"),
    q("i_pre", "dot(w_i, x) + b_i", "i~", traced="i_pre"),
    q("f_pre", "dot(w_f, x) + b_f", "f~", traced="f_pre"),
    q("o_pre", "W_o @ x + b_o", "o~", "V", traced="o_pre"),
)
MLSTM_MEMORY = (
    q("log_f", "logsigmoid(f_pre)", "log f", traced="log_f"),
    q("kept", "log_f + m'", ""),
    q("m", "max(kept, i_pre, 0)", "m", traced="m", about="(15), with 0 as a third candidate."),
    q("i", "exp(i_pre - m)", "i′", traced="i", about="(16)"),
    q("f", "exp(kept - m)", "f′", traced="f", about="(17)"),
    q("o", "sigmoid(o_pre)", "o", "V", traced="o", about="(27)"),
    q("write", "outer(value, key)", "", "V", "K", about="Every value times every key."),
    q("C", "f * C' + i * write", "C", "V", "K", traced="C", about="(19)"),
    q("n", "f * n' + i * key", "n", "K", traced="n", about="(20)"),
)


class Memory:
    """What is shown of one mLSTM head: some rows of its keys, some columns of its values."""

    def __init__(self, source: Source, head: int, keys: list[int], columns: list[int], T: int):
        self.source, self.head, self.keys, self.columns, self.T = source, head, keys, columns, T

    def at(self, name: str) -> "Tensor":
        """A quantity of the whole head at the steps shown."""
        return self.source.steps(name)[: self.T, self.head]

    def start(self) -> dict[str, Any]:
        begins = {name: value[0, self.head].detach() for name, value in self.source.part.start.items()}
        return {
            "C0": begins["C"][self.keys][:, self.columns].T.tolist(),
            "n0": begins["n"][self.keys].tolist(),
            "m0": begins["m"].item(),
        }

    def inputs(self) -> tuple[tuple[Given, ...], dict[str, Any]]:
        """The weights of the head, all of it, and the inputs."""
        source, N = self.source, self.source.heads
        assert source.W is not None and source.x is not None
        values: dict[str, Any] = {"x": source.x[: self.T].tolist()}
        at = 0
        for name, count in zip("qkvifo", source.rows, strict=True):
            width = count // N
            rows = slice(at + self.head * width, at + (self.head + 1) * width)
            W = source.W[rows]
            b = W.new_zeros(width) if source.b is None else source.b[rows]
            one = name in "if"
            values["w_" + name if one else "W_" + name] = (W[0] if one else W).tolist()
            values["b_" + name] = b[0].item() if one else b.tolist()
            at += count
        lengths = {"q": "K", "k": "K", "v": "V", "o": "V"}
        weights = [weight(f"W_{name}", length, "D") for name, length in lengths.items()]
        biases = [bias(f"b_{name}", length) for name, length in lengths.items()]
        gates = (weight("w_i", "D"), weight("w_f", "D"), bias("b_i"), bias("b_f"))
        return (*weights, *biases, *gates, X), values

    def given(self) -> tuple[tuple[Given, ...], dict[str, Any]]:
        """Query, key, value and gates as they come out of the inputs, which are not shown."""
        shown = {"query": ("q", "q", self.keys), "key": ("k", "k", self.keys), "value": ("v", "v", self.columns)}
        if "o_pre" in self.source.part:
            shown["o_pre"] = ("o_pre", "o~", self.columns)
        lengths = {"query": "K", "key": "K", "value": "V", "o_pre": "V"}
        givens = [
            given_steps(name, lengths[name], symbol=symbol, about="Of the inputs, which are not shown.")
            for name, (_, symbol, _) in shown.items()
        ]
        givens += [given_steps(name, symbol=name[0] + "~", about="Of the inputs.") for name in ("i_pre", "f_pre")]
        values = {name: self.at(traced)[:, few].tolist() for name, (traced, _, few) in shown.items()}
        return tuple(givens), values | {name: self.at(name).tolist() for name in ("i_pre", "f_pre")}

    def reading(self, all_keys: bool, all_columns: bool) -> tuple[list[Given], list[Quantity], dict[str, Any]]:
        """How the memory is read: what is given for it, its quantities, and the numbers given."""
        source, K = self.source, self.source.part["k"].shape[3]
        givens, values = [], {}
        root, read_rest, match_rest, eps = "sqrt(size(K))", "", "", ""
        if not all_keys:
            query = self.at("q") * K**-0.5
            others = [k for k in range(K) if k not in self.keys]
            n, C = self.at("n")[:, others], self.at("C")[:, others][:, :, self.columns]
            values["root"] = K**0.5
            values["a_read"] = (query[:, others, None] * C).sum(1).tolist()
            values["a_match"] = (query[:, others] * n).sum(1).tolist()
            givens.append(Given(name="root", symbol="√K", shape=(), role="rest", about=f"√{K}: all keys of the head."))
            givens.append(given_steps("a_read", "V", symbol="a_C", about="Read by way of the keys not shown."))
            givens.append(given_steps("a_match", symbol="a_n", about="The match of the keys not shown."))
            root, read_rest, match_rest = "root", " + a_read", " + a_match"
        if source.eps and source.norm is None:
            eps = " + eps"
        if source.eps:
            values["eps"] = source.eps
            givens.append(Given(name="eps", symbol="ε", shape=(), role="rest", about="A small number of the layer's."))
        gated = "o_pre" in source.part
        quantities = [
            q("read", f"C @ query / {root}{read_rest}", "", "V", traced="num"),
            q("match", f"dot(n, query) / {root}{match_rest}", "", about="How much of what was written matches q."),
            q("floor", f"max(abs(match), exp(-m)){eps}", "", traced="bound"),
            q("ratio" if gated else "h", "read / floor", "h~" if gated else "h", "V", traced="h", about="(21)"),
        ]
        if source.norm is not None:
            more, norm, numbers = self.norm(all_columns)
            givens, quantities, values = [*givens, *more], [*quantities, *norm], {**values, **numbers}
            if not all_columns:
                givens = [each for each in givens if each.name != "eps"]
                del values["eps"]
        if gated:
            of = "ratio" if source.norm is None else "normed"
            quantities.append(q("h", f"o * {of}", "h", "V", traced="y", about="(21)"))
        return givens, quantities, values

    def norm(self, all_columns: bool) -> tuple[list[Given], list[Quantity], dict[str, Any]]:
        """The norm over the head; its mean and deviation are given where not all units are shown."""
        assert self.source.norm is not None
        givens, values = [weight("g", "V")], {"g": self.source.norm[self.head][self.columns].tolist()}
        normed = q("normed", "(ratio - mu) / sd * g", "h^", "V", about="Layer norm over the head.")
        if all_columns:
            mean = q("mu", "mean(ratio)", "μ")
            spread = q("sd", "sqrt(mean((ratio - mu) * (ratio - mu)) + eps)", "s")
            return givens, [mean, spread, normed], values
        h = self.at("h")
        spread = (h.var(-1, correction=0) + self.source.eps).sqrt()
        values |= {"mu": h.mean(-1).tolist(), "sd": spread.tolist()}
        givens += [
            given_steps("mu", symbol="μ", about="The mean over all units of the head."),
            given_steps("sd", symbol="s", about="Their standard deviation."),
        ]
        return givens, [normed], values


def memory_stages(quantities: Sequence[Quantity]) -> tuple[Stage, ...]:
    """The steps of an mLSTM, with what there is."""
    there = [each.name for each in quantities]
    table = (
        ("Query, key and value", ("query", "key", "value"), ""),
        ("Gates", ("i_pre", "f_pre", "o_pre", "log_f", "kept", "m", "i", "f", "o"), "One i and f for the whole head."),
        ("Update memory", ("write", "C"), "The outer product of value and key."),
        ("Update normaliser", ("n",), ""),
        ("Read", ("read", "match", "floor"), "The memory times the query."),
        ("Update hidden state", ("ratio", "mu", "sd", "normed", "h"), ""),
    )
    stages = [
        Stage(at="each", title=title, quantities=tuple(name for name in names if name in there), about=about)
        for title, names, about in table
    ]
    return tuple(stage for stage in stages if stage.quantities)
