// Does something and says how it went: the one way for buttons that have no form.
import { describe } from '$api/errors';

import { toasts } from './toasts.svelte';

/** True when it went well. `undo` takes back what was shown beforehand, in either case. */
export async function act(
	work: () => Promise<unknown>,
	said: { done?: string; failed: string; undo?: () => void }
): Promise<boolean> {
	try {
		await work();
		if (said.done) toasts.good(said.done);
		return true;
	} catch (error) {
		toasts.bad(`${said.failed}: ${describe(error)}`);
		return false;
	} finally {
		said.undo?.();
	}
}
