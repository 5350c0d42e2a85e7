// What the server shows once. A request whose answer was lost is sent again under the same key, and makes nothing twice:
// the second answer has no secret.
import { ApiError } from '$api/errors';

/** The secret, or an error that says what to do without it. */
export function seenOnce(secret: string | null | undefined, what: string): string {
	if (secret) return secret;
	throw new ApiError(
		'unexpected',
		`${what} was made the first time, when the answer was lost, and what it would have shown is not shown again. Delete it and make another.`
	);
}
