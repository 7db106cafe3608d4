"""Every command in the README exists, and every command stands in the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.cli import _CONTEXT, cli
from jobs.errors import CODES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^atrous (.+)$", BLOCKS, re.MULTILINE)


def leaves(command, words=()):
    """Every command that does something, by its words."""
    if not isinstance(command, click.Group):
        return {words: command}
    found = {}
    for name, inner in command.commands.items():
        found |= leaves(inner, (*words, name))
    return found


LEAVES = leaves(cli)


def split(line):
    """The words of the command in a line, and its arguments."""
    parts = tuple(shlex.split(line, comments=True))
    words = next(words for words in LEAVES if parts[: len(words)] == words)
    return words, list(parts[len(words) :])


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    words, arguments = split(line)
    # With the settings of the whole: click keeps the first help option that it makes.
    with LEAVES[words].make_context(words[-1], arguments, **_CONTEXT) as context:
        assert isinstance(context, click.Context)


def test_every_command_is_shown():
    assert {split(line)[0] for line in COMMANDS} == LEAVES.keys()


def test_every_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_every_flag_exists():
    flags = {
        flag
        for command in LEAVES.values()
        for option in command.params
        for flag in option.opts
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= flags


def test_pictures_exist():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).exists() for picture in pictures)


def test_the_network_page_names_modules_that_exist():
    page = (ROOT / "deeplab" / "README.md").read_text()
    named = set(re.findall(r"[\w/]+\.py\b", page))
    modules = {path.relative_to(ROOT / "deeplab") for path in ROOT.glob("deeplab/**/*.py")}
    names = {str(path) for path in modules} | {path.name for path in modules}
    assert len(named) > 15
    assert named <= names


def test_every_reason_of_a_dead_letter_is_named():
    (named,) = re.findall(r"for one of these reasons: (.*?)\.\n", README, re.DOTALL)
    assert re.findall(r"`(\w+)`", named) == list(CODES)
