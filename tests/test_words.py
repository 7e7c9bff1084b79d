"""Words against NLTK's own tokenizer, and the way back to normal spacing."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer

from textgan.data.words import join_words, split_sentences, split_words

nltk_words = NLTKWordTokenizer().tokenize

ONE_SENTENCE = [
    "a bicycle replica with a clock as the front wheel.",
    "a man, a plan, a canal",
    "She said: \"I can't, won't and don't!\"",
    "It cost $3,000.50 (or 50%) at 10:30 & that's #1",
    "Mr. Smith cannot come; he's gonna be late...",
    "'Tis the dogs' bones -- and the cats' too",
    "A half-open door/window, v1.2.3, x_y, 3,4, ,x",
    "wanna go? No",
    "",
    ".",
    " . ",
]

PLAIN = [
    "Mia found a red kite in the park. She wanted to fly it, but there was no wind.",
    'Tom asked his sister for help. "Hold on tight!" she said. They laughed all day.',
    "Anna's brother didn't know. He'd lost it, hadn't he? They're sure it wasn't Ben's.",
    'In the end she whispered, "Don\'t be afraid, little one." The dog slept.',
    '"Where are you?" he called. Nobody answered... At 10:30 he went home (alone).',
    "'Impossible!' cried the king. 'I have 3,000 horses, and none is lame.'",
    "The dogs' bowl was empty. She cannot see 50% of it: $5 isn't enough; go!",
    "Mr. J. Smith met Dr. Who at 5 a.m. on Monday. It was I. So it goes.",
    "“Well,” she said, “it’s the boys’ turn.” ‘Yes,’ said Tom.",
    "One day--it was May—she sang 'Tis' twice (or 1990–95).",
    "The twins' mother called 'em home. She's 'gonna' wait [here].",
    "小明在公园里看见一只红色的风筝。他说：“我想要它！”风筝飞走了……",
    '他问："你在做什么？"她说："我在看《西游记》第3回，很好。"',
    "我叫哈利·波特，今年11岁——住在London。",
    "12 4031 7",
]


@pytest.mark.parametrize("line", ONE_SENTENCE)
def test_one_sentence_is_split_as_by_nltk(line):
    assert split_words(line) == nltk_words(line)


@given(st.text(st.sampled_from("aIt019 ,.-/_\té'cannotgimme"), max_size=30))
@settings(max_examples=300, deadline=None)
def test_short_cut_for_plain_sentences_equals_nltk(text):
    sentences = split_sentences(text)
    assert split_words(text) == [word for sentence in sentences for word in nltk_words(sentence)]


def test_every_sentence_of_a_text_loses_its_full_stop():
    assert split_words("He ran. She hid. They met.")[2::3] == [".", ".", "."]
    assert nltk_words("He ran. She hid.")[1] == "ran."  # what the sentence splitter is for


@pytest.mark.parametrize(
    "text, sentences",
    [
        ('"Go." She went. "Why?" he asked', ['"Go."', "She went.", '"Why?"', "he asked"]),
        ("Mr. Fox met J. R. Hare at 5 p.m. today. So did I. Then.", 3),
        ("the end. the start!) yes", ["the end.", "the start!)", "yes"]),
        ("Ask St. Nick vs. the Rev. Green. No. Never.", 3),
        ("pi is 3.14 or so", 1),
        ("  \n ", []),
    ],
)
def test_sentences(text, sentences):
    found = split_sentences(text)
    assert (len(found) if isinstance(sentences, int) else found) == sentences


def test_cjk_characters_are_one_token_each():
    assert split_words("我love猫，ひカ。") == ["我", "love", "猫", "，", "ひ", "カ", "。"]
    assert split_words("한국어 단어") == ["한국어", "단어"]  # Korean has words of its own
    assert split_words("𠀀𠀁") == ["𠀀", "𠀁"]  # beyond the first plane


@pytest.mark.parametrize("text", PLAIN)
def test_round_trip_of_plain_prose_is_exact(text):
    assert join_words(split_words(text)) == text


@pytest.mark.parametrize(
    "text, normal",
    [
        ("a ,b .  c\nd", "a, b. c d"),
        ("( a ) costs 50 % of $ 5", "(a) costs 50% of $5"),
        ("you can not", "you cannot"),
        ("said-- 'yes'", "said--'yes'"),
        ("I ' d say it ' s over", "I'd say it's over"),
        ('" It is , " he said , " fun . "', '"It is," he said, "fun."'),
        ("我 爱 London 的 雨", "我爱London的雨"),
        ("``quoted''", '"quoted"'),
    ],
)
def test_documented_normalisation(text, normal):
    assert join_words(split_words(text)) == normal


def test_a_quote_without_its_partner_does_not_swallow_spaces():
    assert join_words(["she", "said", ",", "``", "go", "on"]) == 'she said, "go on'
    assert join_words(["go", "on", ",", "''", "she", "said"]) == 'go on," she said'
    assert join_words(["the", "dogs", "'", "bone"]) == "the dogs' bone"


WORD = st.from_regex(r"[A-Z]?[a-z]{1,6}|[0-9]{1,4}|[a-z]{2,4}'s|(?:did|was)n't", fullmatch=True)
CLAUSE = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
CLAUSES = st.lists(CLAUSE, min_size=1, max_size=3).map(", ".join)
SENTENCE = st.tuples(CLAUSES, st.sampled_from(".!?")).map("".join)
QUOTED = st.tuples(SENTENCE, CLAUSE).map(lambda pair: f'"{pair[0]}" {pair[1]} said.')
JOINED = re.compile(r"\b(can|gim|gon|got|lem|wan) (?=(?:not|me|na|ta)\b)", re.IGNORECASE)


@given(st.lists(st.one_of(SENTENCE, QUOTED), min_size=1, max_size=4).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_round_trip_of_made_up_prose(text):
    assert join_words(split_words(text)) == JOINED.sub(r"\1", text)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_split_and_joined_without_losing_letters(text):
    def letters(string):
        return [c for c in string if c.isalnum()]

    assert letters(join_words(split_words(text))) == letters(text)


@given(st.lists(st.sampled_from(["``", "''", "'", "’", "a", "n't", ".", "(", "", "--", "我"]), max_size=12))
def test_any_words_can_be_joined(words):
    words = [word for word in words if word]
    text = join_words(words)
    assert "  " not in text
    assert text == text.strip()


@pytest.mark.corpora
def test_captions_come_back(corpora):
    lines = (corpora / "image_coco" / "train.txt").read_text(encoding="utf-8").splitlines()
    words = [split_words(line) for line in lines]
    texts = [join_words(line_words) for line_words in words]
    spaced = [" ".join(line.split()) for line in lines]
    assert sum(a == b for a, b in zip(texts, spaced, strict=True)) >= 0.995 * len(lines)
    assert sum(split_words(a) == b for a, b in zip(texts, words, strict=True)) >= 0.999 * len(lines)
    differ = [line for line in lines if len(split_sentences(line)) == 1 and split_words(line) != nltk_words(line)]
    assert differ == []
