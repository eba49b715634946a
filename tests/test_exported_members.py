"""The public names: all there, all documented, and all that `dir` shows."""

import importlib

import pytest

import graft


@pytest.mark.parametrize("name", graft.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    member = getattr(graft, name)
    assert member.__name__ == name
    assert member.__module__ == graft._HOMES[name]
    assert (member.__doc__ or "").strip()


def test_all_is_sorted_and_all_that_dir_shows() -> None:
    assert graft.__all__ == sorted(graft.__all__) == dir(graft) == sorted(graft._HOMES)


def test_every_error_that_the_command_line_tells_apart_is_a_graft_error() -> None:
    errors = importlib.import_module("graft.errors")
    found = {
        name: each for name, each in vars(errors).items() if isinstance(each, type) and not issubclass(each, Warning)
    }
    assert all(issubclass(each, graft.GraftError) for each in found.values())
    assert {each.exit_code for each in found.values()} == {1, 2, 3, 4, 5, 6, 7, 8, 9}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'graft' has no attribute 'train'"):
        graft.train  # noqa: B018
