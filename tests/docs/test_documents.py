"""What README.md and docs/ show exists: commands and their options, files, names, links."""

import contextlib
import functools
import io
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from jsonargparse import auto_parser, set_parsing_settings

from mmretrieval.cli import RetrievalCLI, restrict_imports
from mmretrieval.tools.main import COMMANDS
from mmretrieval.tools.words import spelled_out

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_CONNECTORS = {"&&", "|", ";", "||"}
_PREFIXES = ("uv run", "srun")


class Shown(NamedTuple):
    """A command in a document."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def commands(path: Path) -> list[Shown]:
    """All commands of the bash blocks, and the whole ones in running text."""
    text = path.read_text("utf-8")
    found = []
    for block in _FENCE.finditer(text):
        if block[1] == "bash":
            lines = block[2].replace("\\\n", " ").splitlines()
            found += [Shown(_where(path, text, block.start()), c) for line in lines for c in split(line)]
    for start, span in spans(text):
        if re.match(r"(lightning|mmretrieval|python) [a-z]", span):
            found += [Shown(_where(path, text, start), c) for c in split(span)]
    return found


def spans(text: str) -> list[tuple[int, str]]:
    """Code in running text with its place, without what stands in blocks."""
    outside = _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    joined = re.sub(r"(?<=\S)\n(?=\S)", " ", outside)  # code may go on in the next line
    return [(span.start(), span[1]) for span in _SPAN.finditer(joined)]


def split(line: str) -> list[tuple[str, ...]]:
    """The commands of a line, without what starts them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    found, words = [], []
    for word in [*lexer, ";"]:
        if word in _CONNECTORS:
            found.append(_without_prefix(words))
            words = []
        else:
            words.append(word)
    return [command for command in found if command]


def _without_prefix(words: list[str]) -> tuple[str, ...]:
    for prefix in map(str.split, _PREFIXES):
        if words[: len(prefix)] == prefix:
            words = words[len(prefix) :]
            while words and words[0].startswith("--"):  # uv run --group NAME
                words = words[2:]
    if words and words[0] == "torchrun":
        words = words[words.index("--no-python") + 1 :]
    return tuple(words)


def _where(path: Path, text: str, start: int) -> str:
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, start) + 1}"


SHOWN = [shown for path in DOCUMENTS for shown in commands(path)]
OTHER_PROGRAMS = {"pip", "tensorboard", "cat", "tar"}
COMPLETE = ("stage1.yaml", "continual_text.yaml", "rerank.yaml")
NUMBERS = {"N": "8"}  # placeholders of options that take a number

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


def of(program):
    return [shown for shown in SHOWN if shown.words[0] == program]


def completed(words):
    """The words with values for placeholders, and without marks of omission."""
    return [NUMBERS.get(word, word) for word in words if "…" not in word]


class _OnlyParser(RetrievalCLI):
    """Stops where the command line would be read."""

    def parse_arguments(self, parser, args):
        raise StopIteration(parser)


@functools.cache
def lightning_parser():
    restrict_imports()
    try:
        _OnlyParser([])
    except StopIteration as stopped:
        return stopped.value
    pytest.fail("the command line was read")


def refusal(words):
    """What ``lightning`` says against a command, nothing if it would run it."""
    words = [*words]
    if words[1:] == [] and words[0] in RetrievalCLI.subcommands():
        return None  # only the sub-command is named
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            helping = any(word.endswith("help") for word in words)
            lightning_parser().parse_args(words if helping else [*words, "--print_config"])
        except SystemExit as ended:
            return out.getvalue() if ended.code else None
    return "it was neither printed nor refused"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@functools.cache
def with_one_base():
    """The commands of a sub-command and the same files, with the options of all: they are read at once."""
    found = {}
    for shown in of("lightning"):
        words = completed(shown.words[1:])
        files = [number + 1 for number, word in enumerate(words) if word == "-c"]
        base = [words[0]]
        for number in files:  # a configuration that a run writes is like the one that it was given
            written = words[number].startswith("outputs/")
            base += ["-c", "configs/stage1.yaml" if written else words[number]]
        named = {number + step for number in files for step in (-1, 0)}
        options = [word for number, word in enumerate(words[1:], 1) if number not in named]
        found.setdefault(tuple(base), []).append((shown.where, options))
    return found


@pytest.mark.parametrize("base", with_one_base(), ids=" ".join)
def test_lightning_understands_the_commands(base):
    shown = with_one_base()[base]
    options = [word for _, words in shown for word in words]
    assert refusal([*base, *options]) is None, [where for where, _ in shown]


@pytest.mark.parametrize("shown", of("mmretrieval"), ids=str)
def test_mmretrieval_understands_a_command(shown, capsys):
    words = completed(shown.words[1:])
    command = COMMANDS
    for number, word in enumerate(words):
        if not isinstance(command, dict):
            break
        command = command[word]
        if number == len(words) - 1:
            return  # only the sub-command is named
    set_parsing_settings(parse_optionals_as_positionals=words[:1] == ["search"])
    try:
        auto_parser(COMMANDS, prog="mmretrieval").parse_args(spelled_out(words, COMMANDS))
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    finally:
        set_parsing_settings(parse_optionals_as_positionals=False)


@pytest.mark.parametrize("shown", of("python"), ids=str)
def test_a_script_and_its_options_exist(shown):
    script = ROOT / shown.words[1]
    source = script.read_text("utf-8")
    if "seeded_runs" in source:
        source += (ROOT / "benchmarks/seeded_runs.py").read_text("utf-8")
    options = {word for word in shown.words[2:] if word.startswith("--")}
    assert {option for option in options if f'"{option}"' not in source} == set()


def test_no_other_program_is_shown_and_extras_exist():
    programs = {shown.words[0] for shown in SHOWN}
    assert programs <= {"lightning", "mmretrieval", "python", "pytest", *OTHER_PROGRAMS}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    asked = {extra for shown in of("pip") for word in shown.words for extra in re.findall(r"\[(\w+)\]", word)}
    assert asked
    assert asked <= extras
    assert len(of("lightning")) > 30, "they were found at all"
    assert len(of("mmretrieval")) > 30


@functools.cache
def known_keys(name):
    """All keys of a complete configuration, with those that it leaves at their defaults."""
    command = "predict" if name == "rerank.yaml" else "fit"
    return lightning_parser().parse_args([command, "-c", f"configs/{name}"]).as_dict()[command]


def has(settings, path):
    """Whether a key is there; ``init_args`` may be left out, as on the command line."""
    for place, part in enumerate(path):
        if isinstance(settings, dict) and part not in settings and "init_args" in settings:
            settings = settings["init_args"]
        if not isinstance(settings, dict) or part not in settings:
            return False
        settings = settings[part]
        if settings is None and place < len(path) - 1:
            return True  # what could stand there is not known
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_running_text_exist(document):
    keys = {
        span.split()[0].split("=")[0][2:].removesuffix("+")
        for _, span in spans(document.read_text("utf-8"))
        if re.match(r"--(model|data|trainer)\.", span)
    }
    settings = [known_keys(name) for name in COMPLETE]
    assert {key for key in keys if not any(has(one, key.split(".")) for one in settings)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_names_and_links_exist(document):
    text = document.read_text("utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.split("#")[0]
        if "://" not in target and path and not (document.parent / path).exists():
            missing.append(target)
    for _, span in spans(text):
        if re.fullmatch(r"(configs|benchmarks|tests|docs|mmretrieval|callbacks)/[\w./-]*", span):
            missing += [] if (ROOT / span).exists() else [span]
        elif re.fullmatch(r"(mmretrieval|data_modules|callbacks)(\.[a-z_]+)*\.[A-Z]\w+", span):
            module, _, name = span.rpartition(".")
            missing += [] if hasattr(import_module(module), name) else [span]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_anchors_exist(document):
    text = document.read_text("utf-8")
    for path, anchor in re.findall(r"\]\(([\w./]*)#([^)\s]+)\)", text):
        other = (document.parent / path) if path else document
        headings = re.findall(r"^#+ (.+)$", other.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}
        assert anchor in anchors, f"{document.name} → {path}#{anchor}"


# --- the checks themselves


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "-c", "configs/stage9.yaml"), "stage9"),
        (("fit", "-c", "configs/stage1.yaml", "--data.root", "X"), "root"),
        (("fit", "-c", "configs/stage1.yaml", "--trainer.devises", "2"), "devises"),
        (("fry", "-c", "configs/stage1.yaml"), "fry"),
    ],
)
def test_a_command_that_does_not_exist_is_found(words, said):
    assert said in refusal(words)


def test_commands_are_taken_apart(tmp_path, monkeypatch):
    path = tmp_path / "some.md"
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path.write_text(
        "Run `mmretrieval data\ndoctor X` and `--data.root X`.\n\n```bash\n"
        "uv run --group peers python b.py --x \\\n  1 # why\n"
        "torchrun --n 8 --no-python lightning fit && a | b 'c d'\n```\n"
    )
    assert commands(path) == [
        Shown("some.md:4", ("python", "b.py", "--x", "1")),
        Shown("some.md:4", ("lightning", "fit")),
        Shown("some.md:4", ("a",)),
        Shown("some.md:4", ("b", "c d")),
        Shown("some.md:1", ("mmretrieval", "data", "doctor", "X")),
    ]
    assert split("") == []
