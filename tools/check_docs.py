"""Checks the Markdown files: that their links lead somewhere in the repository, and that their Python code is sound.

A Python block below the comment `<!-- run -->` is a complete program: it is run in an empty folder and must end with 0.
Every other one must compile, and what it imports from wsfleet must exist. Links to other sites are not followed.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(<!-- run -->\n+)?```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_LIMIT_S = 60


def anchors(markdown: str) -> set[str]:
    """The names that GitHub gives to the headings."""
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


def unsound(code: str) -> str | None:
    """What is wrong with code that is only shown, not run."""
    try:
        tree = ast.parse(code)
        # Examples may await outside of a function, as in the asyncio console.
        compile(tree, "<block>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        return str(error)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "wsfleet":
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            if missing:
                return f"{node.module} has no {', '.join(missing)}"
    return None


def failure(code: str) -> str | None:
    """What is wrong with a complete program."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"still running after {RUN_LIMIT_S} s"
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stderr}"


def main() -> int:
    faults: list[str] = []
    ran = read = 0
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    documents = [ROOT / name for name in listed.split("\n") if name and os.path.exists(ROOT / name)]
    for document in documents:
        markdown = document.read_text("utf-8")
        name = document.relative_to(ROOT)
        faults += [f"{name}: {fault}" for fault in broken_links(document, markdown)]
        for match in FENCE.finditer(markdown):
            run, language, code = match.groups()
            if language != "python":
                continue
            line = markdown.count("\n", 0, match.start(3)) + 1
            fault = failure(code) if run else unsound(code)
            ran, read = ran + bool(run), read + (not run)
            if fault:
                faults.append(f"{name}:{line}: {fault}")
    for fault in faults:
        print(fault)
    print(f"{len(documents)} documents: {ran} programs run, {read} only compiled, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
