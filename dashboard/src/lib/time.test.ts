import { describe, expect, it } from 'vitest';

import { ago, exact, lasting } from './time';

const now = Date.parse('2026-11-24T12:00:00Z');

describe('ago', () => {
	it.each([
		['2026-11-24T12:00:05Z', 'now'],
		['2026-11-24T11:59:59.5Z', 'now'],
		['2026-11-24T11:59:52Z', '8 s'],
		['2026-11-24T11:57:00Z', '3 m'],
		['2026-11-24T07:00:00Z', '5 h'],
		['2026-11-12T11:00:00Z', '12 d'],
		['nonsense', '–']
	])('says %s as %s', (from, text) => expect(ago(from, now)).toBe(text));
});

describe('lasting', () => {
	it.each([
		[0, '0 s'],
		[45, '45 s'],
		[90, '1 m 30 s'],
		[3600, '1 h'],
		[90_061, '1 d 1 h']
	])('says %d seconds as %s', (seconds, text) => expect(lasting(seconds)).toBe(text));
});

it('says an exact time with its zone, and nothing for nonsense', () => {
	expect(exact('2026-11-24T12:00:00Z')).toMatch(/2026/);
	expect(exact('nonsense')).toBe('–');
});
