"""Which failures of a storage are tried again, how long it is waited for, and what no message tells."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import Promise, filesystem, is_local, patiently, reason
from schemas.errors import InputError, has_credentials, redacted
from schemas.events import StorageConfig
from schemas.load import load_job, parse_job
from tests.logs import small_config, write_config

QUICK = StorageConfig(retries=2, timeout_seconds=1, backoff_seconds=0)


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"


@pytest.mark.parametrize("error", [OSError("busy"), EOFError("short"), TimeoutError("late"), RuntimeError("own")])
def test_a_failure_that_passes_is_tried_again(error: Exception) -> None:
    flaky = Flaky(2, error)
    assert patiently(flaky, QUICK, "bucket/file") == "answer"
    assert flaky.calls == 3


def test_after_the_last_attempt_the_object_and_the_reason_are_named() -> None:
    flaky = Flaky(9, OSError("busy\nand more"))
    with pytest.raises(InputError, match=r"^bucket/file: cannot be read after 3 attempts \(busy\); see whether the"):
        patiently(flaky, QUICK, "bucket/file")
    assert flaky.calls == 3


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), TypeError("x"), InputError("x")])
def test_what_no_second_try_mends_comes_through_at_once(error: Exception) -> None:
    flaky = Flaky(9, error)
    with pytest.raises(type(error)):
        patiently(flaky, QUICK, "file")
    assert flaky.calls == 1


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(InputError):
        patiently(Flaky(99, OSError()), StorageConfig(retries=8, backoff_seconds=0.2), "file")
    assert slept == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_read_that_hangs_is_given_up() -> None:
    release = threading.Event()
    hanging = Promise(lambda: release.wait(60))
    with pytest.raises(TimeoutError, match="no answer in 1 s"):
        hanging.result(QUICK)
    release.set()
    with pytest.raises(ZeroDivisionError):
        Promise(lambda: 1 // 0).result(QUICK)


def test_paths_of_the_system_are_local_and_no_others(tmp_path: Path) -> None:
    assert is_local(filesystem(str(tmp_path))[0])
    assert is_local(filesystem(f"file://{tmp_path}")[0])
    assert not is_local(filesystem("memory://x")[0])
    assert filesystem(str(tmp_path))[1] == str(tmp_path)


def test_s3_is_opened_with_time_outs_and_bounded_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    fs, path = filesystem("s3://bucket/log", StorageConfig(timeout_seconds=7))
    assert path == "bucket/log"
    assert fs.config_kwargs["connect_timeout"] == fs.config_kwargs["read_timeout"] == 7
    assert fs.config_kwargs["retries"]["total_max_attempts"] == 3
    assert fs.retries == 1, "no rounds of s3fs's own on top"


SECRETS = [
    "s3://AKIAEXAMPLEKEY:wJalrXUtnFEMI/K7MDENG@bucket/log",
    "https://user:pass-word-1@host/log",
    "s3://bucket/log?X-Amz-Credential=AKIAEXAMPLEKEY",
    "http://host/log?token=wJalrXUtnFEMI",
]
HARMLESS = ["s3://bucket/log", "runs/a@b", "/data/x?y", "memory://log", "sftp://me@host/log", "user:name@host", "a = b"]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("key", ["data.path", "output", "tracking.entity"])
def test_a_url_with_credentials_is_refused_by_key_and_not_shown(tmp_path: Path, url: str, key: str) -> None:
    path = write_config(tmp_path / "job.yaml", small_config("log", "out"))
    with pytest.raises(InputError, match=f"{key}: the URL carries credentials") as caught:
        load_job(str(path), [f"{key}={url}"])
    text = str(caught.value) + repr(caught.value.__cause__)
    for secret in ("AKIAEXAMPLEKEY", "wJalrXUtnFEMI", "pass-word-1"):
        assert secret not in text


@pytest.mark.parametrize("url", SECRETS)
def test_no_other_complaint_about_a_configuration_shows_them(tmp_path: Path, url: str) -> None:
    """Where the URL stands at a wrong place, the message echoes what was given."""
    path = write_config(tmp_path / "job.yaml", small_config("log", "out"))
    told = []
    for override in (f"{url}", f"data={url}", f"train.batch_size={url}", f"{url}=1", f"data.path='{url}"):
        with pytest.raises(InputError) as caught:
            load_job(str(path), [override])
        told.append(str(caught.value))
    for secret in ("AKIAEXAMPLEKEY", "wJalrXUtnFEMI", "pass-word-1"):
        assert not any(secret in text for text in told), told
    with pytest.raises(InputError, match="carries credentials"):
        filesystem(url)


@pytest.mark.parametrize("url", HARMLESS)
def test_other_strings_are_let_through(url: str) -> None:
    assert not has_credentials(url)
    config = small_config("log", "out")
    config["tracking"]["entity"] = url
    assert parse_job(config, "test").tracking.entity == url


def test_a_token_alone_before_the_host_is_a_credential_where_it_is_no_users_name() -> None:
    assert has_credentials("https://ghp_token@host/log")
    assert has_credentials("git+https://ghp_token@host/log")
    assert not has_credentials("https://host/a@b")


def test_secret_variables_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token-2")
    monkeypatch.setenv("SHORT_TOKEN", "no")
    for name in ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING"):  # as adlfs takes them
        monkeypatch.setenv(name, f"canary-{name}")
        assert redacted(f"refused: canary-{name}") == "refused: ***", name
    error = OSError("denied for canary-secret-1 with canary-token-2, no")
    assert reason(error) == "denied for *** with ***, no"
    assert "canary" not in str(InputError(f"{error}"))
    assert redacted("plain text stays? yes=1") == "plain text stays? yes=1"


def test_the_schema_has_no_place_for_credentials() -> None:
    words: list[Any] = list(StorageConfig.model_fields)
    assert words == ["retries", "timeout_seconds", "backoff_seconds"]
    assert "AWS" not in "".join(k for k in os.environ if k.startswith("FULCRUM"))
