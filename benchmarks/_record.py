"""Where figures were taken, tables, and the files that documentation quotes."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Number of processors and their family, such as `cpu2-amd-epyc`."""
    family = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", _processor(), flags=re.IGNORECASE)
    return f"cpu{os.cpu_count()}-" + "-".join(re.findall(r"[a-z0-9]+", family.lower()))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def environment(*packages: str) -> dict:
    """Date, machine, Python, torch, threads, and the versions of `packages` that are installed."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parser(description: str) -> argparse.ArgumentParser:
    """A script's command line, with the option of all: where its files go."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return made


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; numbers keep the text they are given."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(out: Path, name: str, title: str, text: str, record: dict) -> None:
    """Print the text, and write NAME_MACHINE_DATE.md and .json to the folder `out`."""
    where = record["environment"]
    libraries = ", ".join(f"{package} {version}" for package, version in where["versions"].items())
    line = f"{where['date']}, {where['machine']}, Python {where['python']}, torch {where['torch']}, "
    line += f"threads: {where['threads']}; {libraries}"
    page = f"# {title}\n\n{line}\n\n{text}\n"
    print(page)
    out.mkdir(parents=True, exist_ok=True)
    file = path(out, name, record)
    file.with_suffix(".md").write_text(page)
    file.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def path(out: Path, name: str, record: dict) -> Path:
    """Where the files of a result lie, without the ending."""
    where = record["environment"]
    return out / f"{name}_{where['machine']}_{where['date']}"
