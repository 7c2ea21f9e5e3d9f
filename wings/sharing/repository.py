"""A model repository on the Hub: created private, and changed by one commit that has all files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import HFValidationError, validate_repo_id

from wings.errors import WingsError
from wings.extras import NAME

from .hub_errors import hub_errors
from .shared_files import CARD, SharedFile, fits

CONFIG = "config.json"


@dataclass(frozen=True)
class RemoteState:
    """A revision as it was before the push.

    Attributes:
        commit: its name.
        private: of the repository.
        names: of its files.
        kind: `model_type` in its config.json; None without one.
        card: its README.md; None without one.
    """

    commit: str
    private: bool
    names: Sequence[str]
    kind: str | None
    card: str | None


class Repository:
    """A repository by its full name; network errors are `HubError`s with one sentence.

    Args:
        name: `owner/name`, or a name alone, whose owner is the token's user.
        revision: branch to commit to; it is made if there is none.
        token: as huggingface_hub takes it; None for the environment's or the stored one.

    Raises:
        WingsError: no name that the Hub takes.
        HubError: the token is not valid.
    """

    def __init__(self, name: str, revision: str = "main", token: str | bool | None = None) -> None:
        validate_name(name)
        self.api = HfApi(library_name=NAME, token=token)
        self.revision = revision
        with hub_errors(name):
            # Also tells early if the token is valid.
            user = self.api.whoami()["name"]
        self.name = name if "/" in name else f"{user}/{name}"

    def state(self) -> RemoteState | None:
        """The revision as it is; None if there is no such repository, or none that one may see."""
        with hub_errors(self.name):
            try:
                info = self.api.repo_info(self.name)
            except RepositoryNotFoundError:
                return None
            names = self.api.list_repo_files(self.name)
            try:
                info = self.api.repo_info(self.name, revision=self.revision)
                names = self.api.list_repo_files(self.name, revision=self.revision)
            except RevisionNotFoundError:
                # A new branch starts with the files of the main one.
                pass
            config = self._read(CONFIG, names, info.sha)
            try:
                kind = json.loads(config or "{}").get("model_type")
            except (ValueError, AttributeError):
                kind = None
            card = self._read(CARD, names, info.sha)
        return RemoteState(info.sha or "", bool(info.private), names, kind, card)

    def _read(self, name: str, names: Sequence[str], commit: str | None) -> str | None:
        if name not in names:
            return None
        try:
            path = self.api.hf_hub_download(self.name, name, revision=commit)
        except EntryNotFoundError:
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def create(self, private: bool | None = True) -> None:
        """Makes the repository; one that exists is left as it is.

        Args:
            private: None for the owner's default.
        """
        with hub_errors(self.name):
            self.api.create_repo(self.name, private=private, exist_ok=True)

    def commit(
        self,
        files: Sequence[SharedFile],
        removed: Sequence[str],
        state: RemoteState | None,
        message: str,
        description: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads files and makes one commit, which has all of them or is not made.

        Weights that an interrupted upload has sent already are not sent again.

        Args:
            files: to add or replace.
            removed: names of files to remove.
            state: of the revision before; a change since then is refused.
            message: title of the commit.
            description: its text.
            create_pr: open a pull request instead.

        Returns:
            The commit's address.

        Raises:
            WingsError: a file that changed meanwhile.
            HubError: the Hub or the network refused something; the revision is as it was.
        """
        added = [CommitOperationAdd(file.name, file.source or file.read()) for file in files]
        with hub_errors(self.name):
            is_branch = self.revision != "main" and not self.revision.startswith("refs/")
            if is_branch and not create_pr:
                self.api.create_branch(self.name, branch=self.revision, exist_ok=True)
            self.api.preupload_lfs_files(
                self.name, added, revision=self.revision, create_pr=create_pr, free_memory=False
            )
        for file in files:
            file.validate_unchanged()
        dropped = [CommitOperationDelete(name) for name in removed]
        with hub_errors(self.name):
            info = self.api.create_commit(
                self.name,
                [*added, *dropped],
                commit_message=message,
                commit_description=description,
                revision=self.revision,
                create_pr=create_pr,
                parent_commit=state.commit if state else None,
            )
        return str(info.pr_url or info.commit_url)

    def publish(self) -> None:
        """Makes the repository public."""
        with hub_errors(self.name):
            self.api.update_repo_settings(self.name, private=False)


def validate_name(name: str) -> None:
    """Raises a `WingsError` for a name that no model on the Hub can have."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise WingsError(
            f"'{name}' is no name of a model on the Hub: write owner/name, both of letters, digits,"
            f" '-', '_' and '.', at most 96 together."
        ) from error


def superseded(
    files: Sequence[SharedFile], state: RemoteState | None, patterns: Sequence[str]
) -> list[str]:
    """Files of an earlier model in a repository that the new one has not; all others stay.

    An old shard or token file would be read together with the new files.

    Args:
        files: of the new model.
        state: of the repository.
        patterns: names of files that belong to a model.
    """
    new = {file.name for file in files}
    names = state.names if state else ()
    return [name for name in names if name not in new and fits(name, patterns)]
