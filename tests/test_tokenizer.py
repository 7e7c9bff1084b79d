"""Tokenizers: round trips on any text, special tokens kept apart, one file that is loaded again."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.config import Config
from textgan.data.prompts import encode_prompt
from textgan.data.tokenizer import EOS, TOKENIZERS, load_tokenizer, save_tokenizer, train_tokenizer
from textgan.errors import UserError

TEXTS = [
    "Mia saw a dog. The dog saw Mia.",
    "A cat and a dog sat in the sun, and Mia didn't.",
    "小狗看见了米娅。",
    f"a {EOS} in the text {EOS}{EOS} and an <unk>",
] * 2
BPE = train_tokenizer("bpe", TEXTS, vocab_size=320)
BPE_LOWER = train_tokenizer("bpe", TEXTS, vocab_size=320, lowercase=True)
ANY_TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from([EOS, "<unk>", "a", " ", "狗", "\n"])).map("".join))


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_bpe_gives_any_text_back_and_no_special_token(text):
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert BPE.eos_id not in ids
    assert BPE.decode([BPE.eos_id, *ids, BPE.eos_id, BPE.eos_id]) == text


@given(ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_bpe_of_lower_case_lowers_each_character(text):
    assert BPE_LOWER.decode(BPE_LOWER.encode(text)) == "".join(c.lower() for c in text)


@given(st.lists(ANY_TEXT, min_size=1, max_size=4).filter(lambda texts: any(texts)))
@settings(max_examples=100, deadline=None)
def test_characters_give_the_texts_they_know_back(texts):
    tokenizer = train_tokenizer("char", texts)
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode([0, *ids, 0]) == text
        assert len(ids) == len(text)
        assert not {tokenizer.eos_id, tokenizer.unk_id} & set(ids)
    assert tokenizer.vocab_size == 2 + len(set("".join(texts)))


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1], TEXTS[2], "12 4031 7"])
def test_words_give_normal_text_back(text):
    tokenizer = train_tokenizer("word", [*TEXTS, "12 4031 7"])
    assert tokenizer.decode([0, *tokenizer.encode(text), 0]) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_end_of_text_written_out_is_text(kind):
    tokenizer = train_tokenizer(kind, TEXTS * 50, vocab_size=400)
    ids = tokenizer.encode(f"a {EOS} in")
    assert tokenizer.eos_id == 0
    assert 0 not in ids
    assert tokenizer.decode(ids).replace(" ", "") == f"a{EOS}in"
    assert tokenizer.tokens([0]) == [EOS]


def test_vocabulary_is_ordered_by_count_and_then_text():
    tokenizer = train_tokenizer("word", ["b b c a a d", "d d e"])
    assert tokenizer.tokens(range(7)) == [EOS, "<unk>", "d", "a", "b", "c", "e"]
    small = train_tokenizer("word", ["b b c a a d", "d d e"], vocab_size=4)
    assert small.tokens(range(small.vocab_size)) == [EOS, "<unk>", "d", "a"]
    often = train_tokenizer("char", ["bbcaad", "dde"], min_count=2)
    assert often.tokens(range(often.vocab_size)) == [EOS, "<unk>", "d", "a", "b"]


def test_unknown_words_and_characters():
    words = train_tokenizer("word", ["a dog ran ."])
    assert words.encode("a cat ran.") == [words.encode("a")[0], 1, *words.encode("ran.")]
    assert words.decode(words.encode("a cat ran.")) == "a <unk> ran."
    assert words.tokens(words.encode("cat")) == ["<unk>"]
    chars = train_tokenizer("char", ["abc"])
    assert chars.decode(chars.encode("abx")) == "ab<unk>"
    assert BPE.unk_id is None


@pytest.mark.parametrize("kind", ["word", "char"])
def test_lower_case_holds_for_training_and_encoding(kind):
    tokenizer = train_tokenizer(kind, ["The DOG"], lowercase=True)
    assert tokenizer.decode(tokenizer.encode("THE dog")) == "the dog"
    assert tokenizer.vocab_size == (4 if kind == "word" else 9)


def test_bpe_is_trained_on_the_corpus():
    assert BPE.vocab_size == 320
    assert " dog" in BPE.tokens(BPE.encode("the dog"))
    assert len(BPE.encode(TEXTS[0])) < len(TEXTS[0])
    assert "".join(BPE.tokens(BPE.encode("plain words"))) == "plain words"


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_saved_and_loaded_it_is_the_same(kind, lowercase, tmp_path):
    tokenizer = train_tokenizer(kind, TEXTS, vocab_size=300, lowercase=lowercase)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.to_json() == tokenizer.to_json()
    assert (loaded.kind, loaded.vocab_size, loaded.eos_id, loaded.unk_id) == (
        kind,
        tokenizer.vocab_size,
        0,
        None if kind == "bpe" else 1,
    )
    for text in [*TEXTS, "MIA 狗 unseen \t x"]:
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_training_again_gives_the_same_file():
    for kind in TOKENIZERS:
        files = {train_tokenizer(kind, iter(TEXTS), vocab_size=310).to_json() for _ in range(3)}
        assert len(files) == 1


def test_the_bpe_file_is_hugging_faces_own(tmp_path):
    save_tokenizer(BPE, tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXTS[0]).ids == BPE.encode(TEXTS[0])
    assert theirs.token_to_id(EOS) == BPE.eos_id


def test_a_foreign_bpe_with_its_end_of_text_elsewhere_is_taken(tmp_path):
    content = json.loads(BPE.to_json())
    vocab = content["model"]["vocab"]
    last = len(vocab) - 1
    swap = {0: last, last: 0}
    content["model"]["vocab"] = {piece: swap.get(i, i) for piece, i in vocab.items()}
    content["added_tokens"][0]["id"] = last
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.eos_id == last
    assert tokenizer.decode([last, *tokenizer.encode("the dog"), last]) == "the dog"


# --- how words are cut, and `<unk>` in texts


@given(st.lists(st.sampled_from(["a", "b.", "can't", "mr.", "<unk>", ",", "狗b", "A"]), max_size=12))
@settings(max_examples=100, deadline=None)
def test_whitespace_words_are_those_of_str_split(words):
    tokenizer = train_tokenizer("word", ["a b. can't mr. , 狗b <unk>"], split="whitespace")
    assert tokenizer.vocab_size == 2 + 6  # <unk> is no word of its own
    ids = tokenizer.encode("  " + " \t ".join(words) + " \n")
    known = [word if word != "A" else "<unk>" for word in words]
    assert tokenizer.tokens(ids) == known
    assert tokenizer.decode([0, *ids, 0]) == " ".join(known)
    assert [i == tokenizer.unk_id for i in ids] == [word == "<unk>" for word in known]


@pytest.mark.parametrize("split", ["words", "whitespace"])
def test_unk_written_out_is_the_unknown_token(split):
    tokenizer = train_tokenizer("word", ["mr. <unk> saw a dog ."], split=split)
    ids = tokenizer.encode("mr. <unk> saw a <unk> .")
    assert tokenizer.tokens(ids) == ["mr.", "<unk>", "saw", "a", "<unk>", "."]
    assert ids.count(1) == 2
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.vocab_size == 2 + 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("The <unk>'s dog, <unk>.", ["The", "<unk>", "'s", "dog", ",", "<unk>", "."]),
        ("mr. <unk> <unk>", ["mr.", "<unk>", "<unk>"]),
        ("(<unk>)", ["(", "<unk>", ")"]),
        ("a \ue000 b <unk>", ["a", "\ue000", "b", "<unk>"]),  # a character that could stand in for it
        ("a<unk>b", ["a<unk>b"]),
    ],
)
def test_unk_is_cut_off_as_any_other_word(text, words):
    assert train_tokenizer("word", ["a"]).pieces(text) == words


def test_a_word_that_is_the_end_of_text_is_unknown():
    tokenizer = train_tokenizer("word", [f"a {EOS} b", EOS], split="whitespace")
    assert tokenizer.encode(f"a {EOS} b") == [2, 1, 3]
    assert tokenizer.vocab_size == 4


@pytest.mark.parametrize("split", ["words", "whitespace"])
def test_the_file_keeps_the_split(split, tmp_path):
    tokenizer = train_tokenizer("word", ["mr. <unk> can't see U.S. dogs. A cat."], split=split)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert json.loads(loaded.to_json())["textgan"]["split"] == loaded.split == split
    for text in ("mr. <unk> can't see.", "dogs. A cat."):
        assert loaded.encode(text) == tokenizer.encode(text)


def test_files_that_name_no_split_cut_as_they_did(tmp_path):
    pieces = [EOS, "<unk>", "<", ">", "a", "unk", "."]
    header = {"format": 1, "kind": "word", "lowercase": False}
    content = {"version": "1.0", "textgan": header, "model": {"vocab": {p: i for i, p in enumerate(pieces)}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.tokens(tokenizer.encode("a <unk>.")) == ["a", "<", "unk", ">", "."]
    assert json.loads(tokenizer.to_json())["textgan"] == header


@pytest.mark.corpora
def test_penn_treebank_has_the_published_numbers(corpora):
    """10,000 types with the end of a sentence, 929,589 / 73,760 / 82,430 tokens with it (Mikolov et al. 2010)."""
    splits = {name: (corpora / "ptb" / f"ptb.{name}.txt").read_text() for name in ("train", "valid", "test")}
    lines = {name: [line.strip() for line in text.removesuffix("\n").split("\n")] for name, text in splits.items()}
    tokenizer = train_tokenizer("word", lines["train"], split="whitespace")
    assert tokenizer.vocab_size == 10_000
    sizes = {name: sum(len(tokenizer.encode(line)) + 1 for line in rows) for name, rows in lines.items()}
    assert sizes == {"train": 929_589, "valid": 73_760, "test": 82_430}
    ids = [i for line in lines["test"] for i in tokenizer.encode(line)]
    assert ids.count(1) == splits["test"].split().count("<unk>")  # nothing else is unknown
    assert tokenizer.decode(tokenizer.encode(lines["train"][1])) == lines["train"][1]


WORD_FILE = json.loads(train_tokenizer("word", ["a b"]).to_json())
BPE_FILE = json.loads(BPE.to_json())


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "does not hold JSON"),
        ("\udcff", "does not hold JSON"),
        ("[1]", "has no model"),
        ({**WORD_FILE, "textgan": {**WORD_FILE["textgan"], "format": 4}}, "format 4 is newer"),
        ({**WORD_FILE, "textgan": {**WORD_FILE["textgan"], "kind": "morse"}}, "kind 'morse' is unknown"),
        ({**WORD_FILE, "textgan": {**WORD_FILE["textgan"], "split": "dots"}}, "split 'dots' is unknown"),
        ({**WORD_FILE, "model": {"vocab": {"a": 0, "b": 2}}}, "are not 0, 1, 2"),
        ({**WORD_FILE, "model": {"vocab": {"a": 0, "b": 1}}}, r"holds <\|endoftext\|>, <unk>"),
        ({**WORD_FILE, "textgan": 3}, "cannot use"),
        ({**WORD_FILE, "model": {}}, "cannot use"),
        ({"model": {"type": "Unigram"}}, "is a Unigram tokenizer; byte-level BPE"),
        ({**BPE_FILE, "decoder": None}, "byte-level BPE can be used"),
        ({**BPE_FILE, "model": {"type": "BPE", "vocab": 1}}, "the tokenizers library says"),
        ({**BPE_FILE, "added_tokens": [], "model": {**BPE_FILE["model"], "vocab": {"a": 0}, "merges": []}}, "no <"),
    ],
)
def test_broken_and_foreign_files_are_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("words", {}, "unknown tokenizer 'words'; known: word, char, bpe; did you mean 'word'"),
        ("bpe", {"vocab_size": 256}, "vocab_size=256 is too small for a bpe tokenizer; at least 257"),
        ("word", {"vocab_size": 2}, "at least 3"),
        ("word", {"min_count": 3}, "no word that occurs 3 times"),
        ("word", {"split": "spaces"}, "unknown split 'spaces'; known: words, whitespace"),
        ("bpe", {"split": "whitespace"}, "split=whitespace is for words; a bpe tokenizer has none"),
    ],
)
def test_impossible_wishes_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(kind, ["a b"], **options)


def test_a_config_names_the_split_of_words_alone():
    assert Config(tokenizer={"split": "whitespace"}).tokenizer.split == "whitespace"
    assert Config(tokenizer={"kind": "char"}).tokenizer.split == "words"
    with pytest.raises(ValueError, match=r"tokenizer\.split=whitespace is for tokenizer\.kind=word, not bpe"):
        Config(tokenizer={"kind": "bpe", "split": "whitespace"})


def test_a_prompt_may_hold_unk_but_no_other_unknown_word():
    tokenizer = train_tokenizer("word", ["a dog ran ."], split="whitespace")
    assert encode_prompt(tokenizer, "a <unk> ran", block_size=9, name="prompt") == tokenizer.encode("a cat ran")
    with pytest.raises(UserError, match=r"prompt: the model does not know the word `ran\.` \(known: ran\); use others"):
        encode_prompt(tokenizer, "a <unk> ran.", block_size=9, name="prompt")


def test_no_words_at_all():
    with pytest.raises(UserError, match=r"the texts have no word$"):
        train_tokenizer("word", ["  ", ""])


def test_ids_out_of_range_are_a_programming_error():
    for kind in TOKENIZERS:
        tokenizer = train_tokenizer(kind, TEXTS, vocab_size=300)
        for ids in ([-1], [tokenizer.vocab_size]):
            with pytest.raises(ValueError, match="ids must lie in 0"):
                tokenizer.decode(ids)
        assert tokenizer.decode([]) == ""
