"""`push_to_hub` that fills in the model card and takes local paths out, for model and processor."""

import os
import tempfile
from pathlib import Path
from typing import Any

from .card_facts import CardOptions
from .parcel import Parcel, for_repository, pack
from .repository import Repository, superseded
from .shared_files import LARGE, select_files

# Arguments of `save_pretrained` that are for `push_to_hub` alone.
OF_PUSH = (
    "repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr",
    "tags",
)  # fmt: skip


class PushedToHub:
    """Mixin in front of transformers' classes; `push_to_hub` has their arguments and defaults."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; `push_to_hub=True` also calls `push_to_hub`."""
        given = {name: kwargs.pop(name) for name in OF_PUSH if push_to_hub and name in kwargs}
        behind: Any = super()
        saved = behind.save_pretrained(save_directory, *args, **kwargs)
        if push_to_hub:
            repo_id = given.pop("repo_id", None) or Path(save_directory).name
            if "max_shard_size" in kwargs:
                given["max_shard_size"] = kwargs["max_shard_size"]
            self.push_to_hub(repo_id, **given)
        return saved

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> Any:
        """Uploads to the Hub as in transformers; local paths stay here.

        A model brings its card, filled in from its own files and from those of the run that it was
        loaded from. A card that somebody wrote in the repository stays.

        Args:
            repo_id: `owner/name`, or a name alone.
            commit_message: default: "Upload model" or "Upload processor".
            commit_description: of the commit.
            private: of a new repository; None for the owner's default.
            token: as in huggingface_hub.
            revision: branch to commit to.
            create_pr: open a pull request instead.
            max_shard_size: largest file of weights.
            tags: further tags of the card.

        Returns:
            The address of the commit or of the pull request.

        Raises:
            HubError: the Hub or the network refused something.
        """
        is_model = hasattr(self, "config")
        message = commit_message or f"Upload {'model' if is_model else 'processor'}"
        repository = Repository(repo_id, revision or "main", token)
        with tempfile.TemporaryDirectory() as folder:
            saved: Any = self
            saved.save_pretrained(folder, max_shard_size=max_shard_size)
            if is_model:
                options = CardOptions(tags=tuple(tags or ()))
                origin = Path(saved.config.name_or_path or folder)
                parcel = pack(Path(folder), repository.name, options, origin=origin)
            else:
                selection = select_files(Path(folder))
                parcel = Parcel(selection.files, selection.left_out)
            repository.create(private)
            state = repository.state()
            parcel = for_repository(parcel, state, new_card=False)
            # The other half of the checkpoint stays, and so do its files.
            removed = superseded(parcel.files, state, LARGE) if is_model else []
            return repository.commit(
                parcel.files, removed, state, message, commit_description, create_pr
            )
