// An OpenID Connect issuer for tests: every client gets access tokens (JWT) for itself.
//
// Arguments: the directory that oidc-provider is installed in, the port (0: a free one), the key's
// name and its algorithm. The first line of its output is the issuer's URL.

import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [installed, port, kid, alg] = process.argv.slice(2);
const require = createRequire(`${installed}/package.json`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

function newKey() {
  const [kind, options] = alg.startsWith('ES')
    ? ['ec', { namedCurve: 'P-256' }]
    : alg === 'EdDSA' || alg === 'Ed25519'
      ? ['ed25519', {}]
      : ['rsa', { modulusLength: 2048 }];
  const { privateKey } = generateKeyPairSync(kind, options);
  return { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' };
}

const client = (id) => ({
  client_id: id,
  client_secret: `${id}-secret`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
});

const server = createServer();
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [client('known'), client('newcomer')],
    jwks: { keys: [newKey()] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:scaibunker',
        getResourceServerInfo: (ctx, resource) => ({
          scope: '',
          audience: resource,
          accessTokenTTL: 300,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg } },
        }),
      },
    },
    // Access tokens of client credentials have no subject unless one is given.
    extraTokenClaims: (ctx, token) => ({ sub: token.clientId, email: `${token.clientId}@a.example` }),
    clientDefaults: { id_token_signed_response_alg: alg },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
