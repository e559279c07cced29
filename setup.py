"""Package map: `exporters/` and `runtimes/` install as sub-packages of `sige_deploy`, the demo's network as
`sige_deploy.street`."""

from setuptools import find_packages, setup

FOLDERS = {"exporters": "exporters", "runtimes": "runtimes", "street": "examples/street"}

setup(
    packages=[
        *find_packages(include=["sige_deploy", "sige_deploy.*"]),
        *(
            f"sige_deploy.{name}{package and '.'}{package}"
            for name, folder in FOLDERS.items()
            for package in ["", *find_packages(folder)]
        ),
    ],
    package_dir={f"sige_deploy.{name}": folder for name, folder in FOLDERS.items()},
)
