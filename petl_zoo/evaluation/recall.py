"""Recall of image-text retrieval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import get_world_size

from registry import METRICS

from .base import Measure, Metric

if TYPE_CHECKING:
    from petl_zoo.data.captions import Gallery

AT = (1, 5, 10)


@dataclass(frozen=True)  # Not a named tuple, of which MMEngine makes a plain one.
class Scores:
    """One image's scores with all T texts of its gallery.

    Attributes:
        values: (T,).
        candidates: (2, T), True where the text is among the image's candidates, and where the image is among the
            text's; None where all are.
    """

    values: np.ndarray
    candidates: np.ndarray | None = None

    def from_image(self) -> np.ndarray:
        """(T,) as the image's ranking has them: what is no candidate is behind the rest."""
        return self.values if self.candidates is None else np.where(self.candidates[0], self.values, -np.inf)

    def from_texts(self) -> np.ndarray:
        """(T,) as the texts' rankings have them."""
        return self.values if self.candidates is None else np.where(self.candidates[1], self.values, -np.inf)


@METRICS.register_module()
class Recall(Metric):
    """Recall at 1, 5 and 10 from images to texts and from texts to images, as fractions, and median ranks.

    ``i2t_r1`` is the share of images for which one of their own texts is first among all texts, ``t2i_r1`` the share of
    texts whose image is first among all images; ``mean_recall`` is the mean of the six. A median rank counts from 1.
    Where a matching score has re-ranked the candidates these are its values, and ``itc_...`` those of the similarity
    alone. Where the gallery has foils, ``two_way`` is the share of texts that their image agrees with better than with
    the foil.

    An equal score counts as ranked in front of the right answer, and so does one that is no number: a model that scores
    everything alike finds nothing. A right answer that is not among the candidates is last.

    Source: Karpathy and Fei-Fei 2015, section 4.2; the evaluation of ALBEF and BLIP, whose sorting leaves open which of
    two equal scores comes first.
    """

    headline = "mean_recall"
    gallery: Gallery

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take the scores of images with all T texts of their gallery.

        Args:
            data_batch: not used.
            data_samples: one an image: ``index``, its place in ``gallery``, ``itc``, ``itm`` and ``candidates``; the
                last two are None without re-ranking.

        Shape:
            itc: (T,), similarities.
            itm: (T,), matching scores, -inf where there is none; the two-way test reads them beyond the candidates too.
            candidates: (2, T), see ``Scores``.
        """
        for sample in data_samples:
            self.gallery = sample["gallery"]
            # Arrays, because a pickled tensor takes along the whole of which it is a row.
            found = {"itc": Scores(sample["itc"].float().cpu().numpy())}
            if sample["itm"] is not None:
                found["itm"] = Scores(sample["itm"].float().cpu().numpy(), sample["candidates"].cpu().numpy())
            self.results.append((int(sample["index"]), found))

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics of all processes' samples; of an image that came twice, one counts."""
        # MMEngine takes what is beyond the size for padding, which holds only for results in the sampler's order.
        return super().evaluate(size * get_world_size())

    def compute_metrics(self, results: list[tuple[int, dict[str, Scores]]]) -> dict[str, float]:
        rows = dict(results)
        missing = sorted(set(range(self.gallery.num_images)) - set(rows))
        if missing:
            raise ValueError(
                f"{len(missing)} of the gallery's {self.gallery.num_images} images have no scores, the first at place "
                f"{missing[0]}: a head must yield every image of the set"
            )
        alone = recall({index: found["itc"] for index, found in rows.items()}, self.gallery)
        if "itm" not in results[0][1]:
            return alone
        ranked = recall({index: found["itm"] for index, found in rows.items()}, self.gallery)
        return ranked | {f"itc_{name}": value for name, value in alone.items()}

    def measure(self, name: str, size: int) -> Measure:
        unit = "rank" if name.endswith("_rank") else "fraction"
        name = name.removeprefix("itc_")
        if name == "mean_recall":
            return Measure(unit)
        if name.startswith("i2t_"):
            return Measure(unit, "images", self.gallery.num_images)
        texts = sum(foil >= 0 for foil in self.gallery.foils) if name == "two_way" else len(self.gallery.captions)
        return Measure(unit, "captions", texts)


def recall(rows: Mapping[int, Scores], gallery: Gallery) -> dict[str, float]:
    """The metrics of one kind of score; see ``Recall``.

    Args:
        rows: every image's scores, by its place.
    """
    to_texts, to_images = ranks(rows, gallery)
    both = {"i2t": to_texts, "t2i": to_images}
    recalls = {f"{way}_r{k}": float((found < k).mean()) for way, found in both.items() for k in AT}
    medians = {f"{way}_median_rank": float(np.median(found)) + 1 for way, found in both.items()}
    metrics = {"mean_recall": statistics.fmean(recalls.values()), **recalls, **medians}
    foiled = [(text, foil) for text, foil in enumerate(gallery.foils) if foil >= 0]
    if foiled:
        own = [rows[gallery.image_of[text]].values for text, _ in foiled]
        better = [bool(values[text] > values[foil]) for values, (text, foil) in zip(own, foiled, strict=True)]
        metrics["two_way"] = statistics.fmean(better)
    return metrics


def ranks(rows: Mapping[int, Scores], gallery: Gallery) -> tuple[np.ndarray, np.ndarray]:
    """How many wrong answers are in front of the right one.

    One image's scores at a time, so that nothing of the size of all scores is made.

    Returns:
        (I,) for each image the wrong texts in front of the best of its own; (T,) for each text the wrong images in
        front of its own.
    """
    image_of = np.array(gallery.image_of)
    own = np.empty(len(image_of), dtype=np.float32)  # each text's score with its own image
    for image, row in rows.items():
        own[image_of == image] = row.from_texts()[image_of == image]
    to_texts = np.zeros(gallery.num_images, dtype=np.int64)
    to_images = np.full(len(own), -1, dtype=np.int64)  # A text's own image counts itself once.
    for image, row in rows.items():
        mine, scores = image_of == image, row.from_image()
        # Not 'at least', which a score that is no number never is.
        to_texts[image] = (~(scores[~mine] < scores[mine].max())).sum()
        to_images += ~(row.from_texts() < own)
    return to_texts, to_images
