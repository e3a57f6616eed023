"""All exercises by name, in reading order."""

from collections.abc import Callable

from longshort.byhand.classic import LSTM_GIVENS, LSTM_QUANTITIES, LSTM_STAGES, lstm, lstm_backward, rnn
from longshort.byhand.extended import SLSTM_GIVENS, SLSTM_QUANTITIES, SLSTM_STAGES, mlstm, slstm, slstm_backward
from longshort.byhand.graph import Exercise
from longshort.byhand.stacked import xlstm
from longshort.config import suggest

__all__ = ["EXERCISES", "LSTM_GIVENS", "LSTM_QUANTITIES", "LSTM_STAGES", "SLSTM_GIVENS", "SLSTM_QUANTITIES",
           "SLSTM_STAGES", "exercise"]  # fmt: skip

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
