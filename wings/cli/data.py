"""`wings data check`: counts, problems and trained tokens of all data of a recipe."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.processing.turn_end import settle_turn_end
from wings.saved_files import reading
from wings.train.build import generation_config_of, load_processor, names_of
from wings.train.data.dataset import ConversationDataset
from wings.train.data.inspect import KINDS, SourceSurvey, quantiles
from wings.train.data.survey import TEXT_TURNS, survey
from wings.train.recipe import Recipe
from wings.train.recipe_file import find_recipe
from wings.train.start import REMEDY, readable_recipe

from .terminal import make_console

SHARES = (0.0, 0.05, 0.5, 0.95, 0.99, 1.0)
NAMES = ("shortest", "5%", "median", "95%", "99%", "longest")
# Letters shown of one run of tokens; longer runs show both ends.
SHOWN_LETTERS = 600


def check(recipe: str, overrides: Sequence[str], quick: int | None, workers: int | None) -> int:
    """Reads all data of a recipe and prints a survey.

    Args:
        recipe: a recipe file or the name of a shipped recipe.
        overrides: `key=value` as in training.
        quick: read only this many records of each source.
        workers: reading processes; default: one per core.

    Returns:
        0, or 1 if a record is unusable.

    Raises:
        WingsError: the recipe, processor or a source cannot be opened.
    """
    file = find_recipe(recipe)
    settings = Recipe.from_yaml(file, overrides)
    console = make_console(soft_wrap=True)
    with console.status("opening the data"):
        readable, note = readable_recipe(settings, file)
        processor = _processor(readable)
    if note:
        console.print(note)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), transient=True, console=console) as bar:
        task = bar.add_task("reading", total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        sources, samples = survey(settings, processor, quick, workers, watch)
    in_epoch = sum(source.samples or 0 for source in sources)
    for source in sources:
        report(source, in_epoch, settings, console)
    if any(source.key == TEXT_TURNS and source.problems for source in sources):
        console.print("No text turn was appended, because not all of them can be used.")
    else:
        show(samples, settings, processor, console)
    console.print(end_of_turn(readable, processor))
    bad = sum(source.problems.total() for source in sources)
    read = sum(source.read for source in sources)
    if bad:
        console.print(
            f"{bad:,} of {read:,} records cannot be used{_what_then(settings)}", style="red"
        )
    else:
        console.print(f"all {read:,} records can be used", style="green")
    return 1 if bad else 0


def _processor(recipe: Recipe) -> WingsProcessor:
    try:
        return load_processor(recipe)
    except WingsError as error:
        if recipe.start is None:
            raise
        raise WingsError(f"{str(error).rstrip('.')}, {REMEDY}") from error


def end_of_turn(recipe: Recipe, processor: WingsProcessor) -> str:
    """One line: the end of a turn that is learned, and where the model would stop.

    Args:
        recipe: a recipe whose `start` or `model` can be read.
        processor: of that model.
    """
    end = processor.turn_end()
    source = recipe.start or names_of(recipe).text
    assert source is not None
    with reading(source, "configuration"):
        stops = generation_config_of(source)
    rift = settle_turn_end(stops, end)
    if end is None or rift:
        return f"end of turn: {rift}"
    place = "the template's own" if end.is_own else "of the next message's header"
    return f"end of turn: {end.token!r} ({end.id}), {place}; learned, and generate stops at it"


def report(source: SourceSurvey, in_epoch: int, recipe: Recipe, console: Console) -> None:
    """Prints the survey of one source."""
    console.print(Text(f"{source.key}: {source.path}", style="bold"))
    read = "" if source.read == source.records else f", {source.read:,} of them read"
    _row(console, "records", f"{source.records:,}{read}")
    if source.samples is not None:
        share = source.samples / in_epoch
        _row(console, "in an epoch", f"{source.samples:,} samples, {share:.1%} of all")
    hears = any(source.sounds)
    if source.images and (any(source.images) or not hears):
        _row(console, "without image", f"{source.images[0]:,}")
        _row(console, "images a record", _counts(source.images))
    if hears:
        _row(console, "without sound", f"{source.sounds[0]:,}")
        _row(console, "sounds a record", _counts(source.sounds))
        _row(console, "seconds a sound", _spread(source.seconds, ".1f"))
        _row(console, "stretches a sound", _counts(source.stretches))
    if source.text_turns or source.without:
        _row(
            console, "text turns", f"after {source.text_turns:,} samples{_without(source, recipe)}"
        )
    if source.tokens:
        _row(console, "tokens", _spread(source.tokens, ".0f"))
        _row(console, "learned", f"{source.trained / sum(source.tokens):.1%} of the tokens")
    if source.tokens and source.key != TEXT_TURNS:
        cut = f"{source.cut:,} ({source.cut / len(source.tokens):.1%})"
        nouns = "pictures or sounds" if hears else "pictures"
        lost = (
            f"; {source.blinded:,} lose {nouns} with their oldest turns" if source.blinded else ""
        )
        _row(console, "cut", f"{cut} to max_length {recipe.max_length:,}{lost}")
    for kind in KINDS:
        if source.problems[kind]:
            _row(console, kind, f"{source.problems[kind]:,}", red=True)
            for sentence in source.sentences[kind]:
                console.print(Text(f"    {sentence}"))
    console.print()


def show(samples: Sequence[int], recipe: Recipe, processor: WingsProcessor, out: Console) -> None:
    """Prints samples as trained, with marks on the trained tokens."""
    if not samples:
        return
    data = ConversationDataset.of(recipe, processor)
    marks = "green" if out.is_terminal else "between [[ and ]]"
    out.print(f"{len(samples)} samples; what is learned is {marks}")
    for number in samples:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sample = data.encode(number)
        out.print(Text(data.name(number), style="bold"))
        out.print(marked(sample, processor, out.is_terminal))
        out.print()


def marked(sample: dict, processor: WingsProcessor, colour: bool) -> Text:
    """An encoded conversation as text, with trained tokens in green or in brackets.

    Args:
        sample: `input_ids` and `labels` [T].
        processor: processor of the sample.
        colour: use green instead of brackets.
    """
    senses = {sense.token_id: sense for sense in processor.senses.values()}
    text = Text()
    pairs = zip(sample["input_ids"].tolist(), sample["labels"].tolist(), strict=True)
    for (item, learned), run in groupby(
        pairs, key=lambda pair: (pair[0] if pair[0] in senses else None, pair[1] != -100)
    ):
        ids = [token for token, _ in run]
        if item is not None:
            name, length = senses[item].sense, senses[item].seq_length
            text.append(f"<{name}: {length} tokens>" * (len(ids) // length), style="cyan")
            continue
        words = _shorten(processor.tokenizer.decode(ids, skip_special_tokens=False))
        words = words if colour or not learned else f"[[{words}]]"
        text.append(words, style="green" if learned else "dim")
    return text


def _shorten(text: str) -> str:
    if len(text) <= SHOWN_LETTERS:
        return text
    half = SHOWN_LETTERS // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} letters ... {text[-half:]}"


def _without(source: SourceSurvey, recipe: Recipe) -> str:
    if not source.without:
        return ""
    return f"; {source.without:,} have none, as max_length {recipe.max_length:,} has no room for it"


def _counts(numbers: Mapping[int, int]) -> str:
    """Counts by number from 1, of the smallest eight numbers at most."""
    counts = sorted((n, count) for n, count in numbers.items() if n)
    listed = ", ".join(f"{n}: {count:,}" for n, count in counts[:8])
    more = f", up to {counts[-1][0]}" if len(counts) > 8 else ""
    return f"{listed}{more}" if counts else "none has any"


def _spread(values: Sequence[float], form: str) -> str:
    """The quantiles of some values, by name."""
    named = zip(NAMES, quantiles(values, SHARES), strict=True)
    return ", ".join(f"{name} {value:,{form}}" for name, value in named)


def _row(console: Console, name: str, value: str, red: bool = False) -> None:
    console.print(Text(f"  {name:<20}{value}", style="red" if red else ""))


def _what_then(recipe: Recipe) -> str:
    if recipe.on_bad_record == "skip":
        return "; training takes the next good one instead"
    return "; training stops there, unless on_bad_record is skip"
