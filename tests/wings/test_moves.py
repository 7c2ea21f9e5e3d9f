"""A pass runs straight through: how often control moves between the files of `wings`."""

from moves import decoding_moves, training_moves


def test_a_training_forward_moves_seldom():
    two, three = training_moves(2).count, training_moves(3).count
    assert two < 150 and three - two < 20


def test_a_decoded_token_moves_seldom():
    assert decoding_moves(2).count < 130
