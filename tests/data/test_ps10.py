"""The task family PS10 keeps its definition."""

import re
from pathlib import Path

import numpy as np
import pytest

from lrbench.config import find_tasks, load_task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.data.loading import load_task_data
from lrbench.data.synthetic import ps10
from lrbench.data.synthetic.generator import Request
from lrbench.data.synthetic.ps10 import CLASSES, KINDS, PS10, SETS, code_book, complexity_bits, images_per_pattern

# Other images under the same name would make results incomparable: they need another version of the generator.
PINNED = {
    "toy-ps10-k1": "f3d7117ea74c287d1e501fc5d0d952c6ecd11caf804f75f3d3f397bc11ced178",
    "toy-ps10-k16-rare": "b8e5a2717ca4dbfed0a35fac49e3c20adc9604ff5d2f1cfd450abf98081b5e9c",
    "toy-ps10-next-k4": "830df5d58a8950f96296ad710e297b526c54e9bae1015457c9bbd5d022200132",
    "toy-ps10-k4-wrong20": "11ffad0be3449ef0075a6a35fff97b0198d44a15970d19ad749c3c81805046d3",
}
SHIPPED = sorted(name for name in find_tasks() if "ps10" in name)


def render(count=400, *, split="train", size=16, seed=0, **options):
    complete = PS10.complete(options, "a test")
    return PS10.render(Request(seed=seed, split=split, count=count, size=size, options=complete))


def content_hash(rendered):
    columns = [rendered.labels, *(rendered.annotations[key] for key in sorted(rendered.annotations))]
    return sha256_bytes(rendered.pixels.tobytes() + b"".join(column.astype("<i8").tobytes() for column in columns))


@pytest.mark.parametrize("name", sorted(PINNED))
def test_ps10_is_the_same_on_every_machine(name):
    data = load_task_data(load_task(name), [])
    hashes = [content_hash(split.images._rendered) for split in data.splits.values()]
    assert sha256_bytes("".join(hashes).encode()) == PINNED[name]


def test_codes_differ_in_five_cells_and_are_balanced():
    codes = code_book(0, 0).reshape(-1, 25)
    assert len(codes) == 650 and set(np.unique(codes)) == {-1, 1}
    distances = (codes[:, None] != codes[None]).sum(axis=2)
    assert distances[~np.eye(len(codes), dtype=bool)].min() >= 5
    assert np.abs(codes.sum(axis=1)).max() <= 7


def test_codes_are_assigned_to_kinds_at_random():
    # Position of the code that was drawn first: the kinds would differ if simple patterns were always drawn first.
    def position(book):
        stream = ps10.Stream("ps10", 0, "book", book)
        while abs((code := np.where(stream.uniform(25) < 0.5, -1, 1)).sum()) > 7:
            pass
        return np.flatnonzero((code_book(0, book).reshape(-1, 25) == code).all(axis=1)).item()

    assert len({position(book) for book in range(4)}) == 4


def test_kinds_are_equal_at_one_template(monkeypatch):
    book = code_book(0, 0)
    simple = render(simple_only=1, complex_only=0, contrast_simple=0.3)
    monkeypatch.setattr(ps10, "code_book", lambda *_: book[[1, 0, *range(2, len(book))]])
    complex_ = render(simple_only=0, complex_only=1, contrast_complex=0.3)
    assert np.array_equal(simple.pixels, complex_.pixels) and np.array_equal(simple.labels, complex_.labels)


@pytest.mark.parametrize("number", [1, 4, 16, 64])
def test_templates_are_the_first_of_the_book(number):
    rendered = render(800, templates=number, simple_only=0, noise=0)
    templates, truth, book = rendered.annotations["template"], rendered.annotations["truth"], code_book(0, 0)
    assert set(templates) == set(range(number))
    for image, template, label in zip(rendered.pixels, templates, truth, strict=True):
        assert found_in_half(image, book[1 + template, label]) is not None


def test_images_show_their_annotated_patterns():
    for split in ("train", "test", "conflict"):
        rendered = render(120, split=split, templates=4, both=2, noise=0)
        notes, book = rendered.annotations, code_book(0, 0)
        for index in range(120):
            shown = {"simple": book[0, notes["truth"][index]]}
            if notes["template"][index] >= 0:
                complex_class = notes.get("complex_class", notes["truth"])[index]
                shown["complex"] = book[1 + notes["template"][index], complex_class]
            carried = KINDS[notes["carries"][index]]
            expected = {"simple", "complex"} if carried == "both" else {carried}
            halves = {name: found_in_half(rendered.pixels[index], code) for name, code in shown.items()}
            assert {name for name, half in halves.items() if half is not None} == expected
            assert len({halves[name] for name in expected}) == len(expected)


def found_in_half(image, code):
    """Return the half of a 16 px image (cells of one pixel, no noise) in which a code is, or None."""
    grey = image.astype(float).mean(axis=2)
    for half in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(grey[:, 8 * half : 8 * half + 8], (5, 5)).reshape(-1, 25)
        centred = windows - windows.mean(axis=1, keepdims=True)
        target = code.ravel() - code.mean()
        correlation = centred @ target / np.linalg.norm(centred, axis=1) / np.linalg.norm(target)
        if correlation.max() > 0.9:
            return half
    return None


def test_shares_and_wrong_labels_follow_the_options():
    notes = (rendered := render(4000, templates=3, simple_only=1, complex_only=2, both=1, wrong=0.2)).annotations
    assert np.bincount(notes["carries"]) / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert notes["wrong"].mean() == pytest.approx(0.2, abs=0.03)
    assert np.array_equal(notes["wrong"] == 1, rendered.labels != notes["truth"])
    moved = (rendered.labels - notes["truth"])[notes["wrong"] == 1] % CLASSES
    assert np.bincount(moved, minlength=CLASSES) == pytest.approx([0, *[800 / 9] * 9], abs=35)
    assert np.array_equal(np.bincount(notes["truth"]), [400] * CLASSES)
    assert np.array_equal(notes["template"] >= 0, notes["carries"] != KINDS.index("simple"))


@pytest.mark.parametrize("skew", [0, 1])
def test_templates_have_their_probabilities(skew):
    drawn = render(6000, templates=4, simple_only=0, skew=skew).annotations["template"]
    weights = np.array([1 / (1 + skew * template) for template in range(4)])
    probabilities = weights / weights.sum()
    assert np.bincount(drawn) / 6000 == pytest.approx(probabilities, abs=0.02)
    assert complexity_bits(4, skew) == pytest.approx(-(probabilities * np.log2(probabilities)).sum())
    assert complexity_bits(4, 0) == pytest.approx(2) and complexity_bits(1) == 0


def test_evaluation_sets_have_equal_sizes_and_right_labels():
    data = load_task_data(load_task("toy-ps10-k4-wrong20"), [])
    test, conflict = data.splits["test"], data.splits["conflict"]
    assert np.array_equal(np.bincount(test.annotations["set"]), [2000] * 3)
    assert np.array_equal(test.annotations["set"], test.annotations["carries"])
    assert np.array_equal(test.labels, test.annotations["truth"])
    assert len(conflict) == 2000 and set(conflict.annotations["set"]) == {SETS.index("conflict")}
    assert set(conflict.annotations["carries"]) == {KINDS.index("both")}
    assert (conflict.labels != conflict.annotations["complex_class"]).all()


def test_targets_show_templates_of_new_classes_only():
    data = load_task_data(load_task("toy-ps10-next-k4"), [])
    assert set(data.splits) == {"train", "test"}
    assert all(set(split.annotations["carries"]) == {KINDS.index("complex")} for split in data.splits.values())
    source, target = (code_book(0, book).reshape(-1, 25) for book in (0, 1000))
    assert not (source[:, None] == target[None]).all(axis=2).any()
    assert not set(data.classes) & set(load_task_data(load_task("toy-ps10-k4"), []).classes)


def test_images_do_not_depend_on_their_number():
    few, many = render(33, wrong=0.2, templates=4), render(90, wrong=0.2, templates=4)
    assert np.array_equal(few.pixels, many.pixels[:33]) and np.array_equal(few.labels, many.labels[:33])
    assert all(np.array_equal(few.annotations[name], many.annotations[name][:33]) for name in few.annotations)


def test_images_depend_on_seed_book_and_split():
    assert content_hash(render(60)) == content_hash(render(60))
    # Without patterns, so that backgrounds and noise must differ.
    plain = {"contrast_simple": 0, "contrast_complex": 0}
    others = [{}, {"seed": 1}, {"book": 1}, {"split": "test", "sets": 0}]
    images = [image.tobytes() for changed in others for image in render(60, **plain, **changed).pixels]
    assert len(set(images)) == len(images)


def test_options_are_part_of_the_fingerprint(home):
    text = 'name = "mine"\n[files]\nlayout = "synthetic"\ngenerator = "ps10"\nsize = 16\ntrain = 20\ntest = 12\n'
    fingerprints = set()
    for options in ("", "options = { contrast_simple = 0.1 }", "options = { templates = 2 }"):
        (home / "mine.toml").write_text(f"{text}{options}\n")
        fingerprints.add(load_task_data(load_task("mine.toml"), []).fingerprint)
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": 65}, "between 1 and 64"),
        ({"templates": 2.5}, "must be a whole number"),
        ({"simple_only": 0, "complex_only": 0}, "are all 0"),
        ({"wings": 1}, "wings is not an option"),
    ],
)
def test_options_out_of_range_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        PS10.complete(options, "task mine")


def test_documented_sizes_and_bits_are_those_of_the_tasks():
    rows = re.findall(
        r"(?m)^\| `((?:mini-|toy-)?ps10-[^`]+)` \| ([\d,]+) \| (\d+) \| (\d) \| ([\d,.]+) \| ([\d,.]+) \|",
        (Path(__file__).resolve().parents[2] / "docs" / "reference" / "tasks.md").read_text(),
    )
    assert [row[0] for row in rows] and {row[0] for row in rows} == set(SHIPPED)
    for name, images, templates, bits, per_simple, per_template in rows:
        files = load_task(name).files
        options = PS10.complete(files.options, name)
        expected = images_per_pattern(files.train, options)
        assert (int(images.replace(",", "")), int(templates)) == (files.train, options["templates"])
        assert int(bits) == complexity_bits(options["templates"], options["skew"])
        assert [float(number.replace(",", "")) for number in (per_simple, per_template)] == [
            pytest.approx(number, abs=0.5) for number in expected
        ]
