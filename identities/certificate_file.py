"""A certificate as a running worker sees it: read again when a longer one is put in its place."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from console import IdentityError
from identities.certificates import Certificate
from identities.files import FileWatch

_log = logging.getLogger(__name__)


class CertificateFile:
    """The certificate in a file, for the key with this id. ``clock`` gives seconds."""

    def __init__(self, path: Path, key_id: bytes, *, clock: Callable[[], float]) -> None:
        """An IdentityError if there is no usable certificate to begin with."""
        self._path, self._key_id = path, key_id
        self._lock = threading.Lock()
        self._watch = FileWatch(path, clock=clock)
        self._certificate = self._read()

    def current(self) -> Certificate:
        """The newest certificate that could be used."""
        with self._lock:
            if self._watch.has_changed():
                try:
                    self._certificate = self._read()
                except IdentityError as error:
                    _log.warning("%s; the certificate %s goes on", error, self._certificate.validity)
                else:
                    _log.info("new certificate of %s, %s", self._certificate.worker, self._certificate.validity)
            return self._certificate

    def _read(self) -> Certificate:
        certificate = Certificate.read(self._path)
        if certificate.key_id != self._key_id:
            raise IdentityError(
                f"{self._path} is for key {certificate.key_id.hex()}, and this worker's is {self._key_id.hex()}"
            )
        return certificate
