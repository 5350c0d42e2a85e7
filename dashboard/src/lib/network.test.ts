import { expect, it } from 'vitest';

import { bandwidthText, fromRules, reachText, toRules, WAYS } from './network';

it.each(WAYS)('a way ($value) comes back from its rules as it went', ({ value }) => {
	const list = value === 'only' || value === 'except' ? 'pypi.org\n10.1.0.0/16' : '';
	const { internet, ...network } = toRules({ way: value, list });
	expect(fromRules({ internet, network })).toEqual({ way: value, list });
});

it('takes a list as people type it, each once', () =>
	expect(toRules({ way: 'only', list: ' pypi.org, *.pythonhosted.org\npypi.org ' })).toEqual({
		internet: true,
		allow_out: ['pypi.org', '*.pythonhosted.org'],
		deny_out: ['0.0.0.0/0']
	}));

it('does not pretend to understand rules that a program made', () => {
	const network = { allow_out: ['a.example'], deny_out: ['b.example'] };
	expect(fromRules({ internet: true, network })).toBeNull();
	expect(reachText({ internet: true, network })).toBe('by rules of its own');
});

it('says how fast it may be, where it says so itself', () => {
	expect(bandwidthText({ network: { bandwidth_bytes_per_second: 1_572_864 } })).toBe(
		'1.5 MB a second each way'
	);
	for (const network of [undefined, {}, { bandwidth_bytes_per_second: null }])
		expect(bandwidthText({ network })).toBe('');
});

it('says in a few words what can be reached', () => {
	expect(reachText({ internet: true })).toBe('the internet');
	expect(reachText({ internet: false })).toBe('nothing');
	expect(reachText({ internet: true, network: { deny_out: ['a.example', 'b.example', 'c.example'] } })).toBe(
		'the internet but a.example, b.example and 1 more'
	);
});
