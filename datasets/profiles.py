"""Friends and their profiles: ego networks of Facebook, regions of Pokec."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from graphsec.datasets.base import About, Dataset, Structural, structural
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph
from graphsec.registry import DATASETS
from graphsec.rng import Rng

_HOME = "https://github.com/zhangbinchi/G-FairAttack"
_SNAP = "https://snap.stanford.edu/data/ego-Facebook.html"
_AT = f"{_HOME}/raw/fc7f673647e93403ab4f13aa19fb8e796b324ab1/dataset"


@DATASETS.register("facebook")
@dataclass(frozen=True, kw_only=True)
class Facebook(Dataset):
    """Friends of one person, with anonymous profiles (McAuley & Leskovec 2012).

    The person in the middle is left out, as the files do. The label is one kind of education, the
    sensitive attribute one of two genders, both as in G-FairAttack (Zhang et al. 2023); of ego 107
    12 state neither gender, and count as 0 as there. The split's shares are that paper's too.

    Attributes:
        ego: Whose friends: 107 is the network of the fairness literature.
        group_in_features: Put the sensitive attribute among the features (last column).
    """

    default_split: ClassVar[Strategy] = {"fractions": [0.5, 0.2, 0.3]}
    files: ClassVar[tuple[File, ...]] = (
        File(
            "facebook_ego/facebook.tar.gz",
            f"{_AT}/facebook/facebook.tar.gz",
            "78594c43169b698e99a77741bc298581af87146e4f3d3e8ad48a48361b5d92b6",
            732104,
        ),
    )
    about: ClassVar[About] = About(1045, 26749, 573, 2, "gender", "MIT (repository)", _SNAP)

    ego: Literal[0, 107, 348, 414, 686, 698, 1684, 1912, 3437, 3980] = 107
    group_in_features: bool = False

    def read(self, rng: Rng) -> Graph:
        """Parse the ego's edges, features and names of features."""
        archive = self.files[0].name
        try:
            features, names, edges = self._parts(read(self.files)[archive])
            table = np.array([line.split() for line in features.splitlines()], np.int64)
            titles = [line.split(" ", 1)[1] for line in names.splitlines()]
            row = {person: index for index, person in enumerate(table[:, 0].tolist())}
            friends = np.array([[row[int(end)] for end in e.split()] for e in edges.splitlines()])
            genders = [i for i, title in enumerate(titles) if title.startswith("gender;")]
            schooling = [i for i, title in enumerate(titles) if title.startswith("education;type;")]
            label, group = schooling[0], genders[0]
        except (tarfile.TarError, OSError, KeyError, IndexError, ValueError) as error:
            raise DataCorruptError(f"{archive}: ego {self.ego}: {error}") from error
        x, sensitive = table[:, 1:], table[:, 1 + group]
        kept = np.delete(x, [label, *genders], axis=1)
        if self.group_in_features:
            kept = np.column_stack([kept, sensitive])
        fields: dict[str, Any] = {"y": x[:, label], "sensitive": sensitive, "name": self.name}
        return Graph.from_edges(friends.T, len(x), x=kept.astype(np.float32), **fields)

    def _parts(self, content: bytes) -> tuple[str, str, str]:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            texts = []
            for end in ("feat", "featnames", "edges"):
                member = archive.extractfile(f"facebook/{self.ego}.{end}")
                if member is None:
                    raise KeyError(f"facebook/{self.ego}.{end} is no file")
                texts.append(member.read().decode())
        return texts[0], texts[1], texts[2]


@dataclass(frozen=True, kw_only=True)
class Pokec(Dataset):
    """People of a Slovak social network (Takac & Zabovsky 2012), cut as for G-FairAttack.

    The files at hand hold no profiles: what stands in for features is made of the edges. By the
    files' names, and as in FairGNN (Dai & Wang 2021), the label is the field of work and the
    sensitive attribute the region; the files do not say which value is which.

    Attributes:
        features: What stands in for features.
        files: Edges, labels and sensitive attribute.
    """

    default_split: ClassVar[Strategy] = {"fractions": [0.5, 0.25, 0.25]}

    features: Structural = "degree"

    def read(self, rng: Rng) -> Graph:
        """Read three arrays, none of them pickled."""
        content = read(self.files)
        try:
            edges, y, sensitive = (
                np.load(io.BytesIO(content[file.name]), allow_pickle=False) for file in self.files
            )
        except (ValueError, OSError, EOFError) as error:
            raise DataCorruptError(f"{self.files[0].name}: {error}") from error
        graph = Graph.from_edges(edges, len(y), y=y, sensitive=sensitive, name=self.name)
        return graph.replace(x=structural(self.features, graph.degree.numpy()))


def _file(name: str, digest: str, size: int) -> File:
    return File(f"pokec_gfairattack/{name}", f"{_AT}/pokec_dataset/{name}", digest, size)


@DATASETS.register("pokec/region-job-1")
@dataclass(frozen=True, kw_only=True)
class PokecOne(Pokec):
    """A first region of Pokec, a sample of FairGNN's; the sensitive attribute is the region."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "region_job_1_edges.npy",
            "281d3a9b0d208735117a92417eb62e25c3223d85c7b4bfeb5ec0ee0a239ec267",
            657728,
        ),
        _file(
            "region_job_1_labels.npy",
            "58a630a446f4860c1b24786bb0d59d5fb6da9926364f9bd25435a190c54c6cf7",
            61400,
        ),
        _file(
            "region_job_1_sens.npy",
            "787a85362a47370b3929360dd44eaebd402730c622e8696c42682e9b82002d9d",
            61400,
        ),
    )
    about: ClassVar[About] = About(7659, 20550, 2, 2, "region", "MIT (repository)", _HOME)


@DATASETS.register("pokec/region-job-2")
@dataclass(frozen=True, kw_only=True)
class PokecTwo(Pokec):
    """A second region of Pokec, a sample of FairGNN's; the sensitive attribute is the region."""

    files: ClassVar[tuple[File, ...]] = (
        _file(
            "region_job_2_2_edges.npy",
            "6ac23f816e1fbe2845643108d8de867b1b4c31e309334e0c1c0528125fdc0d68",
            490400,
        ),
        _file(
            "region_job_2_2_labels.npy",
            "3bb1480c814631d06dc0c1da5abc5e65ad16d2f89909f65440cf7f0e2d215a02",
            49608,
        ),
        _file(
            "region_job_2_2_sens.npy",
            "46e7219eddaa46083919db4d65a36ded90313123f228897cb4afbc6ab0310d96",
            49608,
        ),
    )
    about: ClassVar[About] = About(6185, 15321, 2, 2, "region", "MIT (repository)", _HOME)
