"""Checks the Markdown files: the links within the repository, and every code block.

    python -m tools.check_docs [FILE.md ...]

Depending on its language, a block is run (python), read by `wsfleet check` (toml), parsed (json, jsonl), or split into
commands that must exist with these options (bash, console). Blocks of other languages need a marker with a reason.
URLs for curl, the fields of log lines, and each `wsfleet_...` here and in deploy/ must exist in the code. A comment
above a block can be a marker:

- `<!-- run -->`: a complete program, run separately in an empty folder; it must end with 0.
- `<!-- test -->`: tests, run by pytest, with the modules of examples/testing.
- `<!-- block: NAME -->`: tests/docs/test_patterns.py runs it.
- `<!-- file: NAME -->`: a file of that name, available to the blocks after it on the same page.
- `<!-- prints: TEXT -->`: it is run until it has printed this text.
- `<!-- output -->`: the output of the previous block.
- `<!-- not run: REASON -->`: the block is not checked.

Links to other sites are not followed.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tools import doc_live
from tools.doc_blocks import (
    FENCE,
    NOT_CODE,
    ROOT,
    Block,
    blocks,
    json_faults,
    outside,
    shell_faults,
    toml_faults,
    wrong_markers,
)
from tools.doc_names import metric_faults

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
RUN_LIMIT_S = 60
RUN_ELSEWHERE = ("run", "test", "block", "file", "not run")


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub creates for the headings."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path, markdown: str) -> list[str]:
    faults = []
    for target in LINK.findall(FENCE.sub("", markdown)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        if not linked.exists():
            faults.append(f"{target}: no such file")
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked.read_text("utf-8")):
            faults.append(f"{target}: no such heading")
    return faults


def run(folder: Path, *command: str) -> tuple[str | None, str]:
    """The fault of a program, and its output."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"still running after {RUN_LIMIT_S} s", ""
    return (None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"), done.stdout


class Page:
    """The blocks of one document, in order."""

    def __init__(self, document: Path, folder: Path, server: str) -> None:
        self._document = document
        self._folder = folder
        self._server = server
        self._printed = ""
        self.counts: Counter[str] = Counter()

    def faults(self) -> Iterator[str]:
        """Yield the faults, each with its place."""
        found = blocks(self._document)
        for block in found:
            for fault in (*wrong_markers(block), *self._check(block)):
                yield f"{block}: {fault}"
        text = self._document.read_text("utf-8")
        names = () if self._document.name == "CHANGELOG.md" else metric_faults(text)  # which mentions old names
        for fault in (*broken_links(self._document, text), *outside(self._document), *names):
            yield f"{self._document.relative_to(ROOT)}: {fault}"
        tests = [block for block in found if "test" in block.markers]
        if tests:
            yield from self._test(tests)

    def _check(self, block: Block) -> Iterator[str]:
        self.counts[block.language or "bash"] += 1
        if "file" in block.markers:
            (self._folder / block.markers["file"]).write_text(block.code)
        if "not run" in block.markers:
            return
        match block.language:
            case "python":
                yield from self._python(block)
            case "toml":
                yield from toml_faults(block, self._folder)
            case "json" | "jsonl":
                yield from json_faults(block)
            case "bash" | "console" | "":
                yield from shell_faults(block, {path.name for path in self._folder.iterdir()})
            case language if language in NOT_CODE:
                if "output" in block.markers and block.code != self._printed:
                    yield f"the block before it prints\n{self._printed}"
            case language:
                yield f"{language} is not checked; write the reason above it: <!-- not run: ... -->"

    def _python(self, block: Block) -> Iterator[str]:
        fault = None
        if "run" in block.markers:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "program.py").write_text(block.code)
                fault, self._printed = run(Path(folder), "program.py")
        elif not any(marker in block.markers for marker in RUN_ELSEWHERE):
            sys.path.insert(0, str(self._folder))
            try:
                fault = doc_live.failure(block, self._server)
            finally:
                sys.path.remove(str(self._folder))
        else:
            compile(block.code, str(block), "exec")
        if fault:
            yield fault

    def _test(self, tests: list[Block]) -> Iterator[str]:
        """Run the page's tests, each block as a separate file next to the examples' modules."""
        for number, block in enumerate(tests):
            name = "conftest.py" if "fixture" in block.code else f"test_{number}.py"
            (self._folder / name).write_text(block.code)
        for name in ("pytest.ini", "highs.py"):
            (self._folder / name).write_text((ROOT / "examples/testing" / name).read_text())
        fault, _ = run(self._folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        if fault:
            yield f"{self._document.relative_to(ROOT)}: {fault}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="default: all files in git")
    documents = [path.resolve() for path in parser.parse_args().files]
    if not documents:
        listed = subprocess.run(
            ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        documents = [ROOT / name for name in listed.split("\n") if name and os.path.exists(ROOT / name)]
    logging.disable(logging.WARNING)  # errors in the blocks are intended
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sorted((ROOT / "deploy").iterdir())
        for fault in metric_faults(path.read_text("utf-8"))
    ]
    counts: Counter[str] = Counter()
    with doc_live.servers() as server:
        for document in documents:
            with tempfile.TemporaryDirectory() as folder:
                page = Page(document, Path(folder), server)
                faults += page.faults()
                counts += page.counts
    for fault in faults:
        print(fault)
    shown = ", ".join(f"{number} {language}" for language, number in sorted(counts.items()))
    print(f"{len(documents)} documents; blocks: {shown}; {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
