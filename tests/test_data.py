"""Tokenizers lose nothing, corpora are read or refused in words, batches are the same whenever they are asked for."""

import json
import lzma

import numpy as np
import pytest
import torch

from longshort.data import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Corpus,
    DataError,
    TextStream,
    build_tokenizer,
    cut,
    find_tokens,
    load_corpus,
    load_tokenizer,
    open_tokens,
    prepare,
    save_tokenizer,
    xz_bits,
)

TEXT = "Season of mists and mellow fruitfulness,\nClose bosom-friend of the maturing sun — São Paulo, 雪, 🙂\n" * 20
CORPUS = Corpus("keats", TEXT, (0,))


def tokenizers():
    return [ByteTokenizer(), CharTokenizer.of(TEXT), BPETokenizer.of(TEXT, 300)]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_tokenizers_lose_nothing_and_survive_saving(kind, tmp_path):
    tokenizer = tokenizers()[kind]
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert (again.encode(TEXT) == ids).all()
    assert tokenizer.encode("").tolist() == []


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_text_stream_gives_whole_characters_only(kind):
    stream, tokenizer = TextStream(tokenizers()[kind]), tokenizers()[kind]
    pieces = [stream.push(i) for i in tokenizer.encode(TEXT[:120])] + [stream.flush()]
    assert "".join(pieces) == TEXT[:120]
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_stream_gives_up_on_broken_characters():
    stream = TextStream(ByteTokenizer())
    assert "".join(stream.push(b) for b in b"\xff\xfe\xfd\xfcab") == "\ufffd" * 4 + "ab"


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_text_stream_gives_what_all_tokens_decode_to_stray_bytes_included(kind):
    tokenizer = tokenizers()[kind]
    for seed in range(20):
        ids = np.random.default_rng(seed).integers(0, tokenizer.vocab_size, 80).tolist()
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)


def test_text_stream_gives_whole_characters_after_stray_bytes():
    stream = TextStream(ByteTokenizer())
    assert [stream.push(b) for b in bytes.fromhex("fff09f9982")] == ["", "\ufffd", "", "", "🙂"]
    assert [stream.push(b) for b in b"\xf0\x9f"] == ["", ""]
    assert [stream.flush(), stream.push(97), stream.flush()] == ["\ufffd", "a", ""]


def test_text_stream_holds_little_of_endless_stray_bytes():
    stream = TextStream(ByteTokenizer())
    text = "".join(stream.push(0xFF) for _ in range(500))
    assert len(stream.pending) <= 17
    assert text + stream.flush() == "\ufffd" * 500


def test_bpe_of_others_reads_whole_texts_and_adds_nothing():
    import tokenizers as library
    from tokenizers import processors

    ours = BPETokenizer.of(TEXT, 300)
    assert ours.by_lines
    data = ours.to_json()
    inner = library.Tokenizer.from_str(json.dumps(data))
    inner.add_special_tokens(["<s>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    inner.enable_truncation(5)
    inner.enable_padding(length=500)
    theirs = BPETokenizer(inner)
    assert not theirs.by_lines
    ids = theirs.encode(TEXT)
    assert theirs.decode(ids) == TEXT
    assert inner.token_to_id("<s>") not in ids
    spaced = BPETokenizer(library.Tokenizer.from_str(json.dumps(data)))
    spaced.inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced = BPETokenizer(spaced.inner)
    assert spaced.decode(spaced.encode("one\ntwo")) == " one\ntwo"  # a space before the text, not before every line


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("ab")])
@pytest.mark.parametrize("token", [-1, 256])
def test_decode_refuses_tokens_outside_the_vocabulary(tokenizer, token):
    with pytest.raises(
        DataError, match=f"token {token} is outside the tokenizer's vocabulary 0..{tokenizer.vocab_size - 1}"
    ):
        tokenizer.decode([token])


def test_char_tokenizer_names_the_stranger():
    with pytest.raises(DataError, match="'q' is not in this model's vocabulary of 2 characters: 'ab'"):
        CharTokenizer("ab").encode("aqb")


def test_bpe_learns_from_the_training_part_alone():
    corpus = Corpus("x", "a b c d " * 200 + "zq" * 80, (0,))
    assert "zq" not in build_tokenizer("bpe", corpus, 270).inner.get_vocab()


# ---- corpora --------------------------------------------------------------------------------------------------------


def test_embedded_corpus_is_eight_tragedies():
    corpus = load_corpus()
    assert len(corpus.text) == 1_158_225
    assert len(corpus.starts) == 8
    assert corpus.text.isascii()
    assert "Frailty, thy name is woman" in corpus.text
    assert all(corpus.text[s - 1] == "\n" for s in corpus.starts[1:])


def test_a_folder_is_one_document_a_file(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first\n")
    (tmp_path / "c.bin").write_bytes(b"\0")
    corpus = load_corpus(tmp_path)
    assert corpus.text == "first\nsecond"
    assert corpus.starts == (0, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"abc\0def", "is binary, not text: it has a NUL byte at 3"),
        ("Böhm".encode("latin1"), "is not UTF-8: byte 0xf6 at 1"),
    ],
)
def test_bad_texts_are_refused_in_words(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_corpus(path)


def test_missing_texts_are_refused_in_words(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder 'shakespear'. Did you mean 'shakespeare'"):
        load_corpus("shakespear")
    with pytest.raises(DataError, match=r"holds no .txt or .md files"):
        load_corpus(tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer 'byt'. Did you mean 'byte'"):
        build_tokenizer("byt", CORPUS)
    with pytest.raises(DataError, match="vocab_size=256 must be over 256"):
        build_tokenizer("bpe", CORPUS, 256)


# ---- token files ----------------------------------------------------------------------------------------------------


def test_held_out_text_is_the_last_tenth_whatever_the_tokenizer(tmp_path):
    for i, tokenizer in enumerate(tokenizers()):
        data = prepare(CORPUS, tokenizer, tmp_path / str(i))
        held = data.tokenizer.decode(data.heldout.ids)
        assert held == TEXT[-int(len(TEXT) / 10) :]
        assert data.tokenizer.decode(data.train.ids) + held == TEXT
        assert data.notes["heldout"]["characters"] == len(held)


def test_documents_keep_their_starts(tmp_path):
    text = "a" * 50 + "b" * 45 + "c" * 5
    data = prepare(Corpus("abc", text, (0, 50, 95)), ByteTokenizer(), tmp_path)
    assert cut(text) == 90
    assert data.train.starts.tolist() == [0, 50]
    assert data.heldout.starts.tolist() == [5]
    tokens, reset = data.train.window(np.array([48, 10]), 4)
    assert tokens[0].tolist() == [97, 97, 98, 98]
    assert reset.tolist() == [[False, False, True, False], [False] * 4]
    assert data.train.window(np.array([10]), 4)[1] is None


def test_batches_are_addressed_by_seed_and_step(tmp_path):
    data = prepare(CORPUS, ByteTokenizer(), tmp_path)
    first = data.train.batch(3, 7, 4, 11)[0]
    data.train.batch(3, 8, 4, 11)
    assert torch.equal(open_tokens(tmp_path).train.batch(3, 7, 4, 11)[0], first)
    assert not torch.equal(data.train.batch(3, 8, 4, 11)[0], first)
    assert not torch.equal(data.train.batch(4, 7, 4, 11)[0], first)


def test_lanes_run_through_the_text_and_reset_at_their_start(tmp_path):
    data = prepare(Corpus("count", "".join(chr(33 + i % 90) for i in range(100)), (0,)), ByteTokenizer(), tmp_path)
    lane = len(data.train) // 3  # 30 tokens each
    batches = [data.train.lane_batch(step, 3, 6) for step in range(6)]
    for b in range(3):
        seen = torch.cat([tokens[b, :-1] for tokens, _ in batches[:5]])
        assert torch.equal(seen, torch.from_numpy(data.train.ids[b * lane : b * lane + 25].astype(np.int64)))
    assert batches[0][1][:, 0].all()
    assert batches[1][1] is None
    assert torch.equal(batches[5][0], batches[0][0])
    with pytest.raises(DataError, match="90 tokens in 20 lanes make 4 each, fewer than the 6"):
        data.train.lane_batch(0, 20, 6)


@pytest.mark.parametrize(("vocab", "dtype"), [(256, "uint8"), (257, "uint16"), (70_000, "uint32")])
def test_tokens_take_the_smallest_integers(vocab, dtype, tmp_path):
    class Wide(ByteTokenizer):
        vocab_size = vocab

    assert str(prepare(CORPUS, Wide(), tmp_path).train.ids.dtype) == dtype


def test_tampered_token_folders_are_refused_in_words(tmp_path):
    prepare(CORPUS, ByteTokenizer(), tmp_path)
    with (tmp_path / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"train.bin has \d+ bytes, its data.json says \d+"):
        open_tokens(tmp_path)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        open_tokens(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(DataError, match="is of format 'other'"):
        open_tokens(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer of ours"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"holds no tokenizer.json"):
        load_tokenizer(tmp_path / "nowhere")


TAMPERED_TOKENIZERS = {
    "a list": ([], "names with values belong here, not a list"),
    "text": ("byte", "not a str"),
    "nothing": (None, "not a NoneType"),
    "a strange kind": ({"longshort": ["char"]}, "is no tokenizer of ours"),
    "no characters": ({"longshort": "char"}, "is made of the characters of its text, not of ''"),
    "numbers": ({"longshort": "char", "characters": [1, 2]}, r"not of \[1, 2\]"),
    "twice": ({"longshort": "char", "characters": "aba"}, "the character 'a' stands twice"),
    "a number": ({"model": 1}, "is no tokenizer that Hugging Face's tokenizers can read"),
    "no merges": ({"model": {"type": "BPE"}}, "is no tokenizer that Hugging Face's tokenizers can read"),
}


@pytest.mark.parametrize("name", TAMPERED_TOKENIZERS)
def test_tampered_tokenizers_are_refused_in_words(name, tmp_path):
    data, message = TAMPERED_TOKENIZERS[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=f"tokenizer.json.*{message}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{", b"[" * 100_000])
def test_tokenizers_that_are_no_json_are_refused_in_words(raw, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"tokenizer\.json is not JSON"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_finds_it_beside_weights_and_in_checkpoints(tmp_path):
    step = tmp_path / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (step / name).touch()
    save_tokenizer(ByteTokenizer(), step)
    for place in (tmp_path, tmp_path / "checkpoints", step, step / "model.safetensors"):
        assert load_tokenizer(place).vocab_size == 256


TAMPERED_NOTES = [
    (dict(dtype="float32"), "dtype='float32' is not one of uint8, uint16"),
    (dict(dtype=["uint8"]), "dtype=.* is not one of"),
    (dict(dtype="object"), "dtype='object'"),
    (dict(name=3), "name=3 should be text"),
    (dict(sha256=None), "sha256=None should be text"),
    (dict(train=[]), r"train=\[\] should say what is in train.bin"),
    (dict(heldout=None), "heldout=None should say"),
    (dict(train={}), "train.tokens=None should be a whole number"),
    (dict(tokens="9"), "train.tokens='9' should be"),
    (dict(tokens=-1), "train.tokens=-1"),
    (dict(characters=True), "train.characters=True"),
    (dict(starts=0), "train.starts should be a list"),
    (dict(starts=["0"]), "train.starts should be a list of whole numbers"),
    (dict(starts=[0, 0]), "train.starts should increase, within"),
    (dict(starts=[-1]), "train.starts should increase, within"),
    (dict(starts=[10**30]), "train.starts should increase, within"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED_NOTES)
def test_tampered_notes_are_refused_in_words(change, message, tmp_path):
    notes = prepare(CORPUS, ByteTokenizer(), tmp_path).notes
    top = {name: change[name] for name in change if name in notes}
    changed = notes | top if top else notes | {"train": notes["train"] | change}
    (tmp_path / "data.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=rf"data\.json: {message}"):
        open_tokens(tmp_path)


def test_token_files_that_do_not_fit_their_tokenizer_or_are_gone_are_refused(tmp_path):
    prepare(CORPUS, CharTokenizer.of(TEXT), tmp_path)
    save_tokenizer(CharTokenizer("abc"), tmp_path)
    with pytest.raises(DataError, match=r"train\.bin holds token \d+, .* of a char tokenizer of 3 tokens"):
        open_tokens(tmp_path)
    (tmp_path / "train.bin").unlink()
    with pytest.raises(DataError, match=r"train\.bin is missing"):
        open_tokens(tmp_path)


def test_empty_documents_start_where_the_next_does(tmp_path):
    data = prepare(Corpus("abc", "a" * 100, (0, 40, 40)), ByteTokenizer(), tmp_path)
    assert data.train.starts.tolist() == [0, 40]


def test_find_tokens_refuses_those_of_another_tokenizer(tmp_path):
    prepare(CORPUS, CharTokenizer.of(TEXT), tmp_path / "tokens")
    message = (
        r"tokens were made with a char tokenizer of \d+ tokens, and the model .*run reads .* a byte tokenizer of 256"
    )
    with pytest.raises(DataError, match=message):
        find_tokens(tmp_path / "run", str(tmp_path / "tokens"), ByteTokenizer(), tmp_path / "scratch")
    same = find_tokens(tmp_path / "run", str(tmp_path / "tokens"), CharTokenizer.of(TEXT), tmp_path / "scratch")
    assert same.tokenizer.decode(same.heldout.ids) == TEXT[cut(TEXT) :]


@pytest.mark.parametrize(
    "place", ["run", "run/checkpoints/step-00000001", "run/checkpoints/step-00000001/model.safetensors"]
)
def test_find_tokens_finds_what_a_run_was_given(place, tmp_path):
    prepare(CORPUS, ByteTokenizer(), tmp_path / "tokens")
    step = tmp_path / "run" / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (step / "model.safetensors").touch()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": {}, "data": str(tmp_path / "tokens")}))
    found = find_tokens(tmp_path / place, None, ByteTokenizer(), tmp_path)
    assert found.notes["name"] == "keats"
    (tmp_path / "run" / "config.json").write_text("[")
    with pytest.raises(DataError, match="say which text with --data"):
        find_tokens(tmp_path / place, None, ByteTokenizer(), tmp_path)


def test_find_tokens_needs_a_source_where_there_is_no_run(tmp_path):
    with pytest.raises(DataError, match="say which text with --data"):
        find_tokens(tmp_path, None, ByteTokenizer(), tmp_path)


def test_xz_bits_are_those_of_the_compressor(tmp_path):
    data = prepare(CORPUS, ByteTokenizer(), tmp_path)
    held = TEXT[cut(TEXT) :]
    xz = xz_bits(data)
    assert xz.alone == len(lzma.compress(held.encode(), preset=9 | lzma.PRESET_EXTREME)) * 8 / len(held)
    assert xz.primed < xz.alone


def test_token_files_never_go_into_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="holds a model or a run"):
        prepare(CORPUS, ByteTokenizer(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file: token files go into a folder"):
        prepare(CORPUS, ByteTokenizer(), tmp_path / "file")
