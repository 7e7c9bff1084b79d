"""Packed rows, padded batches, and the order of batches as a function of the step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgan.data.dataset import BatchPlan, TokenDataset, TokenPlan, build_dataset, eval_batches
from textgan.errors import UserError


class Letters:
    """a is 1, b is 2, ...; the end of text 0."""

    eos_id = 0

    def encode(self, text):
        return [ord(c) - 96 for c in text]


def rows_of(dataset):
    return [dataset.tokens[a:b].tolist() for a, b in zip(dataset.offsets, dataset.offsets[1:], strict=False)]


def test_a_batch_is_padded_to_its_longest_row():
    dataset, too_long = build_dataset(["ab", "", "abcd"], Letters(), block_size=5, too_long="drop")
    assert (len(dataset), too_long, dataset.eos_id) == (3, 0, 0)
    assert dataset.lengths.tolist() == [3, 1, 5]
    batch = dataset.batch([1, 0])
    assert batch.ids.tolist() == [[0, 0, 0, 0], [0, 1, 2, 0]]
    assert batch.lengths.tolist() == [1, 3]
    assert batch.inputs.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert batch.targets.tolist() == [[0, 0, 0], [1, 2, 0]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert dataset.batch(torch.tensor([2])).ids.tolist() == [[0, 1, 2, 3, 4, 0]]
    assert batch.ids.dtype == batch.lengths.dtype == torch.long
    assert batch.to("cpu").ids.equal(batch.ids)


def test_padding_is_eos_and_not_zero():
    dataset = TokenDataset(torch.tensor([7, 1, 7, 7, 7]), torch.tensor([0, 3, 5]), eos_id=7)
    assert dataset.batch([1, 0]).ids.tolist() == [[7, 7, 7], [7, 1, 7]]


@given(st.lists(st.text("abc", max_size=5), min_size=1, max_size=8), st.data())
def test_rows_are_selected_and_searched(texts, data):
    dataset, _ = build_dataset(texts, Letters(), block_size=6, too_long="drop")
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1))
    selected = dataset.select(torch.tensor(rows))
    assert rows_of(selected) == [rows_of(dataset)[i] for i in rows]
    assert selected.lengths.tolist() == [len(texts[i]) + 1 for i in rows]
    assert selected.eos_id == dataset.eos_id
    assert selected.origins.tolist() == rows
    for token in (1, 3, 9):
        assert dataset.rows_with(token).tolist() == [token in row for row in rows_of(dataset)]


def test_long_texts_are_dropped_or_cut_into_windows():
    texts = ["abc", "abcde", "abcd", "abcdefg"]
    dataset, too_long = build_dataset(texts, Letters(), block_size=4, too_long="drop")
    assert (rows_of(dataset), too_long) == ([[0, 1, 2, 3, 0]], 3)
    assert build_dataset(texts[1:], Letters(), block_size=5, too_long="drop")[0].origins.tolist() == [1]
    dataset, too_long = build_dataset(texts, Letters(), block_size=4, too_long="window")
    assert too_long == 3
    assert rows_of(dataset) == [
        [0, 1, 2, 3, 0],
        [0, 1, 2, 3, 4],
        [4, 5, 0],
        [0, 1, 2, 3, 4],
        [4, 0],
        [0, 1, 2, 3, 4],
        [4, 5, 6, 7, 0],
    ]
    assert dataset.origins.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert dataset.select(torch.tensor([6, 1])).origins.tolist() == [3, 1]


@given(st.lists(st.text("abcdefgh", max_size=20), max_size=6), st.integers(1, 8))
def test_windows_hold_every_target_once(texts, block_size):
    dataset, _ = build_dataset(texts, Letters(), block_size=block_size, too_long="window")
    targets = [target for row in rows_of(dataset) for target in row[1:]]
    assert targets == [target for text in texts for target in [*Letters().encode(text), 0]]
    assert all(1 <= length <= block_size for length in dataset.lengths.tolist())
    assert len(dataset) == len(dataset.lengths)


def test_texts_that_are_all_too_long_are_refused():
    message = r"all 2 texts are longer than block_size=3 \(the shortest has 4 tokens.*too_long: window"
    with pytest.raises(UserError, match=message):
        build_dataset(["abcde", "abc"], Letters(), block_size=3, too_long="drop")
    assert len(build_dataset([], Letters(), block_size=3, too_long="drop")[0]) == 0


def test_programming_errors_are_refused():
    with pytest.raises(ValueError, match="too_long='cut'; allowed: drop, window"):
        build_dataset(["a"], Letters(), block_size=3, too_long="cut")
    with pytest.raises(ValueError, match="offsets"):
        TokenDataset(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]), 0)
    dataset, _ = build_dataset(["a"], Letters(), block_size=3, too_long="drop")
    for indices in ([], [1], [-1]):
        with pytest.raises((ValueError, IndexError)):
            dataset.batch(indices)


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=400).map(torch.tensor)


@given(LENGTHS, st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_occurs_once_in_every_epoch(lengths, batch_size, seed, epoch):
    plan = BatchPlan(lengths, batch_size, seed)
    assert plan.batches_per_epoch == -(-len(lengths) // batch_size)
    steps = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
    batches = [plan.indices(step) for step in steps]
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    sizes = sorted(len(batch) for batch in batches)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)


@given(LENGTHS, st.integers(1, 7), st.integers(0, 99), st.lists(st.integers(0, 900), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_batches_are_a_function_of_seed_and_step(lengths, batch_size, seed, steps):
    plan = BatchPlan(lengths, batch_size, seed)
    for step in steps:  # in any order, with whatever was asked for before
        assert plan.indices(step).equal(BatchPlan(lengths, batch_size, seed).indices(step))


def test_order_is_random_over_steps_epochs_and_seeds():
    lengths = torch.randint(1, 40, (2000,), generator=torch.Generator().manual_seed(0))
    plan = BatchPlan(lengths, 10, 0)
    n = plan.batches_per_epoch
    first = torch.cat([plan.indices(step) for step in range(n)])
    assert not first.equal(torch.cat([plan.indices(step) for step in range(n, 2 * n)]))
    assert not first.equal(torch.cat([BatchPlan(lengths, 10, 1).indices(step) for step in range(n)]))
    # The batches come in an order that knows nothing of length, and every part of the data comes early.
    means = torch.stack([lengths[plan.indices(step)].float().mean() for step in range(n)])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(n).float()]))[0, 1]) < 0.25
    assert len({int(row) // 200 for step in range(20) for row in plan.indices(step)}) == 10


def test_batches_hold_rows_of_like_length():
    lengths = torch.randint(1, 40, (4000,), generator=torch.Generator().manual_seed(0))
    plan = BatchPlan(lengths, 16, 3)
    padded = sum(int(lengths[plan.indices(s)].max()) * len(plan.indices(s)) for s in range(plan.batches_per_epoch))
    assert padded < 1.06 * int(lengths.sum())


def test_batches_of_all_lengths_where_they_are_asked_for():
    lengths = torch.arange(4000) % 40 + 1
    plan, n = BatchPlan(lengths, 16, 3, by_length=False), 250
    batches = torch.stack([plan.indices(step) for step in range(n)])
    assert sorted(batches.flatten().tolist()) == list(range(4000))
    within = lengths[batches].float().var(1).mean().item()
    assert within == pytest.approx(lengths.float().var().item(), rel=0.05)  # as in the whole


@given(LENGTHS, st.integers(1, 40), st.integers(1, 9), st.integers(0, 99), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_batches_of_a_token_budget_are_full_and_no_fuller(lengths, tokens, batch_size, seed, epoch):
    plan = TokenPlan(lengths, tokens, batch_size, seed)
    steps = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
    batches = [TokenPlan(lengths, tokens, batch_size, seed).indices(step) for step in reversed(steps)]
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    assert plan.mean_tokens == pytest.approx(int(lengths.sum()) / len(batches))
    widths = sorted((lengths[rows].tolist() for rows in batches), key=lambda row: (row[0], row[-1], -len(row)))
    for own, after in zip(widths, [*widths[1:], None], strict=True):
        assert own == sorted(own)
        assert len(own) <= batch_size
        assert len(own) == 1 or len(own) * own[-1] <= tokens
        if after:  # the next text would have been one too many
            assert len(own) == batch_size or (len(own) + 1) * after[0] > tokens


def test_a_token_budget_leaves_what_goes_together_to_chance():
    lengths = torch.randint(1, 6, (500,), generator=torch.Generator().manual_seed(0))
    plan = TokenPlan(lengths, 50, 64, 0)
    n = plan.batches_per_epoch
    epochs = [{frozenset(plan.indices(step).tolist()) for step in range(e * n, (e + 1) * n)} for e in range(2)]
    assert not epochs[0] & epochs[1]
    orders = [[int(lengths[plan.indices(step)].max()) for step in range(e * n, (e + 1) * n)] for e in range(2)]
    assert orders[0] != orders[1] != sorted(orders[1])


def test_a_caller_cannot_spoil_the_order():
    plan = BatchPlan(torch.tensor([1, 2, 3]), 3, 0)
    plan.indices(0).zero_()
    assert sorted(plan.indices(0).tolist()) == [0, 1, 2]


def test_a_plan_needs_rows_and_steps():
    with pytest.raises(UserError, match="no texts to train on"):
        BatchPlan(torch.tensor([]), 3, 0)
    with pytest.raises(ValueError, match="step=-1"):
        BatchPlan(torch.tensor([1]), 3, 0).indices(-1)


@given(LENGTHS, st.integers(1, 7))
def test_eval_batches_hold_all_rows_sorted_by_length(lengths, batch_size):
    batches = eval_batches(lengths, batch_size)
    rows = torch.cat(batches)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert lengths[rows].tolist() == sorted(lengths.tolist())
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(a.equal(b) for a, b in zip(batches, eval_batches(lengths, batch_size), strict=True))


def test_eval_batches_of_nothing():
    assert eval_batches(torch.tensor([], dtype=torch.long), 4) == []
