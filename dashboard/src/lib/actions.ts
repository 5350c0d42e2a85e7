// What people do to sandboxes, with its words: one place, used by the list and by the page of one.
import { describe } from '$api/errors';
import { destroySandbox, pauseSandbox, resumeSandbox } from '$api/sandboxes';
import type { Sandbox } from '$api/types';
import { toasts } from '$lib/toasts.svelte';

/** How a sandbox is called in a sentence. */
export const shortId = (id: string) => id.slice(0, 11) + '…';

/** Does it to each; says what was done, or of which it failed and why. True when all went well. */
async function each(
	sandboxes: Sandbox[],
	done: string,
	infinitive: string,
	act: (id: string) => Promise<unknown>
): Promise<boolean> {
	const results = await Promise.allSettled(sandboxes.map((sandbox) => act(sandbox.id)));
	let failed = 0;
	results.forEach((result, index) => {
		if (result.status === 'rejected') {
			failed += 1;
			const id = sandboxes[index]?.id ?? '';
			toasts.bad(`Could not ${infinitive} ${shortId(id)} ${describe(result.reason)}`);
		}
	});
	const went = sandboxes.length - failed;
	if (went === 1 && sandboxes[0]) toasts.good(`${done} ${shortId(sandboxes[0].id)}`);
	else if (went > 1) toasts.good(`${done} ${went} sandboxes`);
	return failed === 0;
}

export const pause = (sandboxes: Sandbox[]) => each(sandboxes, 'Paused', 'pause', pauseSandbox);
export const resume = (sandboxes: Sandbox[]) => each(sandboxes, 'Resumed', 'resume', resumeSandbox);
export const destroy = (sandboxes: Sandbox[]) => each(sandboxes, 'Destroyed', 'destroy', destroySandbox);
