"""One collection of images from a folder or a zip."""

from __future__ import annotations

from trainer.data.base import Image
from trainer.data.files import ImageFiles
from trainer.data.photographs import Photographs, PhotographsConfig
from trainer.errors import DataError
from trainer.registry import register


@register("data", "folder")
class Folder:
    """All images below `root`; where it has folders `train` and `test`, the latter is held out."""

    class Config(PhotographsConfig):
        """The keys of `PhotographsConfig`."""

    domains = ("image",)

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            DataError: `root` is missing or holds no images.
        """
        self.size, self.channels = config.size, config.channels
        self._files = ImageFiles(config.root)
        train = self._files.under("train")
        if not self._files.names:
            raise DataError(f"data.root {config.root} holds no images")
        self._training = Photographs(config, self._files, train or self._files.names, seed)
        self._held_out = Photographs(config, self._files, self._files.under("test") if train else [], seed)

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """How many training images there are."""
        return len(self._training)

    def image(self, domain: str, number: int) -> Image:
        """The augmented training image at position `number` of the run."""
        return self._training.training(number)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Images of `test`; none where there is no such folder."""
        return self._held_out.plain(count)
