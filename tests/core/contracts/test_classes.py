"""Classes by their names: their order, numbers that may be names, and which class of a set is which of the data."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddfw.contracts.classes import class_number, class_order, match_classes, split_of
from ddfw.errors import DataError, OptionError


@given(count=st.integers(1, 120), width=st.integers(0, 5), seed=st.integers(0, 99))
def test_whole_numbers_from_0_are_the_labels_whatever_zeros_stand_before_them(count, width, seed):
    """Broken: of twelve folders 0 … 11, folder 10 would be class 2."""
    names = [f"{label:0{width}d}" for label in range(count)]
    mixed = random.Random(seed).sample(names, count)
    assert class_order(mixed) == (tuple(names), "")


@given(
    numbers=st.sets(st.integers(0, 3000), min_size=2, max_size=40), before=st.sampled_from(["class", "a-", "", "№ "])
)
def test_names_that_differ_in_a_number_alone_are_in_the_order_of_their_numbers(numbers, before):
    """Broken: class10 would stand before class2, without a word."""
    names = [f"{before}{number} x" for number in sorted(numbers)]
    found, note = class_order(sorted(names, reverse=True))
    assert list(found) == names
    assert bool(note) == (sorted(names) != names) and ("numbers" in note or not note)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat", "dog", "owl"], ""),
        (["n01440764", "n01443537", "n02124075"], ""),
        (["-2", "-1", "0", "3"], "'-2' before '-1'"),
        (["0.25", "0.5", "10"], ""),
        (["1.1", "1.10", "2"], ""),
        (["0-cat", "1-dog", "2-owl", "10-ant"], "'2-owl' before '10-ant'"),
        (["a1", "a10", "a2", "b1"], "order of their text ('a10' before 'a2'"),
        (["1", "10", "2", "other"], "order of their text ('10' before '2'"),
        (["\u0661", "\u0662", "\u0663"], ""),
        (["1", "2", "\u0663"], ""),
        (["2020-1", "2020-2", "2020-10"], "'2020-2' before '2020-10'"),
        ([], ""),
        (["1"], ""),
    ],
)
def test_where_two_orders_are_possible_the_one_that_is_taken_is_said(names, said):
    """Broken: classes would be counted in an order that nobody knows."""
    found, note = class_order(list(reversed(names)))
    assert list(found) == names
    assert said in note and bool(said) == bool(note)


@pytest.mark.parametrize("names", [["1", "01", "2"], ["class1", "class01"], ["-0", "0", "1"], ["007", "7"]])
def test_two_spellings_of_one_number_are_refused(names):
    """Broken: one class would be two, in an order that nobody chose."""
    with pytest.raises(DataError, match="the same number; rename or join them"):
        class_order(names)


def test_a_number_that_is_another_class_s_name_is_refused_with_both_readings():
    """Broken: `data.classes=[1, 2]` on folders 1 … 10 would learn folders 2 and 3, or 10 and 2."""
    ten = [str(n) for n in range(1, 11)]
    with pytest.raises(
        OptionError, match=r"""named '1', or class number 1 \(from 0\), which is named '2'.*"1" or "2\""""
    ) as caught:
        class_number(1, ten)
    assert caught.value.option == "classes"
    assert class_number("1", ten) == 0 and class_number("10", ten) == 9
    with pytest.raises(OptionError, match=r"unknown class 10.*'10'"):
        class_number(10, ten)
    with pytest.raises(OptionError, match="named '01', or class number 1"):
        class_number(1, ["01", "02", "03"])


def test_a_number_that_can_mean_one_class_alone_is_taken():
    """Broken: classes could not be said by their numbers."""
    assert class_number(1, ["0", "1", "2"]) == 1 == class_number(1, ["00", "01", "02"])
    assert class_number(2, ["cat", "dog", "owl"]) == 2
    assert class_number(0, ["5", "6", "7"]) == 0
    assert class_number(0, ["\u0660", "\u0661"]) == 0


@pytest.mark.parametrize(
    ("there", "names", "expected", "said"),
    [
        ("a b c", "a b c", [0, 1, 2], ""),
        ("a b c", "c a b", [2, 0, 1], "by their names"),
        ("0 1 2", "a b c", [0, 1, 2], "taken as the labels ('0' is 'a'"),
        ("02 00 01", "a b c", [1, 2, 0], "taken as the labels ('00' is 'a'"),
        ("0 1 2", "2 0 1", [2, 0, 1], "by their names"),
        ("Cat ice_cream dog", "dog cat ice-cream", [2, 0, 1], "but for case and punctuation"),
        ("caf\u00e9 tea", "tea cafe\u0301", [1, 0], "but for case and punctuation"),
        ("01 02 03", "1 2 3", [0, 1, 2], "but for case and punctuation"),
        ("0-cat 1-dog 2-owl", "owl dog cat", [2, 1, 0], "after their numbers"),
        ("x y z", "a b c", [0, 1, 2], "matched in order ('x' is 'a', 'y' is 'b', 'z' is 'c')"),
        ("1 2 3", "a b c", [0, 1, 2], "matched in order ('1' is 'a'"),
        ("a b x", "a b c", [0, 1, 2], "matched in order"),
    ],
)
def test_classes_of_two_sets_are_matched_and_how_is_said(there, names, expected, said):
    """Broken: images of cats would be judged as dogs, without a word."""
    found, words = match_classes(there.split(), names.split())
    assert found == expected
    assert said in words and bool(said) == bool(words)


@pytest.mark.parametrize(
    ("there", "names"),
    [
        ("1 2 3", "0 1 2"),
        ("0 1 2", "1 2 3"),
        ("x dog", "dog cat"),
        ("cat cat", "cat dog"),
        ("Dog x y", "cat dog owl"),
        ("00 01 02", "1 2 3"),
    ],
)
def test_classes_whose_names_contradict_their_order_are_refused(there, names):
    """Broken: a class that both sets have would be matched with another one."""
    with pytest.raises(DataError, match=r"its class '.*' may be '.*', or '.*'"):
        match_classes(there.split(), names.split())


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAINING tr trn train_set Training-Data train2017 01_train trainset"),
        ("validation", "val Val valid VALIDATION validation-set dev Dev eval val2017"),
        ("test", "test Test testing tst TEST_SET te 02-test test_images"),
        ("", "trainer station valentine cat set data 7 tests1 dataset development-kit"),
    ],
)
def test_the_usual_spellings_of_splits_are_known_in_any_case(split, names):
    """Broken: folders of splits would be learned as classes, or classes be taken for splits."""
    assert {split_of(name) for name in names.split()} == {split}
