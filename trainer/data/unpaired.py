"""Two unpaired collections of images, for unpaired translation."""

from __future__ import annotations

from trainer.data.base import Image
from trainer.data.files import ImageFiles
from trainer.data.photographs import Photographs, PhotographsConfig
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.random import Stream

_STREAMS = {"A": (Stream.ORDER_A, Stream.AUGMENT_A), "B": (Stream.ORDER_B, Stream.AUGMENT_B)}


@register("data", "unpaired")
class Unpaired:
    """The folders `trainA`, `trainB` and, held out, `testA`, `testB` below `root` or inside it as a zip."""

    class Config(PhotographsConfig):
        """The keys of `PhotographsConfig`."""

    domains = ("A", "B")

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            DataError: `root` is missing, or `trainA` or `trainB` holds no images.
        """
        self.size, self.channels = config.size, config.channels
        self._files = files = ImageFiles(config.root)

        def collection(domain: str, split: str) -> Photographs:
            return Photographs(config, files, files.under(f"{split}{domain}"), seed, _STREAMS[domain])

        self._training = {domain: collection(domain, "train") for domain in self.domains}
        self._held_out = {domain: collection(domain, "test") for domain in self.domains}
        for domain, photographs in self._training.items():
            if not len(photographs):
                raise DataError(
                    f"data.root {config.root} has no images in train{domain}/: it needs trainA/ and trainB/"
                )

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """How many training images `domain` has."""
        return len(self._training[domain])

    def image(self, domain: str, number: int) -> Image:
        """The augmented training image of `domain` at position `number` of the run."""
        return self._training[domain].training(number)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Images of `testA` or `testB`; of the training set where there is no such folder."""
        return (self._held_out[domain] if len(self._held_out[domain]) else self._training[domain]).plain(count)
