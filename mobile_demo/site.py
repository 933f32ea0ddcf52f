"""The built page and the files of an export directory: what may be seen, and both in one folder."""

import errno
import gzip
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from keras_vit.errors import InputError
from keras_vit.export.verification.manifest import read_manifest
from keras_vit.files import atomic_directory

PAGE = Path(__file__).parent / "page"
CIFAR10 = Path(__file__).parent / "cifar10" / "export"  # what is shown when no other model is given
POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",  # which allows WebAssembly, and no eval of text
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
CONTENT_POLICY = "; ".join(f"{name} {allowed}" for name, allowed in POLICY.items())
# The policy in the page itself, for one on somebody else's web host, which sends headers of its own.
META = (
    f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}" />'
    '<meta name="referrer" content="no-referrer" />'
)
CHARSET = '<meta charset="utf-8" />'  # what META is put behind


def write_site(directory: str | Path, out: str | Path, page: str | Path = PAGE) -> None:
    """Write page and export directory as one folder, for a web server that serves files.

    Raises:
        InputError: as `make_server`; or `out` is something else than such a folder.
    """
    check_export(directory)
    check_page(page)
    out = Path(out)
    if out.exists() and not (out / "sw.js").is_file():
        raise InputError(f"{out} exists and is not a page that was written before: choose another --out.")
    with atomic_directory(out) as temporary:
        for name, file in page_files(page).items():
            target = temporary / name.removesuffix(".gz")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            if name == "index.html":
                content = content.replace(CHARSET.encode(), (CHARSET + META).encode(), 1)
            target.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        (temporary / "export").mkdir()
        for file in exported_files(directory):
            shutil.copyfile(file, temporary / "export" / file.name)


def page_files(page: str | Path) -> dict[str, Path]:
    """{name: path} of the built page's files."""
    return {
        file.relative_to(page).as_posix(): file for file in Path(page).rglob("*") if is_offered(file, page)
    }


def exported_files(directory: str | Path) -> list[Path]:
    """The files of an export directory that the page needs."""
    files = sorted(Path(directory).iterdir())
    return [file for file in files if is_exported(file) and is_offered(file, directory)]


def is_exported(file: Path) -> bool:
    return file.name in ("manifest.json", "labels.txt") or file.suffix == ".tflite"


def is_offered(file: Path, folder: str | Path) -> bool:
    """Whether `file` is a regular file of `folder`: neither hidden nor a link that leads out."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.is_file() and file.resolve().is_relative_to(Path(folder).resolve())


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError if it became a link, a pipe or a device meanwhile."""
    number = os.open(path.resolve(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return open(number, "rb")


def check_export(directory: str | Path) -> None:
    """Raises InputError if `directory` has no manifest, no .tflite file, or links to files elsewhere."""
    read_manifest(directory)
    inside = Path(directory).resolve()
    for file in Path(directory).iterdir():
        if is_exported(file) and not file.resolve().is_relative_to(inside):
            raise InputError(f"{file} is a link that leads out of {directory}: put the file itself there.")
    if not any(file.suffix == ".tflite" for file in exported_files(directory)):
        raise InputError(f"{directory} holds no .tflite file: export the model with keras-vit export.")


def check_page(page: str | Path = PAGE) -> None:
    """Raises InputError if the page was not built, or only in part."""
    files = page_files(page)
    if "index.html" not in files or not any(name.endswith(".wasm.gz") for name in files):
        raise InputError(
            f"the built page is missing in {page}: run `make web` in the repository (it needs Node.js), "
            "or install keras-vit again."
        )
