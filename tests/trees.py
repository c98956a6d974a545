"""Small trees in the exact official layouts of the real data sets, with really encoded images and the known traps."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

# Every image of a class has the class's colour under noise, so that a probe has something to find.
_PALETTE = np.random.default_rng(0).integers(40, 215, size=(300, 3))


def image(label: int, number: int, *, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """One image of a class."""
    noise = np.random.default_rng([label, number]).integers(-30, 31, size=(size[1], size[0], 3))
    pixels = np.clip(_PALETTE[label] + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path: Path, picture: Image.Image, kind: str = "JPEG") -> None:
    """Write an image as `kind`, whatever the file is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    path.write_bytes(buffer.getvalue())


def imagenet(root: Path, *, classes: int = 3, train: int = 8, val: int = 3) -> Path:
    """`imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`; a CMYK JPEG and a PNG called .JPEG among them."""
    for label in range(classes):
        wnid = f"n{1440764 + label:08d}"
        for number in range(train):
            mode = "CMYK" if (label, number) == (0, 0) else "RGB"
            kind = "PNG" if (label, number) == (1, 0) else "JPEG"
            save(root / "imagenet" / "train" / wnid / f"{wnid}_{number}.JPEG", image(label, number, mode=mode), kind)
        for number in range(val):
            name = f"ILSVRC2012_val_{label * val + number + 1:08d}.JPEG"
            save(root / "imagenet" / "val" / wnid / name, image(label, 1000 + number))
    return root


def caltech256(root: Path, *, classes: int = 3, extra: int = 4) -> Path:
    """`256_ObjectCategories/001.ak47/001_0001.jpg`: more than 60 a class, a gap in the numbers, the archive's junk."""
    names = ["001.ak47", "056.dog", "198.spider", "257.clutter", "002.american-flag"][:classes]
    for label, name in enumerate(names):
        numbers = [number for number in range(1, 62 + extra) if number != 7]
        for number in numbers:
            mode = "L" if number == 3 else "RGB"
            picture = image(label, number, size=(24, 20), mode=mode)
            save(root / "256_ObjectCategories" / name / f"{name[:3]}_{number:04d}.jpg", picture)
    if classes > 1:
        junk = root / "256_ObjectCategories" / "056.dog" / "greg" / "vision309"
        junk.mkdir(parents=True)
        (junk / "note.txt").write_text("not an image")
    if classes > 2:
        (root / "256_ObjectCategories" / "198.spider" / "RENAME2").write_text("#!/bin/sh\n")
    (root / "256_ObjectCategories" / ".DS_Store").write_bytes(b"\0")
    return root


def cub200(root: Path, *, classes: int = 3, train: int = 6, test: int = 4) -> Path:
    """`CUB_200_2011` with its five text files, lines in no order, and `attributes.txt` beside it."""
    home = root / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross",
        "002.Laysan_Albatross",
        "010.Red_winged_Blackbird",
        "200.Common_Yellowthroat",
    ]
    rows = []
    for label, name in enumerate(names[:classes]):
        for number in range(train + test):
            path = f"{name}/{name[4:]}_{number:04d}_{label}.jpg"
            mode = "L" if number == 1 else "RGB"
            save(home / "images" / path, image(label, number, mode=mode))
            rows.append((len(rows) + 1, path, label + 1, int(number < train)))
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    (home / "images.txt").write_text("".join(f"{i} {path}\n" for i, path, _, _ in rows))
    (home / "image_class_labels.txt").write_text("".join(f"{i} {label}\n" for i, _, label, _ in shuffled))
    (home / "train_test_split.txt").write_text("".join(f"{i} {split}\n" for i, _, _, split in reversed(rows)))
    (home / "classes.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names[:classes])))
    (home / "bounding_boxes.txt").write_text("".join(f"{i} 1.0 1.0 20.0 20.0\n" for i, *_ in rows))
    (root / "attributes.txt").write_text("1 has_bill_shape::curved\n")
    return root


def indoor67(root: Path, *, train: int = 6, test: int = 3) -> Path:
    """`Images/<class>/*.jpg` and the two lists without final newlines; odd names, GIF and BMP bytes called .jpg."""
    home = root / "indoorCVPR_09"
    listed: dict[str, list[str]] = {"train": [], "test": []}
    odd = {
        ("mall", "train", 0): "shopping mall.jpg",
        ("nursery", "test", 0): "baby's_room.jpg.jpg",
        ("buffet", "train", 1): "Buffet_Set_Up_gif.jpg",
        ("mall", "train", 2): "Bistro_3_BMP.jpg",
    }
    for label, name in enumerate(["buffet", "mall", "nursery"]):
        for split, count in (("train", train + label), ("test", test)):
            for number in range(count):
                file = odd.get((name, split, number), f"{name}_{split}_{number}.jpg")
                kind = "GIF" if "_gif" in file else "BMP" if "_BMP" in file else "JPEG"
                save(home / "Images" / name / file, image(label, number + 100 * (split == "test")), kind)
                listed[split].append(f"{name}/{file}")
        # In neither list, as most of the real data set's images.
        save(home / "Images" / name / "Unlisted.JPG", image(label, 999))
    (home / "TrainImages.txt").write_text("\n".join(listed["train"]))
    (home / "TestImages.txt").write_text("\n".join(listed["test"]))
    return root


def sketch250(root: Path, *, per_class: int = 80) -> Path:
    """`png/<class>/<number>.png` numbered through all classes, black on white, grey; names with spaces and brackets."""
    for label, name in enumerate(["airplane", "alarm clock", "mouse (animal)"]):
        for number in range(80 * label + 1, 80 * label + 1 + per_class):
            pixels = np.full((40, 40), 255, dtype=np.uint8)
            offset = number % 7
            pixels[5 + offset : 9 + offset + 4 * label, 4:36] = 0
            save(root / "png" / name / f"{number}.png", Image.fromarray(pixels), "PNG")
    (root / "png" / "filelist.txt").write_text("airplane/1.png\n")
    return root
