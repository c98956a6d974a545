"""Measures of single classes: accuracy, precision, F1, confusions and the area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClassMeasures:
    """Measures by class. Each of shape `(C,)`, in [0, 1]; a class without test images or predictions has 0.

    Attributes:
        images: Number of test images.
        accuracy: Share of a class's images that are predicted as it (recall).
        precision: Share of the images predicted as a class that belong to it.
        f1: Harmonic mean of accuracy and precision.
    """

    images: Whole
    accuracy: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]


def measure_classes(label: Whole, prediction: Whole, classes: int) -> ClassMeasures:
    """Return the measures of each class.

    Args:
        label: True classes. Shape `(N,)`.
        prediction: Predicted classes. Shape `(N,)`.
        classes: Number of classes C.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, images = precision_recall_fscore_support(
        label, prediction, labels=np.arange(classes), zero_division=0.0
    )
    return ClassMeasures(images=images, accuracy=recall, precision=precision, f1=f1)


def summarise_classes(label: Whole, prediction: Whole, measures: ClassMeasures) -> dict[str, float]:
    """Return measures of all classes together.

    Args:
        label: True classes. Shape `(N,)`.
        prediction: Predicted classes. Shape `(N,)`.
        measures: Result of `measure_classes`.

    Returns:
        `macro_f1`, the mean over classes that have images; `weighted_f1`, weighted by the number of images; and `matthews`,
        the Matthews correlation coefficient (1: perfect; 0: as good as chance, or a single class is tested or predicted).
    """
    from sklearn.metrics import matthews_corrcoef

    present = measures.images > 0
    # scikit-learn gives 0 with a warning.
    is_one_class = len(np.union1d(label, prediction)) == 1
    return {
        "macro_f1": float(measures.f1[present].mean()),
        "weighted_f1": float(np.average(measures.f1, weights=measures.images)),
        "matthews": 0.0 if is_one_class else float(matthews_corrcoef(label, prediction)),
    }


def measure_scores(label: Whole, score: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return measures of the scores of a task with two classes.

    Args:
        label: True classes, 0 or 1. Shape `(N,)`.
        score: Larger means class 1. Shape `(N,)`.

    Returns:
        `auc`, the area under the ROC curve, and `average_precision` of class 1; empty if all images are of one class.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(np.unique(label)) < 2:
        return {}
    return {
        "auc": float(roc_auc_score(label, score)),
        "average_precision": float(average_precision_score(label, score)),
    }


def count_confusions(label: Whole, prediction: Whole, classes: int) -> list[tuple[int, int, int]]:
    """Return true class, predicted class and number of images of each pair that occurs, the most frequent first.

    Args:
        label: True classes. Shape `(N,)`.
        prediction: Predicted classes. Shape `(N,)`.
        classes: Number of classes.
    """
    pairs, counts = np.unique(label * classes + prediction, return_counts=True)
    order = np.lexsort((pairs, -counts))
    return [(int(pairs[row] // classes), int(pairs[row] % classes), int(counts[row])) for row in order]
