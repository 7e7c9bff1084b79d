"""The story grammars: probabilities against enumeration and sampling, agreement against regular expressions."""

import math
import random
import re
from collections import Counter

import pytest

from textgan.data import story_chinese, story_english
from textgan.data.story_grammar import StoryGrammar, load_grammar
from textgan.data.words import join_words, split_words
from textgan.errors import UserError

LEXICON = """
pet | an | he | eats
    3 cat | a  | she | fish
    owl   | an | he  | fish,mice
food
    fish
    mice
"""
RULES = """
story
    3 <start> {Pet.he} ate {+food text=$pet.eats}<end>
    [pet] never
    1 <start> It slept(| well| (long|late)).
start
    Here is {+pet.an} {pet}.
end
    [food=mice] , all of them.
    2 [food!=mice] .{sad=yes}
    1 [!sad food=fish] !
"""
# Worked by hand: 3/4 for the first alternative, 3/4 for the cat, 2/3 for the full stop; and so on.
EVERY_STORY = {
    "Here is a cat. She ate fish.": 3 / 4 * 3 / 4 * 2 / 3,
    "Here is a cat. She ate fish!": 3 / 4 * 3 / 4 * 1 / 3,
    "Here is an owl. He ate fish.": 3 / 4 * 1 / 4 * 1 / 2 * 2 / 3,
    "Here is an owl. He ate fish!": 3 / 4 * 1 / 4 * 1 / 2 * 1 / 3,
    "Here is an owl. He ate mice, all of them.": 3 / 4 * 1 / 4 * 1 / 2,
    "Here is a cat. It slept.": 1 / 4 * 3 / 4 * 1 / 3,
    "Here is a cat. It slept well.": 1 / 4 * 3 / 4 * 1 / 3,
    "Here is a cat. It slept long.": 1 / 4 * 3 / 4 * 1 / 6,
    "Here is a cat. It slept late.": 1 / 4 * 3 / 4 * 1 / 6,
    "Here is an owl. It slept.": 1 / 4 * 1 / 4 * 1 / 3,
    "Here is an owl. It slept well.": 1 / 4 * 1 / 4 * 1 / 3,
    "Here is an owl. It slept long.": 1 / 4 * 1 / 4 * 1 / 6,
    "Here is an owl. It slept late.": 1 / 4 * 1 / 4 * 1 / 6,
}


def chi_square_is_small(observed: Counter, probs: dict[str, float]) -> bool:
    """Within 4 standard deviations of its mean; every expected count is large enough here."""
    n = sum(observed.values())
    assert observed.keys() <= probs.keys()
    assert min(probs.values()) * n > 5
    assert sum(probs.values()) == pytest.approx(1)
    chi2 = sum((observed[key] - n * p) ** 2 / (n * p) for key, p in probs.items())
    freedom = len(probs) - 1
    return chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_small_grammar_equals_the_hand_worked_probabilities():
    grammar = StoryGrammar(LEXICON, RULES)
    listed = {text: math.exp(value) for text, value in grammar.stories()}
    assert listed == pytest.approx(EVERY_STORY)
    assert {text: math.exp(grammar.log_prob(text)) for text in EVERY_STORY} == pytest.approx(EVERY_STORY)
    assert grammar.count() == len(EVERY_STORY)
    assert grammar.entropy() == (pytest.approx(-sum(p * math.log(p) for p in EVERY_STORY.values())), 0.0)


def test_small_grammar_samples_follow_the_probabilities():
    assert chi_square_is_small(Counter(StoryGrammar(LEXICON, RULES).sample_many(10_000, seed=1)), EVERY_STORY)


def test_log_prob_adds_up_all_derivations():
    grammar = StoryGrammar("", "story\n    3 (a|aa)(aa|a)\n    aaa\n")
    assert sorted(map(math.exp, grammar.derivations("aaa"))) == pytest.approx([3 / 16, 3 / 16, 1 / 4])
    assert grammar.log_prob("aaa") == pytest.approx(math.log(10 / 16))


@pytest.mark.parametrize(
    ("lexicon", "rules", "message"),
    [
        ("", "tale\n    a", "needs a rule `story`"),
        ("", "    a", "before the first header"),
        ("", "story\n    a\nstory\n    b", "stands twice"),
        ("", "story\n    <end>", "no rule <end>"),
        ("", "story\n    a<story>", "tells itself"),
        ("", "story\n    (a|b", "never closed"),
        ("", "story\n    a)b", "out of place"),
        ("", "story\n    {+pet}", "no table `pet`"),
        ("pet | he\n    cat", "story\n    {+pet}", "2 cells expected, 1 found"),
        ("pet\n    cat", "story\n    {+pet.he}", "no feature `he`"),
        ("pet\n    cat", "story\n    {+pet legs=4}", "no feature `legs`"),
        ("", "story\n    {a b}", "not a slot"),
        ("", "story\n    [a=] b", "not a condition"),
    ],
)
def test_broken_notation_is_refused(lexicon, rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        StoryGrammar(lexicon, rules)


def test_measuring_meets_what_was_never_introduced_and_dead_ends():
    with pytest.raises(ValueError, match="says `pet` where nothing introduced it"):
        StoryGrammar("pet\n    cat", "story\n    ({+pet}|no pet) and {pet}").count()
    with pytest.raises(ValueError, match=r"no way on where \{'pet': 'cat'\}"):
        StoryGrammar("pet\n    cat", "story\n    {+pet}<end>\nend\n    [pet=dog] .").count()


def test_unknown_language_is_refused():
    with pytest.raises(UserError, match="`fr`; there are `en` and `zh`"):
        load_grammar("fr")


@pytest.fixture(scope="module", params=["en", "zh"])
def edition(request):
    grammar = load_grammar(request.param)
    return grammar, grammar.sample_many(3000, seed=5)


def test_every_story_has_one_derivation(edition):
    grammar, stories = edition
    assert all(len(grammar.derivations(story)) == 1 for story in stories)
    assert all(grammar.explain(story) is None for story in stories[:100])
    assert len(set(stories)) > 0.99 * len(stories)


def test_exact_entropy_agrees_with_the_samples(edition):
    grammar, stories = edition
    nats = [-grammar.log_prob(story) for story in stories]
    mean = sum(nats) / len(nats)
    stderr = math.sqrt(sum((x - mean) ** 2 for x in nats)) / len(nats)
    assert abs(mean - grammar.entropy()[0]) < 4 * stderr
    assert 14 < grammar.entropy()[0] < 22
    assert grammar.count() > 500_000
    assert math.log(grammar.count()) > grammar.entropy()[0]


def test_words_come_back_as_the_same_story(edition):
    _, stories = edition
    assert all(join_words(split_words(story)) == story for story in stories[:500])


def test_samples_depend_on_the_seed_alone(edition):
    grammar, stories = edition
    assert grammar.sample_many(3, seed=5) == stories[:3] != grammar.sample_many(3, seed=6)
    assert grammar.sample(random.Random(5)) == stories[0]


@pytest.mark.parametrize(("book", "language"), [(story_english, "en"), (story_chinese, "zh")])
def test_the_editions_state_their_size_and_entropy(book, language):
    grammar = load_grammar(language)
    assert f"{grammar.count():,} stories, {grammar.entropy()[0]:.3f} nats each." in book.__doc__


@pytest.mark.parametrize("book", [story_english, story_chinese])
def test_all_stories_over_few_words_sum_to_one_and_differ(book):
    grammar = StoryGrammar(_few_rows(book.LEXICON), book.RULES)
    stories = dict(grammar.stories())
    assert 1000 < len(stories) == grammar.count()
    assert math.fsum(map(math.exp, stories.values())) == pytest.approx(1, abs=1e-9)
    for story in random.Random(0).sample(sorted(stories), 100):
        assert grammar.log_prob(story) == pytest.approx(stories[story])


def _few_rows(lexicon: str) -> str:
    """The first row of every table; two where a rule asks for two, all where others lean on them."""
    keep = {"later": 9, "hour": 9, "spot": 2, "gift": 9, "tool": 9}
    lines, left = [], 0
    for line in lexicon.splitlines():
        if line[:1].strip():
            left = keep.get(line.split("|")[0].strip(), 1) + 1
        left -= bool(line.strip())
        if left >= 0:
            lines.append(line)
    return "\n".join(lines)


def test_marginals_follow_the_weights():
    stories = load_grammar("en").sample_many(3000, seed=21)
    heroes = dict.fromkeys(["Tom", "Leo", "Mia", "Nora"], 2 / 12)
    heroes |= dict.fromkeys(["Pip", "Otto", "Ruby", "Ada"], 1 / 12)
    names = re.compile(r"\b(" + "|".join(heroes) + r")\b")
    assert chi_square_is_small(Counter(names.search(story)[1] for story in stories), heroes)

    weather = dict.fromkeys(["windy", "rainy", "foggy", "sunny"], 0.25)
    words = re.compile(r"\b(" + "|".join(weather) + r")\b")
    assert chi_square_is_small(Counter(words.search(story)[1] for story in stories), weather)

    plots = {"lost": 4 / 17, "wanted": 5 / 17, "found": 4 / 17, "baked": 4 / 17}
    words = re.compile(r"\b(" + "|".join(plots) + r")\b")
    assert chi_square_is_small(Counter(words.search(story)[1] for story in stories), plots)


def test_english_agrees():
    for story in load_grammar("en").sample_many(1000, seed=31):
        for article, word in re.findall(r"\b([Aa]n?) (\w+)", story):
            assert (article.lower() == "an") == (word[0] in "aeiou"), story
        hers = re.search(r"\b(Mia|Nora|Ruby|Ada)\b", story)
        kin = re.search(r"\b(grandmother|aunt)\b", story), re.search(r"\b(uncle)\b", story)
        assert bool(re.search(r"\b([Ss]he|her)\b", story)) <= bool(hers or kin[0]), story
        assert bool(re.search(r"\b([Hh]e|him|his)\b", story)) <= bool(not hers or kin[1]), story
        told = re.sub("(to|could) rain|rain on|like snow", "", story)
        sky = re.findall(r"\b(wind|rain|snow|fog|sun)(?:y|gy|ny|shine)?\b", told)
        assert len(set(sky)) == 1, story
        assert not re.search(r"evening.*(noon|teatime|sunset)|(morning|afternoon).*(bedtime|midnight)", story), story
        assert not re.search(r" morning.*teatime|afternoon.*by noon", story), story
        assert 3 <= len(re.findall(r"[.!?](?= |$)", story)) <= 6, story
        assert story.isascii()


def test_chinese_agrees():
    measures = {
        **dict.fromkeys(
            ["鞋子", "风筝", "木筏", "山羊", "乌鸦", "鼹鼠", "蜗牛", "麻雀", "小猫", "萤火虫", "小狐狸", "小兔子"], "只"
        ),
        **dict.fromkeys(["雨伞", "钥匙"], "把"),
        **dict.fromkeys(["小船", "围巾", "鲤鱼"], "条"),
        **dict.fromkeys(["图画书"], "本"),
        **dict.fromkeys(["帽子"], "顶"),
    }
    counted = re.compile(f"[一那](.)[^，。”]{{0,6}}?({'|'.join(measures)})")
    seen = Counter()
    for story in load_grammar("zh").sample_many(1000, seed=31):
        for measure, noun in counted.findall(story):
            if measure in "只把条本顶":
                assert measures[noun] == measure, story
                seen[noun] += 1
        hers, his = (bool(re.search(f"({names})", story)) for names in ("小禾|朵朵", "阿木|豆豆"))
        assert hers + his <= 1, story
        assert "她" not in story or hers, story
        assert "他" not in story or his, story
        assert not re.search("[A-Za-z ,.!?]", story), story
    assert len(seen) > 15


STORY = (
    "One windy morning, a shy girl named Mia wanted to see the sea. Below a high wall, an old turtle lent her a "
    "ladder. But the ladder was too short, and by noon she gave up. Mia was as shy as ever, but a little wiser."
)


@pytest.mark.parametrize(
    ("old", "new", "place", "why"),
    [
        ("lent her", "lent him", 'turtle lent": found "him", expected "her', 'the hero is "Mia"'),
        ("a shy", "an shy", 'morning, an": found "shy", expected "impatient" or "otter', ""),
        ("a ladder", "a small boat", 'lent her a": found "small", expected "ladder', 'the trouble is "wall"'),
        ("the ladder", "the rope", 'But the": found "rope", expected "ladder', 'the tool is "ladder"'),
        ("too short", "too hot", 'ladder was too": found "hot", expected "short', 'the tool is "ladder"'),
        (
            "by noon",
            "by teatime",
            'short, and by": found "teatime", expected "noon',
            'no "by teatime" where the time is "morning"',
        ),
        ("she gave", "he gave", 'by noon": found "he", expected "she', 'the hero is "Mia"'),
        ("Mia was", "Nora was", 'gave up.": found "Nora", expected', 'the hero is "Mia"'),
        ("as shy as", "as grumpy as", 'Mia was as": found "grumpy", expected "shy', 'the trait is "shy"'),
        ("Mia was as shy as ever, but a little wiser", "It was bigger than the sky", 'gave up.": found "It"', "luck"),
        ("morning", "mourning", 'One windy": found "mourning", expected "afternoon', ""),
        (" But the ladder was too short, and by noon she gave up.", "", 'ladder.": found "Mia", expected', ""),
        (" Mia was as shy as ever, but a little wiser.", "", 'gave up.": found the end of the text, expected', ""),
        ("wiser.", "", 'but a little": found the end of the text, expected "wiser."', ""),
        ("wiser.", "wiser. The end.", 'wiser.": found "The", expected the end of the story', ""),
        (STORY, "", 'character 0, at the beginning: found the end of the text, expected "', ""),
        (STORY, "Hello", 'character 0, at the beginning: found "Hello", expected "', ""),
        ("One windy", " One windy", 'found "One"', ""),
        ("One windy", "One  windy", 'after "One": found "windy"', ""),
    ],
)
def test_mutated_stories_are_rejected_with_the_place_and_the_reason(old, new, place, why):
    grammar = load_grammar("en")
    assert grammar.explain(STORY) is None
    mutated = STORY.replace(old, new, 1)
    assert mutated != STORY
    assert grammar.log_prob(mutated) == -math.inf
    assert place in grammar.explain(mutated)
    assert why in grammar.explain(mutated)
    assert "\n" not in grammar.explain(mutated)


def test_chinese_mutations_are_rejected():
    grammar = load_grammar("zh")
    story = (
        "一个刮风的早晨，有一个叫阿木的男孩弄丢了一顶草编的帽子。一只乌鸦叫他去水井边找。"
        "中午，阿木果然在水井边找到了那顶帽子。“谢谢你，乌鸦！”阿木说。"
    )
    assert grammar.explain(story) is None
    for old, new, reason in [
        ("那顶", "那把", 'found "把帽子。", expected "顶帽子。" (the thing is "帽子")'),
        ("叫他", "叫她", 'found "她去水井", expected "他去" (the hero is "阿木")'),
        ("中午", "半夜里", 'no "半夜里" where the time is "早晨"'),
        ("谢谢你，乌鸦", "谢谢你，山羊", 'the helper is "乌鸦"'),
        ("果然在水井边", "果然在草堆里", 'the nest is "水井边"'),
    ]:
        mutated = story.replace(old, new)
        assert grammar.log_prob(mutated) == -math.inf
        assert reason in grammar.explain(mutated)


def test_swapped_words_and_sentences_are_rejected_no_earlier_than_where_they_stand():
    grammar = load_grammar("en")
    rng = random.Random(2)
    for story in grammar.sample_many(60, seed=41):
        for cut in (" ", ". "):
            parts = story.split(cut)
            i = rng.randrange(len(parts) - 1)
            if parts[i] == parts[i + 1]:
                continue
            start = len(cut.join(parts[:i]))
            parts[i], parts[i + 1] = parts[i + 1], parts[i]
            mutated = cut.join(parts)
            assert grammar.log_prob(mutated) == -math.inf, mutated
            assert int(re.match(r"character (\d+),", grammar.explain(mutated))[1]) >= start


def test_a_story_cut_off_at_any_word_is_followed_to_its_last_letter():
    grammar = load_grammar("en")
    for end in (m.start() for m in re.finditer(" ", STORY)):
        assert grammar.explain(STORY[:end]).startswith(f"character {end}, ")
        assert "found the end of the text" in grammar.explain(STORY[:end])
