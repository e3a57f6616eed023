"""The self-check passes here, finds every kind of wrong kernel and names what is off, and changes nothing."""

import math
import re
import sys
import time
import types
from typing import NamedTuple

import pytest
import torch

from longshort.cells import rnn as cell
from longshort.cells.loop import steps_within
from longshort.checking import CALLS, FORMS, TOLERANCE, SelfCheck, distance, everything, pose, selfcheck
from longshort.cli import main
from longshort.functional import KERNELS
from longshort.kernels import Kernel

reference = cell.rnn


@pytest.fixture(scope="module")
def here() -> SelfCheck:
    began = time.process_time()
    found = selfcheck()
    assert time.process_time() - began < 30
    return found


def test_all_is_well_here(here):
    assert here, str(here)
    assert here.ok
    for form, (name, _) in FORMS.items():
        for kernel in KERNELS[name]:
            rows = [row for row in here.rows if row[:3] == (form, kernel, "cpu")]
            assert [row.dtype for row in rows] == list(TOLERANCE)
            rows = [row for row in rows if row.verdict == "ok"]
            if rows:
                assert all(max(row.forward, row.gradient) <= row.allowed == TOLERANCE[row.dtype] for row in rows)


def test_every_cell_has_a_form():
    assert {name for name, _ in FORMS.values()} == set(KERNELS)


def test_the_table_is_aligned_plain_text(here):
    lines = str(here).splitlines()
    assert all(line.isprintable() and len(line) <= 120 for line in lines)
    head = next(line for line in lines if line.startswith("cell "))
    columns = [head.index(f" {str(dtype)[6:]}") for dtype in TOLERANCE]
    told = [line for line in lines if line.startswith((*FORMS, "allowed")) and "not here" not in line]
    assert len(told) > len(FORMS)
    for line in told:
        assert all(line[at] == " " != line[at + 1] for at in columns), line
        assert line.count(" · ") == len(columns)
    assert f"{sum(row.verdict == 'ok' for row in here.rows)} checked, 0 failed, " in lines[-1]
    assert lines[-1].endswith(f" not here, {here.seconds:.1f} s")


# ---- wrong kernels ---------------------------------------------------------------------------------------------------


def alone(monkeypatch, **more: Kernel) -> None:
    """Leave the RNN its reference, and what comes here."""
    monkeypatch.setitem(KERNELS, "rnn", {"reference": KERNELS["rnn"]["reference"], **more})


def check(monkeypatch, kernel, **needs) -> tuple[SelfCheck, list]:
    """A check of the RNN's reference and one more kernel, and that kernel's rows."""
    module = types.ModuleType("one_more")
    module.rnn = kernel
    monkeypatch.setitem(sys.modules, "one_more", module)
    alone(monkeypatch, more=Kernel("one_more", "rnn", **needs))
    found = selfcheck(["rnn"])
    assert all(row.verdict == "ok" for row in found.rows if row.kernel != "more")
    assert all(row.cell in ("rnn-tanh", "rnn-relu") for row in found.rows)
    return found, [row for row in found.rows if row.kernel == "more"]


def test_a_right_kernel_passes_without_a_word(monkeypatch):
    found, rows = check(monkeypatch, reference)
    assert found
    assert len(rows) == 8


def gradient_not_exact(x_pre, *, R, **given):
    """The gradient of R is 1 % too large."""
    return reference(x_pre, R=1.01 * R - 0.01 * R.detach(), **given)


def gradient_lost(x_pre, *, state, **given):
    return reference(x_pre, state=state._replace(h=state.h.detach()), **given)


def output_wrong(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h * 1.02, last


def state_wrong(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h, last._replace(h=last.h + 0.1)


def last_chunk_forgotten(x_pre, **given):
    h, last = reference(x_pre, **given)
    return torch.cat([h[:, :64], h[:, 64:] * 0], 1), last


def lengths_ignored(x_pre, *, lengths, **given):
    return reference(x_pre, lengths=None, **given)


def state_goes_on_past_the_end(x_pre, *, lengths, **given):
    h, _ = reference(x_pre, lengths=lengths, **given)
    return h, reference(x_pre.nan_to_num(), lengths=None, **given)[1]


def output_in_the_padding(x_pre, *, lengths, **given):
    h, last = reference(x_pre, lengths=lengths, **given)
    return h if lengths is None else h + ~steps_within(lengths, h.shape[1])[..., None, None], last


def resets_ignored(x_pre, *, reset, **given):
    return reference(x_pre, reset=None, **given)


def one_nan(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h.index_fill(1, torch.tensor([x_pre.shape[1] - 1]), torch.nan), last


def shape_wrong(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h, last._replace(h=last.h[:, :1])


def dtype_wrong(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h, last._replace(h=last.h.half())


def state_without_h(x_pre, **given):
    h, last = reference(x_pre, **given)
    return h, Stranger(last.h)


class Stranger(NamedTuple):
    c: torch.Tensor


def raises(x_pre, **given):
    raise RuntimeError("no such luck\nand a long trace")


def raises_in_backward(x_pre, **given):
    h, last = reference(x_pre, **given)
    h.register_hook(raises)
    return h, last


@pytest.mark.parametrize(
    ("kernel", "off", "told"),
    [
        (gradient_not_exact, ["d R"], "T=1: d R is off by"),
        (gradient_lost, ["d state.h"], "T=1: d state.h is off by"),
        (output_wrong, ["h", "d x_pre", "d R"], "T=1: h is off by"),
        (state_wrong, ["last h"], "T=1: last h is off by 0.1 on a scale of"),
        (last_chunk_forgotten, ["h", "d x_pre", "d R"], "T=65: h is off by"),
        (lengths_ignored, ["h", "last h", "d x_pre"], "T=1, lengths, reset: h holds NaN"),
        (output_in_the_padding, ["h"], "T=1, lengths, reset: h is off by 1 on a scale of 1"),
        (state_goes_on_past_the_end, ["last h", "d R", "d state.h"], "T=1, lengths, reset: last h"),
        (resets_ignored, ["h", "last h", "d x_pre"], "T=1, lengths, reset: h is off by"),
        (one_nan, ["h", "d x_pre", "d R"], "T=1: h holds NaN"),
        (shape_wrong, ["last h"], "T=1: last h has shape (4, 1, 3), not (4, 2, 3)"),
        (dtype_wrong, ["last h"], "T=1: last h is torch.float16, not torch.float"),
        (state_without_h, ["last h"], "T=1: last h is missing"),
        (raises, [], "T=1: raised RuntimeError: no such luck"),
        (raises_in_backward, [], "T=1: raised RuntimeError: no such luck"),
    ],
)
def test_a_wrong_kernel_fails_and_what_is_off_is_named(kernel, off, told, monkeypatch):
    found, rows = check(monkeypatch, kernel)
    assert not found
    assert not found.ok
    for row in rows:
        assert row.verdict.startswith(f"FAILED: {told}")
        assert max(row.forward, row.gradient) > row.allowed
        assert re.findall(r"[:;] ((?:last |d )?[\w.]+) (?:is|holds|has) ", row.verdict)[: len(off)] == off, row.verdict
        assert row.verdict in str(found)
        assert "long trace" not in row.verdict
    assert "\nself-check FAILED: 16 checked, 8 failed, 0 not here, " in str(found)


def test_only_the_dtypes_that_are_off_fail(monkeypatch):
    def rounded(x_pre, **given):
        h, last = reference(x_pre, **given)
        return h.bfloat16().to(h.dtype), last

    found, rows = check(monkeypatch, rounded)
    assert not found
    assert [row.dtype for row in rows if row.ok] == [torch.bfloat16] * 2
    assert "FAILED" in next(line for line in str(found).splitlines() if line.startswith("rnn-tanh       more"))


@pytest.mark.parametrize(
    ("wrong", "told"), [(lengths_ignored, "h holds NaN"), (output_in_the_padding, "h is off by 1 ")]
)
def test_what_is_in_the_padding_is_wrong_even_if_the_reference_has_it(wrong, told, monkeypatch):
    alone(monkeypatch)
    monkeypatch.setattr(cell, "rnn", wrong)
    found = selfcheck(["rnn"])
    assert all(row.verdict.startswith(f"FAILED: T=1, lengths, reset: {told}") for row in found.rows)


def test_a_reference_that_fails_fails_every_kernel(monkeypatch):
    alone(monkeypatch)
    monkeypatch.setattr(cell, "rnn", raises)
    found = selfcheck(["rnn"])
    assert not any(row.ok for row in found.rows)
    assert "T=1: the float64 reference raised RuntimeError: no such luck" in found.rows[0].verdict


def test_a_kernel_that_is_not_here_is_no_failure(monkeypatch):
    found, rows = check(monkeypatch, raises, needs="no_such_package")
    assert found
    assert all(row.verdict == "not here: it needs the package no_such_package, which is not installed" for row in rows)
    assert all(math.isnan(row.forward) and math.isnan(row.gradient) for row in rows)
    line = "rnn-tanh       more       cpu    not here: it needs the package no_such_package, which is not installed"
    assert line in str(found).splitlines()
    assert "8 checked, 0 failed, 8 not here" in str(found)


def test_a_kernel_of_some_dtypes_is_checked_in_those(monkeypatch):
    found, rows = check(monkeypatch, reference, dtypes=(torch.float32,))  # 16-bit input is computed in it too
    assert found
    assert [row.verdict[:8] for row in rows[:4]] == ["not here", "ok", "ok", "ok"]
    assert "rnn-tanh more cpu float64 not here: it computes in torch.float32, and these inputs ask for" in str(found)


def test_a_kernel_that_cannot_be_imported_fails(monkeypatch):
    alone(monkeypatch, more=Kernel("longshort.no_such_module", "rnn"))
    found = selfcheck(["rnn"])
    assert [row.kernel for row in found.rows if not row.ok] == ["more"] * 8
    assert "raised ModuleNotFoundError: No module named 'longshort.no_such_module'" in str(found)


# ---- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [["lsmt"], "lstm", [3], []])
def test_wrong_names_are_refused_in_words(cells):
    with pytest.raises(ValueError, match=r"must be a list of names out of rnn, lstm"):
        selfcheck(cells)


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_asked_about_are_the_same_in_every_dtype(form):
    for call in CALLS:
        p, _ = pose(form, *call)
        wide = p.to(torch.float64)
        for dtype in TOLERANCE:
            again = p.to(dtype).to(torch.float64)
            for one, other in ((wide.inputs, again.inputs), (wide.weights, again.weights)):
                assert all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)


def around() -> list:
    """What belongs to the caller."""
    products = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    precision = [getattr(each, "fp32_precision", None) for each in products]
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return [torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(), *precision, *modes]


def test_nothing_around_it_is_changed_and_nothing_there_changes_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    count = torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float16)
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("medium")
        for context in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
            with context:
                before = around()
                assert selfcheck(["rnn", "mlstm"])
                assert around() == before
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(count)
        torch.set_float32_matmul_precision("highest")
    assert not list(tmp_path.iterdir())


def test_one_call_runs_on_the_caller_s_threads_and_the_others_on_one(monkeypatch):
    seen = []

    def counting(x_pre, **given):
        seen.append((x_pre.shape[1], torch.get_num_threads()))
        return reference(x_pre, **given)

    count = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        check(monkeypatch, counting)
    finally:
        torch.set_num_threads(count)
    assert set(seen) == {(1, 1), (3, 3), (7, 1), (9, 1), (65, 1)}


def test_distance_takes_infinities_and_nan_for_what_they_are():
    inf, nan = torch.inf, torch.nan
    assert distance(torch.tensor([1.0, -inf]), torch.tensor([1.5, -inf])) == (0.5, 1.5)
    assert distance(torch.tensor([1.0, inf]), torch.tensor([4.0, 0.0]))[0] == inf
    assert math.isnan(distance(torch.tensor([nan, 0.0]), torch.tensor([nan, 0.0]))[0])
    assert distance(torch.zeros(2, 0), torch.zeros(2, 0)) == (0.0, 1.0)


def test_everything_knows_every_tensor_that_went_in():
    p, more = pose("gru-bias", 7, 5, "lengths, reset")
    assert list(everything(p, **more)) == ["h", "last h", "d x_pre", "d R", "d bias", "d state.h"]


# ---- longshort doctor ------------------------------------------------------------------------------------------------


def test_doctor_ends_with_the_check(capsys):
    main(["doctor"])
    out = capsys.readouterr().out
    assert out.index("tokenizers") < out.index("rnn-tanh") < out.index("allowed") < out.index("self-check passed: ")


def test_doctor_quick_leaves_it_out(capsys):
    main(["doctor", "--quick"])
    out = capsys.readouterr().out
    assert "tokenizers" in out
    assert "self-check" not in out
    assert "rnn-tanh" not in out


def test_doctor_s_status_is_1_if_a_kernel_fails(monkeypatch, capsys):
    monkeypatch.setitem(KERNELS["mlstm"], "more", Kernel("longshort.no_such_module", "mlstm"))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "mlstm more cpu float64, float32, bfloat16, float16 FAILED: T=1: raised ModuleNotFoundError" in told.out
    assert told.err == ""
