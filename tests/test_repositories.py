"""Whether a name is a folder here or a repository on the Hub is known with one request."""

import socket
import time

import pytest
from local_hub import hub_process, local_hub

from setr_hf.errors import SetrError
from setr_hf.repositories import check_model, files_on_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A process that talks to a Hub with a model and a data set, what was requested, and the folder of its cache."""
    root, cache = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("cache")
    (root / "me/thing").mkdir(parents=True)
    (root / "me/thing/config.json").write_text("{}")
    with local_hub(root, cache) as (process, requests):
        yield process, requests, cache


def test_what_the_hub_knows_takes_one_request(hub):
    process, requests, _ = hub
    requests.clear()
    process.submit(check_model, "me/thing").result()
    assert requests == ["GET /api/models/me/thing"]


@pytest.mark.parametrize(("kind", "name"), [("model", "a model"), ("dataset", "a data set")])
@pytest.mark.parametrize("source", ["me/none", "outputs/train/run", "/no/such/folder", "./here"])
def test_what_is_nowhere_is_said_at_once(hub, kind, name, source):
    process, requests, _ = hub
    requests.clear()
    with pytest.raises(SetrError, match=f"^{source} is neither a folder here nor {name} on the Hub"):
        process.submit(files_on_hub, source, kind).result()
    assert len(requests) <= 1


def test_a_folder_of_almost_that_name_is_named(hub, tmp_path):
    (tmp_path / "outputs/train").mkdir(parents=True)
    with pytest.raises(SetrError, match=r"tarin is neither a folder here \(is it .*/outputs/train\?\) nor a model"):
        hub[0].submit(check_model, f"{tmp_path}/outputs/tarin").result()


def test_a_folder_is_not_looked_up(hub, tmp_path):
    process, requests, _ = hub
    requests.clear()
    process.submit(check_model, str(tmp_path)).result()
    assert not requests


def free_address():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": free_address()}])
def test_without_the_hub_the_cache_decides_at_once(hub, variables):
    (hub[2] / "hub/models--me--thing/snapshots").mkdir(parents=True, exist_ok=True)
    with hub_process(hub[2], **variables) as process:
        process.submit(check_model, "me/thing").result()
        start = time.monotonic()
        with pytest.raises(SetrError, match="me/other is neither a folder here nor in the cache, and the Hub cannot"):
            process.submit(check_model, "me/other").result()
        assert time.monotonic() - start < 5
