"""One environment for each peer, so that none bends another's versions, nor this project's.

    python -m benchmarks.peers.environments [NAME ...] [--folder .bench]

Makes or renews `.bench/NAME` for each `requirements/NAME.txt`, one after the other; what is up to date is left alone.
"""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"
REQUIREMENTS = Path(__file__).parent / "requirements"


def known() -> list[str]:
    """Every peer that has an environment of its own, by the name of its module."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def interpreter(name: str, folder: Path = FOLDER) -> Path | None:
    """The Python to run a peer's worker with; None where its environment is not installed, or out of date.

    A peer without requirements of its own runs in this environment.
    """
    if name not in known():
        return Path(sys.executable)
    is_current = _stamp(name, folder).exists() and _stamp(name, folder).read_text(encoding="ascii") == _wanted(name)
    return _python(name, folder) if is_current else None


def variables(folder: Path = ROOT) -> dict[str, str]:
    """What a peer's process needs in its environment: to find these modules, and to leave the network alone."""
    return {
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
        "ANONYMIZED_TELEMETRY": "False",  # chroma's
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGSMITH_TRACING": "false",
        "TOKENIZERS_PARALLELISM": "false",
    }


def install(name: str, folder: Path = FOLDER) -> None:
    """Make a peer's environment anew; raises CalledProcessError where pip fails, which has said why by then."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)  # noqa: S603
    pip = [str(_python(name, folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(REQUIREMENTS / f"{name}.txt")], check=True)  # noqa: S603
    _stamp(name, folder).write_text(_wanted(name), encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known())}; all where none is given")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known())
    if unknown:
        parser.error(f"no requirements for {', '.join(sorted(unknown))}")
    failed = [name for name in arguments.names or known() if not _is_ready(name, arguments.folder)]
    if failed:
        sys.exit(f"not installed: {', '.join(failed)}")


def _is_ready(name: str, folder: Path) -> bool:
    if interpreter(name, folder) is not None:
        print(f"{name}: up to date")
        return True
    print(f"{name}: installing into {folder / name}", flush=True)
    try:
        install(name, folder)
    except subprocess.CalledProcessError:
        return False  # pip has said why; the others may still be had
    return True


def _python(name: str, folder: Path) -> Path:
    return folder / name / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _stamp(name: str, folder: Path) -> Path:
    return folder / name / "requirements.sha256"


def _wanted(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
