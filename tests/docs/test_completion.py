"""Shells complete commands and options."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def bash(script: str, *, home: Path) -> str:
    """Run a script where `clipret` is the installed program and the home folder is an empty one."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    # Which shell asks is told, and not looked for among the parents of this process.
    environment = os.environ | {"HOME": str(home), "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.ci
def test_show_completion_prints_a_script(tmp_path):
    assert "complete -o default -F _clipret_completion clipret" in bash("clipret --show-completion bash", home=tmp_path)


@pytest.mark.ci
def test_bash_completes_commands_and_options_once_completion_is_installed(tmp_path):
    (tmp_path / ".bashrc").write_text("echo hello\n")
    bash("clipret --install-completion bash", home=tmp_path)
    assert (tmp_path / ".bashrc").read_text().startswith("echo hello\n")
    ask = "source ~/.bashrc > /dev/null; COMP_WORDS=({0}); COMP_CWORD={1}; _clipret_completion clipret; "
    ask += 'echo "${{COMPREPLY[@]}}"'
    assert bash(ask.format("clipret tra", 1), home=tmp_path).split() == ["train"]
    assert bash(ask.format("clipret train --wei", 2), home=tmp_path).split() == ["--weight-decay"]
