"""Package map: `exporters/` and `runtimes/` install as sub-packages of `sige_deploy`, the demo as `sige_deploy.street`."""

from setuptools import find_packages, setup

FOLDERS = ("exporters", "runtimes")

setup(
    packages=[
        *find_packages(include=["sige_deploy", "sige_deploy.*"]),
        *(f"sige_deploy.{p}" for f in FOLDERS for p in find_packages(include=[f, f"{f}.*"])),
        "sige_deploy.street",
    ],
    package_dir={f"sige_deploy.{f}": f for f in FOLDERS} | {"sige_deploy.street": "examples/street"},
    package_data={"sige_deploy.street": ["*.safetensors", "*.md"]},
)
