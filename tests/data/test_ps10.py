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

# Other images under the same name would make results incomparable: they need another version of the generator. Pins are here,
# not in the tasks' files, whose content is part of the settings of results.
PINNED = {
    "toy-ps10-k1": "f3d7117ea74c287d1e501fc5d0d952c6ecd11caf804f75f3d3f397bc11ced178",
    "toy-ps10-k16-rare": "b8e5a2717ca4dbfed0a35fac49e3c20adc9604ff5d2f1cfd450abf98081b5e9c",
    "toy-ps10-next-k4": "830df5d58a8950f96296ad710e297b526c54e9bae1015457c9bbd5d022200132",
    "toy-ps10-k4-wrong20": "11ffad0be3449ef0075a6a35fff97b0198d44a15970d19ad749c3c81805046d3",
}
# The number of images of each split and its first 30 images, at the task's own size; images do not depend on their number.
PINNED_STARTS = {
    "mini-ps10-dose-k16": "f957e0d99fe08b98af386b104ee2defb6fa983e523bd5b14f4d73294832e414c",
    "mini-ps10-dose-k16-rare": "39871de788430bcca76d7c0cad11a8bf2afa78cce50f43a878d0b222bd1e9187",
    "mini-ps10-k1": "0d83b7fe60b50e0aed56380564563cbb86c54643c6bc9e12cb2af1e51b7becff",
    "mini-ps10-k16": "2993c6547363645a5a41a4b0bb1666205bc7522d84e42702ca56335b027e214d",
    "mini-ps10-k16-rare": "6512bc5c8122a6815d404ac0286581a27e4c8f9c04029cb8e90354a571ac55ee",
    "mini-ps10-k4": "8eff88f843210546df92d790388b2e87f065d67a880f9afd6c72d793c5e8debd",
    "mini-ps10-k4-few": "c4e2edd223ef42133110574d349f04e3dcee5b6d44f5d8d35ca83faec9e9fb0d",
    "mini-ps10-k4-wrong10": "3f0f5b983a237b9e8d363215175dfab29997ff9da5dabef9932f24f31ad51f37",
    "mini-ps10-k4-wrong20": "117d75caf2c7826f078f95d6bb179d23b016598488e9b5c1eee9450595398b44",
    "mini-ps10-k4-wrong40": "aa15db0a10a126f13e0c1c09f259be13be58897a74ed15c6b41a79728b5a8a6d",
    "ps10-dose-k1": "662157c2f1cd4cec4eeeddcedf764a18888e5904d10ffa4f89b007ccd78d4eab",
    "ps10-dose-k16": "9dbcad3cbd5de97669739e483addbf7ccb1ddd03c2abb38fcf887908678ede10",
    "ps10-dose-k4": "7128d760f7b20613b11ea15d57e438c2b6ff9cfd6cf22ffc8bb32eda27ef9b2a",
    "ps10-dose-k64": "92f03d3718a6351162726a6ea61fcc987867952942c6e4295b261b0571c0820b",
    "ps10-k1": "09197c3f70f515609a38b3be3c083686175b0c98b2cbae8154ecc9a13ca41109",
    "ps10-k16": "373c57d9422987f20b57f8ae733b9d9df05d0517002521eefc6b0edfe5135edd",
    "ps10-k16-rare": "743163a3feb1991652f9f8aefd5d5eceeb3af872579760979f046cbb7cecbebe",
    "ps10-k4": "95a0929305ef29155c41b16ab93eff371cd3ebac8df4dd682f6837eb956bd76c",
    "ps10-k4-wrong10": "226929f4d763b3b7dc0eb15a35d44d4f678d87e5f7e079ee870f624c3fe8be22",
    "ps10-k4-wrong20": "d7197a9f5422c75a9ca35044967f008b04c360ccf8e0b13c38de5d19b1056f2f",
    "ps10-k4-wrong40": "3a1cd1db9c0ee23253502a5a9b39c84c856c39c0a3d530b54ff69ca51b90248a",
    "ps10-k64": "a64cf87f113130f510c3345cc065bddb47698763b981c24528cbada1b3eeb650",
    "ps10-next-k1": "4e3c57d0ea18f480c43310f0f89c454f81316f93dc849dd29e8515311350bc94",
    "ps10-next-k16": "e0c37546932f3ca57e0947258b7e4916a4a2b7f366d25fafc83e1b5533b2d2c2",
    "ps10-next-k4": "ad978015fa3d2e9884648f3c222aedce5a1825b635da937aefa103435878edc4",
    "ps10-next-k64": "17b27150a7b7f7941060f95f0b17a574d8af83979ea744bff71b8172e700476d",
    "toy-ps10-dose-k1": "11c88e8a6294dce3092dfa98a8d1e025be69d0cf4efaddc3eb0cbac2179485e4",
    "toy-ps10-dose-k16": "e36bd4d6f42c78ac527b8aaaac0f508b207151eabcaf5f9339fc65443b2d9f77",
    "toy-ps10-k1": "ffaa6e0d2f80a2390a4aca1c8b43968ce70b537b8ef839e04e1cff8bae0c46f0",
    "toy-ps10-k16": "79dae2531fa0b5bef81b6e2ce7e28827b6c07866487b3f2a9f2f04a0a041d705",
    "toy-ps10-k16-rare": "ecd4adcde4cce7d6311ebe709e459eae3073ac329c5f829dc6019e95d5342b3d",
    "toy-ps10-k4": "9561e81f3b419ad519bb64cb78b52fe2de7030922955da3d521c55283289b492",
    "toy-ps10-k4-wrong10": "01fe01ccedda12f2e488647440ff15cb9c14998936ad0546144749689062e503",
    "toy-ps10-k4-wrong20": "f4a0387fe9dfdc4c9dcee17cda115c957b054ab60ed15a6c697cbdda665512bb",
    "toy-ps10-k4-wrong40": "f97078f7ef05c826ccd9704a5cea271383fe89e6b86f852a8b2a5584f97bb428",
    "toy-ps10-next-k1": "586c9fe823cca26d2644b2164cc363800af3834ab6892c3a1f094b81ac10d108",
    "toy-ps10-next-k16": "ac9ec7a56415fa1d08a4cc10a6330222e31bef3707e9429f5f8af138a12c464e",
    "toy-ps10-next-k4": "ca7c2f98174b03f0d04cf7c5c70cbf7a3d9f0771c9e7a8d612ce8b0c717923d0",
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


def test_every_ps10_task_starts_with_the_same_images():
    assert sorted(PINNED_STARTS) == SHIPPED
    for name, pinned in PINNED_STARTS.items():
        files = load_task(name).files
        options = PS10.complete(files.options, name)
        counts = {"train": files.train, "test": files.test, **PS10.further_splits(options, files.test)}
        starts = [
            f"{split} {count} {content_hash(render(30, split=split, size=files.size, seed=files.seed, **files.options))}"
            for split, count in counts.items()
        ]
        assert sha256_bytes(" ".join(starts).encode()) == pinned, name


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
