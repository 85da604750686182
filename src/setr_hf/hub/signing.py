"""Signatures of published folders by OpenSSF model signing, with a pair of elliptic-curve keys of one's own."""

from pathlib import Path
from typing import Any

from ..errors import SetrError
from ..text import one_line
from .manifest import FILES_OF_THE_HUB, SIGNATURE


def model_signing(part: str) -> Any:
    """A module of the package model-signing. Raises [`SetrError`] if it is not installed."""
    try:
        import model_signing

        return getattr(model_signing, part)
    except ImportError as error:
        raise SetrError(f"signatures need an extra: pip install 'setr-hf[signing]' ({error})") from error


def hashing(folder: Path) -> Any:
    """What is signed: every file but the signature, and what the Hub itself adds."""
    paths = [folder / name for name in (SIGNATURE, *FILES_OF_THE_HUB, ".cache")]
    return model_signing("hashing").Config().set_ignored_paths(paths=paths, ignore_git_paths=True)


def sign(folder: Path, private_key: Path) -> None:
    """Signs all files of a folder, into its `model.sig`. `private_key` is a PEM file, such as
    `openssl ecparam -name prime256v1 -genkey -noout` writes. Raises [`SetrError`] if it cannot be used.
    """
    try:
        config = model_signing("signing").Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(hashing(folder)).sign(folder, folder / SIGNATURE)
    except (OSError, TypeError, ValueError) as error:
        raise SetrError(f"{private_key} cannot sign: {one_line(error, 500)}") from error


def check_signature(folder: Path, public_key: Path) -> list[str]:
    """A sentence if the signature of a folder is missing, is not that of `public_key`, a PEM file, or was made of
    other files. Raises [`SetrError`] if the key cannot be read.
    """
    if not public_key.is_file():
        raise SetrError(f"{public_key} is not a file: pass the public key of whoever signed the model")
    verifying = model_signing("verifying")
    if not (folder / SIGNATURE).is_file():
        return [f"there is no signature: {SIGNATURE} is missing"]
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # On files of any content.
        return [f"the signature is not that of {public_key.name} for these files: {one_line(error, 300)}"]
    return []
