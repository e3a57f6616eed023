"""What `speed.py` times: ours and the peers'. Peers run as black boxes; one that is not here is left out."""

import functools
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import torch
from timing import Case, apart
from torch import nn

import longshort
from longshort import functional

HEADS = 4


def found(module: str, name: str) -> Any:
    """A peer's function, or None where it is not installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, OSError, AttributeError, RuntimeError):
        return None


def without_gradients(call: Callable, *args, **options) -> Callable[[], Any]:
    def run():
        with torch.no_grad():
            return call(*args, **options)

    return run


def with_gradients(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor], grad: torch.Tensor) -> Callable:
    return lambda: torch.autograd.grad(call(), leaves, grad)


def agreement(ours: Callable, theirs: Callable | None, seen: Callable = lambda y: y) -> Callable | None:
    """How far the answers are apart; theirs as `seen` in our layout. None without a peer."""
    return (lambda: apart(ours(), seen(theirs()))) if theirs else None


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
        x, R = (
            torch.randn(B, T, 4, HEADS, H, requires_grad=True),
            (torch.randn(4, HEADS, H, H) * H**-0.5 / 2).requires_grad_(),
        )
        grad, operations = torch.randn(B, T, HEADS, H), 2.0 * B * T * 4 * HEADS * H * H
        ours = lambda x=x, R=R: functional.slstm(x, R, kernel="native")[0]  # noqa: E731
        shape = f"D {D}, B {B}, T {T}"
        theirs = flashrnn_slstm(x, R)
        peers = {"flashrnn vanilla_fwbw": with_gradients(theirs, [x, R], grad)} if theirs else {}
        agree = agreement(ours, theirs)
        aim = 9.0 if B == 64 else 15.0
        yield Case("slstm-cell", f"{shape}, forward+backward", with_gradients(ours, [x, R], grad), peers, aim, agree)
        if (D, B) == (512, 64):
            free = without_gradients(functional.slstm, x, R, kernel="native")
            yield Case("slstm-cell", f"{shape}, forward", free, {}, operations=operations, share=0.55)
        if D == 128 and B < 64 and (made := xlstm_slstm(x, R)):
            call, weight = made
            agree = agreement(ours, call)
            free = without_gradients(functional.slstm, x, R, kernel="native")
            yield Case("slstm-cell", f"{shape}, forward", free, {"xlstm vanilla": without_gradients(call)}, 30.0, agree)
            slow = with_gradients(call, [x, weight], grad)
            yield Case("slstm-cell", f"{shape}, forward+backward", with_gradients(ours, [x, R], grad),
                       {"xlstm vanilla": slow}, 100.0, agree)  # fmt: skip


# ---- layers beside nn.LSTM -------------------------------------------------------------------------------------------


def layers(quick: bool) -> Iterator[Case]:
    shapes = list(itertools.product((128, 256, 512), (1, 16, 64), (256, 1024)))
    for D, B, T in shapes[:1] if quick else shapes:
        x, grad = torch.randn(B, T, D), torch.randn(B, T, D)
        theirs = nn.LSTM(D, D, batch_first=True)
        lstm = longshort.LSTM.from_torch(theirs)
        agree = agreement(functools.partial(first_of, lstm, x), functools.partial(first_of, theirs, x))
        slstm = longshort.sLSTM(D, D, num_heads=HEADS, batch_first=True)
        for name, ours, aims in (("sLSTM", slstm, (1.0, 1.0)), ("LSTM", lstm, (0.9, 0.9) if B > 1 else (1.3, 1.3))):
            for direction, aim in zip(("forward", "forward+backward"), aims, strict=True):
                call = without_gradients if direction == "forward" else learning
                given = gradient(direction, grad)
                work = f"{name}, D {D}, B {B}, T {T}, {direction}"
                peers = {"nn.LSTM": call(theirs, x, **given)}
                case = Case(f"{name.lower()}-layer", work, call(ours, x, **given), peers, aim, steps=T)
                case.agree = agree if name == "LSTM" else None
                yield case


def first_of(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x)[0]


def gradient(direction: str, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"grad": grad} if direction == "forward+backward" else {}


def learning(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable:
    weights = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(x)[0], weights, grad)


def inference(quick: bool) -> Iterator[Case]:
    """LSTM inference beside the two runtimes that people deploy with."""
    T = 256
    for D, B in list(itertools.product((128, 256, 512), (1, 16)))[: 1 if quick else None]:
        layer, x = longshort.LSTM(D, D, batch_first=True), torch.randn(B, T, D)
        peers = runtimes(layer, x)
        want = layer(x)[0].detach()
        if not peers:
            return
        agree = functools.partial(furthest, peers, want)
        yield Case("lstm-inference", f"D {D}, B {B}, T {T}, forward", without_gradients(layer, x), peers, 1.0, agree)


def furthest(peers: dict[str, Callable], want: torch.Tensor) -> float:
    return max(apart(torch.as_tensor(run()), want) for run in peers.values())


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
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the others want the cores too
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
    names, get = (
        found("mlstm_kernels.torch", "get_available_mlstm_kernels"),
        found("mlstm_kernels.torch", "get_mlstm_kernel"),
    )
    return {n.split("--")[1]: get(n) for n in names() if n.startswith("chunkwise--native")} if names else {}


def mlstms(quick: bool) -> Iterator[Case]:
    B = 4
    for H, T in list(itertools.product((64, 128), (512, 2048, 8192)))[: 1 if quick else None]:
        q, k, v, grad = (torch.randn(B, T, HEADS, H) for _ in range(4))
        ours = [x.requires_grad_() for x in (q, k, v, torch.randn(B, T, HEADS), torch.randn(B, T, HEADS) + 3)]
        heads_first = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in ours]
        chunks, long = (32, 64) if T == 8192 else (32, 64, 128), T == 8192
        call = lambda ours=ours: functional.mlstm(*ours, kernel="native")[0]  # noqa: E731
        peers = {
            f"{name}, chunk {L}": functools.partial(peer_mlstm, peer, heads_first, L)
            for (name, peer), L in itertools.product(chunkwise_peers().items(), chunks)
        }
        agree = agreement(call, next(iter(peers.values()), None), lambda y: y.transpose(1, 2))
        # Per chunk of 64: within it half of q k^T and of its product with v; C read and written whole.
        operations = B * HEADS * T / 64 * (64 * 64 * 2 * H + 4 * 64 * H * H)
        shape, small = f"heads of {H}, B {B}, T {T}", H == 64
        aim = 6.0 if small else 3.5 if T == 512 else 5.0
        yield Case("mlstm", f"{shape}, forward", without_gradients(functional.mlstm, *ours, kernel="native"),
                   {n: without_gradients(p) for n, p in peers.items()}, aim, agree, operations,
                   None if small or T == 512 else 0.55)  # fmt: skip
        turned = grad.transpose(1, 2).contiguous()
        # The kernel that autograd differentiates takes over 10 s a call at T 8192.
        slow = {n: with_gradients(p, heads_first, turned) for n, p in peers.items() if not (long and "autograd" in n)}
        aim = 3.5 if small or T > 512 else 2.7
        yield Case("mlstm", f"{shape}, forward+backward", with_gradients(call, ours, grad), slow, aim, agree)


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


def steps(quick: bool) -> Iterator[Case]:
    peer = found("mlstm_kernels.torch.recurrent.native_step", "mlstm_recurrent_step__native")
    for B, H in list(itertools.product((1, 4), (64, 128, 256)))[: 1 if quick else None]:
        q, k, v = (torch.randn(B, HEADS, H) for _ in range(3))
        i, f = torch.randn(B, HEADS), torch.randn(B, HEADS) + 3
        C, n, m = torch.randn(B, HEADS, H, H), torch.randn(B, HEADS, H), torch.zeros(B, HEADS)
        state = functional.MLSTMState(C, n, m)
        ours = without_gradients(functional.mlstm_step, q, k, v, i, f, state)
        given = dict(q=q, k=k, v=v, i=i[..., None], f=f[..., None], c=C, n=n, m=m[..., None])
        theirs = without_gradients(peer, **given) if peer else None
        agree = agreement(lambda ours=ours: ours()[0], theirs, lambda y, v=v: y[0].view_as(v))
        peers = {"recurrent step": theirs} if theirs else {}
        yield Case("mlstm-step", f"heads of {H}, B {B}, one step", ours, peers, 9.0, agree, block=200)


# ---- linear in time --------------------------------------------------------------------------------------------------


def lengths(quick: bool) -> Iterator[Case]:
    D = 128
    for T in (1024, 4096) if quick else (1024, 4096, 16384, 65536):
        x, R = torch.randn(1, T, 4, HEADS, D // HEADS, requires_grad=True), torch.randn(4, HEADS, 32, 32) * 0.1
        grad = torch.randn(1, T, HEADS, D // HEADS)
        call = lambda x=x, R=R: functional.slstm(x, R, kernel="native")[0]  # noqa: E731
        yield Case(
            "length", f"sLSTM, D {D}, B 1, T {T}, forward+backward", with_gradients(call, [x], grad), {}, steps=T
        )
        ours = [torch.randn(1, T, HEADS, 32, requires_grad=True) for _ in range(3)]
        ours += [torch.randn(1, T, HEADS, requires_grad=True) for _ in range(2)]
        call = lambda ours=ours: functional.mlstm(*ours, kernel="native")[0]  # noqa: E731
        yield Case(
            "length", f"mLSTM, D {D}, B 1, T {T}, forward+backward", with_gradients(call, ours, grad), {}, steps=T
        )


GROUPS = {
    "slstm-cell": (slstm_cells, "The sLSTM cell, 4 heads"),
    "layers": (layers, "Layers beside `nn.LSTM`"),
    "mlstm": (mlstms, "The mLSTM, 4 heads, beside mlstm_kernels' native chunkwise kernels"),
    "mlstm-step": (steps, "One step of the mLSTM, 4 heads, beside mlstm_kernels' native recurrent step"),
    "length": (lengths, "Linear in time"),
    "lstm-inference": (inference, "LSTM inference beside deployment runtimes"),
}


def peers_here() -> dict[str, str]:
    """The peers and their versions."""
    versions = {}
    for name in ("flashrnn", "mlstm_kernels", "onnxruntime", "openvino", "torch", "xlstm"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
