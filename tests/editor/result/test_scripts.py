"""The viewer's JavaScript logic, tested under node."""

from pathlib import Path

from tests.scripts import check_scripts


def test_the_scripts_pass_their_own_tests():
    check_scripts(Path(__file__).parent / "js", min_tests=14)
