// A real OAuth 2.0 authorization server for the tests, npm's oidc-provider, with the
// clients of its one argument (JSON, in the form of RFC 7591). It serves on the socket
// that it was given as file descriptor 3, and ends when its standard input does.
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
      // A client that names a resource (RFC 8707) gets a JWT that is good there alone.
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({
          audience: resource, scope: SCOPES.join(' '), accessTokenFormat: 'jwt', accessTokenTTL: 300,
        }),
      },
      revocation: { enabled: true },
    },
    // A consumed refresh token that comes again ends all that was issued with it.
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access', ...SCOPES],
    ttl: { AccessToken: 600, ClientCredentials: 600, RefreshToken: 86400 },
  });
  server.on('request', provider.callback());
});

process.stdin.once('end', () => process.exit()).resume();
