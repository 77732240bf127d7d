// Calls a vendor's API once a second with a token from Vault. It logs in by AppRole, reads the token again when Vault has a
// newer one, and goes on with a valid token while Vault or the vendor is down.
//
//     npm ci
//     VAULT_ADDR=https://vault.example.com API_URL=https://api.example.com/v1/me node client.mjs

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

import Vault from 'node-vault';

const retry = 5_000; // milliseconds from a failed read to the next one

/** Reads a token when it is needed. */
class Tokens {
  #vault = Vault({ requestOptions: { timeout: 10_000 } }); // configured by VAULT_ADDR
  #path; // token/<name>, with the mount
  #header = '';
  #expiry = 0;
  #readAgain = 0;

  constructor(path) {
    this.#path = path;
  }

  /** Returns the name and the value of the header that the vendor's API takes. */
  async header() {
    if (Date.now() >= this.#readAgain) {
      try {
        await this.#read();
      } catch (error) {
        this.#readAgain = Date.now() + retry;
        console.warn(`no newer token (${error.message}); the present one is valid until ${new Date(this.#expiry).toISOString()}`);
      }
    }
    if (Date.now() >= this.#expiry) throw new Error('without a valid token');
    const [name, ...value] = this.#header.split(': ');
    return [name, value.join(': ')];
  }

  /** Makes the next call of header read the token, after the vendor has refused the present one. */
  drop() {
    this.#readAgain = 0;
  }

  async #read() {
    let answer;
    try {
      answer = await this.#vault.read(this.#path);
    } catch (error) {
      if (error.response?.statusCode !== 403) throw error;
      await this.#logIn(); // not logged in, or not any more
      answer = await this.#vault.read(this.#path);
    }
    const { http_header, expire_time, ttl } = answer.data;
    if (!http_header || !expire_time || ttl === undefined) throw new Error('the answer has no token');
    this.#header = http_header;
    this.#expiry = Date.parse(expire_time);
    this.#readAgain = Date.now() + 1_000 * ttl;
    console.info(`read a token that is valid until ${expire_time}; the next read is in ${ttl} s`);
  }

  // Logs in by AppRole, with the files that examples/agent/approle.sh writes.
  async #logIn() {
    const [role_id, secret_id] = await Promise.all(['role-id', 'secret-id'].map((file) => readFile(file, 'utf8')));
    await this.#vault.approleLogin({ role_id: role_id.trim(), secret_id: secret_id.trim() });
  }
}

async function call(tokens) {
  const response = await fetch(process.env.API_URL, {
    headers: Object.fromEntries([await tokens.header()]),
    signal: AbortSignal.timeout(10_000),
  });
  if (response.status === 401) tokens.drop();
  if (!response.ok) throw new Error(`the vendor answers ${response.status}`);
}

const tokens = new Tokens(process.env.TOKEN_PATH ?? 'kensho/token/prod');
for (;;) {
  const next = sleep(1_000);
  try {
    await call(tokens);
  } catch (error) {
    console.error(error.message);
  }
  await next;
}
