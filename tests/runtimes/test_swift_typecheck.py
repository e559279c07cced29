"""The Swift package type-checks in both versions of the language, against stubs of Apple's frameworks."""

from __future__ import annotations

from pathlib import Path

import pytest
import swift_package as swift

pytestmark = pytest.mark.xdist_group("swift")


@pytest.mark.parametrize("mode", ["5", "6"])
def test_it_type_checks_without_a_warning(mode: str, tmp_path: Path) -> None:
    swift.typecheck(tmp_path, mode)
    # And what is wrong does not.
    wrong = tmp_path / "wrong.swift"
    wrong.write_text("import SIGEKit\nfunc f(_ s: Session) async throws { try s.commit() }\n")
    with pytest.raises(AssertionError, match="await"):
        swift.swiftc("-swift-version", mode, "-typecheck", "-parse-as-library", "-I", tmp_path, wrong)
