import { describe, expect, it } from 'vitest';

import type { Sandbox } from '$api/types';

import { fromAddress, matches, toAddress } from './filter';

const sandbox = {
	id: 'sb-abc123',
	status: 'running',
	template: 'base',
	host_id: 'host-xyz',
	metadata: { task: 'train' }
} as unknown as Sandbox;

describe('matches', () => {
	it.each(['', 'abc', 'iabc123', 'BASE', 'task=train', 'host-x train'])('finds it by "%s"', (text) =>
		expect(matches(sandbox, { text, status: null })).toBe(true)
	);
	it.each(['abd', 'task=test', 'base nothing'])('does not find it by "%s"', (text) =>
		expect(matches(sandbox, { text, status: null })).toBe(false)
	);
	it('heeds the status', () => {
		expect(matches(sandbox, { text: '', status: 'running' })).toBe(true);
		expect(matches(sandbox, { text: '', status: 'paused' })).toBe(false);
	});
});

it('survives the address, and ignores a status that there is not', () => {
	const filter = { text: 'a b&c', status: 'paused' as const };
	expect(fromAddress(new URLSearchParams(toAddress(filter)))).toEqual(filter);
	expect(fromAddress(new URLSearchParams('status=nonsense')).status).toBeNull();
	expect(toAddress({ text: '', status: null })).toBe('?');
});
