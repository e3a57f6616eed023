"""What `speed.py` times, ours and the peers'. Peers run as black boxes; those not here are told of and left out."""

import functools
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import Case, apart, bytes_kept
from torch import nn

import longshort
from longshort import functional
from longshort.cells import native

HEADS = 4


MISSING: dict[str, str] = {}
"""What of the peers could not be had, and why."""


def found(module: str, name: str) -> Any:
    """A peer's function, or None where it cannot be had."""
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a stranger raises as it is imported
        MISSING[f"{module}.{name}"] = f"{type(error).__name__}: {str(error)[:100]}"
        return None


def with_gradients(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor], grad: torch.Tensor) -> Callable:
    return lambda: torch.autograd.grad(call(), leaves, grad)


Answer = Callable[[], torch.Tensor]


def agreement(ours: Answer, theirs: dict[str, Answer], seen: Callable = lambda y: y) -> dict[str, Callable[[], float]]:
    """How far each peer's answer is from ours; theirs as `seen` in our layout."""

    def difference(their: Answer) -> float:
        with torch.no_grad():
            return apart(seen(their()), ours())

    return {name: functools.partial(difference, each) for name, each in theirs.items()}


def gradients_apart(ours: Callable, theirs: Callable) -> float:
    """The same of gradients in the same order and layout: the worst of them."""
    return max(apart(b, a) for a, b in zip(ours(), theirs(), strict=True))


# ---- the sLSTM cell --------------------------------------------------------------------------------------------------


def flashrnn_slstm(x: torch.Tensor, R: torch.Tensor) -> Callable | None:
    """flashrnn's `vanilla_fwbw`, its faster one in plain torch."""
    flashrnn = found("flashrnn", "flashrnn")
    b = torch.zeros(4, *x.shape[-2:])
    call = (
        functools.partial(flashrnn, b=b, function="slstm", backend="vanilla_fwbw", dtype="float32")
        if flashrnn
        else None
    )
    return (lambda: call(x, R)[0][0]) if call else None


def xlstm_slstm(x: torch.Tensor, R: torch.Tensor) -> tuple[Callable, torch.Tensor] | None:
    """xlstm's vanilla cell for the same numbers, and its weight, which holds R."""
    module = "xlstm.blocks.slstm.cell"
    config, make = found(module, "sLSTMCellConfig"), found(module, "sLSTMCell")
    if config is None or make is None:
        return None
    N, H = x.shape[-2:]
    cell = make(config(hidden_size=N * H, num_heads=N, backend="vanilla", dtype="float32"))
    cell._recurrent_kernel_.data = R.detach().transpose(0, 1).reshape(N, 4 * H, H).contiguous()
    cell._bias_.data.zero_()
    return (lambda: cell(x.flatten(2))[0].transpose(1, 2)), cell._recurrent_kernel_


def slstm_cells(quick: bool) -> Iterator[Case]:
    T = 256
    for D, B in [(128, 1), (128, 16), (128, 64), (256, 16), (512, 1), (512, 16), (512, 64)][: 1 if quick else None]:
        H = D // HEADS
        x = torch.randn(B, T, 4, HEADS, H, requires_grad=True)
        R = (torch.randn(4, HEADS, H, H) * H**-0.5 / 2).requires_grad_()
        grad, forward_operations = torch.randn(B, T, HEADS, H), 2.0 * B * T * 4 * HEADS * H * H
        ours = lambda x=x, R=R: functional.slstm(x, R, kernel="native")[0]  # noqa: E731
        learning = with_gradients(ours, [x, R], grad)
        both = {"operations": 3 * forward_operations}  # R h, and backwards dh and dR
        shape = f"D {D}, B {B}, T {T}"
        peers, same = {}, {}
        if theirs := flashrnn_slstm(x, R):
            name = "flashrnn vanilla_fwbw"
            peers = {name: with_gradients(theirs, [x, R], grad)}
            same = {f"{name}, h": agreement(ours, {name: theirs})[name],
                    f"{name}, gradients": functools.partial(gradients_apart, learning, peers[name])}  # fmt: skip
        aim = 9.0 if B == 64 else 15.0
        yield Case("slstm-cell", f"{shape}, forward+backward", learning, peers, aim, same, learns=True, **both)
        if D == 128 and B < 64 and (made := xlstm_slstm(x, R)):
            call, weight = made
            peers, same = {"xlstm vanilla": call}, agreement(ours, {"xlstm vanilla": call})
            yield Case("slstm-cell", f"{shape}, forward", ours, peers, 30.0, same, operations=forward_operations)
            slow = {"xlstm vanilla": with_gradients(call, [x, weight], grad)}
            yield Case("slstm-cell", f"{shape}, forward+backward", learning, slow, 100.0, same, learns=True, **both)
        else:
            share = 0.55 if (D, B) == (512, 64) else None
            yield Case("slstm-cell", f"{shape}, forward", ours, {}, operations=forward_operations, share=share)


# ---- layers beside torch's -------------------------------------------------------------------------------------------


def layers(quick: bool) -> Iterator[Case]:
    """The LSTM computes what `nn.LSTM` does. The sLSTM is another cell, of the same widths: nothing to agree with."""
    shapes = list(itertools.product((128, 256, 512), (1, 16, 64), (256, 1024)))
    for D, B, T in shapes[:1] if quick else shapes:
        theirs = nn.LSTM(D, D, batch_first=True)
        slstm = longshort.sLSTM(D, D, num_heads=HEADS, batch_first=True)
        yield from both_directions("layers", slstm, theirs, B, T, 1.0)
        yield from both_directions("layers", longshort.LSTM.from_torch(theirs), theirs, B, T, 0.9 if B > 1 else 1.3)


def other_layers(quick: bool) -> Iterator[Case]:
    for kind, D, B in list(itertools.product(("GRU", "RNN"), (128, 512), (1, 16, 64)))[: 1 if quick else None]:
        theirs = getattr(nn, kind)(D, D, batch_first=True)
        yield from both_directions("other-layers", getattr(longshort, kind).from_torch(theirs), theirs, B, 256)


def both_directions(group: str, ours: Any, theirs: Any, B: int, T: int, aim: float | None = None) -> Iterator[Case]:
    """A layer of ours beside torch's, forward and forward+backward."""
    name, peer, D = type(ours).__name__, f"nn.{type(theirs).__name__}", ours.hidden_size
    x, grad = torch.randn(B, T, D), torch.randn(B, T, D)
    inputs = 2.0 * B * T * D * ours.weight_ih_l0.shape[0]
    recurrent = inputs / ours.num_heads
    for learns in (False, True):
        direction = "forward+backward" if learns else "forward"
        call = functools.partial(learning, grad=grad) if learns else functools.partial
        calls = call(ours, x), call(theirs, x)
        case = Case(group, f"{name}, D {D}, B {B}, T {T}, {direction}", calls[0], {peer: calls[1]}, aim,
                    learns=learns, steps=T)  # fmt: skip
        # Backwards the input's product comes once more, for dW, and the recurrent one twice, for dh and dR.
        case.operations = 2 * inputs + 3 * recurrent if learns else inputs + recurrent
        if not isinstance(ours, longshort.sLSTM):
            case.same = {peer: functools.partial(gradients_apart if learns else outputs_apart, *calls)}
        yield case


def layer_steps(quick: bool) -> Iterator[Case]:
    """A layer's state in and out, a step a call, as an agent or a stream runs it."""
    for D, B in list(itertools.product((128, 512), (1, 16)))[: 1 if quick else None]:
        x = torch.randn(B, 1, D)
        for kind in ("LSTM", "sLSTM", "GRU", "RNN"):
            peer = "LSTM" if kind == "sLSTM" else kind
            theirs = getattr(nn, peer)(D, D, batch_first=True)
            ours: Any = longshort.sLSTM(D, D, num_heads=HEADS, batch_first=True)
            if kind == peer:
                ours = getattr(longshort, kind).from_torch(theirs)
            with torch.no_grad():
                calls = [functools.partial(each, x, each(x)[1]) for each in (ours, theirs)]
            case = Case("layer-step", f"{kind}, D {D}, B {B}, T 1, forward", calls[0], {f"nn.{peer}": calls[1]},
                        block=200)  # fmt: skip
            if kind == peer:
                case.same = {f"nn.{peer}": functools.partial(outputs_apart, *calls)}
            yield case


def outputs_apart(ours: Callable, theirs: Callable) -> float:
    return apart(theirs()[0], ours()[0])


def learning(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable:
    weights = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(x)[0], weights, grad)


def inference(quick: bool) -> Iterator[Case]:
    """LSTM inference beside the two runtimes that people deploy with."""
    T = 256
    for D, B in list(itertools.product((128, 256, 512), (1, 16)))[: 1 if quick else None]:
        layer, x = longshort.LSTM(D, D, batch_first=True), torch.randn(B, T, D)
        peers = runtimes(layer, x)
        same = agreement(lambda layer=layer, x=x: layer(x)[0], peers, torch.as_tensor)
        yield Case("lstm-inference", f"D {D}, B {B}, T {T}, forward", functools.partial(layer, x), peers, 1.0, same,
                   operations=2.0 * B * T * 8 * D * D, rest=0.05)  # fmt: skip


def runtimes(layer: longshort.LSTM, x: torch.Tensor) -> dict[str, Callable]:
    """The layer as an ONNX model, run by onnxruntime and OpenVINO."""
    onnx, runtime, openvino = (
        importlib.import_module(name) if found(name, "__name__") else None
        for name in ("onnx", "onnxruntime", "openvino")
    )
    if onnx is None:
        return {}
    B, T, D = x.shape
    order = [0, 3, 1, 2]  # PyTorch's i f g o as ONNX's i o f c
    gates = lambda w: w.detach().view(4, D, -1)[order].reshape(1, 4 * D, -1)  # noqa: E731
    b = torch.cat([gates(layer.bias_ih_l0), gates(layer.bias_hh_l0)], 1).view(1, 8 * D)
    weights = {"W": gates(layer.weight_ih_l0), "R": gates(layer.weight_hh_l0), "B": b}
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=D)],
        "lstm",
        [helper.make_tensor_value_info("x", FLOAT, (T, B, D))],
        [helper.make_tensor_value_info("y", FLOAT, (T, 1, B, D))],
        [onnx.numpy_helper.from_array(w.contiguous().numpy(), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    time_first = x.transpose(0, 1).contiguous().numpy()
    batch_first = lambda y: y[:, 0].swapaxes(0, 1)  # noqa: E731
    peers: dict[str, Callable] = {}
    if runtime:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        peers["onnxruntime"] = lambda: batch_first(session.run(None, {"x": time_first})[0])
    if openvino:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "lstm.onnx")
            onnx.save(model, path)
            config = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(path, "CPU", config)
        peers["OpenVINO"] = lambda: batch_first(compiled([time_first])[0])
    return peers


# ---- the mLSTM -------------------------------------------------------------------------------------------------------


def chunkwise_peers() -> dict[str, Callable]:
    names, get = (found("mlstm_kernels.torch", name) for name in ("get_available_mlstm_kernels", "get_mlstm_kernel"))
    return {n.split("--")[1]: get(n) for n in names() if n.startswith("chunkwise--native")} if names and get else {}


def mlstm_operations(B: int, T: int, H: int) -> float:
    """Operations of our forward: the half of q k^T and of its product with v that a chunk needs, C read and written."""
    L = native.SHORT_CHUNK if H <= 64 else 64  # the chunk that the core takes
    return B * HEADS * T / L * (2 * L * L * (H + H) / 2 + 4 * L * H * H)


def mlstms(quick: bool) -> Iterator[Case]:
    B = 4
    for H, T in list(itertools.product((64, 128), (512, 2048, 8192)))[: 1 if quick else None]:
        q, k, v, grad = (torch.randn(B, T, HEADS, H) for _ in range(4))
        ours = [x.requires_grad_() for x in (q, k, v, torch.randn(B, T, HEADS), torch.randn(B, T, HEADS) + 3)]
        heads_first = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in ours]
        call = lambda ours=ours: functional.mlstm(*ours, kernel="native")[0]  # noqa: E731
        peers = {
            f"{name}, chunk {L}": functools.partial(peer_mlstm, peer, heads_first, L)
            for (name, peer), L in itertools.product(chunkwise_peers().items(), (64,) if quick else (32, 64, 128))
        }
        same = agreement(call, peers, lambda y: y.transpose(1, 2))
        shape, small, short = f"heads of {H}, B {B}, T {T}", H == 64, T == 512
        case = Case("mlstm", f"{shape}, forward", call, peers, 3.5 if short else 5.0, same)
        case.operations, case.share = mlstm_operations(B, T, H), None if small or short else 0.55
        if small:
            case.aim, case.wish = 6.0, 10.0
        yield case
        turned = grad.transpose(1, 2).contiguous()
        slow = {name: with_gradients(peer, heads_first, turned) for name, peer in peers.items()}
        aim, wish = 2.7 if short and not small else 3.5, 7.0 if small else None
        both = with_gradients(call, ours, grad)
        yield Case("mlstm", f"{shape}, forward+backward", both, slow, aim, same, learns=True, wish=wish)


def peer_mlstm(peer: Callable, inputs: list[torch.Tensor], chunk_size: int) -> torch.Tensor:
    return peer(**dict(zip("qkvif", inputs, strict=True)), chunk_size=chunk_size)


def gradients_agree() -> list[str]:
    """How far each peer's gradients are from the one that autograd differentiates, and ours."""
    q, k, v, grad = (torch.randn(2, 256, HEADS, 64) for _ in range(4))
    ours = [x.requires_grad_() for x in (q, k, v, torch.randn(2, 256, HEADS), torch.randn(2, 256, HEADS) + 3)]
    theirs = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in ours]
    answers = {"longshort": torch.autograd.grad(functional.mlstm(*ours, kernel="native")[0], ours, grad)}
    for name, peer in chunkwise_peers().items():
        got = torch.autograd.grad(peer_mlstm(peer, theirs, 64), theirs, grad.transpose(1, 2).contiguous())
        answers[name] = [x.transpose(1, 2) for x in got]
    want = answers.get("native_autograd")
    if want is None:
        return []
    row = lambda got: " | ".join(f"{(a - b).norm() / b.norm():.0e}" for a, b in zip(got, want, strict=True))  # noqa: E731
    return [f"| {name} | {row(got)} |" for name, got in answers.items() if name != "native_autograd"]


def carried(step: Callable, state: Any) -> Callable[[], Any]:
    """Step after step, each from the state that the last one left."""
    kept = [state]

    def run() -> Any:
        y, kept[0] = step(kept[0])
        return y

    return run


def steps(quick: bool) -> Iterator[Case]:
    peer = found("mlstm_kernels.torch.recurrent.native_step", "mlstm_recurrent_step__native")
    for B, H in list(itertools.product((1, 4), (64, 128, 256)))[: 1 if quick else None]:
        q, k, v = (torch.randn(B, HEADS, H) for _ in range(3))
        i, f = torch.randn(B, HEADS), torch.randn(B, HEADS) + 3
        C, n, m = torch.randn(B, HEADS, H, H), torch.randn(B, HEADS, H), torch.zeros(B, HEADS)
        for where, inplace in (("", False), (", in place", True)):
            theirs = None
            if peer:
                step = functools.partial(peer, q=q, k=k, v=v, i=i[..., None], f=f[..., None])
                theirs = carried(
                    lambda state, step=step: step(**dict(zip("cnm", state, strict=True))), (C, n, m[..., None])
                )
            peers = {"recurrent step": theirs} if theirs else {}
            step = functools.partial(functional.mlstm_step, q, k, v, i, f, inplace=inplace)
            ours = carried(step, functional.MLSTMState(C.clone(), n.clone(), m.clone()))
            same = agreement(ours, peers, lambda y, v=v: y.view_as(v))
            yield Case("mlstm-step", f"heads of {H}, B {B}, one step{where}", ours, peers, 9.0, same, block=200,
                       moved=2.0 * C.numel() * C.element_size())  # fmt: skip


# ---- linear in time --------------------------------------------------------------------------------------------------


def lengths(quick: bool) -> Iterator[Case]:
    longer = (1024, 4096) if quick else (1024, 4096, 16384, 65536)
    for cell, D, T in itertools.product(("sLSTM", "mLSTM"), (128, 512), longer):
        H = D // HEADS
        R = (torch.randn(4, HEADS, H, H) * H**-0.5 / 2).requires_grad_()
        if cell == "sLSTM":
            inputs = [torch.randn(1, T, 4, HEADS, H, requires_grad=True), R]
            call = lambda inputs=inputs: functional.slstm(*inputs, kernel="native")[0]  # noqa: E731
        else:
            inputs = [torch.randn(1, T, HEADS, H, requires_grad=True) for _ in range(3)]
            inputs += [torch.randn(1, T, HEADS, requires_grad=True) for _ in range(2)]
            call = lambda inputs=inputs: functional.mlstm(*inputs, kernel="native")[0]  # noqa: E731
        ours = with_gradients(call, inputs, torch.randn(1, T, HEADS, H))
        yield Case("length", f"{cell}, D {D}, B 1, T {T}, forward+backward", ours, {}, learns=True, steps=T,
                   kept=functools.partial(bytes_kept, call))  # fmt: skip


GROUPS = {
    "slstm-cell": (slstm_cells, "The sLSTM cell, 4 heads"),
    "layers": (layers, "Layers beside `nn.LSTM`"),
    "other-layers": (other_layers, "`GRU` and `RNN` beside torch's"),
    "layer-step": (layer_steps, "One step of a layer beside torch's"),
    "mlstm": (mlstms, "The mLSTM, 4 heads, beside mlstm_kernels' native chunkwise kernels"),
    "mlstm-step": (steps, "One step of the mLSTM, 4 heads, beside mlstm_kernels' native recurrent step"),
    "length": (lengths, "Linear in time"),
    "lstm-inference": (inference, "LSTM inference beside deployment runtimes"),
}
