"""Wings as a model of lmms-eval: `lmms-eval --model wings --model_args pretrained=FOLDER`.

An adapter of `generate.py` and `loglikelihood.py`: one process, greedy decoding, pictures before
the question. Written for lmms-eval 0.7, which finds it by an entry point. Its benchmarks have not
been run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from wings import WingsForCausalLM, WingsProcessor
from wings.errors import WingsError
from wings.eval.generate import answer_items
from wings.eval.items import Item
from wings.eval.loglikelihood import choice_likelihoods

try:
    from lmms_eval.api.instance import Instance
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise WingsError("lmms-eval is not installed; run pip install lmms-eval.") from error

MANIFEST = ModelManifest("wings", simple_class_path="wings.eval.harness.lmms.WingsLmms")
MAX_NEW_TOKENS = 256  # if a task has no limit


class WingsLmms(lmms):
    """A Wings checkpoint, for tasks with pictures.

    Args:
        pretrained: a folder or a Hub id.
        batch_size: conversations per batch.
        device: by default a GPU if there is one.
    """

    def __init__(
        self, pretrained: str, batch_size: int | str = 1, device: str | None = None, **unknown: Any
    ) -> None:
        super().__init__()
        # The command line passes this one to every model.
        unknown.pop("max_batch_size", None)
        if unknown:
            raise WingsError(
                f"wings takes no {', '.join(unknown)}; it takes pretrained, batch_size and device."
            )
        self.batch_size = int(batch_size)
        self.model = WingsForCausalLM.from_pretrained(pretrained).eval()
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.processor = WingsProcessor.from_pretrained(pretrained)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Generates greedy answers, cut at the first of a request's `until`.

        Raises:
            WingsError: a task that samples.
        """
        limits = []
        for request in requests:
            options = request.args[1]
            if options.get("do_sample"):
                raise WingsError(
                    f"Task {request.args[4]} asks for sampling; pass --gen_kwargs do_sample=False."
                )
            limits.append(int(options.get("max_new_tokens", MAX_NEW_TOKENS)))
        predictions = [""] * len(requests)
        for limit in sorted(set(limits)):
            places = [n for n, one in enumerate(limits) if one == limit]
            items = [self._item(requests[n]) for n in places]
            answers = answer_items(
                self.model, self.processor, items, batch_size=self.batch_size, max_new_tokens=limit
            )
            for n, answer in zip(places, answers, strict=True):
                predictions[n] = cut(answer, requests[n].args[1].get("until"))
        return predictions

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and True if greedy decoding generates it."""
        items = []
        for request in requests:
            target: str | Callable = request.args[1]
            text = target if isinstance(target, str) else target(self._doc(request))
            items.append(self._item(request, (text,)))
        results = choice_likelihoods(
            self.model, self.processor, items, batch_size=self.batch_size
        )  # fmt: skip
        return [(one.total, one.greedy) for (one,) in results]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported.

        Raises:
            WingsError: always.
        """
        raise WingsError("Tasks with several rounds are not supported by this adapter.")

    def _doc(self, request: Instance) -> dict:
        _, _, _, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _item(self, request: Instance, choices: tuple[str, ...] = ()) -> Item:
        context, _, doc_to_visual, *_ = request.args
        pictures = doc_to_visual(self._doc(request)) if doc_to_visual else None
        parts: list[dict] = [{"type": "image", "image": picture} for picture in pictures or ()]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": context}]}
        return Item("all", (message,), "", choices=choices)


def cut(answer: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of the `until` texts."""
    ends = [until] if isinstance(until, str) else until or []
    return answer[: min((answer.find(end) for end in ends if end and end in answer), default=None)]
