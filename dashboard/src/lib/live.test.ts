import { beforeEach, expect, it, vi } from 'vitest';

import { following, Live } from './live.svelte';
import type { Change, Stream } from './stream.svelte';

interface Thing {
	id: string;
	name: string;
}

/** A stream that the test speaks through. */
class Told {
	open = true;
	#listeners = new Set<(change: Change | 'again') => void>();
	listen(listener: (change: Change | 'again') => void) {
		this.#listeners.add(listener);
		return () => this.#listeners.delete(listener);
	}
	tell(change: Change | 'again') {
		for (const listener of this.#listeners) listener(change);
	}
}

const page = { visibilityState: 'visible', addEventListener: vi.fn(), removeEventListener: vi.fn() };
beforeEach(() => {
	vi.useFakeTimers();
	page.visibilityState = 'visible';
	vi.stubGlobal('document', page);
	vi.stubGlobal('window', { addEventListener: vi.fn(), removeEventListener: vi.fn() });
	return () => {
		vi.useRealTimers();
		vi.unstubAllGlobals();
	};
});

const isThing = (object: unknown): object is Thing => typeof (object as Thing | null)?.id === 'string';
const change = (type: string, id: string, object?: unknown): Change => ({
	id: 1,
	type,
	created_at: '2026-01-01T00:00:00Z',
	resource: { kind: 'thing', id },
	object
});

function list(answers: (Thing[] | Error)[]) {
	const told = new Told();
	const asked = vi.fn(() => {
		const next = answers.length > 1 ? answers.shift() : answers[0];
		return next instanceof Error ? Promise.reject(next) : Promise.resolve(next ?? []);
	});
	const live = new Live<Thing[]>(asked, {
		from: told as unknown as Stream,
		on: following('thing', { is: isThing })
	});
	return { told, asked, live };
}

it('reads once, then takes in what it hears: new, changed and gone', async () => {
	const { told, asked, live } = list([[{ id: 'a', name: 'one' }]]);
	const stop = live.start();
	await vi.advanceTimersByTimeAsync(0);
	told.tell(change('thing.created', 'b', { id: 'b', name: 'two' }));
	told.tell(change('thing.updated', 'a', { id: 'a', name: 'uno' }));
	expect(live.value?.map(({ name }) => name)).toEqual(['two', 'uno']);
	told.tell(change('thing.deleted', 'b'));
	expect(live.value?.map(({ id }) => id)).toEqual(['a']);
	told.tell({
		...change('other.created', 'c', { id: 'c', name: 'x' }),
		resource: { kind: 'other', id: 'c' }
	});
	expect(live.value?.map(({ id }) => id)).toEqual(['a']);
	expect(asked).toHaveBeenCalledTimes(1);
	stop();
	told.tell(change('thing.deleted', 'a'));
	expect(live.value).toHaveLength(1);
});

it('gathers changes that it can’t take in, and reads once for all', async () => {
	const { told, asked, live } = list([[{ id: 'a', name: 'one' }], [{ id: 'a', name: 'new' }]]);
	live.start();
	await vi.advanceTimersByTimeAsync(0);
	for (let at = 0; at < 5; at += 1) told.tell(change('thing.updated', 'a'));
	await vi.advanceTimersByTimeAsync(1000);
	expect(asked).toHaveBeenCalledTimes(2);
	expect(live.value?.[0]?.name).toBe('new');
});

it('shows an action beforehand, whatever is heard or read meanwhile, and takes it back', async () => {
	const { told, live } = list([[{ id: 'a', name: 'as it was' }]]);
	live.start();
	await vi.advanceTimersByTimeAsync(0);
	const undo = live.edit((all) => all.map((one) => ({ ...one, name: 'as it will be' })));
	expect(live.value?.[0]?.name).toBe('as it will be');
	told.tell(change('thing.updated', 'a', { id: 'a', name: 'as it was' }));
	expect(live.value?.[0]?.name).toBe('as it will be');
	told.tell('again');
	await vi.advanceTimersByTimeAsync(1000);
	expect(live.value?.[0]?.name).toBe('as it will be');
	undo();
	await vi.advanceTimersByTimeAsync(0);
	expect(live.value?.[0]?.name).toBe('as it was');
});

it('keeps the last good answer when a reading fails, and tries again more and more seldom', async () => {
	const { asked, live, told } = list([[{ id: 'a', name: 'one' }], new Error('the database is away')]);
	told.open = false;
	live.start();
	await vi.advanceTimersByTimeAsync(2000);
	expect(live.problem).toBe('the database is away');
	expect(live.value).toHaveLength(1);
	const before = asked.mock.calls.length;
	await vi.advanceTimersByTimeAsync(60_000);
	const soon = asked.mock.calls.length - before;
	expect(soon).toBeGreaterThan(2);
	expect(soon).toBeLessThan(6);
	// Nobody looks: it rests.
	page.visibilityState = 'hidden';
	await vi.advanceTimersByTimeAsync(30_000);
	const resting = asked.mock.calls.length;
	await vi.advanceTimersByTimeAsync(600_000);
	expect(asked).toHaveBeenCalledTimes(resting);
});

it('drops an answer that was under way when something was done: it may be older', async () => {
	const told = new Told();
	const answers: ((value: Thing[]) => void)[] = [];
	const live = new Live<Thing[]>(() => new Promise((resolve) => answers.push(resolve)), {
		from: told as unknown as Stream
	});
	live.start();
	void live.refresh();
	answers[1]?.([{ id: 'new', name: '' }]);
	await vi.advanceTimersByTimeAsync(0);
	answers[0]?.([{ id: 'old', name: '' }]);
	await vi.advanceTimersByTimeAsync(0);
	expect(live.value?.[0]?.id).toBe('new');
});
