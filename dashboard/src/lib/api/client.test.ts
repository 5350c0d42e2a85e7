import { afterEach, describe, expect, it, vi } from 'vitest';

import { fill, request } from './client';

it('puts values into a path, and never lets one leave its place', () => {
	expect(fill('/v1/sandboxes/{id}/pause', { id: 'sb-1' })).toBe('/v1/sandboxes/sb-1/pause');
	expect(fill('/v1/sandboxes/{id}', { id: '../hosts?x' })).toBe('/v1/sandboxes/..%2Fhosts%3Fx');
});

describe('without an answer', () => {
	/** A network that fails the first times. */
	const failing = (times: number) => {
		const fetch = vi.fn(() =>
			fetch.mock.calls.length <= times
				? Promise.reject(new TypeError('Failed to fetch'))
				: Promise.resolve(new Response('{"id":"one"}'))
		);
		vi.stubGlobal('fetch', fetch);
		return fetch;
	};
	afterEach(() => vi.unstubAllGlobals());

	it('asks once more for what changes nothing, or is known by its key', async () => {
		const fetch = failing(1);
		expect(await request('GET /v1/me')).toEqual({ id: 'one' });
		expect(fetch).toHaveBeenCalledTimes(2);
		const second = failing(1);
		expect(await request('POST /v1/sandboxes', { body: {}, idempotencyKey: 'k' })).toEqual({ id: 'one' });
		expect(second).toHaveBeenCalledTimes(2);
	});
	it('does not ask again for what may have been done', async () => {
		const fetch = failing(1);
		await expect(request('DELETE /v1/sandboxes/{id}', { path: { id: 'x' } })).rejects.toMatchObject({
			code: 'unreachable'
		});
		expect(fetch).toHaveBeenCalledTimes(1);
	});
	it('says so in the end', async () => {
		const fetch = failing(9);
		await expect(request('GET /v1/me')).rejects.toMatchObject({ code: 'unreachable' });
		expect(fetch).toHaveBeenCalledTimes(2);
	});
	it('stays silent when nobody waits any more', async () => {
		const fetch = failing(1);
		const abort = new AbortController();
		const asked = request('GET /v1/me', { signal: abort.signal });
		abort.abort();
		await expect(asked).rejects.toBeDefined();
		expect(fetch).toHaveBeenCalledTimes(1);
	});
});
