// Signing in elsewhere (OpenID Connect, GitHub): the way there, and what the server's `/login?error=CODE` means for people.
import { address } from '$api/client';

const SAID: Record<string, string> = {
	not_begun:
		'The sign-in was not finished: it was called off, took too long, or was begun in another browser. Try again.',
	email_not_verified:
		'The other side has not verified your email address, so it proves nothing here. Verify it there, then try again.',
	account_disabled: 'Your account is switched off. Ask a platform admin to enable it.',
	signup_closed:
		'There is no account for you here yet, and new ones are by invitation. Ask an owner or admin of a team for one.',
	rate_limited: 'There were too many attempts of late. Wait a minute, then try again.',
	sign_in_failed:
		'The sign-in failed on the other side. Try again; whoever runs this Atoll finds out why in its log.'
};

/** What to say about a code; a newer server may have others. */
export const elsewhereProblem = (code: string | null): string | null =>
	code === null ? null : (SAID[code] ?? `The sign-in failed (${code}). Try again.`);

/** Where a provider's button leads. It comes back to that page. */
export const wayTo = (provider: string, back: string): string =>
	address('GET /v1/auth/oidc/{provider}', { path: { provider }, query: { return_to: back } });
