"""Pushes a parcel: private unless asked, refused where it would mix with something else."""

from dataclasses import dataclass

from wings.errors import WingsError

from .parcel import Parcel, for_repository
from .repository import RemoteState, Repository, superseded
from .shared_files import OF_MODEL


@dataclass(frozen=True)
class Pushed:
    """A finished push.

    Attributes:
        name: of the repository, with its owner.
        address: of the commit.
        is_private: of the repository now.
        notes: sentences of the parcel that was sent.
    """

    name: str
    address: str
    is_private: bool
    notes: tuple[str, ...]


def push(
    parcel: Parcel,
    repository: Repository,
    *,
    public: bool = False,
    message: str = "Upload a Wings checkpoint",
    new_card: bool = False,
) -> Pushed:
    """Makes the repository if there is none, and one commit with all files of a parcel.

    A new repository is private until the commit is made, so that nothing half-uploaded is public.

    Raises:
        WingsError: the repository has another kind of model, or is public and `public` is False.
        HubError: the Hub or the network refused something.
    """
    state = repository.state()
    if state is None:
        repository.create()
        state = repository.state()
    validate_target(repository.name, state, public, parcel.kind)
    parcel = for_repository(parcel, state, new_card)
    removed = superseded(parcel.files, state, OF_MODEL)
    address = repository.commit(parcel.files, removed, state, message)
    is_private = state is None or state.private
    if public and is_private:
        repository.publish()
    return Pushed(repository.name, address, is_private and not public, tuple(parcel.notes))


def validate_target(name: str, state: RemoteState | None, public: bool, kind: str) -> None:
    """Raises a `WingsError` if a repository is not for a model of this `model_type`."""
    if state is None:
        return
    if state.kind not in (None, kind):
        raise WingsError(
            f"{name} has a '{state.kind}' model already, whose files would mix with these: choose"
            f" another name."
        )
    if not state.private and not public:
        raise WingsError(
            f"{name} is public, and a push is private unless you say --public: add --public, or"
            f" choose another name."
        )
