// What becomes of a sandbox that nobody uses: after how long, and what.
import type { Choice } from '$components/Select.svelte';
import type { OnTimeout } from '$api/types';

import { lasting } from './time';

const USUAL: [seconds: number, label: string][] = [
	[0, 'never'],
	[300, '5 minutes'],
	[1800, '30 minutes'],
	[7200, '2 hours'],
	[86_400, '1 day']
];

/** The usual lengths, and the one that it has now if a program chose another. */
export function idleChoices(now = 0): Choice[] {
	const known = USUAL.some(([seconds]) => seconds === now);
	const all = known ? USUAL : [...USUAL, [now, lasting(now)] as const].toSorted(([a], [b]) => a - b);
	return all.map(([seconds, label]) => ({ value: String(seconds), label }));
}

export const THEN: (Choice & { value: OnTimeout })[] = [
	{ value: 'pause', label: 'paused', note: 'Its memory and files are kept' },
	{ value: 'kill', label: 'destroyed', note: 'Nothing is kept' }
];
