import { beforeEach, expect, it, vi } from 'vitest';

import { tags } from './tags.svelte';

const asked = vi.fn<(input: string, options: { method: string }) => Promise<Response>>();
beforeEach(() => {
	vi.stubGlobal('fetch', asked);
	return () => {
		vi.unstubAllGlobals();
		asked.mockReset();
	};
});
const host = (list: string[], updated_at: string) => ({ id: 'host-1', name: 'reef', tags: list, updated_at });

it('shows what was changed here until the host has come as it is after the change', async () => {
	const before = host(['gpu'], '1');
	asked.mockResolvedValueOnce(Response.json({ tags: ['gpu', 'spare'] }));
	await tags.add(before, 'spare');
	expect(tags.of(before)).toEqual(['gpu', 'spare']);
	expect(tags.of(host(['gpu', 'spare', 'more'], '2'))).toEqual(['gpu', 'spare', 'more']);
});

it('takes a tag away at once, and shows it again when that is refused', async () => {
	const before = host(['gpu', 'spare'], '3');
	let refuse: (answer: Response) => void = () => {};
	asked.mockReturnValueOnce(new Promise((answer) => (refuse = answer)));
	const dropping = tags.drop(before, 'gpu');
	expect(tags.of(before)).toEqual(['spare']);
	refuse(Response.json({ error: { code: 'forbidden', message: 'no' } }, { status: 403 }));
	await expect(dropping).rejects.toThrow('no');
	expect(tags.of(before)).toEqual(['gpu', 'spare']);
});
