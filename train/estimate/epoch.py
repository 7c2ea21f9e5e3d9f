"""An epoch of a recipe's data: how many samples, and about how many tokens."""

from dataclasses import dataclass

from wings.errors import WingsError
from wings.train.build import load_processor
from wings.train.data.dataset import Conversations
from wings.train.recipe import Recipe

# So many samples are encoded to know the mean length.
LOOKED_AT = 128


@dataclass(frozen=True)
class Epoch:
    """What one pass asks: `tokens` None where it cannot be known, and then `why`.

    passes: epochs of the run, a fraction where `steps` says so. looked_at: samples that were
    encoded to know the `mean` length.
    """

    samples: int = 0
    mean: float = 0.0
    looked_at: int = 0
    passes: float = 0.0
    why: str = ""

    @property
    def tokens(self) -> float | None:
        """Tokens of a pass, images included, padding not."""
        return None if self.why else self.samples * self.mean

    @classmethod
    def of(cls, recipe: Recipe) -> "Epoch":
        """Look at the data, if it and the tokeniser are there."""
        try:
            data = Conversations.of(recipe, None)
            data.processor = load_processor(recipe)
        except WingsError as error:
            return cls(why=f"the data was not looked at: {error}")
        except (OSError, ValueError) as error:
            return cls(why=f"the tokeniser cannot be had: {str(error).splitlines()[0]}")
        order = data.order(recipe.batch_size, recipe.seed)
        chosen = list(order)[:LOOKED_AT]
        try:
            lengths = [len(data[number]["input_ids"]) for number in chosen]
        except WingsError as error:
            return cls(why=f"the data cannot be read: {error}")
        passes = recipe.epochs
        if recipe.steps is not None:
            passes = recipe.steps * recipe.batch_size / len(order)
        return cls(len(order), sum(lengths) / len(lengths), len(lengths), passes)
