import { describe, expect, it } from 'vitest';

import { Echo } from './echo';

describe('what comes back of what was typed', () => {
	it('is no news, also when more was typed meanwhile, or not all of it came back', () => {
		const echo = new Echo('');
		for (const text of ['a', 'ab', 'abc']) echo.told(text);
		expect(echo.isNews('a')).toBe(false);
		expect(echo.isNews('abc')).toBe(false);
	});
	it('is news when somebody else has set it, even to what was typed before', () => {
		const echo = new Echo('');
		echo.told('a');
		echo.told('ab ');
		expect(echo.isNews('ab')).toBe(false);
		expect(echo.isNews('')).toBe(true);
		expect(echo.isNews('a')).toBe(true);
	});
	it('is no news when nothing has changed', () => {
		expect(new Echo('x').isNews('x')).toBe(false);
	});
});
