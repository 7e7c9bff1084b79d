"""Encoders: poolings by hand, nothing past a text's end, and the LSTM against torch's cell."""

import pytest
import torch
import torch.nn.functional as F

from textgan.models.encoder import POOLINGS, LSTMEncoder, TransformerEncoder

V, BLOCK, D = 19, 9, 16
LENGTHS = torch.tensor([7, 1, 4])


def rough(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def transformer(pooling="mean", n_layer=3):
    return rough(TransformerEncoder(V, BLOCK, n_layer, 4, D, dropout=0.0, pooling=pooling))


def lstm(n_layer=2):
    return rough(LSTMEncoder(V, n_layer, 5, 6))


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


MAKERS = {**{pooling: lambda pooling=pooling: transformer(pooling) for pooling in POOLINGS}, "lstm": lstm}
every_encoder = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_encoder
def test_nothing_past_the_end_matters(make):
    encoder = make()
    x = F.one_hot(ids(3, 8), V).float().requires_grad_()
    inside = torch.arange(8) < LENGTHS[:, None]
    features = encoder(x, LENGTHS)
    other = torch.where(inside[..., None], x, torch.rand(3, 8, V))
    assert torch.equal(encoder(other, LENGTHS), features)
    (grad,) = torch.autograd.grad(features.square().sum(), x)
    assert (grad[~inside] == 0).all()
    assert (grad[inside].abs().amax(dim=1) > 0).all()


@every_encoder
def test_rows_equal_each_alone_without_padding(make):
    encoder, x = make(), ids(3, 8)
    with torch.no_grad():
        got = encoder.layers(x, LENGTHS)
        for row, n in enumerate(LENGTHS.tolist()):
            alone = encoder.layers(x[row : row + 1, :n], LENGTHS[row : row + 1])
            torch.testing.assert_close(got[row], alone[0], rtol=1e-5, atol=1e-5)


@every_encoder
def test_last_layer_is_the_features(make):
    encoder, x = make(), ids(3, 8)
    with torch.no_grad():
        layers, features = encoder.layers(x, LENGTHS), encoder(x, LENGTHS)
    assert layers.shape == (3, encoder.n_layer, encoder.n_features)
    assert torch.equal(layers[:, -1], features)
    assert (layers[:, 0] - layers[:, -1]).abs().max() > 0.1


@every_encoder
def test_ids_equal_one_hot_vectors(make):
    encoder, x = make(), ids(3, 8)
    with torch.no_grad():
        vectors = encoder(F.one_hot(x, V).float(), LENGTHS)
        torch.testing.assert_close(vectors, encoder(x, LENGTHS), rtol=1e-5, atol=1e-5)


def states_of(encoder, x, n):
    """The final states of one text without padding, from the encoder's own blocks without any mask."""
    x = encoder.wte.weight[x[:n]] + encoder.wpe.weight[:n]
    if encoder.pooling == "cls":
        x = torch.cat([encoder.cls[None], x])
    x = x[None]
    for block in encoder.h:
        x = block(x, mask=None, causal=False)
    return encoder.ln_f(x)[0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_by_hand(pooling):
    encoder, x = transformer(pooling), ids(3, 8)
    with torch.no_grad():
        got = encoder(x, LENGTHS)
        for row, n in enumerate(LENGTHS.tolist()):
            states = states_of(encoder, x[row], n)
            if pooling == "cls":
                expected = states[0]
            elif pooling == "mean":
                expected = sum(states) / n
            elif pooling == "max":
                expected = torch.stack([max(column) for column in states.T])
            else:
                weights = torch.tensor([state @ encoder.query for state in states]).exp()
                expected = sum(w * state for w, state in zip(weights, states, strict=True)) / weights.sum()
            torch.testing.assert_close(got[row], expected, rtol=1e-4, atol=1e-5)


def test_reads_both_ways():
    """A change of any token changes the features of the first one's state."""
    encoder = transformer("cls", n_layer=1)
    x = F.one_hot(ids(1, 6), V).float().requires_grad_()
    (grad,) = torch.autograd.grad(encoder(x, torch.tensor([6])).sum(), x)
    assert (grad.abs().amax(dim=2) > 0).all()


def test_attention_pooling_starts_as_the_mean():
    torch.manual_seed(0)
    attention = TransformerEncoder(V, BLOCK, 2, 4, D, pooling="attention").eval()
    mean = TransformerEncoder(V, BLOCK, 2, 4, D, pooling="mean").eval()
    mean.load_state_dict({k: v for k, v in attention.state_dict().items() if k != "query"})
    x = ids(3, 8)
    torch.testing.assert_close(attention(x, LENGTHS), mean(x, LENGTHS))


def test_lstm_state_at_the_closing_token_equals_torchs_cell():
    encoder, x = lstm(n_layer=2), ids(3, 8)
    cells = [torch.nn.LSTMCell(5, 6), torch.nn.LSTMCell(6, 6)]
    for i, cell in enumerate(cells):
        cell.load_state_dict({name: getattr(encoder.lstm, f"{name}_l{i}") for name in cell.state_dict()})
    with torch.no_grad():
        got = encoder.layers(x, LENGTHS)
        for row, n in enumerate(LENGTHS.tolist()):
            states = [None, None]
            for token in x[row, :n]:
                y = encoder.wte.weight[token][None]
                for i, cell in enumerate(cells):
                    states[i] = cell(y, states[i])
                    y = states[i][0]
            for i in range(2):
                torch.testing.assert_close(got[row, i], states[i][0][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_features_tell_texts_apart_from_the_start(kind):
    torch.manual_seed(0)
    encoder = LSTMEncoder(V, 1, 64, 64) if kind == "lstm" else TransformerEncoder(V, BLOCK, 2, 4, 64)
    features = encoder.eval()(ids(200, 8), torch.full((200,), 8))
    assert features.std(0).mean() > 0.1


def test_dropout_acts_in_training_mode():
    between_layers = LSTMEncoder(V, 2, 5, 6, dropout=0.3)
    between_layers.drop.p = 0.0
    for encoder in (
        TransformerEncoder(V, BLOCK, 1, 4, D, dropout=0.3),
        LSTMEncoder(V, 1, 5, 6, dropout=0.3),
        between_layers,
    ):
        x = ids(3, 8)
        assert not torch.equal(encoder(x, LENGTHS), encoder(x, LENGTHS))
        encoder.eval()
        assert torch.equal(encoder(x, LENGTHS), encoder(x, LENGTHS))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown pooling `sum`; choose one of cls, mean, max, attention"):
        TransformerEncoder(V, BLOCK, 1, 4, D, pooling="sum")
    with pytest.raises(ValueError, match="`n_embd=10` is not divisible"):
        TransformerEncoder(V, BLOCK, 1, 4, 10)
    with pytest.raises(ValueError, match="10 columns, but `block_size=9`"):
        transformer()(ids(1, BLOCK + 1), torch.tensor([3]))
    with pytest.raises(ValueError, match="`n_hidden=0` must be"):
        LSTMEncoder(V, 1, 5, 0)
