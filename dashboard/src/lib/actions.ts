// What people do to sandboxes, with its words: one place, used by the list and by the page of one. The list shows at once
// what will be, and takes it back when it could not be done.
import { describe } from '$api/errors';
import { createSandbox, destroySandbox, pauseSandbox, resumeSandbox } from '$api/sandboxes';
import type { Sandbox, SandboxStatus } from '$api/types';
import { goto } from '$app/navigation';
import { act } from '$lib/act';
import { randomKey } from '$lib/random';
import { shortId } from '$lib/short';
import { toasts } from '$lib/toasts.svelte';

const AT_ONCE = 8;

/** Shows a status beforehand; what it gives back takes it away again. */
export type Show = (ids: string[], status: SandboxStatus) => () => void;

/** Does it to each, a few at a time; says what was done, or of which it failed and why. True when all went well. */
async function each(
	sandboxes: Sandbox[],
	words: { done: string; infinitive: string; meanwhile: SandboxStatus },
	one: (id: string) => Promise<unknown>,
	show?: Show
): Promise<boolean> {
	const undo = show?.(
		sandboxes.map(({ id }) => id),
		words.meanwhile
	);
	const failures: { id: string; why: string }[] = [];
	const queue = [...sandboxes];
	const work = async () => {
		for (let next = queue.shift(); next; next = queue.shift()) {
			const { id } = next;
			await one(id).catch((error: unknown) => failures.push({ id, why: describe(error) }));
		}
	};
	await Promise.all(Array.from({ length: Math.min(AT_ONCE, sandboxes.length) }, work));
	undo?.();
	if (failures.length > 3) {
		toasts.bad(
			`Could not ${words.infinitive} ${failures.length} of ${sandboxes.length} sandboxes: ${failures[0]?.why}`
		);
	} else {
		for (const { id, why } of failures) toasts.bad(`Could not ${words.infinitive} ${shortId(id)}: ${why}`);
	}
	const went = sandboxes.filter((one) => !failures.some(({ id }) => id === one.id));
	if (went.length === 1 && went[0]) toasts.good(`${words.done} ${shortId(went[0].id)}`);
	else if (went.length > 0) toasts.good(`${words.done} ${went.length} sandboxes`);
	return failures.length === 0;
}

export const pause = (sandboxes: Sandbox[], show?: Show) =>
	each(sandboxes, { done: 'Paused', infinitive: 'pause', meanwhile: 'pausing' }, pauseSandbox, show);
export const resume = (sandboxes: Sandbox[], show?: Show) =>
	each(sandboxes, { done: 'Resumed', infinitive: 'resume', meanwhile: 'resuming' }, resumeSandbox, show);
export const destroy = (sandboxes: Sandbox[], show?: Show) =>
	each(sandboxes, { done: 'Destroyed', infinitive: 'destroy', meanwhile: 'stopped' }, destroySandbox, show);

/** Makes a sandbox from a template or snapshot as it is, and goes there. */
export function startFrom(template: string): void {
	void act(
		async () => {
			const sandbox = await createSandbox({ template }, randomKey());
			await goto(`/dashboard/sandboxes/${sandbox.id}`);
		},
		{ failed: `Could not start a sandbox from ${template}` }
	);
}
