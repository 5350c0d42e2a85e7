import { expect, it } from 'vitest';

import { ways } from './first-steps';

it('names this Atoll and the key wherever a program needs them', () => {
	const all = ways('https://atoll.example.org', 'atl_123');
	for (const { keyed, text } of all) expect(text.includes('atl_123')).toBe(keyed);
	for (const { keyed, text } of all) expect(text.includes('https://atoll.example.org')).toBe(keyed);
	expect(all.map(({ name }) => name)).toEqual(['Terminal', 'Python', 'JavaScript', 'curl']);
});

it('names the domain instead where there is one, under TLS', () => {
	const text = (origin: string, domain: string | null) => ways(origin, 'k', domain)[1]?.text ?? '';
	expect(text('https://a.example', 'sbx.example')).toContain('export E2B_DOMAIN=sbx.example\n');
	expect(text('https://a.example', 'sbx.example')).not.toContain('E2B_API_URL');
	expect(text('http://a.example', 'sbx.example')).toContain('export E2B_API_URL=http://a.example/e2b\n');
	expect(text('https://a.example', null)).toContain('export E2B_SANDBOX_URL=https://a.example\n');
});

it('is one paste: what is a program goes through a here-document that the shell leaves alone', () => {
	const [, python, javascript] = ways('http://a', 'k');
	for (const way of [python, javascript]) {
		expect(way?.text).toContain("<<'END'\n");
		expect(way?.text.split('\n').at(-1)).toBe('END');
		expect(way?.text).toContain('echo $((6 * 7))');
	}
});
