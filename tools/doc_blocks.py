"""Finds the code blocks of a Markdown file, and checks those that are not Python."""

import contextlib
import io
import json
import re
import shlex
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tools.doc_names import curl_fault, log_faults
from wsfleet import config
from wsfleet.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(r"^((?:<!-- [^\n]* -->\n)*)```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- ([a-z ]+?)(?:: (.*?))? -->")
MARKERS = {"run", "test", "file", "block", "prints", "output", "not run"}
"""Markers in a comment above a block; `tools/check_docs.py` explains them."""

NOT_CODE = {"text", "mermaid"}
"""Drawings, and the output of programs. With `<!-- output -->` it is compared."""

OTHERS = {
    "cat",
    "cd",
    "cp",
    "docker",
    "export",
    "git",
    "head",
    "install",
    "jq",
    "journalctl",
    "kill",
    "kubectl",
    "less",
    "ls",
    "mkdir",
    "podman",
    "prometheus",
    "promtool",
    "sudo",
    "systemctl",
    "tail",
    "ulimit",
}
"""Commands of other programs. Their options are not checked, but files of the repository must exist."""


@dataclass(frozen=True)
class Block:
    """One block: its place, its markers, and its content."""

    document: Path
    line: int
    language: str
    markers: dict[str, str]
    code: str

    def __str__(self) -> str:
        shown = self.document.relative_to(ROOT) if self.document.is_relative_to(ROOT) else self.document.name
        return f"{shown}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """The blocks of a document, in order, except Sphinx's directives, which Sphinx checks."""
    markdown = document.read_text("utf-8")
    found = []
    for match in FENCE.finditer(markdown):
        markers, language, code = match.groups()
        if not language.startswith("{"):
            line = markdown.count("\n", 0, match.start(3)) + 1
            words = language.split()
            found.append(Block(document, line, words[0] if words else "", dict(MARKER.findall(markers)), code))
    return found


def outside(document: Path) -> Iterator[str]:
    """Report lines that look like a block but are not parsed as one."""
    rest = FENCE.sub("", document.read_text("utf-8"))
    if re.search(r"^\s*(```|~~~)", rest, re.MULTILINE):
        yield "a block is indented or not closed, so it is not checked"


def wrong_markers(block: Block) -> Iterator[str]:
    for name, argument in block.markers.items():
        if name not in MARKERS:
            yield f"<!-- {name} --> is unknown; there are {', '.join(sorted(MARKERS))}"
        if name in ("not run", "file", "prints", "block") and not argument:
            yield f"<!-- {name}: --> has no text"


def shell_faults(block: Block, files: set[str]) -> Iterator[str]:
    """The faults of commands: of a console block, the lines with a prompt; of a script, all lines."""
    text = block.code.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        try:
            words = shlex.split(re.sub(r"(;|\|+)", r" \1 ", line), comments=True)
        except ValueError as error:
            yield f"{line}: {error}"
            continue
        for command in commands(words):
            fault = command_fault(command, files)
            if fault:
                yield f"{line.strip()}: {fault}"


def commands(words: list[str]) -> Iterator[list[str]]:
    """The single commands of a line, without redirections, and the environment variables before them."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", ";", "&&", "||", "&"):
            while command and re.match(r"[A-Z_]+=", command[0]):
                command.pop(0)
            if command:
                yield command
            command = []
        elif not re.match(r"\d?>", word):
            command.append(word)


def command_fault(command: list[str], files: set[str]) -> str | None:
    """The faults of one command."""
    for word in command:
        if re.match(r"(deploy|docs|examples|tests|tools)/[\w./-]+$", word) and not (ROOT / word).exists():
            return f"there is no {word}"
    name, rest = Path(command[0]).name, command[1:]
    match name:
        case "wsfleet":
            return wsfleet_fault(rest)
        case "make":
            targets = [word for word in rest if "=" not in word]
            makefile = (ROOT / "Makefile").read_text()
            missing = [each for each in targets if not re.search(rf"^{re.escape(each)}:", makefile, re.MULTILINE)]
            return f"the Makefile has no {missing[0]}" if missing else None
        case "python" | "python3":
            return python_fault(rest, files)
        case "pytest":
            return None
        case "curl":
            return curl_fault(rest)
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            wanted = {
                extra for word in rest for extra in re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", word)))
            }
            return f"there is no extra {sorted(wanted - extras.keys())}" if wanted - extras.keys() else None
    return None if name in OTHERS else f"{name} is no command that tools/doc_blocks.py knows"


def wsfleet_fault(words: list[str]) -> str | None:
    """The error of the command's own parser."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
            build_parser(words).parse_args(words)
    except SystemExit as exit:
        return " ".join(output.getvalue().split()) if exit.code else None
    return None


def python_fault(words: list[str], files: set[str]) -> str | None:
    if words[:1] == ["-m"]:
        return None if find_spec(words[1]) else f"there is no module {words[1]}"
    there = words and (words[0] in files or (ROOT / words[0]).exists())
    return None if there else f"there is no {' '.join(words[:1])}"


def toml_faults(block: Block, folder: Path) -> Iterator[str]:
    """The errors of `wsfleet check` for a file; a fragment gets the missing endpoint.

    Functions of modules that are not in `folder` belong to the reader, so placeholders are created for them.
    """
    text = block.code
    if not re.search(r"^\[\[(connect|pool)\]\]", text, re.MULTILINE):
        text += '\n[[connect]]\nuri = "wss://feed.example"\nname = "feed"\n'
    with tempfile.TemporaryDirectory() as made:
        place = folder if folder.exists() else Path(made)
        for module, function in re.findall(r'"([a-z_]+):([a-z_]+)"', text):
            if not (folder / f"{module}.py").exists() and module not in ("jsonl", "stdout"):
                with open(Path(made) / f"{module}.py", "a") as file:
                    file.write(f"async def {function}(argument=None): ...\n")
                    place = Path(made)
        for name in re.findall(r"\$\{file:([^}]+)\}", text):
            text = text.replace(name, str(Path(made) / "secret"))
            (Path(made) / "secret").write_text("sesame")
        environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "sesame")
        # If the whole value is an address, it must be valid.
        environ |= dict.fromkeys(re.findall(r'"\$\{(\w+)\}[/"]', text), "wss://feed.example")
        path = place / (block.markers.get("file") or "checked.toml")
        path.write_text(text)
        report = config.check(path, environ=environ)
        for fault in (*report.faults, *report.warnings):
            yield str(fault).replace(f"{path}:", "line ")


def json_faults(block: Block) -> Iterator[str]:
    for part in [block.code] if block.language == "json" else block.code.splitlines():
        try:
            yield from log_faults(json.loads(part))
        except ValueError as error:
            yield str(error)
