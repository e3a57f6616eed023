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


def test_find_tokens_needs_a_source_where_there_is_no_run(tmp_path):
    with pytest.raises(DataError, match="say which text with --data"):
        find_tokens(tmp_path, None, ByteTokenizer(), tmp_path)


def test_xz_bits_are_those_of_the_compressor(tmp_path):
    data = prepare(CORPUS, ByteTokenizer(), tmp_path)
    held = TEXT[cut(TEXT) :]
    xz = xz_bits(data)
    assert xz.alone == len(lzma.compress(held.encode(), preset=9 | lzma.PRESET_EXTREME)) * 8 / len(held)
    assert xz.primed < xz.alone
