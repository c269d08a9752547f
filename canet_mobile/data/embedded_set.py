"""The data set that ships with the package: a year of purchases, licensed CC BY 4.0 (see NOTICE)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from canet_mobile.data.dataset import Dataset, load_dataset
from canet_mobile.data.importer import ImportOptions, Progress, import_log
from canet_mobile.errors import CanetError
from canet_mobile.files import sha256_file

NAME = "online-retail"
DIRECTORY = Path("datasets") / NAME


def embedded_dataset(directory: Path = DIRECTORY, *, progress: Progress = lambda message: None) -> Dataset:
    """The embedded data set, imported into ``directory`` on first use and loaded from there afterwards.

    Raises:
        CanetError: ``directory`` holds something else, or cannot be written.
    """
    folder = resources.files("canet_mobile.data.embedded")
    with (
        resources.as_file(folder / "interactions.csv.gz") as log,
        resources.as_file(folder / "items.csv") as items,
    ):
        options = ImportOptions(name=NAME, items_file=items)
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            return import_log(log, directory, options, progress=progress)
        dataset = load_dataset(directory)
        found = {entry["name"]: entry["sha256"] for entry in dataset.manifest["sources"]}
        expected = {path.name: sha256_file(path) for path in (log, items)}
        if found != expected:
            raise CanetError(
                f"is another data set ({dataset.name}), not the embedded {NAME}: it was made from "
                f"{', '.join(found)} with other content",
                where=directory,
                fix="name it as the data set to use, or choose another folder",
            )
        if dataset.manifest["options"] != options.filters():
            raise CanetError(
                f"is the embedded {NAME} with other filters: {dataset.manifest['options']}",
                where=directory,
                fix="name it as the data set to use, or choose another folder",
            )
        return dataset
