"""Prints the identifiers of companies from Kensho's kfinance API, with a token from Vault.

Kensho's own library for Python, kfinance, takes a refresh token or a private key, and no access token. So
this program calls the API itself, and the application never has the long-lived credential. The credential in
Vault must be one for kfinance: a key pair with product=kfinance, or a refresh token of kfinance. The program logs
in like client.py, which must be in the same folder.

    VAULT_ADDR=https://vault.example.com python3 kfinance.py SPGI MSFT
"""

import json
import os
import sys
import urllib.parse
import urllib.request

import hvac

from client import Tokens


def get(tokens, path):
    """Returns the answer of the API for a path."""
    name, value = tokens.header()
    request = urllib.request.Request("https://kfinance.kensho.com/api/v1/" + path)
    request.add_unredirected_header(name, value)  # a redirect may lead to another host
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def main():
    tokens = Tokens(hvac.Client(timeout=10), os.environ.get("TOKEN_PATH", "kensho/token/prod"))
    for identifier in sys.argv[1:]:  # a ticker, an ISIN or a CUSIP
        print(json.dumps(get(tokens, "id/" + urllib.parse.quote(identifier, safe=""))))


if __name__ == "__main__":
    main()
