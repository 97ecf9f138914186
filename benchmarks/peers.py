"""An environment of their own for the libraries we are measured against, and scripts run in it.

pyvene and pyreft need transformers below 5, we need 5: they cannot share a process. `run` builds
their environment where there is none yet (minutes, some 2 GB, once a machine) and runs a file of
`peer_scripts/` in it; tensors travel in safetensors files. Those scripts import pyvene and
pyreft, and never `reft_interp`; nothing here imports pyvene or pyreft.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import platformdirs

# One list per call of pip. pyreft goes last and alone: its pins contradict what it runs with.
REQUIREMENTS = (
    (
        "torch==2.13.0",
        "transformers==4.57.6",
        "pyvene==0.1.8",
        "peft==0.18.0",
        "accelerate",
        "gguf",
    ),
    ("--no-deps", "pyreft==0.1.0"),
)
_SCRIPTS = Path(__file__).parent / "peer_scripts"
_TAIL = 20


def folder() -> Path:
    """Where the environment lives: below REFT_INTERP_CACHE, or below the user's cache folder."""
    cache = os.environ.get("REFT_INTERP_CACHE") or platformdirs.user_cache_dir("reft_interp")
    return Path(cache) / "peers"


def python() -> Path:
    """The peers' Python interpreter; builds the environment where it is missing or outdated.

    Raises:
        RuntimeError: a step of the installation failed (the message ends with its log's tail).
    """
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    venv = home / "venv"
    interpreter = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = venv / "requirements.txt"
    wanted = f"# Python {sys.version_info.major}.{sys.version_info.minor}\n" + "\n".join(
        " ".join(step) for step in REQUIREMENTS
    )
    # Two benchmarks may start at once; the second waits for the first one's environment.
    with filelock.FileLock(home / "venv.lock"):
        if stamp.is_file() and stamp.read_text() == wanted and interpreter.is_file():
            return interpreter
        shutil.rmtree(venv, ignore_errors=True)
        log = home / "install.log"
        log.write_text("")
        print(f"Building the peers' environment in {venv} (once; log: {log})", file=sys.stderr)
        # The base interpreter: a venv made from a venv breaks when the outer one goes.
        base = getattr(sys, "_base_executable", None) or sys.executable
        _logged(log, base, "-m", "venv", venv)
        for step in REQUIREMENTS:
            _logged(log, interpreter, "-m", "pip", "install", "--disable-pip-version-check", *step)
        _logged(log, interpreter, "-c", "import pyvene, pyreft")
        # Written last: an installation that was cut short starts over.
        stamp.write_text(wanted)
    return interpreter


def run(script: str, *arguments: str | Path | int | float) -> str:
    """Run `peer_scripts/<script>` in the peers' environment and return what it prints.

    Raises:
        ValueError: there is no such script.
        RuntimeError: it failed (the message ends with the last lines it wrote).
    """
    path = _SCRIPTS / script
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in _SCRIPTS.glob("*.py")))
        raise ValueError(f"script must be one of {known}, got {script!r}")
    # -I would drop the script's own folder from sys.path; -s drops only the user's packages.
    command = [str(python()), "-s", str(path), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{script} failed in the peers' environment:\n{_tail(done.stderr)}")
    return done.stdout


class Worker:
    """A script of `peer_scripts/` that waits for questions, so that sides can take turns.

    The script reads one JSON object a line from its standard input and answers each with one on
    its standard output.

    Args:
        script: its name.
        arguments: of its command line.
    """

    def __init__(self, script: str, *arguments: str | Path | int | float):
        self._name = script
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [str(python()), "-s", str(_SCRIPTS / script), *map(str, arguments)],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, **question: str | int | float | bool) -> dict:
        """The script's answer.

        Raises:
            RuntimeError: it ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # what a library prints of itself
            line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(
                f"{self._name} ended with status {status}:\n{_tail(self._errors.read())}"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the script."""
        self._process.kill()
        self._process.wait()


def export(folder: Path, target: Path) -> Path:
    """A folder of safetensors that transformers 5 wrote, in a form that the peers read alike.

    transformers 5 writes `rope_parameters`, which 4 passes over: it then takes the default
    frequencies instead of the model's, without a word, and the logits are off by whole units.

    Args:
        folder: config.json and *.safetensors.
        target: a folder to make. The weights are linked, not copied.
    """
    target.mkdir(parents=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if rope := config.get("rope_parameters"):
        if any(isinstance(value, dict) for value in rope.values()):
            raise ValueError(f"folder: {folder} has rope_parameters by layer, which 4 cannot say")
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = rope
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for file in folder.glob("*.safetensors*"):
        (target / file.name).symlink_to(file.resolve())
    return target


def _environment() -> dict[str, str]:
    """Ours, without what would lead the peers' interpreter to our packages."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _logged(log: Path, *command: str | Path) -> None:
    """Run a step of the installation; pip is noisy, so what it prints goes to the log."""
    with log.open("a") as output:
        done = subprocess.run(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise RuntimeError(
            f"building the peers' environment failed at `{' '.join(map(str, command))}`; "
            f"the end of {log}:\n{_tail(log.read_text())}"
        )


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_TAIL:])


if __name__ == "__main__":
    print(python())
