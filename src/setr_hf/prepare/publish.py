"""Publishes a prepared data set on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

from ..errors import SetrError


def check_can_publish(repo_id: str, private: bool) -> None:
    """Raises a [`SetrError`], before hours of work, if [`publish`] would fail: `repo_id` cannot be the name of a
    repository, the Hub cannot be reached, nobody is logged in, or a private repository is wanted and a public one
    exists.
    """
    api = HfApi()
    try:
        api.whoami()
        is_public = not api.dataset_info(repo_id).private
    except RepositoryNotFoundError:
        return
    except (HFValidationError, HTTPError, OSError) as error:
        raise SetrError(f"{repo_id} cannot be published from here: {error}") from error
    if private and is_public:
        raise SetrError(f"{repo_id} is on the Hub already and public: make it private there, or take another name")


def publish(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads what `setr-hf prepare` has written as a data set, created if it is missing, or in place of the parquet
    files that it has on the Hub. Returns its address. Raises a [`SetrError`] that says how to repeat a failed upload.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload data set",
            delete_patterns="data/*.parquet",
        )
    except Exception as error:  # Uploads raise many types; whatever happened, the work of hours is not lost.
        raise SetrError(
            f"the upload to {repo_id} failed, but {folder} is complete: repeat it with "
            f"`hf upload {repo_id} {folder} --repo-type dataset`. {error}"
        ) from error
    return str(url)
