"""Upload to and download from the Hugging Face Hub, with the token of huggingface_hub's own login."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lrbench.core.errors import FailureError, InputError, LrbenchError
from lrbench.core.files import writing
from lrbench.models.published import offline_without_network
from lrbench.sharing.places import HubRepository

_LONGEST_REASON = 300
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}


def upload(
    repository: HubRepository,
    folder: Path,
    *,
    message: str,
    public: bool,
    pull_request: bool = False,
    replaced: Sequence[str] = (),
) -> str:
    """Upload a folder in one commit, or propose it as a pull request.

    Args:
        repository: The repository. Without `pull_request`, a missing one is created.
        folder: The files.
        message: First line of the commit.
        public: Whether a new repository is public.
        pull_request: Whether to open a pull request instead of committing to the main branch.
        replaced: Patterns of files that are removed from the repository unless the folder has them.

    Returns:
        Address of the commit or pull request.

    Raises:
        InputError: The address has a revision, there is no login, or the Hub refuses the request.
        FailureError: The Hub cannot be reached.
    """
    if repository.revision is not None:
        raise InputError(
            f"{repository.text}@{repository.revision} names a revision, but uploads go to the main branch."
        )
    with _explained(repository) as api:
        if not pull_request:
            api.create_repo(repository.name, repo_type=repository.kind, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository.name,
            repo_type=repository.kind,
            folder_path=folder,
            commit_message=message,
            create_pr=pull_request,
            delete_patterns=list(replaced) or None,
        )
        # Nothing is proposed if the repository has all of the files.
        return str(commit.pr_url or commit.commit_url)


def list_files(repository: HubRepository) -> tuple[str, dict[str, int]]:
    """Return the commit of a repository's revision, and the sizes of its files in bytes by name.

    Raises:
        InputError, FailureError: As `upload`.
    """
    with _explained(repository) as api:
        info = api.repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision, files_metadata=True
        )
        return str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}


def download(repository: HubRepository, commit: str, folder: Path, patterns: Sequence[str]) -> None:
    """Download files of a commit to a folder, as regular files.

    Raises:
        InputError, FailureError: As `upload`.
    """
    with _explained(repository) as api, _explained_disk(folder):
        api.snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=commit,
            local_dir=folder,
            allow_patterns=list(patterns),
        )


@contextmanager
def _explained_disk(folder: Path) -> Iterator[None]:
    """Turn errors of the disk, which are not the Hub's, into errors for users."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        with writing(folder, then="it starts again"):
            raise


@contextmanager
def _explained(repository: HubRepository) -> Iterator["HfApi"]:  # type: ignore[name-defined]  # noqa: F821
    """Yield the Hub's client, and turn its errors into errors for users, which never contain the token."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        with offline_without_network():
            yield HfApi()
    except LrbenchError:
        raise
    except Exception as error:
        # Requests raise many kinds of exception; their first line says most.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        token = get_token()
        reason = reason.replace(token, "…") if token else reason
        # `offline_without_network` switched the mode on, not the user.
        if isinstance(error, OfflineModeIsEnabled) and not constants.HF_HUB_OFFLINE:
            reason = f"the name of {constants.ENDPOINT} does not resolve"
        status = (
            error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
        )
        if isinstance(error, LocalTokenNotFoundError) or status in {401, 403, 404}:
            raise InputError(
                f"the Hub refuses access to {repository.text}: {reason[:_LONGEST_REASON]}. Check the name, log in with "
                "`hf auth login`, and use a token that may write where you upload."
            ) from None
        raise FailureError(
            f"{repository.text} could not be reached: {reason[:_LONGEST_REASON]}. Check the network and run the same command "
            "again, or use a folder or a zip file."
        ) from None
