"""Calls a vendor's API once a second with a token from Vault.

It logs in by AppRole, reads the token again when Vault has a newer one, and goes on with a valid
token while Vault or the vendor is down. It needs hvac (python3-hvac of Debian, or pip install hvac).

    VAULT_ADDR=https://vault.example.com API_URL=https://api.example.com/v1/me python3 client.py
"""

import logging
import os
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

import hvac

RETRY = 5  # seconds from a failed read to the next one

logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)


class Tokens:
    """Reads a token when it is needed. It is not safe for use by several threads."""

    def __init__(self, vault, path):
        self.vault = vault
        self.path = path  # token/<name>, with the mount
        self.header_line = ""
        self.expiry = datetime.min.replace(tzinfo=timezone.utc)
        self.read_again = 0.0  # by the monotonic clock

    def header(self):
        """Returns the name and the value of the header that the vendor's API takes."""
        if time.monotonic() >= self.read_again:
            try:
                self.read()
            except Exception as error:
                self.read_again = time.monotonic() + RETRY
                logging.warning("no newer token (%s); the present one is valid until %s", error, self.expiry)
        if datetime.now(timezone.utc) >= self.expiry:
            raise LookupError("without a valid token")
        name, value = self.header_line.split(": ", 1)
        return name, value

    def drop(self):
        """Makes the next call of header read the token, after the vendor has refused the present one."""
        self.read_again = 0.0

    def read(self):
        try:
            answer = self.vault.read(self.path)
        except hvac.exceptions.Forbidden:  # not logged in, or not any more
            self.log_in()
            answer = self.vault.read(self.path)
        if answer is None:
            raise LookupError(f"{self.path}: not found")
        data = answer["data"]
        header_line, expiry, ttl = data["http_header"], data["expire_time"], data["ttl"]
        self.expiry = datetime.fromisoformat(expiry.replace("Z", "+00:00"))
        self.header_line = header_line
        self.read_again = time.monotonic() + ttl
        logging.info("read a token that is valid until %s; the next read is in %d s", data["expire_time"], data["ttl"])

    def log_in(self):
        """Logs in by AppRole, with the files that examples/agent/approle.sh writes."""
        self.vault.auth.approle.login(
            role_id=Path("role-id").read_text().strip(),
            secret_id=Path("secret-id").read_text().strip(),
        )


def call(tokens):
    name, value = tokens.header()
    request = urllib.request.Request(os.environ["API_URL"])
    request.add_unredirected_header(name, value)  # a redirect may lead to another host
    try:
        with urllib.request.urlopen(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        if error.code == 401:
            tokens.drop()
        raise


def main():
    tokens = Tokens(hvac.Client(timeout=10), os.environ.get("TOKEN_PATH", "kensho/token/prod"))
    while True:
        began = time.monotonic()
        try:
            call(tokens)
        except Exception as error:
            logging.error("%s", error)
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
