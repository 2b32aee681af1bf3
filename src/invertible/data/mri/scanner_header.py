"""The ISMRMRD header that fastMRI's files carry: the size of a reconstruction, and which columns were acquired."""

from dataclasses import dataclass
from xml.etree import ElementTree

from invertible.errors import DataError

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
FIELD = f"{{{NAMESPACE}}}"


@dataclass(frozen=True)
class ScannerHeader:
    """What of the header a reconstruction needs.

    Attributes:
        reconstruction: height and width to which the scanner crops a reconstruction.
        encoded_columns: columns of k-space, padding included.
        acquired: first column that was acquired, and the one after the last; the others are padding.
    """

    reconstruction: tuple[int, int]
    encoded_columns: int
    acquired: tuple[int, int]


def parse_header(text: bytes) -> ScannerHeader:
    """Read a header.

    Rows of k-space are its readout, x; columns its phase encoding, y.

    Raises:
        DataError: if it is no ISMRMRD header, or lacks the sizes.
    """
    try:
        root = ElementTree.fromstring(text)
        rows, columns = (_number(root, f"reconSpace/matrixSize/{axis}") for axis in "xy")
        encoded = _number(root, "encodedSpace/matrixSize/y")
        limits = "encodingLimits/kspace_encoding_step_1"
        centre, last = _number(root, f"{limits}/center"), _number(root, f"{limits}/maximum")
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"expected ismrmrd_header to be an ISMRMRD header in XML, got one with {error}") from error
    # The centre of what was acquired lies at the centre of the padded grid.
    first = max(0, encoded // 2 - centre)
    return ScannerHeader((rows, columns), encoded, (first, min(encoded, first + last + 1)))


def compose_header(encoded: tuple[int, int], reconstruction: tuple[int, int], acquired: tuple[int, int]) -> bytes:
    """The shortest header from which fastMRI's own reader, and `parse_header`, take what they need.

    Args:
        encoded: rows and columns of k-space.
        reconstruction: rows and columns of a reconstruction.
        acquired: first column that was acquired, and the one after the last.
    """

    def matrix(name: str, shape: tuple[int, int]) -> str:
        return f"<{name}><matrixSize><x>{shape[0]}</x><y>{shape[1]}</y><z>1</z></matrixSize></{name}>"

    first, end = acquired
    step = f"<minimum>0</minimum><maximum>{end - first - 1}</maximum><center>{encoded[1] // 2 - first}</center>"
    return (
        f'<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="{NAMESPACE}"><encoding>'
        f"{matrix('encodedSpace', encoded)}{matrix('reconSpace', reconstruction)}"
        f"<encodingLimits><kspace_encoding_step_1>{step}</kspace_encoding_step_1></encodingLimits>"
        "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def _number(root: ElementTree.Element, path: str) -> int:
    found = root.findtext("/".join(f"{FIELD}{step}" for step in ("encoding", *path.split("/"))))
    if found is None:
        raise ValueError(f"no {path}")
    return int(found)
