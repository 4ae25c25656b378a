"""The entry point: help, version, errors and exit codes."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclopts import App

from nanogpt_core import Embedder, errors
from nanogpt_core._runtime.extras import install_command
from nanogpt_core.cli import app as app_module
from nanogpt_core.cli import doctor, entry
from nanogpt_core.cli.checks import Finding
from nanogpt_core.cli.console import make_console, make_table, print_json
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of, message_of
from nanogpt_core.embeddings.dispatch import text_too_long
from nanogpt_core.embeddings.inputs import check_text
from nanogpt_core.http.limits import Cost, budget_exceeded

COMMANDS = sorted(app_module._COMMANDS)


def command_that(raises):
    """Return an application with one command, ``fail``, that raises."""
    app = App(name="nanogpt", suppress_keyboard_interrupt=False)

    @app.command
    def fail():
        raise raises

    return app


@pytest.fixture
def failing(nanogpt, monkeypatch):
    """Return ``failing(error)``: the result of a command that raises ``error``."""

    def call(error):
        monkeypatch.setattr(app_module, "make_app", lambda: command_that(error))
        return nanogpt("fail")

    return call


def test_help_lists_every_command_and_imports_no_heavy_module():
    code = (
        "import sys, json\n"
        "from nanogpt_core.cli.entry import run\n"
        "code = run(['--help'])\n"
        "sys.stderr.write(json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    exit_code, modules = json.loads(done.stderr)
    assert exit_code == 0
    assert all(f" {name} " in done.stdout for name in COMMANDS)
    heavy = {"numpy", "openai", "tiktoken", "httpx", "httpx2", "pyarrow", "starlette", "nanogpt_core.embeddings"}
    assert not heavy & set(modules)
    assert not {f"nanogpt_core.cli.{name}" for name in COMMANDS} & set(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_its_summary_and_examples(nanogpt, name):
    result = nanogpt(name, "--help")
    assert result.code == 0
    assert app_module._COMMANDS[name] in " ".join(result.out.split())
    assert f"  nanogpt {name} " in result.out.partition("Examples:")[2]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "cache"])  # which has commands of its own
def test_summary_of_each_command_is_the_docstring_which_the_help_does_not_show(name):
    function = importlib.import_module(f"nanogpt_core.cli.{name}").command.default_command
    assert function.__doc__.partition("Args:")[0].strip() == app_module._COMMANDS[name]


@pytest.mark.parametrize("name", [*COMMANDS, "cache info", "cache verify", "cache export", "cache clear"])
def test_help_of_each_option_is_one_line_in_a_wide_terminal(nanogpt, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "400")
    result = nanogpt(*name.split(), "--help")
    assert result.out.count("╭") >= 1
    assert re.findall("(?m)^│ {8,}[^ │].*", result.out) == []  # the line breaks of a docstring, which stay


def test_version_is_that_of_the_package(nanogpt):
    import nanogpt_core

    assert nanogpt("--version").out == f"nanogpt {nanogpt_core.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sumarize"], 'Unknown command "sumarize"'),
        (["completion"], "nanogpt completion --help"),
        (["completion", "tcsh"], '"tcsh"'),
        (["completion", "bash", "--colour"], "--colour"),
        (
            ["search", "a.npy", "two", "words", "more"],
            "Too many arguments: words more. A text with blanks needs quotes.",
        ),
        (["search", "a.npy", "-", "-"], "Too many arguments: -."),
        (["embed", "a.txt", "-o", "a.npy", "--cache", "-"], 'Invalid value "-" for --cache. Name a file.'),
        (["embed", "a.txt", "-o", "-"], 'Invalid value "-" for -o. Name a file.'),
        (["verify", "-"], 'Invalid value "-" for OUTPUT. Name a file.'),
    ],
)
def test_wrong_command_line_is_one_line_and_code_2(nanogpt, arguments, words):
    result = nanogpt(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("nanogpt: ")
    assert result.err.count("\n") == 1
    assert words in result.err


def test_api_key_option_is_refused_with_the_name_of_the_variable(nanogpt):
    result = nanogpt("completion", "bash", "--api-key", "sk-nano-secret")
    assert result.code == 2
    assert "NANOGPT_API_KEY" in result.err
    assert "sk-nano-secret" not in result.err


def test_missing_value_of_the_sandboxs_api_key_is_named(nanogpt):
    result = nanogpt("sandbox", "--api-key")
    assert (result.code, result.out) == (2, "")
    assert "--api-key requires an argument" in result.err
    assert "NANOGPT_API_KEY" not in result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("Wrong.", remedy="Do this."), 2),
        (errors.InvalidInputError("Wrong.", remedy="Do this."), 3),
        (errors.TextTooLongError("Wrong.", remedy="Do this."), 3),
        (errors.AuthenticationError("Wrong.", remedy="Do this.", status=401), 4),
        (errors.InsufficientBalanceError("Wrong.", remedy="Do this.", status=402), 4),
        (errors.ModelNotFoundError("Wrong.", remedy="Do this.", status=404), 4),
        (errors.ConnectionFailedError("Wrong.", remedy="Do this."), 5),
        (errors.QuotaExceededError("Wrong.", remedy="Do this.", status=429), 5),
        (errors.ServerError("Wrong.", remedy="Do this.", status=503), 5),
        (errors.DamagedReplyError("Wrong.", remedy="Do this."), 5),
        (errors.BudgetExceededError("Wrong.", remedy="Do this."), 6),
        (CommandError("Wrong.", remedy="Do this.", code=ExitCode.BAD_INPUT), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_is_one_line_with_its_remedy_and_a_documented_code(failing, error, code):
    result = failing(error)
    assert (result.code, result.out, result.err) == (code, "", "nanogpt: Wrong. Do this.\n")


def test_every_error_of_the_package_has_an_exit_code():
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    codes = {exit_code_of(kind.__new__(kind)) for kind in kinds}
    assert codes == {2, 3, 4, 5, 6}


def test_defect_is_one_line_and_code_70(failing):
    result = failing(ZeroDivisionError("division by zero"))
    assert result.code == 70
    assert result.err.count("\n") == 1
    assert "ZeroDivisionError" in result.err
    assert "NANOGPT_TRACEBACK" in result.err


def test_traceback_is_printed_on_request(failing, monkeypatch):
    monkeypatch.setenv("NANOGPT_TRACEBACK", "1")
    assert "Traceback" in failing(ZeroDivisionError("division by zero")).err


def test_missing_package_names_its_extra(failing):
    result = failing(ImportError("No module named 'pypdfium2'", name="pypdfium2"))
    assert result.code == 2
    assert install_command("pdf") in result.err


def test_missing_file_is_named_in_one_line(failing):
    result = failing(FileNotFoundError(2, "No such file or directory", "notes.txt"))
    assert (result.code, result.err) == (2, "nanogpt: notes.txt: No such file or directory\n")


def test_warning_that_is_an_error_by_request_is_no_defect(failing):
    result = failing(RuntimeWarning("Token counts are estimated."))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "Token counts are estimated. Warnings are errors here" in result.err


def test_error_of_the_system_without_a_file_is_one_line(failing):
    assert failing(OSError("broken\nin two")).err == "nanogpt: broken in two\n"


def test_line_breaks_of_a_reply_or_a_name_do_not_divide_a_message(failing):
    error = errors.ServerError("The host said: no\nroom.\r\n", remedy="Try\u2028again.", status=503)
    assert failing(error).err == "nanogpt: The host said: no room. Try again.\n"


def test_exit_of_rich_after_its_reader_has_gone_is_code_141(failing):
    assert failing(SystemExit(1)).code == 141


def test_message_that_cannot_be_written_leaves_the_exit_code(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert entry.run(["nonesuch"]) == 2


def test_streams_that_the_caller_has_closed_are_empty_or_discard(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    entry._open_closed_streams()
    with sys.stdin as stdin, sys.stdout as stdout, sys.stderr as stderr:
        assert (stdin.read(), stdout.write("a"), stderr.write("b")) == ("", 1, 1)


@pytest.mark.parametrize("number", entry._SIGNALS)
def test_first_signal_interrupts_and_the_next_one_ends_the_process(number):
    before = {each: signal.getsignal(each) for each in entry._SIGNALS}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for each in entry._SIGNALS[1:]:
            signal.signal(each, signal.SIG_DFL)
        entry._handle_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert {signal.getsignal(each) for each in entry._SIGNALS} == {signal.SIG_DFL}
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        entry._handle_signals()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_interrupt_is_code_130(failing):
    assert failing(KeyboardInterrupt()).code == 130


def test_closed_output_is_code_141_and_silent(failing):
    result = failing(BrokenPipeError(32, "Broken pipe"))
    assert (result.code, result.err) == (141, "")


def test_warning_is_one_line_without_its_place_in_the_source_and_comes_once():
    code = (
        "import sys, warnings\n"
        "from cyclopts import App\n"
        "from nanogpt_core.cli import app, entry\n"
        "made = App(name='nanogpt')\n"
        "def warn():\n"
        "    warnings.warn('The cache is slow.', RuntimeWarning)\n"
        "    warnings.warn('The cache is slow.', RuntimeWarning)\n"
        "made.command(warn)\n"
        "app.make_app = lambda: made\n"
        "sys.exit(entry.run(['warn']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "nanogpt: warning: The cache is slow.\n")


def test_command_line_without_its_extra_says_how_to_install_it():
    code = (
        "import sys\n"
        "sys.modules['cyclopts'] = sys.modules['rich'] = None\n"
        "from nanogpt_core.cli.entry import main\n"
        "sys.argv = ['nanogpt', 'models']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"nanogpt: cyclopts is not installed. Run: {install_command('cli')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_script_knows_every_command(nanogpt, shell):
    result = nanogpt("completion", shell)
    if shell == "powershell" and int(version("cyclopts").split(".")[0]) < 5:
        assert (result.code, result.err) == (
            ExitCode.USAGE,
            "nanogpt: No script for powershell: the installed cyclopts does not support it.\n",
        )
        return
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


def test_control_characters_in_tables_findings_and_json_do_not_reach_the_terminal(capsys):
    hostile = "name\x1b]0;title\x07\x9b31m\x7f"
    table = make_table("model", hostile, right=[hostile], narrow=False)
    table.add_row(hostile, "1")
    make_console().print(table, hostile, doctor._row(Finding("ok", hostile, hostile)))
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().out) == []
    print_json({hostile: hostile})
    out = capsys.readouterr().out
    assert out.removesuffix("\n").isprintable()
    assert json.loads(out) == {hostile: hostile}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_loses_no_character_in_any_encoding_of_standard_output(encoding):
    code = "from nanogpt_core.cli import console; console.print_json({'Größe': '你好 \U0001f41d'})"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:replace"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert json.loads(done.stdout.decode(encoding)) == {"Größe": "你好 \U0001f41d"}
    assert ("你好".encode() in done.stdout) is (encoding == "utf-8")


def test_number_that_json_does_not_have_is_an_error_of_the_service():
    with pytest.raises(CommandError, match="The result cannot be printed as JSON") as refused:
        print_json({"balance": float("inf")})
    assert refused.value.code == ExitCode.SERVICE


def test_exit_codes_of_the_page_are_those_of_the_program():
    page = (Path(entry.__file__).parents[2] / "docs" / "cli" / "README.md").read_text(encoding="utf-8")
    listed = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert [int(code) for code in listed if code.isdigit()] == [code.value for code in ExitCode]
    missing = [name for name, summary in app_module._COMMANDS.items() if f"nanogpt {name}`" not in page]
    assert missing == [name for name, summary in app_module._COMMANDS.items() if f" | {summary} |" not in page] == []


def test_options_of_python_in_remedies_are_those_of_the_command_line():
    too_long = text_too_long(errors.RequestTooLargeError("Too large.", remedy="", status=413), 3, is_only=False)
    too_expensive = budget_exceeded(Cost("model", usd=1.0), 0.5, 0.0)
    assert message_of(too_long).endswith("Shorten it, or pass --on-overflow truncate or --on-overflow split.")
    assert message_of(too_expensive).endswith("Pass a higher --budget.")
    with pytest.raises(errors.ConfigurationError) as no_price:
        Embedder("new-model", budget_usd=1.0, api_key="k")
    assert message_of(no_price.value) == (
        "--budget cannot be kept for 'new-model': its price is unknown. Leave --budget out, and pass --yes."
    )
    no_key = errors.AuthenticationError("No.", remedy="Check the key in api_key or NANOGPT_API_KEY.", status=401)
    assert message_of(no_key) == "No. Check the key in NANOGPT_API_KEY."
    address = errors.ConfigurationError("NANOGPT_BASE_URL: base_url is not a URL.", remedy="Check base_url.")
    assert message_of(address) == "NANOGPT_BASE_URL: base_url is not a URL. Check --base-url."
    no_model = errors.ModelNotFoundError("No.", remedy="Did you mean X? list_models() returns all models.", status=404)
    assert message_of(no_model) == "No. Did you mean X? `nanogpt models` returns all models."
    late = errors.RequestTimeoutError("Late.", remedy="Try again, or raise timeout.")
    assert message_of(late) == "Late. Try again."
    with pytest.raises(errors.ConfigurationError) as no_reduction:
        Embedder("BAAI/bge-m3", dimensions=3, api_key="k")
    assert message_of(no_reduction.value) == (
        "BAAI/bge-m3 does not take --dimensions; its vectors have 1024. Leave it out."
    )
    with pytest.raises(errors.ConfigurationError) as with_password:
        Embedder(base_url="https://user:pass@example.org/api/v1", api_key="k")
    assert message_of(with_password.value).endswith("Leave them out. The key is read from NANOGPT_API_KEY.")
    with pytest.raises(errors.InvalidInputError) as surrogate:
        check_text("caf\udce9", "query")
    assert message_of(surrogate.value).endswith("which UTF-8 cannot encode. Pass it in UTF-8.")
    assert message_of(errors.InvalidInputError("Wrong.", remedy="Do this.")) == "Wrong. Do this."
    assert message_of(errors.InvalidInputError("Wrong.")) == "Wrong."
