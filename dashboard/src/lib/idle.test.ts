import { expect, it } from 'vitest';

import { idleChoices } from './idle';

it('offers the usual lengths, and among them the one that a program chose', () => {
	expect(idleChoices().map(({ label }) => label)).toEqual([
		'never',
		'5 minutes',
		'30 minutes',
		'2 hours',
		'1 day'
	]);
	expect(idleChoices(90).map(({ label }) => label)).toContain('1 m 30 s');
	expect(idleChoices(90).map(({ value }) => value)).toEqual(['0', '90', '300', '1800', '7200', '86400']);
});
