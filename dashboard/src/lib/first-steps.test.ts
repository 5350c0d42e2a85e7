import { expect, it } from 'vitest';

import { ways } from './first-steps';

it('names this Atoll and the key wherever a program needs them', () => {
	const all = ways('https://atoll.example.org', 'atl_123');
	for (const { keyed, text } of all) expect(text.includes('atl_123')).toBe(keyed);
	for (const { keyed, text } of all) expect(text.includes('https://atoll.example.org')).toBe(keyed);
	expect(all.map(({ name }) => name)).toEqual(['Terminal', 'Python', 'JavaScript', 'curl']);
});

it('is one paste: what is a program goes through a here-document that the shell leaves alone', () => {
	const [, python, javascript] = ways('http://a', 'k');
	for (const way of [python, javascript]) {
		expect(way?.text).toContain("<<'END'\n");
		expect(way?.text.split('\n').at(-1)).toBe('END');
		expect(way?.text).toContain('echo $((6 * 7))');
	}
});
