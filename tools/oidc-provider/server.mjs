// An OAuth 2.0 authorization server for the tests: the npm package oidc-provider. Its one
// argument is the list of clients (JSON, as in RFC 7591). It serves on the socket that it
// inherits as file descriptor 3, and exits at the end of its standard input.
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const SCOPES = ['read', 'write', 'admin'];

const server = createServer().listen({ fd: 3 }, () => {
  const { address, port } = server.address();
  const provider = new Provider(`http://${address}:${port}`, {
    clients: JSON.parse(process.argv[2]),
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
    enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256', 'ES384'] },
    features: {
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      // A client that names a resource (RFC 8707) gets a JWT with that resource as audience.
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({
          audience: resource, scope: SCOPES.join(' '), accessTokenFormat: 'jwt', accessTokenTTL: 300,
        }),
      },
      revocation: { enabled: true },
    },
    // Clients publish their keys on loopback (jwks_uri), which the package's dispatcher refuses.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    // Reuse of a rotated refresh token revokes the whole grant.
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access', ...SCOPES],
    ttl: { AccessToken: 600, ClientCredentials: 600, RefreshToken: 86400 },
  });
  server.on('request', provider.callback());
});

process.stdin.once('end', () => process.exit()).resume();
