"""The version, and the command that installs an extra, for each way in which the package can have been installed."""

import json
import shlex
import sys

import pytest
from packaging.requirements import Requirement

from nanogpt_core._runtime.extras import install_command, missing_extra, package_version

ARCHIVE = "https://example.org/nanogpt_rag-0.1.0-py3-none-any.whl"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put the metadata of another installation before this one's, with its origin as pip records it, or None."""

    def install(origin):
        folder = tmp_path / "nanogpt_rag-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: nanogpt-rag\nVersion: 0.1.0\n")
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, "nanogpt-rag[cli]"),
        (
            {"url": "https://example.org/rag.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "nanogpt-rag[cli] @ git+https://example.org/rag.git@0123abc",
        ),
        (
            {"url": "ssh://git@example.org/rag.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "nanogpt-rag[cli] @ git+ssh://git@example.org/rag.git@0123abc",
        ),
        (
            {"url": "file:///src/rag", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "nanogpt-rag[cli] @ git+file://localhost/src/rag@0123abc",
        ),
        (
            {"url": "ssh://KEY@example.org/rag.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "nanogpt-rag[cli] @ git+ssh://KEY@example.org/rag.git@0123abc",
        ),
        ({"url": ARCHIVE, "archive_info": {}}, f"nanogpt-rag[cli] @ {ARCHIVE}"),
        ({"url": f"{ARCHIVE}?token=secret", "archive_info": {}}, "nanogpt-rag[cli]"),
    ],
)
def test_command_installs_the_extra_from_the_origin_of_the_installation(installed, origin, wanted):
    installed(origin)
    words = shlex.split(install_command("cli"))
    assert words == ["pip", "install", wanted]
    requirement = Requirement(words[-1])  # pip can read it
    assert (requirement.name, requirement.extras) == ("nanogpt-rag", {"cli"})


@pytest.mark.parametrize(("info", "options"), [({}, []), ({"editable": True}, ["-e"])])
def test_command_of_a_checkout_names_its_folder(installed, tmp_path, info, options):
    folder = tmp_path / "my checkout"
    installed({"url": folder.as_uri(), "dir_info": info})
    assert shlex.split(install_command("cli")) == ["pip", "install", *options, f"{folder}[cli]"]


@pytest.mark.parametrize("user", ["secret-token", "user:secret-token"])
def test_command_does_not_show_the_credentials_of_the_address(installed, user):
    installed({"url": f"https://{user}@example.org/rag.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}})
    assert install_command("cli") == 'pip install "nanogpt-rag[cli] @ git+https://example.org/rag.git@0123abc"'


def test_import_that_fails_for_another_reason_than_a_package_gets_no_command():
    error = missing_extra("The sandbox", "sandbox", ImportError("DLL load failed: not found."))
    assert str(error) == "The sandbox cannot be imported: DLL load failed: not found."


def test_package_of_another_version_is_named():
    cause = ImportError("cannot import name 'x' from 'uvicorn'.", name="uvicorn")
    assert "another version of uvicorn: cannot import name 'x' from 'uvicorn'. Run: pip" in str(
        missing_extra("The sandbox", "sandbox", cause)
    )


def test_version_of_sources_that_are_not_installed_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # on which an installation would be found
    assert package_version() == "0+unknown"
