"""Packaging. Dataflow workers install this file's distribution, so `pip install .` must resolve
on its own; the exact versions that are tested stand in requirements/lock.txt."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
# Read, not imported: the package's dependencies are not there yet.
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (HERE / "transforms" / "version.py").read_text("utf-8"), re.M
).group(1)

setup(
    name="playhead",
    version=VERSION,
    description="Training data from listening logs, as it stood at the playhead",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=[
            name
            for top in ("pipelines", "specs", "transforms", "schemas", "readers")
            for name in (top, f"{top}.*")
        ]
    ),
    package_data={
        "": ["*.yaml", "*.html", "*.css", "py.typed"],
        "schemas": ["generated/*", "datasets/*.pbtxt"],
    },
    install_requires=[
        "apache-beam[gcp]>=2.72,<3",
        "fastavro>=1.9",
        "google-cloud-bigquery>=3.11",
        "google-crc32c>=1.5",
        "numpy>=1.26",
        "orjson>=3.10",
        "polars>=2.1,<3",
        "polars-hash>=0.9,<0.10",  # row hashes are part of the data: no untested minor version
        "protobuf>=4.25",
        "pyarrow>=14.0.1",  # below: CVE-2023-47248
        "pydantic>=2.7,<3",
        "pyyaml>=6",
        "rich>=13",
        "tensorflow-metadata>=1.16",
        "zstandard>=0.22",
    ],
    extras_require={
        # Needs glibc >= 2.38 (Debian 13, Ubuntu 24.04). The last release for older systems, 1.16.1,
        # pins pyarrow<11, which no resolver can join with the floor above: there the environment
        # is installed from requirements/lock.txt (docs/install.md).
        "statistics": [
            "tensorflow-data-validation>=1.21,<1.22",
            "tfx-bsl>=1.21,<1.22",
            "pandas<3",
            "dill",  # tfx-bsl imports it; not every Beam brings it
        ],
        # Codebooks depend on scikit-learn's version, which is part of their fingerprint.
        "semantic-ids": ["scikit-learn>=1.5,<2", "threadpoolctl>=3.1"],
        "s3": ["boto3>=1.34"],
        "dev": ["hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff",
                "types-PyYAML"],
    },
    entry_points={"console_scripts": ["playhead = pipelines.main:main"]},
)  # fmt: skip
