"""The C++ part of a package: libraries, headers, CMake and pkg-config files, the example, and a README."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sige_deploy import __version__
from sige_deploy.bundle import Bundle
from sige_deploy.errors import RuntimeFailure
from sige_deploy.manifest import InputSpec, OutputSpec

_CHECKOUT = Path(__file__).resolve().parents[1]
_BUILT = _CHECKOUT / "build" / "cpp" / "prefix"
_CONFIG = "cmake/sige/sigeConfig.cmake"
_VERSION = "cmake/sige/sigeConfigVersion.cmake"
_EXAMPLE = "share/sige/example"
#: What must be in the prefix that the C++ library was installed to; the rest of it may be anybody's.
_WANTED = (
    "{lib}/libsige.so*", "{lib}/libsige_*.so*", "{lib}/libonnxruntime*.so*", "{lib}/cmake/sige/*.cmake",
    "{lib}/pkgconfig/sige.pc", "include/sige/*.h", f"{_EXAMPLE}/*", "share/licenses/sige/**/*",
)  # fmt: skip


def fill(folder: Path, bundle: Bundle, libraries: Path | None) -> None:
    """Put everything but the bundle into `folder`.

    libraries: the prefix of an installed C++ library; None: the checkout's own. Raises RuntimeFailure when it
    is missing, lacks a part, or is of another version.
    """
    prefix = _BUILT if libraries is None else libraries
    libs = (lib for lib in ("lib", "lib64") if (prefix / lib / _CONFIG).is_file())
    lib = next(libs, None)
    if lib is None:
        raise RuntimeFailure(f"there is no C++ library in '{prefix}'; {_how_to_build()}.")
    _check_version(prefix, prefix / lib / _VERSION)
    for pattern in _WANTED:
        found = sorted(path for path in prefix.glob(pattern.format(lib=lib)) if path.is_file())
        if not found:
            raise RuntimeFailure(
                f"the C++ library in '{prefix}' lacks '{pattern.format(lib=lib)}'; {_how_to_build()}."
            )
        for path in found:
            place = folder / path.relative_to(prefix)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place, follow_symlinks=False)
    # Where people look for them.
    (folder / _EXAMPLE).rename(folder / "example")
    (folder / "share/licenses/sige").rename(folder / "licenses")
    shutil.rmtree(folder / "share")
    (folder / "README.md").write_text(_readme(bundle, lib), encoding="utf-8")


def _how_to_build() -> str:
    if (_CHECKOUT / "runtimes" / "cpp" / "CMakeLists.txt").is_file():
        return "build it with 'make cpp', or name the prefix that it was installed to (libraries)"
    return (
        "build it with CMake from runtimes/cpp in the sources of this version, and name the prefix that it "
        "was installed to (libraries)"
    )


def _check_version(prefix: Path, file: Path) -> None:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r'PACKAGE_VERSION "([^"]+)"', text)
    version = found[1] if found else "of unknown version"
    if version != __version__:
        raise RuntimeFailure(
            f"the C++ library in '{prefix}' belongs to sige_deploy {version}, this is {__version__}; "
            f"{_how_to_build()}."
        )


def _readme(bundle: Bundle, lib: str) -> str:
    manifest = bundle.manifest
    inputs = "\n".join(_row(i, i.role) for i in manifest.inputs)
    outputs = "\n".join(_row(o, "output") for o in manifest.outputs)
    spatial = manifest.spatial()[0].name
    return f"""# {manifest.name}

A network that repaints what an edit changed, for C++17 programs on Linux: made by sige_deploy {__version__}.

| array | dtype | shape | role |
| --- | --- | --- | --- |
{inputs}
{outputs}

## Try it

    cmake -S example -B build
    cmake --build build
    build/edit bundle outputs

records inputs that it makes up, edits them, and writes the network's outputs to `outputs/record` and
`outputs/edit`. With your own, as `.npy` files named after the inputs above, in two folders:

    build/edit bundle outputs inputs edited_inputs

`example/main.cpp` is the whole program. It needs CMake 3.22 and a C++17 compiler; to run, OpenSSL's
libcrypto and a C library no older than that of the machine that built `{lib}`. Python is not needed.

## In your program

    find_package(sige REQUIRED)                  # with this folder in CMAKE_PREFIX_PATH
    target_link_libraries(app PRIVATE sige::sige)

or `pkg-config --cflags --libs {lib}/pkgconfig/sige.pc`. Then

```cpp
#include <sige/session.h>

sige::Session session = sige::Session::open("bundle");
session.record(inputs);                          // sige::Inputs: "{spatial}" and all others, once
sige::Outputs outputs = session.edit(edited);    // costs what changed
session.commit();                                // later edits start from this one
```

`include/sige/session.h` says the rest. The folder can be moved: the libraries find each other. Ship `bundle`
and `{lib}` with the program.

## Licences

In `licenses`: of sige_deploy, of ONNX Runtime and of what they contain. The network's own is its author's.
"""


def _row(spec: InputSpec | OutputSpec, role: str) -> str:
    return f"| `{spec.name}` | {spec.dtype} | {spec.shape} | {role} |"
