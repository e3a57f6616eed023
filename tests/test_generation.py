"""Writing: batches of any prompts equal each alone, pieces equal the whole, readings are kept and taken up again."""

import itertools
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longshort import generation
from longshort.config import xLSTMConfig
from longshort.data import ByteTokenizer, CharTokenizer, Corpus, prepare
from longshort.evaluation import evaluate
from longshort.generation import Sampling, StopFilter, Writer, generate, load_reading, read, save_reading
from longshort.model import xLSTMLM

BYTES = ByteTokenizer()
PROMPTS = ["Season of mists", "a", "mellow fruitfulness, close bosom-friend"]


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = xLSTMConfig(embedding_dim=16, num_heads=2, blocks="[1:1]", vocab_size=256, round_up_to=16)
    return xLSTMLM(config).double().eval()


def test_read_many_prompts_equals_each_alone(model):
    together = read(model, [BYTES.encode(p) for p in PROMPTS])
    for b, prompt in enumerate(PROMPTS):
        alone = read(model, [BYTES.encode(prompt)])
        torch.testing.assert_close(together.logits[b], alone.logits[0], rtol=0, atol=1e-5)


def test_reading_piece_by_piece_equals_reading_at_once(model, monkeypatch):
    whole = read(model, [BYTES.encode(p) for p in PROMPTS])
    monkeypatch.setattr(generation, "PIECE", 4)
    pieces = read(model, [BYTES.encode(p) for p in PROMPTS])
    torch.testing.assert_close(pieces.logits, whole.logits, rtol=0, atol=1e-6)
    half = read(model, [BYTES.encode(p)[: len(p) // 2] for p in PROMPTS if len(p) > 1])
    rest = read(model, [BYTES.encode(p)[len(p) // 2 :] for p in PROMPTS if len(p) > 1], half)
    torch.testing.assert_close(rest.logits, whole.logits[[0, 2]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [dict(temperature=0), dict(temperature=0.7, top_k=20, top_p=0.9, seed=4)])
def test_generate_many_prompts_equals_each_alone(model, options):
    together = generate(model, BYTES, PROMPTS, 20, **options)
    for b, prompt in enumerate(PROMPTS):
        alone = generate(model, BYTES, prompt, 20, **(options | dict(seed=options.get("seed", 0) + b)))
        assert together[b] == alone


def test_generate_equals_feeding_the_whole_text_again(model):
    tokens = BYTES.encode("Season").tolist()
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    writer = Writer(model, BYTES, ["Season"], 12, Sampling(temperature=0))
    list(writer)
    assert writer.texts[0] == BYTES.decode(tokens[6:])


def test_same_seed_same_text_and_other_seed_another(model):
    texts = [generate(model, BYTES, "To be", 30, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_reading_is_saved_and_taken_up_again(model, tmp_path):
    whole = generate(model, BYTES, "once upon a time there was", 15, seed=3)
    book = Writer(model, BYTES, ["once upon a time"], 0)
    list(book)
    save_reading(tmp_path / "book.state", book.reading, model)
    for _ in range(2):  # asked twice: a file is not used up
        again = load_reading(tmp_path / "book.state", model)
        assert generate(model, BYTES, " there was", 15, seed=3, reading=again) == whole
    assert generate(model, BYTES, "", 5, reading=load_reading(tmp_path / "book.state", model))


def test_a_reading_of_another_model_or_a_broken_file_is_refused(model, tmp_path):
    path = tmp_path / "book.state"
    save_reading(path, read(model, [[1, 2]]), model)
    with torch.no_grad():
        model.head.weight.add_(0.1)
    with pytest.raises(ValueError, match="was saved by another model, or by this one before more training"):
        load_reading(path, model)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no state file, or was cut short"):
        load_reading(path, model)
    with pytest.raises(ValueError, match="no state file"):
        load_reading(tmp_path / "none", model)


@pytest.mark.parametrize("pieces", [["abc STOP def"], ["abc S", "TO", "P def"], list("abc STOP def")])
def test_stop_strings_end_a_text_and_are_no_part_of_it(pieces):
    stop, out = StopFilter(["STOP", "nothing"]), ""
    for piece in pieces:
        text, stopped = stop.push(piece)
        out += text
        if stopped:
            break
    assert stopped
    assert out == "abc "


def test_a_stop_string_that_does_not_come_is_let_out(model):
    free = generate(model, BYTES, "To be", 25, seed=1)
    assert generate(model, BYTES, "To be", 25, seed=1, stop=[free[-1] + "\0never"]) == free
    stopped = generate(model, BYTES, "To be", 25, seed=1, stop=[free[10:13]])
    assert stopped == free[: free.index(free[10:13])]


def test_a_stopped_row_stays_as_it_was_while_others_go_on(model):
    free = [generate(model, BYTES, p, 20, temperature=0) for p in PROMPTS[:2]]
    stop = free[0][4:6]
    writer = Writer(model, BYTES, PROMPTS[:2], 20, Sampling(temperature=0), [stop])
    list(writer)
    assert writer.texts[0] == free[0][: free[0].index(stop)]
    alone = Writer(model, BYTES, PROMPTS[:1], 20, Sampling(temperature=0), [stop])
    list(alone)
    torch.testing.assert_close(writer.reading.logits[0], alone.reading.logits[0], rtol=0, atol=1e-5)


def test_one_stop_string_and_one_prompt_need_no_list(model):
    free = generate(model, BYTES, "To be", 25, seed=1)
    assert generate(model, BYTES, "To be", 25, seed=1, stop=free[10:13]) == free[: free.index(free[10:13])]
    writer = Writer(model, BYTES, "To be", 25, Sampling(seed=1))
    list(writer)
    assert writer.texts == [free]


def test_no_prompts_no_texts(model):
    assert generate(model, BYTES, []) == []
    with pytest.raises(ValueError, match="no prompts"):
        read(model, [])


def test_writing_twice_writes_the_same(model):
    start = read(model, [BYTES.encode("Season of")])
    for reading in (None, start):
        writer = Writer(model, BYTES, ["To be"], 12, Sampling(seed=2), reading=reading)
        first, (texts, ended, tokens) = list(writer), (writer.texts, writer.reading, writer.stats["prompt_tokens"])
        assert list(writer) == first
        assert (writer.texts, writer.stats["prompt_tokens"]) == (texts, tokens)
        assert torch.equal(writer.reading.logits, ended.logits)


@pytest.mark.parametrize("temperature", [1e-3, 1e-45, 5e-324])
def test_tiny_temperatures_take_the_likeliest(temperature):
    logits, random = torch.tensor([-80.0, 3e4, 2e4, 3e4 - 1]), torch.Generator().manual_seed(0)
    assert {Sampling(temperature=temperature).draw(logits, random) for _ in range(20)} == {1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature):
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="the model's logits are not finite"):
            Sampling(temperature=temperature).draw(torch.tensor([0.0, broken]), torch.Generator())


def tamper(path, change=None, **notes):
    """Change the tensors and notes of a state file."""
    with safe_open(path, "pt") as file:
        old, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change:
        change(tensors)
    save_file(tensors, path, old | notes)


TAMPERED = {
    "version": (None, dict(version="2"), "is of version '2'; this longshort reads version '1'"),
    "no logits": (lambda t: t.pop("logits"), {}, r"its logits are missing, not \(rows, 256\)"),
    "flat logits": (lambda t: t.update(logits=torch.zeros(256)), {}, r"its logits have shape \(256,\)"),
    "no rows": (lambda t: t.update(logits=torch.zeros(0, 256)), {}, r"its logits have shape \(0, 256\)"),
    "narrow logits": (lambda t: t.update(logits=torch.zeros(1, 9)), {}, r"its logits have shape \(1, 9\)"),
    "other rows": (
        lambda t: t.update(logits=torch.zeros(2, 256)),
        {},
        r"state\..* is .* \(1, .*, and should be .* \(2,",
    ),
    "whole logits": (lambda t: t.update(logits=torch.zeros(1, 256, dtype=torch.long)), {}, "logits is int64"),
    "other dtype": (
        lambda t: t.update({k: x.half() for k, x in t.items() if k != "logits"}),
        {},
        "is float16 .*should be",
    ),
    "one more": (lambda t: t.update(extra=torch.zeros(1)), {}, r"\['extra'\] are missing or unknown"),
    "one less": (lambda t: t.pop(max(t)), {}, r"\['state\..*'\] are missing or unknown"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_readings_are_refused_in_words(name, model, tmp_path):
    change, notes, message = TAMPERED[name]
    path = tmp_path / "book.state"
    save_reading(path, read(model, [[1, 2, 3]]), model)
    tamper(path, change, **notes)
    with pytest.raises(ValueError, match=rf"book\.state .*{message}"):
        load_reading(path, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", ["paper", "7b"])
def test_readings_of_any_model_come_back(block, dtype, tmp_path):
    kinds = ("mlstm", "slstm", "lstm", "rnn")
    config = xLSTMConfig(embedding_dim=16, num_heads=2, blocks=kinds, block=block, vocab_size=256, round_up_to=16)
    model = xLSTMLM(config).to(dtype).eval()
    reading = read(model, [BYTES.encode("Season of mists"), BYTES.encode("and")])
    save_reading(tmp_path / "a.state", reading, model)
    again = load_reading(tmp_path / "a.state", model)
    for name, x in generation.named_tensors(reading.state).items():
        assert torch.equal(generation.named_tensors(again.state)[name], x), name


def test_top_k_and_top_p_draw_from_the_likeliest():
    logits = torch.tensor([0.1, 0.5, 0.25, 0.15]).log()
    random = torch.Generator().manual_seed(0)
    drawn = lambda **options: {Sampling(**options).draw(logits, random) for _ in range(200)}  # noqa: E731
    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_p=0.6) == {1, 2}
    assert drawn(top_p=0.01) == {1}
    assert drawn(temperature=0) == {1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Sampling(temperature=-1), "temperature=-1"),
        (lambda m: Sampling(temperature=math.inf), "temperature=inf: 0 .greedy. or more, and finite"),
        (lambda m: Sampling(temperature=math.nan), "temperature=nan"),
        (lambda m: Sampling(seed=2**64), "seed=18446744073709551616: a whole number of at most 62 bits"),
        (lambda m: Sampling(top_k=0), "top_k=0"),
        (lambda m: Sampling(top_p=1.5), "top_p=1.5"),
        (lambda m: generate(m, BYTES, "", 3), "an empty prompt"),
        (lambda m: generate(m, BYTES, "a", -1), "max_tokens=-1"),
        (lambda m: read(m, [[300]]), r"token 300 is outside the vocabulary 0..255"),
        (lambda m: read(m, [[-1]]), "token -1 is outside"),
        (lambda m: read(m, [[1], [2]], read(m, [[1]])), "2 prompts cannot go on from a reading of 1"),
        (lambda m: generate(m, CharTokenizer("abc"), "abd", 1), "'d' is not in this model's vocabulary"),
    ],
)
def test_bad_requests_are_refused_in_words(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_decoding_carries_a_state_of_constant_size(model):
    sizes = []
    for n in (1, 50):
        writer = Writer(model, BYTES, ["To be"], n)
        list(writer)
        sizes.append(sum(x.numel() for x in generation.named_tensors(writer.reading.state).values()))
    assert sizes[0] == sizes[1]


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lanes", "piece"), [(1, 1000), (1, 7), (4, 13)])
def test_evaluate_scores_every_token_with_all_its_past(model, tmp_path, lanes, piece):
    text = "Season of mists and mellow fruitfulness — close bosom-friend of the maturing sun. " * 12
    data = prepare(Corpus("keats", text, (0,)), BYTES, tmp_path)
    ids = torch.from_numpy(data.heldout.ids.astype("int64"))
    borders = torch.linspace(0, len(ids), lanes + 1, dtype=torch.float64).long().tolist()
    nats = math.log(256)
    for a, b in itertools.pairwise(borders):
        lane = ids[max(a - 1, 0) : b][None]
        logits, _ = model(lane[:, :-1])
        nats -= logits.log_softmax(-1).gather(-1, lane[:, 1:, None]).sum().item()
    got = evaluate(model, data.heldout, BYTES, lanes=lanes, piece=piece)
    assert got.bits_per_character == pytest.approx(nats / math.log(2) / got.characters, rel=1e-5)
    assert got.perplexity == pytest.approx(math.exp(nats / len(ids)), rel=1e-5)
    assert (got.tokens, got.characters) == (len(ids), data.notes["heldout"]["characters"])


def test_evaluate_with_a_limit_scores_the_first_of_every_part(model, tmp_path):
    text = "Season of mists and mellow fruitfulness, close bosom-friend of the maturing sun. " * 12
    data = prepare(Corpus("keats", text, (0,)), BYTES, tmp_path)
    got = evaluate(model, data.heldout, BYTES, limit=40, lanes=4)
    assert (got.tokens, got.characters) == (40, 40)
    whole = evaluate(model, data.heldout, BYTES, lanes=4)
    assert got.bits_per_character == pytest.approx(whole.bits_per_character, rel=0.1)
