"""Tests of fields that are given as one type and held as another."""

import dataclasses

from wings import WingsConfig
from wings.config_fields import Settled


@dataclasses.dataclass
class Sizes:
    """A tuple that may come as a list."""

    sizes: Settled[tuple | list, tuple[int, ...]] = (1, 2)


def test_at_run_time_a_field_has_the_type_that_may_be_given():
    (field,) = dataclasses.fields(Sizes)
    assert field.type == tuple | list
    assert field.default == (1, 2)
    assert Sizes([3]).sizes == [3]


def test_a_configuration_shows_what_each_field_takes():
    types = {field.name: field.type for field in dataclasses.fields(WingsConfig)}
    assert types["image_token_id"] == types["image_seq_length"] == int | None
    assert types["vision_config"] == dict | None
