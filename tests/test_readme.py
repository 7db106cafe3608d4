"""Every command in the README exists, and every command stands in the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^atrous (.+)$", BLOCKS, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    name, *arguments = shlex.split(line, comments=True)
    command = cli.commands[name]
    with command.make_context(name, arguments) as context:
        assert isinstance(context, click.Context)


def test_every_command_is_shown():
    assert {shlex.split(line)[0] for line in COMMANDS} == set(cli.commands)


def test_every_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_every_flag_exists():
    flags = {
        flag
        for command in cli.commands.values()
        for option in command.params
        for flag in option.opts
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= flags


def test_pictures_exist():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).exists() for picture in pictures)
