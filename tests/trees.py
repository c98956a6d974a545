"""Small trees in the official layouts of the real data sets, with encoded images and the known irregularities."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

# Every image of a class has the colour of the class with noise, so that classes can be learned.
_PALETTE = np.random.default_rng(0).integers(40, 215, size=(300, 3))


def image(label: int, number: int, *, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """Return one image of a class."""
    noise = np.random.default_rng([label, number]).integers(-30, 31, size=(size[1], size[0], 3))
    pixels = np.clip(_PALETTE[label] + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path: Path, picture: Image.Image, kind: str = "JPEG") -> None:
    """Write an image in the format `kind`, whatever the ending of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    path.write_bytes(buffer.getvalue())


def imagenet(root: Path, *, classes: int = 3, train: int = 8, val: int = 3) -> Path:
    """`imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`; a CMYK JPEG and a PNG called .JPEG among them.

    As in the original, consecutive validation images have different classes.
    """
    for label in range(classes):
        wnid = f"n{1440764 + label:08d}"
        for number in range(train):
            mode = "CMYK" if (label, number) == (0, 0) else "RGB"
            kind = "PNG" if (label, number) == (1, 0) else "JPEG"
            save(root / "imagenet" / "train" / wnid / f"{wnid}_{number}.JPEG", image(label, number, mode=mode), kind)
        for number in range(val):
            name = f"ILSVRC2012_val_{number * classes + label + 1:08d}.JPEG"
            save(root / "imagenet" / "val" / wnid / name, image(label, 1000 + number))
    return root


def caltech256(root: Path, *, classes: int = 4, extra: int = 4) -> Path:
    """`256_ObjectCategories/001.ak47/001_0001.jpg`: more than 60 for each class, a gap in the numbers, the archive's junk."""
    names = ["001.ak47", "056.dog", "198.spider", "257.clutter", "002.american-flag"][:classes]
    for label, name in enumerate(names):
        numbers = [number for number in range(1, 62 + extra) if number != 7]
        for number in numbers:
            mode = "L" if number == 3 else "RGB"
            picture = image(label, number, size=(24, 20), mode=mode)
            save(root / "256_ObjectCategories" / name / f"{name[:3]}_{number:04d}.jpg", picture)
    if classes > 1:
        junk = root / "256_ObjectCategories" / "056.dog" / "greg" / "vision309"
        save(junk / "picture.jpg", image(1, 2000, size=(24, 20)))
    if classes > 2:
        (root / "256_ObjectCategories" / "198.spider" / "RENAME2").write_text("#!/bin/sh\n")
    (root / "256_ObjectCategories" / ".DS_Store").write_bytes(b"\0")
    return root


def cub200(root: Path, *, classes: int = 3, train: int = 6, test: int = 4) -> Path:
    """`CUB_200_2011` with its five text files, unordered lines, and `attributes.txt` next to it."""
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
    """`Images/<class>/*.jpg` and the two lists without final newlines; unusual names, GIF and BMP content named .jpg."""
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
        # In neither list, like most images of the real data set.
        save(home / "Images" / name / "Unlisted.JPG", image(label, 999))
    (home / "TrainImages.txt").write_text("\n".join(listed["train"]))
    (home / "TestImages.txt").write_text("\n".join(listed["test"]))
    return root


def indoor67_kaggle(root: Path) -> Path:
    """Kaggle's copy: `indoorCVPR_09/Images/<class>`, the annotations, and the two lists next to them."""
    indoor67(root)
    for name in ("TrainImages.txt", "TestImages.txt"):
        (root / "indoorCVPR_09" / name).rename(root / name)
    annotation = root / "indoorCVPR_09annotations" / "Annotations" / "mall" / "mall_train_1.xml"
    annotation.parent.mkdir(parents=True)
    annotation.write_text("<annotation/>\n")
    return root


def sketch250(root: Path, *, per_class: int = 80) -> Path:
    """`png/<class>/<number>.png` numbered across classes, black on white, greyscale; names with spaces and brackets."""
    for label, name in enumerate(["airplane", "alarm clock", "mouse (animal)"]):
        for number in range(80 * label + 1, 80 * label + 1 + per_class):
            pixels = np.full((40, 40), 255, dtype=np.uint8)
            offset = number % 7
            pixels[5 + offset : 9 + offset + 4 * label, 4:36] = 0
            save(root / "png" / name / f"{number}.png", Image.fromarray(pixels), "PNG")
    # Sorted as text like the original: 1, 10, 11, …, 2.
    names = sorted(f"{path.parent.name}/{path.name}" for path in (root / "png").glob("*/*.png"))
    (root / "png" / "filelist.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def food101(root: Path) -> Path:
    """`food-101/images/<class>/<number>.jpg` and `food-101/meta/{train,test}.json`."""
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        listed = {}
        for label, name in enumerate(("apple_pie", "waffles")):
            listed[name] = [f"{name}/{1000 + number}" for number in numbers]
            for number in numbers:
                save(root / "food-101" / "images" / name / f"{1000 + number}.jpg", image(label, number))
        (root / "food-101" / "meta").mkdir(exist_ok=True)
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))
    return root


def pets(root: Path) -> Path:
    """`oxford-iiit-pet/images/Abyssinian_1.jpg` and lists of `image class species breed`, classes counted from 1."""
    base = root / "oxford-iiit-pet"
    for split, numbers in (("trainval", range(1, 7)), ("test", range(7, 10))):
        lines = []
        for label, name in enumerate(("Abyssinian", "american_bulldog")):
            for number in numbers:
                save(base / "images" / f"{name}_{number}.jpg", image(label, number))
                lines.append(f"{name}_{number} {label + 1} {label % 2 + 1} 1\n")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
    return root


def aircraft(root: Path) -> Path:
    """`fgvc-aircraft-2013b/data/images/<number>.jpg`, the variants, and for each split a list of `number variant`."""
    base = root / "fgvc-aircraft-2013b" / "data"
    variants = ("707-320", "A340-600", "DC-10")
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("".join(f"{name}\n" for name in variants))
    for start, split in ((0, "train"), (100, "val"), (200, "test")):
        lines = []
        for label, name in enumerate(variants):
            for number in range(4):
                identity = f"{1000000 + start + 10 * label + number:07d}"
                save(base / "images" / f"{identity}.jpg", image(label, start + number))
                lines.append(f"{identity} {name}\n")
        (base / f"images_variant_{split}.txt").write_text("".join(lines))
    return root


def cars(root: Path) -> Path:
    """`stanford_cars/`: MATLAB files naming images and classes counted from 1."""
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(
        base / "devkit" / "cars_meta.mat",
        {"class_names": np.array(["AM General Hummer", "smart fortwo"], dtype=object)},
    )
    for split, count, path in (
        ("train", 8, base / "devkit" / "cars_train_annos.mat"),
        ("test", 4, base / "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for number in range(count):
            save(base / f"cars_{split}" / f"{number + 1:05d}.jpg", image(number % 2, number))
            rows.append((f"{number + 1:05d}.jpg", number % 2 + 1))
        savemat(path, {"annotations": np.array(rows, dtype=[("fname", object), ("class", np.int64)])})
    return root


def dtd(root: Path) -> Path:
    """`dtd/dtd/images/<class>/…` and `dtd/dtd/labels/<split>1.txt`: the archive's folder inside torchvision's folder."""
    base = root / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        lines = []
        for label, name in enumerate(("banded", "dotted")):
            for number in range(3):
                save(base / "images" / name / f"{name}_{split}{number}.jpg", image(label, number))
                lines.append(f"{name}/{name}_{split}{number}.jpg\n")
        (base / "labels").mkdir(exist_ok=True)
        (base / "labels" / f"{split}1.txt").write_text("".join(lines))
    return root


def flowers102(root: Path) -> Path:
    """`flowers-102/jpg/image_00001.jpg`, classes and splits in MATLAB files, both counted from 1."""
    from scipy.io import savemat

    base = root / "flowers-102"
    for number in range(1, 13):
        save(base / "jpg" / f"image_{number:05d}.jpg", image(number % 2, number))
    savemat(base / "imagelabels.mat", {"labels": np.array([number % 2 + 1 for number in range(1, 13)])})
    savemat(base / "setid.mat", {"trnid": np.arange(1, 5), "valid": np.arange(5, 9), "tstid": np.arange(9, 13)})
    return root


def cifar(root: Path, *, folder: str = "cifar-10-batches-py") -> Path:
    """CIFAR's batches of pickled arrays, ten images each, as torchvision reads them."""
    base = root / folder
    base.mkdir(parents=True)
    fine = folder != "cifar-10-batches-py"
    names = ["train", "test"] if fine else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for start, name in enumerate(names):
        pixels = np.stack(
            [np.asarray(image(n, 100 * start + n, size=(32, 32))).transpose(2, 0, 1).ravel() for n in range(10)]
        )
        (base / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels" if fine else "labels": list(range(10))}))
    meta = {"fine_label_names" if fine else "label_names": [f"class {number}" for number in range(10)]}
    (base / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta))
    return root


def imagenet_kaggle(root: Path, *, classes: int = 3, train: int = 8, val: int = 3, solutions: bool = True) -> Path:
    """Kaggle's copy: `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}` with `val` flat, and the solutions at the top level."""
    imagenet(root, classes=classes, train=train, val=val)
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    base.parent.mkdir(parents=True)
    (root / "imagenet").rename(base)
    rows = []
    for picture in sorted((base / "val").glob("*/*.JPEG")):
        rows.append(f"{picture.stem},{picture.parent.name} 12 30 40 50 {picture.parent.name} 1 2 3 4\n")
        picture.rename(base / "val" / picture.name)
    for folder in [path for path in (base / "val").iterdir() if path.is_dir()]:
        folder.rmdir()
    if solutions:
        # Unordered like the original.
        (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(reversed(rows)))
    (root / "ILSVRC" / "ImageSets" / "CLS-LOC").mkdir(parents=True)
    (root / "ILSVRC" / "ImageSets" / "CLS-LOC" / "val.txt").write_text("ILSVRC2012_val_00000001 1\n")
    return root


def sun397(root: Path) -> Path:
    """`SUN397/<letter>/<class>[/<kind>]/sun_….jpg` and lists whose lines start with `/`."""
    listed: dict[str, list[str]] = {"Training": [], "Testing": []}
    for label, name in enumerate(("a/abbey", "a/apartment_building/outdoor", "b/bistro/outdoor")):
        for number in range(9):
            path = f"/{name}/sun_{label}{number}.jpg"
            save(root / "SUN397" / path[1:], image(label, number))
            listed["Training" if number < 5 else "Testing"].append(path)
    (root / "Partitions").mkdir()
    for split, lines in listed.items():
        (root / "Partitions" / f"{split}_01.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def caltech101(root: Path) -> Path:
    """`101_ObjectCategories/<class>/image_0001.jpg` with its clutter folder."""
    for label, name in enumerate(("BACKGROUND_Google", "Faces", "accordion")):
        for number in range(1, 36 + label):
            save(root / "101_ObjectCategories" / name / f"image_{number:04d}.jpg", image(label, number, size=(24, 20)))
    return root


def eurosat(root: Path) -> Path:
    """`eurosat/2750/<class>/<class>_1.jpg`."""
    for label, name in enumerate(("AnnualCrop", "SeaLake")):
        for number in range(1, 11):
            save(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", image(label, number, size=(64, 64)))
    return root


def vtab(root: Path, folder: str, *, untrained: int | None = None) -> Path:
    """`vtab-1k/<task>/images/<split>/000000.jpg` and lists with class numbers, as the published script writes them.

    Args:
        root: Data root.
        folder: Folder of the task.
        untrained: A class without training images.
    """
    base = root / "vtab-1k" / folder
    classes = [label for label in range(4) if label != untrained]
    labels = {"train800": classes * 4, "val200": classes, "test": list(range(4)) * 3}
    labels["train800val200"] = labels["train800"] + labels["val200"]
    for start, (split, members) in enumerate(labels.items()):
        lines = []
        for number, label in enumerate(members):
            save(base / "images" / split / f"{number:06d}.jpg", image(label, 100 * start + number))
            lines.append(f"images/{split}/{number:06d}.jpg {label}\n")
        (base / f"{split}.txt").write_text("".join(lines))
    return root


def places365(root: Path) -> Path:
    """`data_256_standard/a/airfield/00000001.jpg`, `val_256/Places365_val_00000001.jpg`, and the lists."""
    names = ("/a/airfield", "/a/apartment_building/outdoor", "/b/bakery/shop")
    train, val = [], []
    for label, name in enumerate(names):
        for number in range(1, 5):
            save(root / "data_256_standard" / name[1:] / f"{number:08d}.jpg", image(label, number))
            train.append(f"{name}/{number:08d}.jpg {label}\n")
        for number in range(1, 3):
            file = f"Places365_val_{3 * number + label:08d}.jpg"
            save(root / "val_256" / file, image(label, 100 + number))
            val.append(f"{file} {label}\n")
    (root / "categories_places365.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    (root / "places365_train_standard.txt").write_text("".join(train))
    (root / "places365_val.txt").write_text("".join(val))
    return root


def inat2021_mini(root: Path) -> Path:
    """`inat2021/train_mini/<number and taxonomy>/<id>.jpg` and `inat2021/val/…`."""
    names = (
        "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
        "00001_Animalia_Annelida_Polychaeta_Sabellida_Sabellidae_Sabella_spallanzanii",
    )
    for label, name in enumerate(names):
        for number in range(5):
            split = "train_mini" if number < 3 else "val"
            save(root / "inat2021" / split / name / f"{label}{number}aa-4b6f.jpg", image(label, number))
    return root


def class_folders(folder: Path, names: dict[str, str], *, images: int = 3) -> None:
    """Class folders with images of given names, of which `{}` is the number."""
    for label, (name, file) in enumerate(names.items()):
        for number in range(images):
            save(folder / name / file.format(number), image(label, number))


def mine(folder: Path) -> Path:
    """User data: `c0` and `c1` with five PNG images each."""
    for label in range(2):
        for number in range(5):
            save(folder / f"c{label}" / f"{number}.png", image(label, number), "PNG")
    return folder
