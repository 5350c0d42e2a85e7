// A real OpenID provider (oidc-provider) on loopback, for the tests of signing in. Its people are whoever types their
// address as a login: `ada@example.test` is verified, `unverified+…` is not. Prints its issuer, then serves until its
// stdin closes.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

// Its notices must not go where the issuer is read.
console.info = console.error;

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
	clients: [
		{
			client_id: 'atoll',
			client_secret: 'a-secret-of-the-test',
			redirect_uris: ['https://atoll.example/v1/auth/oidc/oidc/callback'],
			grant_types: ['authorization_code'],
			response_types: ['code']
		},
		// The same for an Atoll on loopback, whatever its port (RFC 8252, 7.3).
		{
			client_id: 'atoll-on-loopback',
			client_secret: 'a-secret-of-the-test',
			application_type: 'native',
			redirect_uris: ['http://127.0.0.1/v1/auth/oidc/oidc/callback'],
			grant_types: ['authorization_code'],
			response_types: ['code']
		}
	],
	claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
	conformIdTokenClaims: false,
	pkce: { required: () => true },
	findAccount: (_, id) => ({
		accountId: id,
		claims: () => ({ sub: id, email: id, email_verified: !id.startsWith('unverified'), name: `Person ${id}` })
	})
});
server.on('request', provider.callback());
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
console.log(issuer);
